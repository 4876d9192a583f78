"""Weights of Keras as NumPy arrays."""

from typing import Any

import keras
import numpy as np


def to_numpy(weight: Any) -> np.ndarray:
    """Copy the value of a weight."""
    # A variable that `tf.distribute` mirrors has no array of its own.
    tensor = keras.ops.convert_to_tensor(weight)
    return np.array(keras.ops.convert_to_numpy(tensor))
