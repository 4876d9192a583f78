"""Bins of histograms that add up: edges at multiples of a power of two.

The bins of a neuron have the smallest width `2^k` with which at most `BINS`
bins, `[i 2^k, (i + 1) 2^k)`, hold all of its values. A part of the values needs
a width that is equal or smaller, and each of its bins lies within one bin of
the whole. So the counts of parts add up to those of the whole, exactly, and no
edge has to be known before.
"""

import numpy as np

from keras_memel.utils.types import Array

# Enough to see two humps, few enough for 10,000 neurons. At least half of them
# are used.
BINS = 32


def grid(low: Array, high: Array) -> tuple[Array, Array]:
    """Return where the bins of each neuron begin, and their width.

    Args:
        low: Lowest value of each neuron, `(neurons,)`; infinite without
            values.
        high: Highest value.

    Returns:
        Float64, `(neurons,)` each. The width is 0 where all values are equal,
        and the first bin then holds them; 0 and 0 without values.

    Example:

    >>> grid(np.array([-0.9, 2.0]), np.array([6.1, 2.0]))
    (array([-1.,  2.]), array([0.25, 0.  ]))
    """
    low, high = np.asarray(low, "float64"), np.asarray(high, "float64")
    seen = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(seen, low, 0.0), np.where(seen, high, 0.0)
    moved = low < high
    # One step below it, there would be more than BINS for sure.
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
    """Return how many bins hold values of each neuron, `(neurons,)`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        last = np.floor((high - start) / width)
    return np.where(width > 0, last + 1, 1).astype("int64")


def places(
    start: Array, width: Array, new_start: Array, new_width: Array
) -> Array:
    """Return the bin of a coarser grid that each bin lies in.

    Args:
        start: Of the grid of a part of the values, `(neurons,)`.
        width: Its width.
        new_start: Of the grid of all values.
        new_width: Its width.

    Returns:
        Whole numbers, `(neurons, BINS)`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        found = edges(start, width)[:, :-1] - new_start[:, None]
        found = np.floor(found / new_width[:, None])
    found = np.where(new_width[:, None] > 0, found, 0.0)
    # Bins beyond those that are used hold nothing.
    return np.clip(found, 0, BINS - 1).astype("int64")
