"""Two halves of the inputs: one chooses the labels, the other scores them.

A label that is chosen as the best of many looks good on the inputs that chose
it, even if it is noise. Scores from other inputs do not have that bias.
"""

import numpy as np

from keras_memel.utils.types import Array


def held_out(numbers: Array) -> Array:
    """Return which inputs score the labels; the others choose them.

    Inputs 2i and 2i + 1 go to different halves. A hash of i (SplitMix64)
    decides which goes where. So the halves differ by one input at most, and
    the half of an input depends on its number alone: not on batches, nor on
    how many inputs follow.

    Args:
        numbers: Numbers of inputs, from 0 up, in the order of `x`.

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
    """Return a hash of each number, SplitMix64: uint64 that look random."""
    numbers = np.asarray(numbers).astype("uint64")
    bits = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
