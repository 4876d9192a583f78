"""Test whether the monosemantic scale detects planted neurons.

    python benchmarks/planted.py            # a few minutes; writes results
    python benchmarks/planted.py --plot     # the figure, from stored results

The paper's second open question: how sensitive and specific is the scale? The
layer is constructed: each of 4 planted units responds to one of 4 rare features
only; 28 others respond to all features at random. Each input or position has
one feature, plus Gaussian noise. The grid consists of the share of inputs with
a planted feature (the others share the rest evenly), the noise, the activation
function and the kind of layer. For each cell:

    roc_auc      of phi on inputs with a unit's feature against the others
    found        share of planted units whose most monosemantic feature is it
    sensitivity  share of a feature's inputs with phi >= 5.41 (the threshold
                 that passes 2 % of a Gaussian neuron)
    specificity  share of the other inputs with phi below it
    unit_auc     of the mean phi on that feature, planted units against others

all but the last averaged over planted units and seeds.

What to expect: a unit that is on for a share p of the inputs and off for the
others has phi = (1 - p) / p when it is on, which falls below 5.41 at p = 16 %:
past it, no noise is needed to miss what fires too often. Noise blurs phi as it
would blur any detector; functions that saturate (tanh, sigmoid) lift what is
only noise to the height of the feature, and fall first.
"""

import argparse
import itertools
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from keras_memel import analyze

STORE = pathlib.Path(__file__).parent / "results"
FREQUENCIES = (0.002, 0.01, 0.05, 0.1, 0.2)
NOISES = (0.1, 0.3, 1.0)
ACTIVATIONS = ("linear", "relu", "gelu", "tanh", "sigmoid")
LAYERS = ("dense", "conv", "recurrent")
PLANTED, OTHERS, COMMON = 4, 28, 6
INPUTS, LENGTH, SEEDS = 8000, 8, 3
THRESHOLD = 5.41


def network(kind, activation, rng):
    """Build a layer of planted and other units, on `(time, features)`."""
    features = PLANTED + COMMON
    kernel = rng.normal(size=(features, PLANTED + OTHERS))
    kernel[:, :PLANTED] = 0
    kernel[range(PLANTED), range(PLANTED)] = 3.0
    units = PLANTED + OTHERS
    layer = {
        "dense": lambda: keras.layers.Dense(units, activation, name="units"),
        "conv": lambda: keras.layers.Conv1D(
            units, 3, padding="same", activation=activation, name="units"
        ),
        "recurrent": lambda: keras.layers.SimpleRNN(
            units, activation, return_sequences=True, name="units"
        ),
    }[kind]()
    model = keras.Sequential([keras.Input((LENGTH, features)), layer])
    bias = np.zeros(units)
    weights = {
        "dense": [kernel, bias],
        # A unit also receives a fifth of its neighbors.
        "conv": [np.stack([0.2 * kernel, kernel, 0.2 * kernel]), bias],
        # The past fades by half a step.
        "recurrent": [kernel, 0.5 * np.eye(units), bias],
    }[kind]
    layer.set_weights(weights)
    return model


def cell(kind, activation, frequency, noise, seed):
    rng = np.random.default_rng(seed)
    rest = (1 - PLANTED * frequency) / COMMON
    shares = [frequency] * PLANTED + [rest] * COMMON
    labels = rng.choice(
        PLANTED + COMMON, size=(INPUTS // LENGTH, LENGTH), p=shares
    )
    x = np.eye(PLANTED + COMMON)[labels]
    x = x + noise * rng.normal(size=x.shape) / 3
    model = network(kind, activation, rng)
    report = analyze(
        model,
        x.astype("float32"),
        labels,
        "units",
        threshold=THRESHOLD,
        batch_size=500,
        verbose=0,
    )
    layer = report.layers["units"]
    own = np.arange(PLANTED)
    # Use the label that a unit was planted for, not the label with highest phi.
    phi = _phi(model, x, layer)
    positive = labels.reshape(-1, 1) == own
    over = phi[:, :PLANTED] >= THRESHOLD
    planted = np.arange(PLANTED + OTHERS) < PLANTED
    return {
        "layer": kind,
        "activation": activation,
        "frequency": frequency,
        "noise": noise,
        "seed": seed,
        "roc_auc": np.mean(
            [roc_auc_score(positive[:, j], phi[:, j]) for j in own]
        ),
        "found": np.mean(
            report.to_dataframe()["label"][:PLANTED] == list(map(str, own))
        ),
        "sensitivity": (over & positive).sum() / positive.sum(),
        "specificity": (~over & ~positive).sum() / (~positive).sum(),
        "unit_auc": roc_auc_score(planted, np.nanmax(layer.label_ms, 1)),
    }


def _phi(model, x, layer):
    z = model.predict(x, batch_size=500, verbose=0).reshape(-1, len(layer))
    return (z - layer.mean) ** 2 / np.maximum(layer.variance, 1e-30)


def run():
    rows = [
        cell(*settings)
        for settings in itertools.product(
            LAYERS, ACTIVATIONS, FREQUENCIES, NOISES, range(SEEDS)
        )
    ]
    keys = ["layer", "activation", "frequency", "noise"]
    table = pd.DataFrame(rows).groupby(keys, sort=False).mean()
    table.drop(columns="seed").round(4).to_csv(STORE / "planted.csv")


def plot():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    table = pd.read_csv(STORE / "planted.csv")
    figure, axes = plt.subplots(
        len(LAYERS),
        len(ACTIVATIONS),
        figsize=(10, 6),
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(NOISES)))
    for row, kind in zip(axes, LAYERS):
        for ax, activation in zip(row, ACTIVATIONS):
            part = table[
                (table["layer"] == kind) & (table["activation"] == activation)
            ]
            for noise, shade in zip(NOISES, shades):
                line = part[part["noise"] == noise]
                ax.plot(
                    line["frequency"],
                    line["roc_auc"],
                    color=shade,
                    marker="o",
                    markersize=3,
                    label=f"noise {noise:g}",
                )
                ax.plot(
                    line["frequency"],
                    line["sensitivity"],
                    color=shade,
                    linestyle=":",
                )
            ax.set_xscale("log")
            ax.set_xticks([0.002, 0.02, 0.2], ["0.2 %", "2 %", "20 %"])
            ax.minorticks_off()
            ax.set_ylim(0, 1.03)
            ax.spines[["top", "right"]].set_visible(False)
            if kind == LAYERS[0]:
                ax.set_title(activation, fontsize=10)
        row[0].set_ylabel(kind)
    axes[0, 0].legend(fontsize=7, frameon=False, loc="lower left")
    figure.supxlabel("share of inputs with the feature", fontsize=10)
    figure.suptitle(
        "Planted neurons: ROC-AUC of the monosemantic scale (lines), "
        "sensitivity at 5.41 (dots);\nspecificity there is at least "
        f"{table['specificity'].min():.3f} in every cell",
        fontsize=10,
    )
    figure.savefig(STORE / "planted.png", dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--plot", action="store_true", help="only the figure")
    if not parser.parse_args().plot:
        run()
    plot()


if __name__ == "__main__":
    main()
