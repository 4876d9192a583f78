"""Inputs of four classes, and small networks to look into."""

import keras
import numpy as np

RNG = np.random.default_rng(0)
N, FEATURES = 1203, 4
LABELS = RNG.integers(0, FEATURES, N)
X = (RNG.normal(size=(N, 6)) + 2 * np.eye(6)[LABELS]).astype("float32")


def dense():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    kernel = np.random.default_rng(1).normal(size=(6, 5))
    model.layers[0].set_weights([kernel, np.full(5, 0.1)])
    return model


def identity(columns):
    return keras.Sequential(
        [keras.Input((columns,)), keras.layers.ReLU(name="z")]
    )
