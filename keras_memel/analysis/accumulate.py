"""What a stream of values says of its neurons, in one pass and bounded memory.

    moments, extremes, means by label     exact, merged chunk by chunk in
                                            float64
    the values that lie farthest out        exact, a few a neuron
    all values                              aside (`Spool`), for what needs
                                            them in order: quantiles, curves

Values arrive as rows: one row a sample, one column a neuron, NaN where a mask
or the layer itself left nothing to count. Rows are gathered into chunks of a
fixed size first, so that no result depends on the size of a batch.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.analysis.value_store import Spool
from keras_memel.utils.types import Array

# Values that are worked on at once: a few megabytes in float64.
CHUNK = 1 << 20
# Rows that are summed in float32 before they are added up in float64.
SUMMED = 1 << 14
# Of those, so many that their powers stay in the cache.
_SLAB = 1 << 17


@dataclasses.dataclass
class Central:
    """Count, mean and central moment sums, merged as in Pebay (2008).

    Attributes:
        count: Values of each neuron, float64.
        mean: Their mean.
        second, third, fourth: Sums of powers of deviations from the mean;
            the last two are `None` where they are not wanted.
    """

    count: Array
    mean: Array
    second: Array
    third: Array | None = None
    fourth: Array | None = None

    @classmethod
    def joined(cls, parts: Sequence["Central"]) -> "Central":
        """Those of neurons side by side, which is along the last axis."""
        columns = zip(*(vars(part).values() for part in parts))
        return cls(
            *(
                None if column[0] is None else np.concatenate(column, -1)
                for column in columns
            )
        )

    def merge(self, new: "Central") -> "Central":
        """The moments of both together."""
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
    """The sums of values that are added up in float32.

    Of deviations from about the mean, in units of about the largest of them:
    no power of them leaves the range of float32, and none cancels. What the
    mean is off by, the sums themselves tell.

    Args:
        values: float32, `(neurons, rows)`.
        valid: Which of them count, or `None` for all.
        low: Lowest that counts, of each neuron.
        high: Highest that counts.
        start: Where each part begins, in rows.

    Returns:
        The moments of all rows, those of each part up to the second, `(parts,
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
    # A power of two: to divide by it rounds nothing.
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


class Accumulator:
    """All that is gathered of one layer.

    Args:
        shape: Shape of the neurons.
        n_labels: Number of labels, or `None`.
        top: How many of the farthest values to keep, on either side.
        spool: From the number of neurons to a `Spool`.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        n_labels: int | None,
        top: int,
        spool: Callable[[int], Spool],
    ):
        self.shape = shape
        self.neurons = neurons = int(np.prod(shape))
        self.spool = spool(neurons)
        zero = np.zeros(neurons)
        self.moments = Central(zero, zero, zero, zero, zero)
        self.absolute = zero  # Sum of |z|
        self.nonfinite = np.zeros(neurons, "int64")
        self.low, self.high = np.full((2, neurons), np.inf) * [[1], [-1]]
        self.by_label: Central | None = None
        if n_labels is not None:
            none = np.zeros((n_labels, neurons))
            self.by_label = Central(none, none, none)
        # The highest values and, negated, the lowest: (2, top, neurons).
        self.top = np.full((2, top, neurons), -np.inf, "float32")
        self.top_row = np.full((2, top, neurons, 2), -1)
        self._most = max(1, min(SUMMED, CHUNK // neurons))
        self._waiting: list[tuple[Any, ...]] = []
        self._rows = 0

    def add(
        self,
        values: Array,
        missing: Array | None,
        where: Array,
        labels: Array | None,
    ) -> None:
        """Takes rows.

        Args:
            values: float32, `(rows, neurons)`.
            missing: Where a mask leaves nothing, of the same shape; or `None`.
            where: Number of the input, and position in it, `(rows, 2)`.
            labels: Label of each row, `(rows,)`; or `None`.
        """
        start = 0
        while start < len(values):
            stop = min(len(values), start + self._most - self._rows)
            part = slice(start, stop)
            self._waiting.append(
                tuple(
                    None if one is None else one[part]
                    for one in (values, missing, where, labels)
                )
            )
            self._rows += stop - start
            start = stop
            if self._rows == self._most:
                self.flush()

    def flush(self) -> None:
        """Works through the rows that wait."""
        if not self._waiting:
            return
        columns = list(zip(*self._waiting))
        if any(missing is not None for missing in columns[1]):
            columns[1] = tuple(
                np.zeros(values.shape, bool) if missing is None else missing
                for values, missing in zip(columns[0], columns[1])
            )
        values, missing, where, labels = (
            None if column[0] is None else np.concatenate(column)
            for column in columns
        )
        self._waiting, self._rows = [], 0
        self._chunk(values, missing, where, labels)

    def _chunk(
        self,
        values: Array,
        missing: Array | None,
        where: Array,
        labels: Array | None,
    ) -> None:
        if labels is not None:
            # What is of one label lies side by side from here on.
            order = np.argsort(labels, kind="stable")
            values, where, labels = values[order], where[order], labels[order]
            missing = None if missing is None else missing[order]
        values = np.ascontiguousarray(values.T)  # And what is of one neuron.
        low, high = values.min(1), values.max(1)
        valid: Array | None = None
        if missing is not None or not np.isfinite([low, high]).all():
            valid = np.isfinite(values)
            seen = np.ones_like(valid) if missing is None else ~missing.T
            self.nonfinite += (seen & ~valid).sum(1)
            valid &= seen
            values[~valid] = np.nan
            low = np.where(valid, values, np.float32(np.inf)).min(1)
            high = np.where(valid, values, np.float32(-np.inf)).max(1)
        self.spool.append(values, labels)
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)
        self._extremes(0, values, high, where)
        self._extremes(1, values, -low, where)
        self._sum(values, valid, low, high, labels)

    def _extremes(
        self, side: int, values: Array, highest: Array, where: Array
    ) -> None:
        top, row = self.top[side], self.top_row[side]
        # Few neurons have a new extreme, once some chunks have been seen.
        (new,) = np.nonzero(highest > top[-1])
        if not len(new):
            return
        values = -values[new] if side else values[new]
        values[np.isnan(values)] = -np.inf
        found, rows = [top[:, new]], [row[:, new]]
        every = np.arange(len(new))
        for _ in range(min(len(top), values.shape[1])):
            at = values.argmax(1)
            found.append(values[every, at][None])
            rows.append(where[at][None])
            if (found[-1] <= top[-1, new]).all():
                break
            values[every, at] = -np.inf
        both = np.concatenate(found)
        order = np.argsort(-both, axis=0, kind="stable")[: len(top)]
        top[:, new] = np.take_along_axis(both, order, 0)
        row[:, new] = np.take_along_axis(
            np.concatenate(rows), order[..., None], 0
        )

    def _sum(
        self,
        values: Array,
        valid: Array | None,
        low: Array,
        high: Array,
        labels: Array | None,
    ) -> None:
        """Adds the sums of one chunk."""
        present, start = [0], np.zeros(1, int)
        if labels is not None:
            present, start = np.unique(labels, return_index=True)
        width = max(1, _SLAB // values.shape[1])
        slabs = [slice(i, i + width) for i in range(0, len(values), width)]
        every, parts, magnitude = (
            join(one)
            for join, one in zip(
                (Central.joined, Central.joined, np.concatenate),
                zip(
                    *(
                        sums(
                            values[slab],
                            None if valid is None else valid[slab],
                            low[slab],
                            high[slab],
                            start,
                        )
                        for slab in slabs
                    )
                ),
            )
        )
        self.moments = self.moments.merge(every)
        self.absolute = self.absolute + magnitude
        if self.by_label is not None:
            whole = np.zeros((3, *self.by_label.count.shape))
            whole[:, present] = parts.count, parts.mean, parts.second
            self.by_label = self.by_label.merge(Central(*whole))

    def farthest(self) -> tuple[Array, Array]:
        """The values farthest from the mean of their neuron, farthest first.

        Returns:
            Values `(neurons, top)`, NaN where there are fewer, and where they
            were, `(neurons, top, 2)`: number of the input, and position in it.
        """
        top = self.top.shape[1]
        values = np.concatenate([self.top[0], -self.top[1]])
        rows = np.concatenate([self.top_row[0], self.top_row[1]])
        distance = np.abs(values - self.moments.mean)
        distance[~np.isfinite(values)] = -1.0
        # With few values, one can be among the highest and the lowest.
        for i in range(top):
            same = (rows[top + i] == rows[:top]).all(-1).any(0)
            distance[top + i][same] = -1.0
        order = np.argsort(-distance, axis=0, kind="stable")[:top]
        distance = np.take_along_axis(distance, order, 0)
        values = np.take_along_axis(values, order, 0)
        rows = np.take_along_axis(rows, order[..., None], 0)
        values[distance < 0], rows[distance < 0] = np.nan, -1
        return values.T, rows.swapaxes(0, 1)
