"""Splits, networks, methods and stores that the studies share.

The data sets are small, so that ten seeds of many arms run on two cores in
minutes. The findings apply to small data sets.
"""

import argparse
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")
# The matrices are so small that a second thread slows training down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import sklearn.datasets

from examples.quickstart import at_least
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import monosemantic_scale

FOLDER = pathlib.Path(__file__).parents[1]
RESULTS = FOLDER / "results"
EXAMPLES = FOLDER.parent

# The network and its training follow examples/quickstart.py.
WIDTH, BATCH, LEARNING_RATE, EPOCHS = 256, 100, 3e-3, 50
TRAIN, VALIDATION = 400, 200

# Share of the values that count as extreme.
EXTREME = 0.02

# The paper's method and its controls, by the rate of a trial.
METHODS = {
    "RD": lambda rate: MEmeL(Rate(rate)),
    "placebo": lambda rate: MEmeL(Random(rate)),
    "naive (a)": lambda rate: MEmeL(Rate(rate), "naive_a"),
    "naive (b)": lambda rate: MEmeL(Rate(rate), "naive_b"),
    "dropout": keras.layers.Dropout,
}
CONTRASTS = [("RD", method) for method in METHODS if method != "RD"]


def trials(rates, dropout_rates):
    """Return arms by name: plain training, and each method at each rate."""
    return {"plain": ("plain", 0.0)} | {
        f"{method} {rate:.0%}": (method, rate)
        for method in METHODS
        for rate in (dropout_rates if method == "dropout" else rates)
    }


def layers_of(method, rate):
    """Return a function that makes the layers of a trial, for `build`."""
    return lambda: [METHODS[method](rate)] if method in METHODS else []


def by_validation(scores, rate):
    """Return a sort key: the best trial on validation images, then low rates.

    The test images do not influence the choice.
    """
    return -scores["validation"], rate


def tuned(runs, arms, order=by_validation):
    """Return the trial of each method and seed that comes first in an order.

    Args:
        runs: One run per arm and seed.
        arms: Name of the arm: its method, and the rate of the trial.
        order: Sort key of trials, a function of the scores and the rate.
    """
    best = {}
    for run in runs:
        if run["arm"] not in arms or "error" in run:
            continue
        method, rate = arms[run["arm"]]
        key, rank = (method, run["seed"]), order(run["scores"], rate)
        if key not in best or rank < best[key][0]:
            best[key] = rank, {**run, "arm": method, "rate": rate}
    return [run for _, run in best.values()]


class Split:
    """Split a data set by a seed, and make some labels wrong.

    The same share of training *and* validation labels is wrong, as in practice.
    The test labels are correct.

    Args:
        images: Examples, `(n, inputs)`; not images in all sets.
        labels: Their classes.
        seed: Seed of the split, the wrong labels and the order.
        wrong_share: Share of wrong labels.
        epochs: Number of epochs in `order`.
        train, validation, test: Number of examples of each part; with `None`,
            the test set contains all remaining examples.
        groups: Group of each example, such as a person. Each group is then in
            one part only: of 10 groups, 5 are for training and 2 for
            validation.
        parts: Indices of the examples of each part, instead of a random
            split.
    """

    def __init__(
        self,
        images,
        labels,
        seed,
        wrong_share=0.0,
        epochs=EPOCHS,
        train=TRAIN,
        validation=VALIDATION,
        test=None,
        groups=None,
        parts=None,
    ):
        self.images, self.labels = images, labels
        self.given = labels.copy()
        self.classes = int(labels.max()) + 1
        rng = np.random.default_rng(seed)
        if parts is None:
            parts = _parts(rng, len(images), groups, train, validation)
        self.train = parts[0][:train]
        self.validation = parts[1][:validation]
        self.test = parts[2][:test]
        wrong = []
        for part in (self.train, self.validation):
            chosen = rng.permutation(part)[: round(wrong_share * len(part))]
            shift = rng.integers(1, self.classes, len(chosen))
            self.given[chosen] = (labels[chosen] + shift) % self.classes
            wrong.append(chosen)
        self.wrong = wrong[0]
        # All epochs in one, in a fixed order: backends shuffle differently.
        self.order = np.concatenate(
            [rng.permutation(self.train) for _ in range(epochs)]
        )

    def batches(self):
        return self.order.reshape(-1, BATCH)


