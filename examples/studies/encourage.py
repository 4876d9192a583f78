"""Inhibit monosemanticity, or encourage it?

    python examples/studies/encourage.py [--seeds 10]

Wang et al. (2024) reverse the gradient of values that stand out; Yan et al.
(2024, arXiv 2406.17969) hold that monosemanticity should be encouraged, by
features that are less correlated. Here both, and their placebos, on the same
tasks: Reverse Deactivation with a gradient of -delta (inhibit), of +delta
(encourage), and a penalty on the correlation of units. Writes
docs/studies/encourage.md.
"""

import argparse
import functools
import pathlib

import common
import keras
import label_noise
import numpy as np
import sets

from keras_memel import Comparison
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import RunStore
from keras_memel import compare
from keras_memel import monosemantic_scale

TASKS = [
    ("digits", 0.2),
    ("digits", 0.0),
    ("fashion_mnist", 0.2),
    ("fashion_mnist", 0.0),
]
RATE = 0.1  # of all values, those that stand out most, or any


@keras.saving.register_keras_serializable("studies")
class Decorrelation(keras.layers.Layer):
    """A loss: the mean squared correlation of two different units over a
    batch, times `weight`. The values stay what they are."""

    def __init__(self, weight, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, values, training=None):
        if training:
            self.add_loss(self.weight * squared_correlation(values))
        return values


def squared_correlation(values):
    """Mean over all pairs of different units, `(batch, units)` -> scalar."""
    ops = keras.ops
    centred = values - ops.mean(values, axis=0)
    # A unit that never changes correlates with none.
    scale = ops.sqrt(ops.sum(ops.square(centred), axis=0) + 1e-6)
    correlation = ops.matmul(ops.transpose(centred / scale), centred / scale)
    units = values.shape[-1]
    own = ops.sum(ops.square(ops.diagonal(correlation)))
    total = ops.sum(ops.square(correlation)) - own
    return total / (units * (units - 1))


def stands_out(delta):
    return MEmeL(Rate(RATE), ReverseDeactivation(delta))


def any_value(delta):
    return MEmeL(Random(RATE), ReverseDeactivation(delta))


# What a method makes of its strength, and the strengths that it may try.
METHODS = {
    "inhibit": (stands_out, (0.5, 1.0, 2.0)),
    # -1 is naive (b) of the paper.
    "encourage": (stands_out, (-0.5, -1.0, -2.0)),
    "decorrelate": (Decorrelation, (0.1, 1.0, 10.0)),
    "placebo of inhibit": (any_value, (0.5, 1.0, 2.0)),
    "placebo of encourage": (any_value, (-0.5, -1.0, -2.0)),
    "naive (a)": (lambda rate: MEmeL(Rate(rate), "naive_a"), (0.05, 0.1, 0.2)),
    "dropout": (keras.layers.Dropout, (0.2, 0.5, 0.65)),
}
ARMS = {"plain": ("plain", 0.0)} | {
    f"{method} {strength:g}": (method, strength)
    for method, (_, strengths) in METHODS.items()
    for strength in strengths
}
CONTRASTS = [
    ("inhibit", "encourage"),
    ("inhibit", "decorrelate"),
    ("inhibit", "placebo of inhibit"),
    ("encourage", "placebo of encourage"),
    ("decorrelate", "dropout"),
]
MEASURES = {
    "phi": "phi that 2 % of the values reach",
    "fkr": "False Killing Rate",
    "correlation": "squared correlation of two units",
}


def run(name, share, path, arm, seed):
    """Train and test one network, and measure its second layer."""
    method, strength = arm
    data = sets.split(name, share, seed, path)

    def between():
        return [METHODS[method][0](strength)] if method in METHODS else []

    model = common.build(
        between, seed, inputs=data.images.shape[1], classes=data.classes
    )
    model = common.recycled((name, arm), model)
    common.fit(model, data)
    return label_noise.scores(model, data) | measures(model, data)


def measures(model, data):
    """Of the second layer before its ReLU, on the test images; phi and the
    False Killing Rate as in scale.py."""
    values = keras.ops.convert_to_tensor(data.images[data.test])
    seen = 0
    for layer in model.layers:
        values = layer(values)
        seen += isinstance(layer, keras.layers.Dense)
        if seen == 2:
            break
    correlation = float(squared_correlation(values))
    values = keras.ops.convert_to_numpy(values)
    phi = keras.ops.convert_to_numpy(
        monosemantic_scale(values, values.mean(0), values.var(0, ddof=1))
    )
    labels = data.labels[data.test]
    feature = np.argmax(
        [phi[labels == c].mean(axis=0) for c in range(data.classes)], axis=0
    )
    limit = np.quantile(phi, 0.98)
    return {
        "phi": limit,
        "fkr": np.mean((labels[:, None] != feature)[phi >= limit]),
        "correlation": correlation,
    }


def store(name, share):
    return common.RESULTS / f"encourage_{name}_{100 * share:.0f}.jsonl"


def stored():
    """The comparison of each task, of tuned methods."""
    return {
        (name, share): Comparison(
            label_noise.tuned(RunStore(store(name, share)).read(), ARMS),
            ["plain", *METHODS],
            contrasts=CONTRASTS,
        )
        for name, share in TASKS
        if store(name, share).is_file()
    }


def page(found):
    return "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", type=pathlib.Path, help="of Fashion-MNIST")
    options = parser.parse_args()
    for name, share in TASKS:
        train = functools.partial(run, name, share, options.data)
        compare(train, ARMS, options.seeds, store=store(name, share))
    found = stored()
    common.write_page("encourage", page(found))


if __name__ == "__main__":
    main()
