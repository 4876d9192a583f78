"""Split the inputs: one half chooses the labels, the other scores them.

A label that is chosen as the best of many has a high score on the inputs that
chose it, even if it is noise. Scores from other inputs do not have this bias.
"""

import numpy as np

from keras_memel.utils.types import Array


def held_out(numbers: Array) -> Array:
    """Return which inputs score the labels; the others choose them.

    Inputs 2i and 2i + 1 are in different halves. A hash of i (SplitMix64)
    assigns them. The halves therefore differ by at most one input. The half
    of an input depends on its number alone, not on batches or on the number
    of inputs that follow.

    Args:
        numbers: Numbers of inputs, from 0, in the order of `x`.

    Returns:
        Booleans of the same shape.

    Example:

    >>> held_out(np.arange(8)).tolist()
    [True, False, False, True, False, True, True, False]
    """
    numbers = np.asarray(numbers).astype("uint64")
    bits = scrambled(numbers >> np.uint64(1)) >> np.uint64(63)
    return (bits ^ (numbers & np.uint64(1))).astype(bool)


def scrambled(numbers: Array) -> Array:
    """Return the SplitMix64 hash of each number: pseudorandom uint64."""
    numbers = np.asarray(numbers).astype("uint64")
    bits = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
