"""Does the monosemantic scale tell what a neuron stands for?

    python examples/studies/detection.py [--seeds 10]

Open question 2 of the paper, by architecture: the scale phi of a neuron's
values as a detector of a labelled feature, the digit that is seen. Its ROC
curve in trained and in fresh networks, and after training with Reverse
Deactivation (RD) or its placebo. Writes docs/studies/detection.md.
"""

import argparse

import common
import keras
import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve

import keras_memel
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import RunStore
from keras_memel import compare
from keras_memel import monosemantic_scale

EPOCHS, RATE, CHANNELS = 60, 0.1, 32
# What stands behind the hidden layer in training; `None` is no training.
STATES = {
    "trained": lambda: [],
    "fresh": None,
    "RD": lambda: [MEmeL(Rate(RATE), axis=-1)],
    "placebo": lambda: [MEmeL(Random(RATE), axis=-1)],
}
# Shares of false alarms at which the ROC curves are kept.
ALARMS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
STORE = common.RESULTS / "detection.jsonl"


def mlp(images):
    values = keras.layers.ReLU()(keras.layers.Dense(CHANNELS)(images))
    return keras.layers.Dense(CHANNELS)(values)


def cnn(images):
    values = keras.layers.Reshape((8, 8, 1))(images)
    values = keras.layers.Conv2D(CHANNELS, 3, padding="same")(values)
    values = keras.layers.ReLU()(values)
    return keras.layers.Conv2D(CHANNELS, 3, 2, padding="same")(values)


def convgru(images):
    """The image comes in four frames, of two rows each."""
    frames = keras.layers.Reshape((4, 2, 8, 1))(images)
    return keras_memel.ConvGRU2D(CHANNELS, 3, padding="same")(frames)


def transformer(images):
    """The rows of the image are the tokens; two blocks."""
    rows = keras.layers.Reshape((8, 8))(images)
    # Where a row stands: a first layer of its own for each.
    tokens = keras.layers.EinsumDense("btf,tfc->btc", (8, CHANNELS))(rows)
    for _ in range(2):
        seen = keras.layers.LayerNormalization()(tokens)
        seen = keras.layers.MultiHeadAttention(2, CHANNELS // 2)(seen, seen)
        tokens = keras.layers.add([tokens, seen])
        inner = keras.layers.LayerNormalization()(tokens)
        inner = keras.layers.Dense(2 * CHANNELS, "relu")(inner)
        inner = keras.layers.Dense(CHANNELS)(inner)
        tokens = keras.layers.add([tokens, inner])
    return tokens


ARCHITECTURES = {
    "MLP": mlp,
    "CNN": cnn,
    "ConvGRU": convgru,
    "transformer": transformer,
}
ARMS = {
    f"{architecture}, {state}": (architecture, state)
    for architecture in ARCHITECTURES
    for state in STATES
}
AUC = "area under the ROC curve of phi"
VALUE = "area under the ROC curve of the value"
BEST = "area of the best tenth of the neurons"
MEASURES = (AUC, VALUE, BEST, "accuracy")


def build(arm, seed):
    """The network, and the part of it that ends in the hidden layer."""
    architecture, state = arm
    keras.utils.set_random_seed(seed)
    images = keras.Input((64,))
    values = hidden = ARCHITECTURES[architecture](images)
    for layer in (STATES[state] or STATES["trained"])():
        values = layer(values)
    values = keras.layers.ReLU()(values)
    if len(values.shape) > 2:
        shape = (-1, CHANNELS)
        values = keras.layers.Reshape(shape)(values)
        values = keras.layers.GlobalAveragePooling1D()(values)
    model = keras.Model(images, keras.layers.Dense(10)(values))
    model.hidden = keras.Model(images, hidden)
    model.compile(
        keras.optimizers.Adam(common.LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def detection(values, other, labels, other_labels):
    """How well phi tells the feature of each neuron, and the value itself.

    The feature of a neuron, the digit with the largest mean phi (Wang et al.
    2025, Eq. 3), is chosen on some images, and told on others: a feature that
    is chosen where it is tested looks good by chance. For the value, likewise
    the digit with the largest mean.

    Args:
        values: Of the images that choose, `(images, neurons)`.
        other: Of those that test.
        labels, other_labels: Their digits.
    """
    known, tested = scale(values), scale(other)

    def feature(scores):
        means = [scores[labels == digit].mean(axis=0) for digit in range(10)]
        return np.argmax(means, axis=0)

    def areas(scores, features):
        return [
            roc_auc_score(other_labels == digit, scores[:, unit])
            for unit, digit in enumerate(features)
        ]

    features = feature(known)
    found = np.array(areas(tested, features))
    curves = []
    for unit, digit in enumerate(features):
        alarms, hits, _ = roc_curve(other_labels == digit, tested[:, unit])
        curves.append(np.interp(ALARMS, alarms, hits))
    return {
        AUC: found.mean(),
        VALUE: np.mean(areas(other, feature(values))),
        BEST: np.sort(found)[-max(1, len(found) // 10) :].mean(),
    } | {
        f"hits at {alarm:.0%} false alarms": round(float(hits), 4)
        for alarm, hits in zip(ALARMS, np.mean(curves, axis=0))
    }


def scale(values):
    phi = monosemantic_scale(values, values.mean(0), values.var(0, ddof=1))
    return keras.ops.convert_to_numpy(phi)


def run(arm, seed):
    """Train one network; ask its hidden layer."""
    digits = common.Digits(seed, epochs=EPOCHS)
    model = common.recycled(arm, build(arm, seed))
    if STATES[arm[1]] is not None:
        common.fit(model, digits)
    right = common.answers(model, digits.images) == digits.labels
    choosing, testing = np.array_split(digits.test, 2)

    def values(part):
        found = model.hidden(digits.images[part], training=False)
        found = keras.ops.convert_to_numpy(found)
        # A neuron is a channel; its value of an image the mean of all places.
        return found.reshape(len(part), -1, CHANNELS).mean(axis=1)

    return {"accuracy": np.mean(right[digits.test])} | detection(
        values(choosing),
        values(testing),
        digits.labels[choosing],
        digits.labels[testing],
    )


def stored():
    return RunStore(STORE).read()


def page(runs):
    return "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    arms = ARMS
    if not hasattr(keras_memel, "ConvGRU2D"):
        arms = {k: v for k, v in ARMS.items() if v[0] != "ConvGRU"}
    compare(run, arms, options.seeds, store=STORE)
    runs = stored()
    common.write_page("detection", page(runs))


if __name__ == "__main__":
    main()
