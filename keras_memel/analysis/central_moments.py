"""Compute the moments of a chunk of values, and merge moments."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from keras_memel.utils.types import Array

# Number of values to sum at once, small enough that their powers fit into the
# cache.
_SLAB = 1 << 17


@dataclasses.dataclass
class Central:
    """Count, mean and central moment sums, merged as in Pebay (2008).

    Attributes:
        count: Number of values of each neuron, float64.
        mean: Mean of the values.
        second, third, fourth: Sums of powers of deviations from the mean. The
            last two are `None` if they are not needed.
    """

    count: Array
    mean: Array
    second: Array
    third: Array | None = None
    fourth: Array | None = None

    @classmethod
    def joined(cls, parts: Sequence["Central"]) -> "Central":
        """Concatenate the moments of neurons along the last axis."""
        columns = zip(*(vars(part).values() for part in parts))
        return cls(
            *(
                None if column[0] is None else np.concatenate(column, -1)
                for column in columns
            )
        )

    def merge(self, new: "Central") -> "Central":
        """Return the moments of all values of both."""
        a, b = self.count, new.count
        n = np.maximum(a + b, 1)
        delta = new.mean - self.mean
        shift = delta * b / n
        second = self.second + new.second + delta * shift * a
        if self.third is None or new.third is None:
            return Central(a + b, self.mean + shift, second)
        assert self.fourth is not None
        assert new.fourth is not None
        third = (
            self.third
            + new.third
            + delta**3 * a * b * (a - b) / n**2
            + 3 * delta * (a * new.second - b * self.second) / n
        )
        fourth = (
            self.fourth
            + new.fourth
            + delta**4 * a * b * (a * a - a * b + b * b) / n**3
            + 6 * delta**2 * (a * a * new.second + b * b * self.second) / n**2
            + 4 * delta * (a * new.third - b * self.third) / n
        )
        return Central(a + b, self.mean + shift, second, third, fourth)


def sums(
    values: Array, valid: Array | None, low: Array, high: Array, start: Array
) -> tuple[Central, Central, Array]:
    """Compute moments of values with sums in float32.

    The function sums powers of deviations from an approximate mean, in units
    of about the largest deviation. Their powers therefore stay in the range of
    float32 without cancellation. The sum of the deviations corrects the error
    of the approximate mean.

    Args:
        values: Values, float32, `(neurons, rows)`.
        valid: Whether each value counts, or `None` if all count.
        low: Lowest valid value of each neuron.
        high: Highest valid value of each neuron.
        start: First row of each part.

    Returns:
        Moments of all rows, moments of each part up to the second, `(parts,
        neurons)`, and the sum of absolute values.
    """
    if valid is None:
        counts = np.diff(start, append=values.shape[1])[:, None] * 1.0
        counts = np.broadcast_to(counts, (len(start), len(values)))
    else:
        values = np.where(valid, values, np.float32(0))
        counts = np.add.reduceat(valid, start, axis=1, dtype="float64").T
    count = counts.sum(0)
    low, high = (np.where(count > 0, end, np.float32(0)) for end in (low, high))
    n = np.maximum(count, 1)
    base = (values.sum(1, dtype="float64") / n).astype("float32")
    # The unit is a power of two, so that the division is exact.
    _, exponent = np.frexp(np.maximum(high - base, base - low))
    unit = np.ldexp(np.float32(1), np.clip(exponent, -125, 127))
    deviation = values - base[:, None]
    deviation *= (1 / unit)[:, None]
    if valid is not None:
        deviation[~valid] = 0.0
    square = deviation * deviation
    firsts, seconds = (
        np.add.reduceat(one, start, axis=1).astype("float64").T
        for one in (deviation, square)
    )
    third, fourth = (
        np.einsum("ij,ij->i", square, one).astype("float64")
        for one in (deviation, square)
    )
    base, unit = base.astype("float64"), unit.astype("float64")
    first, second = firsts.sum(0), seconds.sum(0)
    off, offs = first / n, firsts / np.maximum(counts, 1)
    every = Central(
        count,
        base + unit * off,
        unit**2 * np.maximum(second - off * first, 0),
        unit**3 * (third - 3 * off * second + 2 * off**2 * first),
        unit**4
        * (fourth - 4 * off * third + 6 * off**2 * second - 3 * off**3 * first),
    )
    parts = Central(
        counts,
        np.where(counts > 0, base + unit * offs, 0.0),
        unit**2 * np.maximum(seconds - offs * firsts, 0.0),
    )
    return every, parts, np.abs(values).sum(1, dtype="float64")


def sums_in_slabs(
    values: Array,
    valid: Array | None,
    low: Array,
    high: Array,
    start: Array,
    chosen: Array | None = None,
) -> tuple[Central, Central, Array]:
    """Compute `sums` for some neurons at a time.

    The sums cover the rows `chosen`, which may repeat, or all rows if it is
    `None`.
    """
    width = max(1, _SLAB // len(values[0] if chosen is None else chosen))
    found = []
    for i in range(0, len(values), width):
        slab = slice(i, i + width)
        own, its = values[slab], None if valid is None else valid[slab]
        if chosen is not None:
            own, its = own[:, chosen], None if its is None else its[:, chosen]
        found.append(sums(own, its, low[slab], high[slab], start))
    every, parts, magnitude = zip(*found)
    return (
        Central.joined(every),
        Central.joined(parts),
        np.concatenate(magnitude),
    )
