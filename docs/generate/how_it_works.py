"""Draw docs/how_it_works_*.png: one training step, on real activations.

    python docs/generate/how_it_works.py

A network learns scikit-learn's digits with an observing MEmeL. The figures
show the values, statistics and gradients of one more step: a neuron and its
history, the scales of a batch, and the values that are inhibited. The script
runs on JAX, whose `grad` computes the gradients of the last figure.
"""

import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets
from matplotlib.colors import LogNorm

from keras_memel import MEmeL
from keras_memel import TopK
from keras_memel import monosemantic_scale
from keras_memel.utils.plotting import BLUE
from keras_memel.utils.plotting import GREY
from keras_memel.utils.plotting import ORANGE

FOLDER = pathlib.Path(__file__).parents[1]
NEURONS, SAMPLES = 48, 24


def observed(epochs=20):
    """Return values before the ReLU, labels, and a layer with their history."""
    keras.utils.set_random_seed(0)
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    memel = MEmeL(inhibition="observe")
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(NEURONS, name="hidden"),
            memel,
            keras.layers.ReLU(),
            keras.layers.Dense(10),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    model.fit(images, labels, epochs=epochs, verbose=0)
    values = keras.ops.convert_to_numpy(model.get_layer("hidden")(images))
    return model, values, labels, memel


def scales(values, memel):
    phi = monosemantic_scale(
        values, memel.moving_mean, memel.moving_variance, memel.epsilon
    )
    return np.array(phi)


def draw_neuron(values, labels, memel):
    """Plot all values of the neuron that detects a digit best."""
    phi = scales(values, memel)
    by_digit = np.stack([phi[labels == d].mean(0) for d in range(10)])
    digit, neuron = np.unravel_index(by_digit.argmax(), by_digit.shape)
    z, mean = values[:, neuron], float(memel.moving_mean[neuron])
    deviation = float(memel.moving_variance[neuron]) ** 0.5
    figure, axes = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
    bins = np.linspace(z.min(), z.max(), 60)
    own = labels == digit
    axes.hist(
        [z[own], z[~own]],
        bins,
        stacked=True,
        color=[ORANGE, "#A9BCC9"],
        label=[f"images of a {digit}", "other images"],
    )
    axes.axvline(mean, color=BLUE, lw=1.5)
    top = axes.get_ylim()[1]
    axes.annotate(
        "running mean", (mean, top), (4, -10), color=BLUE,
        textcoords="offset points",
    )  # fmt: skip
    for far in (-3, 3):
        place = mean + far * deviation
        if z.min() <= place <= z.max():
            axes.axvline(place, color=GREY, lw=1, ls="--")
            axes.annotate(
                "φ = 9", (place, top), (4, -10), color="#666666",
                textcoords="offset points",
            )  # fmt: skip
    axes.set_xlabel(f"value z of neuron {neuron}")
    axes.set_ylabel("images")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.08, 0.85))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_batch(values, memel):
    """Plot the scale of every value of a batch, and the `TopK(1)` values."""
    phi = scales(values[:SAMPLES], memel)
    rows, columns = np.nonzero(np.array(TopK(1)(phi)))
    figure, axes = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    seen = axes.imshow(
        np.maximum(phi, 0.1),
        cmap="Blues",
        norm=LogNorm(0.1, phi.max()),
        aspect="auto",
    )
    axes.plot(
        columns, rows, "o", mfc="none", mec=ORANGE, mew=1.8, ms=8,
        label="selected: the highest of each sample",
    )  # fmt: skip
    axes.set_xlabel("neuron")
    axes.set_ylabel("sample of the batch")
    axes.legend(
        frameon=False, loc="lower right", bbox_to_anchor=(1.02, 1),
        borderpad=0, handletextpad=0.2,
    )  # fmt: skip
    figure.colorbar(seen, label="φ, in variances", pad=0.02)
    return figure


def draw_step(model, values, labels, memel):
    """Plot values and gradients of one sample, before and after the layer."""
    acting = MEmeL(late_start=0)
    acting.build(values.shape)
    acting.set_weights(memel.get_weights())
    batch, targets = values[:SAMPLES], labels[:SAMPLES]
    head = model.layers[-1]

    def inhibited(z):
        state = [weight.value for weight in acting.weights]
        return acting.stateless_call([], state, z, training=True)[0]

    def loss(z):
        return model.loss(targets, head(keras.ops.relu(z)))

    outputs = np.array(inhibited(batch))
    leaving = np.array(jax.grad(lambda z: loss(inhibited(z)))(batch))
    # The gradient that the layer receives in the backward pass.
    arriving = np.array(jax.grad(loss)(outputs))
    phi = scales(batch, memel)
    # Choose the sample whose selected value has the largest gradient.
    taken = phi.argmax(1)
    each = np.arange(SAMPLES)
    sample = np.abs(arriving[each, taken]).argmax()
    shown = np.argsort(-phi[sample])[:12]
    shown = np.random.default_rng(0).permutation(shown)
    place = np.arange(len(shown))
    colours = [ORANGE if n == taken[sample] else "#A9BCC9" for n in shown]
    figure, rows = plt.subplots(
        2, 1, figsize=(6.4, 3.6), sharex=True, layout="constrained"
    )
    for axes, before, behind, name in (
        (rows[0], batch, outputs, "value"),
        (rows[1], arriving, leaving, "gradient"),
    ):
        axes.bar(
            place - 0.2, before[sample, shown], 0.36, color="none",
            edgecolor=colours, lw=1.4,
        )  # fmt: skip
        axes.bar(place + 0.2, behind[sample, shown], 0.36, color=colours)
        axes.axhline(0, color="black", lw=0.8)
        axes.set_ylabel(name)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
    means = keras.ops.convert_to_numpy(memel.moving_mean)
    rows[0].plot(
        place, means[shown], "_", color=BLUE, ms=22,
        mew=2, label="running mean",
    )  # fmt: skip
    rows[0].legend(
        frameon=False, loc="lower right", bbox_to_anchor=(1.0, 0.95),
        borderpad=0,
    )  # fmt: skip
    rows[1].set_xticks(place, shown)
    rows[1].set_xlabel("neuron; the selected one in orange")
    rows[0].set_title(
        "outlined: into the layer; filled: out of it", loc="left", fontsize=10
    )
    return figure


def main():
    model, values, labels, memel = observed()
    figures = {
        "neuron": draw_neuron(values, labels, memel),
        "batch": draw_batch(values, memel),
        "step": draw_step(model, values, labels, memel),
    }
    for name, figure in figures.items():
        figure.savefig(FOLDER / f"how_it_works_{name}.png", dpi=160)


if __name__ == "__main__":
    main()
