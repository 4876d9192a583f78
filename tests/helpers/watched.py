"""Models that begin with the layer, and what its statistics must be.

What such a layer must have seen is the data, so that the oracle tells what it
must know after a training.
"""

import keras
import numpy as np
from keras import layers
from keras import ops
from oracle import Oracle
from steps import assert_state
from steps import state

from keras_memel import MEmeL
from keras_memel import Rate

WIDTH, BATCH = 6, 4


def watch(**settings):
    """A layer that begins to inhibit in the second step."""
    return MEmeL(Rate(0.2), **{"axis": -1, "late_start": 1, **settings})


def oracle_of(batches, masks=None, **settings):
    """Return the oracle of `watch(**settings)` after these batches."""
    expected = Oracle(
        ("rate", 0.2, 0.1), **{"axis": -1, "late_start": 1, **settings}
    )
    for i, x in enumerate(batches):
        expected.step(x, np.zeros_like(x), masks[i] if masks else None)
    return expected


def seen(x):
    """The batches that `fit` makes of these inputs."""
    return [x[i : i + BATCH] for i in range(0, len(x), BATCH)]


def assert_same_state(layer, other):
    """Check that two layers have the same state, after at least one step."""
    assert_state(other, state(layer))
    assert scalar(layer.steps) > 0


def scalar(weight):
    return float(ops.convert_to_numpy(weight.value))


def sequential(layer):
    return keras.Sequential([keras.Input((WIDTH,)), layer, layers.Dense(2)])


def functional(layer):
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, layers.Dense(2)(layer(inputs)))


def between(layer):
    """Something before it: through the layer a gradient must pass."""
    return keras.Sequential(
        [
            keras.Input((WIDTH,)),
            layers.Dense(5, "tanh"),
            layer,
            layers.Dense(2),
        ]
    )


def activation_model(layer):
    return keras.Sequential(
        [keras.Input((WIDTH,)), layers.Dense(5, activation=layer)]
    )


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.dense = layer, layers.Dense(2)

    def build(self, shape):
        self.layer.build(shape)
        self.dense.build(shape)
        self.built = True

    def call(self, inputs, training=None):
        return self.dense(self.layer(inputs, training=training))


def fit(model, x, y, epochs=1, optimizer="sgd", callbacks=None, **settings):
    model.compile(optimizer, "mse", **settings)
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model
