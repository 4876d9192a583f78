"""Compute histogram bins that add up: edges at multiples of a power of two.

The bins of a neuron, `[i 2^k, (i + 1) 2^k)`, have the smallest width `2^k`
for which at most `BINS` bins contain all of its values. A part of the values
needs an equal or smaller width, and each of its bins is within one bin of the
whole. The counts of parts therefore add up exactly to those of the whole, and
the edges need not be known in advance.
"""

import numpy as np

from keras_memel.utils.types import Array

# Maximum number of bins: enough to see two peaks, and few enough for 10,000
# neurons. At least half of them are used.
BINS = 32


def grid(low: Array, high: Array) -> tuple[Array, Array]:
    """Return start and width of the bins of each neuron.

    Args:
        low: Lowest value of each neuron, `(neurons,)`; infinite without
            values.
        high: Highest value of each neuron.

    Returns:
        Start and width, float64, `(neurons,)` each. If all values are equal,
        the width is 0 and the first bin contains them. Without values both
        are 0.

    Example:

    >>> grid(np.array([-0.9, 2.0]), np.array([6.1, 2.0]))
    (array([-1.,  2.]), array([0.25, 0.  ]))
    """
    low, high = np.asarray(low, "float64"), np.asarray(high, "float64")
    seen = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(seen, low, 0.0), np.where(seen, high, 0.0)
    moved = low < high
    # The search starts with the smallest width that can suffice: half of it
    # would always need more than BINS bins.
    _, exponent = np.frexp(np.where(moved, high - low, 1.0) / BINS)
    exponent -= 1
    while True:
        width = np.ldexp(1.0, exponent)
        many = np.floor(high / width) - np.floor(low / width) >= BINS
        if not (many & moved).any():
            break
        exponent += many & moved
    start = np.where(moved, np.floor(low / width) * width, low)
    return start, np.where(moved, width, 0.0)


def edges(start: Array, width: Array) -> Array:
    """Return the edges of all bins, `(neurons, BINS + 1)`."""
    return np.asarray(start[:, None] + width[:, None] * np.arange(BINS + 1))


def used(start: Array, width: Array, high: Array) -> Array:
    """Return the number of bins up to the highest value, `(neurons,)`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        last = np.floor((high - start) / width)
    return np.where(width > 0, last + 1, 1).astype("int64")


def places(
    start: Array, width: Array, new_start: Array, new_width: Array
) -> Array:
    """Return the bin of a coarser grid that contains each bin.

    Args:
        start: Start of the grid of a part of the values, `(neurons,)`.
        width: Width of its bins.
        new_start: Start of the grid of all values.
        new_width: Width of its bins.

    Returns:
        Integers, `(neurons, BINS)`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        found = edges(start, width)[:, :-1] - new_start[:, None]
        found = np.floor(found / new_width[:, None])
    found = np.where(new_width[:, None] > 0, found, 0.0)
    # Bins beyond the used ones are empty, so their number has no effect.
    return np.clip(found, 0, BINS - 1).astype("int64")