def _parts(rng, size, groups, train, validation):
    """Return random indices of the examples of each part."""
    if groups is None:
        return np.split(rng.permutation(size), [train, train + validation])
    found = rng.permutation(np.unique(groups))
    cuts = [len(found) // 2, len(found) * 7 // 10]
    return [
        rng.permutation(np.flatnonzero(np.isin(groups, some)))
        for some in np.split(found, cuts)
    ]


def digits():
    """Return 8 x 8 images of handwritten digits, and their labels."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    return images.astype("float32") / 16.0, labels


class Digits(Split):
    """Split scikit-learn's digits."""

    def __init__(self, seed, wrong_share=0.0, epochs=EPOCHS):
        super().__init__(*digits(), seed, wrong_share, epochs)


def build(between, seed, width=WIDTH, inputs=64, classes=10):
    """Build a network of two hidden layers, with `between()` before each ReLU.

    The initial weights depend only on the seed: each initializer has its own
    seed, since the layers of an arm sample from the global one.
    """

    def dense(units, number):
        glorot = keras.initializers.GlorotUniform(seed=10 * seed + number)
        return keras.layers.Dense(units, kernel_initializer=glorot)

    keras.utils.set_random_seed(seed)
    layers = [keras.Input((inputs,))]
    for number in (0, 1):
        layers += [dense(width, number), *between(), keras.layers.ReLU()]
    model = keras.Sequential([*layers, dense(classes, 2)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def build_with(layer, seed):
    """Build the network with a layer, or `None`, before the second ReLU."""
    places = iter([[], [layer] if layer is not None else []])
    return build(lambda: next(places), seed)


_COMPILED = {}


def recycled(key, make, split):
    """Return a compiled network with the weights of `make()`.

    A small network takes longer to compile than to train. Runs that differ
    only in their seed share one compiled network. The variables of the network
    and of its optimizer are set to those of a new one.

    Args:
        key: The arm, which identifies the compiled network.
        make: Function that makes a network from the seed of the run, and sets
            the global seed, from which PyTorch's dropout samples.
        split: Data of the training.
    """
    if key not in _COMPILED:
        # The first step samples once more, so it does not belong to a run.
        first, batch = make(), split.order[:BATCH]
        first.train_on_batch(split.images[batch], split.given[batch])
        _COMPILED[key] = first
    model, first = make(), _COMPILED[key]
    model.optimizer.build(model.trainable_variables)
    for old, new in (
        (first.variables, model.variables),
        (first.optimizer.variables, model.optimizer.variables),
    ):
        for ours, theirs in zip(old, new, strict=True):
            ours.assign(keras.ops.copy(theirs.value))
    return first


def fit(model, split):
    order = split.order
    images, labels = split.images[order], split.given[order]
    model.fit(images, labels, BATCH, shuffle=False, verbose=0)


def trained(split, between, seed, key, width=WIDTH):
    """Return a trained network; see `build` and `recycled`."""
    inputs = split.images.shape[1]
    model = recycled(
        key,
        lambda: build(between, seed, width, inputs, split.classes),
        split,
    )
    fit(model, split)
    return model


def answers(model, images):
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    return logits.argmax(axis=-1)


def accuracy(model, split):
    """Return the share of the test images that the network labels correctly."""
    right = answers(model, split.images) == split.labels
    return np.mean(right[split.test])


def agreement(model, split, part):
    """Return the share of a part with the given label, correct or wrong."""
    return np.mean(answers(model, split.images[part]) == split.given[part])


def second_layer(model, images):
    """Return the values of the second layer, before its ReLU."""
    values = keras.ops.convert_to_tensor(images)
    place = model.layers.index(dense(model)[1])
    for layer in model.layers[: place + 1]:
        values = layer(values)
    return keras.ops.convert_to_numpy(values)


def dense(model):
    return [x for x in model.layers if isinstance(x, keras.layers.Dense)]


def copy_dense(source, target):
    """Copy the weights of the dense layers, the only trainable ones."""
    for ours, theirs in zip(dense(source), dense(target), strict=True):
        theirs.set_weights(ours.get_weights())


def phi(values):
    """Return the scale of values, `(samples, units)`, by their moments."""
    found = monosemantic_scale(values, values.mean(0), values.var(0, ddof=1))
    return keras.ops.convert_to_numpy(found)


def features(scores, labels, classes):
    """Return the class with the largest mean score, for each unit.

    For phi, this is the relatively monosemantic feature (Wang et al. 2025,
    Eq. 3).
    """
    means = [scores[labels == c].mean(axis=0) for c in range(classes)]
    return np.argmax(means, axis=0)


def extremes(phi, own):
    """Return the phi of the extreme values, and their False Killing Rate.

    The rate is the share of them without the unit's label (Eq. 4).

    Args:
        phi: `(samples, units)`.
        own: Whether a sample has the unit's label, of the same shape.
    """
    limit = np.quantile(phi, 1 - EXTREME)
    return limit, np.mean(~own[phi >= limit])


def add_dry_run(made):
    made.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )


def parser(doc, seeds=10):
    """Return the parser of a study, which its docstring describes.

    From here on, Ctrl-C ends the study with a single line.
    """
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--seeds", type=at_least(1), default=seeds)
    add_dry_run(made)
    sys.excepthook = _end_in_a_line
    return made


def _end_in_a_line(kind, error, trace):
    if issubclass(kind, KeyboardInterrupt):
        print(
            "\nStopped. The same command resumes after the last finished run.",
            file=sys.stderr,
        )
    else:
        sys.__excepthook__(kind, error, trace)


def store(name, share=None):
    """Return the file of a study's runs, or of a share of wrong labels."""
    share = "" if share is None else f"_{100 * share:.0f}"
    return RESULTS / f"{name}{share}.jsonl"


def complete(file, arms):
    """Return whether a store has all runs of ten seeds."""
    lines = file.read_bytes().count(b"\n") if file.is_file() else 0
    return lines >= 10 * len(arms)
