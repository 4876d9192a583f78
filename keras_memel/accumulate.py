"""What a stream of values says of its neurons, in one pass and bounded memory.

    moments, extremes, means by feature     exact, merged chunk by chunk in
                                            float64
    the values that lie farthest out        exact, a few a neuron
    all values                              on disk (`Spool`), for what needs
                                            them in order: quantiles, curves

Values arrive as rows: one row a sample, one column a neuron, NaN where a mask
or the layer itself left nothing to count. Rows are gathered into chunks of a
fixed size first, so that no result depends on the size of a batch.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = Any

# Values that are worked on at once: a few megabytes in float64.
CHUNK = 1 << 20
# Rows that are put in order at once; with more, a random part of them stands
# for all. Each takes about 100 bytes of memory while one neuron is read.
MOST_ROWS = 1 << 22


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
    def of(cls, values: Array, valid: Array | None) -> "Central":
        """The moments of rows; `valid` tells which values count."""
        if valid is None:
            count = np.full(values.shape[1], float(len(values)))
        else:
            count = valid.sum(0).astype("float64")
        mean = values.sum(0) / np.maximum(count, 1)
        deviation = values - mean
        if valid is not None:
            deviation[~valid] = 0.0
        square = deviation * deviation
        return cls(
            count,
            mean,
            square.sum(0),
            np.einsum("ij,ij->j", square, deviation),
            np.einsum("ij,ij->j", square, square),
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


class Spool:
    """Rows on disk, read back neuron by neuron.

    In memory up to 32 MB. Once the rows exceed their budget, a random half of
    them is dropped, and from then on each new row is kept with half the
    probability: what remains is at any time a uniform sample of all.

    Args:
        neurons: Values in a row.
        budget: Bytes that the values may take.
    """

    def __init__(self, neurons: int, budget: int):
        self.neurons = neurons
        self.most = max(1, min(MOST_ROWS, budget // (4 * neurons)))
        self.rows = 0
        self.share = 1.0
        self._random = np.random.default_rng(0)
        self._file = _temporary()
        self._sizes: list[int] = []
        self._labels: list[Array] = []

    def append(self, values: Array, labels: Array | None) -> None:
        """Adds rows `(rows, neurons)` and the label of each."""
        if self.share < 1:
            values, labels = self._part(self.share, values, labels)
        self._write(values, labels)
        while self.rows > self.most:
            self._halve()

    def _part(
        self, share: float, values: Array, labels: Array | None
    ) -> tuple[Array, Array | None]:
        kept = self._random.random(len(values)) < share
        return values[kept], None if labels is None else labels[kept]

    def _write(self, values: Array, labels: Array | None) -> None:
        if not len(values):
            return
        # The values of a neuron side by side: they are read together.
        block = np.ascontiguousarray(values.T, dtype="float32")
        self._file.write(block.tobytes())
        self._sizes.append(len(values))
        if labels is not None:
            self._labels.append(labels.astype("int32"))
        self.rows += len(values)

    def _halve(self) -> None:
        old, sizes = self._file, self._sizes
        labels: list[Any] = self._labels or [None] * len(sizes)
        self._file, self._sizes, self._labels = _temporary(), [], []
        self.rows, self.share = 0, self.share / 2
        old.seek(0)
        with old:
            for size, label in zip(sizes, labels):
                block = np.frombuffer(
                    old.read(4 * size * self.neurons), "float32"
                ).reshape(self.neurons, size)
                self._write(*self._part(0.5, block.T, label))

    @property
    def labels(self) -> Array | None:
        """The label of each row that is left."""
        return np.concatenate(self._labels) if self._labels else None

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """The number of the first neuron, and values `(neurons, rows)`."""
        width = max(1, CHUNK // max(self.rows, 1))
        for start in range(0, self.neurons, width):
            stop = min(start + width, self.neurons)
            block = np.empty((stop - start, self.rows), "float32")
            offset = row = 0
            for size in self._sizes:
                self._file.seek(offset + 4 * start * size)
                read = self._file.read(4 * (stop - start) * size)
                block[:, row : row + size] = np.frombuffer(
                    read, "float32"
                ).reshape(-1, size)
                offset += 4 * self.neurons * size
                row += size
            yield start, block

    def close(self) -> None:
        self._file.close()


def _temporary() -> Any:
    return tempfile.SpooledTemporaryFile(max_size=1 << 25)


class Accumulator:
    """All that is gathered of one layer.

    Args:
        shape: Shape of the neurons.
        features: Number of features, or `None`.
        top: How many of the farthest values to keep, on either side.
        budget: Bytes on disk.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        features: int | None,
        top: int,
        budget: int,
    ):
        self.shape = shape
        self.neurons = neurons = int(np.prod(shape))
        self.spool = Spool(neurons, budget)
        zero = np.zeros(neurons)
        self.moments = Central(zero, zero, zero, zero, zero)
        self.absolute = zero  # Sum of |z|
        self.nonfinite = np.zeros(neurons, "int64")
        self.low, self.high = np.full((2, neurons), np.inf) * [[1], [-1]]
        self.by_feature: Central | None = None
        if features is not None:
            none = np.zeros((features, neurons))
            self.by_feature = Central(none, none, none)
        # The highest values and, negated, the lowest: (2, top, neurons).
        self.top = np.full((2, top, neurons), -np.inf, "float32")
        self.top_row = np.full((2, top, neurons, 2), -1)
        self._most = max(1, CHUNK // neurons)
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
            labels: Feature of each row, `(rows,)`; or `None`.
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
        valid: Array | None = np.isfinite(values)
        assert valid is not None
        if missing is not None:
            valid &= ~missing
        if valid.all():
            valid = None
        else:
            seen = np.ones_like(valid) if missing is None else ~missing
            self.nonfinite += (seen & ~valid).sum(0)
            values = np.where(valid, values, np.float32(np.nan))
        self.spool.append(values, labels)
        low = high = values
        if valid is not None:
            low = np.where(valid, values, np.float32(np.inf))
            high = np.where(valid, values, np.float32(-np.inf))
        self.low = np.minimum(self.low, low.min(0))
        self.high = np.maximum(self.high, high.max(0))
        self._extremes(0, high, where)
        self._extremes(1, -low, where)

        values = values.astype("float64")
        if valid is not None:
            values[~valid] = 0.0
        self.moments = self.moments.merge(Central.of(values, valid))
        self.absolute = self.absolute + np.abs(values).sum(0)
        if self.by_feature is not None and labels is not None:
            self.by_feature = self.by_feature.merge(
                self._by_feature(values, valid, labels)
            )

    def _extremes(self, side: int, values: Array, where: Array) -> None:
        top, row = self.top[side], self.top_row[side]
        # Few neurons have a new extreme, once some chunks have been seen.
        new = np.flatnonzero(values.max(0) > top[-1])
        if not len(new) or not len(top):
            return
        both = np.concatenate([top[:, new], values[:, new]])
        order = np.argsort(-both, axis=0, kind="stable")[: len(top)]
        old = row[:, new]
        rows = np.concatenate(
            [old, np.broadcast_to(where[:, None], (len(values), len(new), 2))]
        )
        top[:, new] = np.take_along_axis(both, order, 0)
        row[:, new] = np.take_along_axis(rows, order[..., None], 0)

    def _by_feature(
        self,
        values: Array,
        valid: Array | None,
        labels: Array,
    ) -> Central:
        assert self.by_feature is not None
        order = np.argsort(labels, kind="stable")
        present, first = np.unique(labels[order], return_index=True)
        shape = self.by_feature.count.shape
        count, mean, second = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        base = self.moments.mean  # A shift, against cancellation
        deviation = values - base
        if valid is None:
            count[present] = np.bincount(labels)[present][:, None]
        else:
            deviation[~valid] = 0.0
            count[present] = np.add.reduceat(valid[order], first, dtype="f8")
        deviation = deviation[order]
        divisor = np.maximum(count[present], 1)
        offset = np.add.reduceat(deviation, first) / divisor
        squares = np.add.reduceat(deviation * deviation, first)
        mean[present] = base + offset
        second[present] = np.maximum(squares - divisor * offset**2, 0.0)
        mean[count == 0] = 0.0
        return Central(count, mean, second)

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
