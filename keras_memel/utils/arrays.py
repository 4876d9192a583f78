"""Convert Keras weights to NumPy arrays."""

from typing import Any

import keras
import numpy as np


def to_numpy(weight: Any) -> np.ndarray:
    """Copy the value of a weight."""
    # A variable that `tf.distribute` mirrors cannot be converted directly.
    tensor = keras.ops.convert_to_tensor(weight)
    return np.array(keras.ops.convert_to_numpy(tensor))
