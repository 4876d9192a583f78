"""Compute statistics of a stream of neurons in one pass and bounded memory.

    moments, extremes, means by label     exact, merged chunk by chunk in
                                            float64
    most extreme values, one per input    exact, a few per neuron
    all values                            stored in a `Spool` for measures that
                                            need sorting: quantiles, curves

Values arrive as rows, with one row per sample and one column per neuron. NaN
marks values that a mask excludes or that are not finite. Rows are first
collected into chunks of a fixed size, so that the results do not depend on the
batch size.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_memel.analysis.central_moments import Central
from keras_memel.analysis.central_moments import sums_in_slabs
from keras_memel.analysis.label_sums import LabelSums
from keras_memel.analysis.labels import LabelSets
from keras_memel.analysis.value_store import Spool
from keras_memel.reports.halves import held_out
from keras_memel.utils.types import Array

# Number of values per chunk: a few megabytes in float64.
CHUNK = 1 << 20
# Number of rows that are summed in float32 before the sums are added in
# float64.
SUMMED = 1 << 14


class Accumulator:
    """Accumulator of all statistics of one layer.

    Args:
        shape: Shape of the neurons.
        n_labels: Number of known labels, or `None` without labels.
        top: Number of extreme values to keep per side, one per input.
        spool: Function from the number of neurons to a `Spool`.

    Attributes:
        sets: Labels of each code; `None` if each code is one label.
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
        self.absolute = zero  # sum of |z|
        self.nonfinite = np.zeros(neurons, "int64")
        self.low, self.high = np.full((2, neurons), np.inf) * [[1], [-1]]
        self.by_label: LabelSums | None = None
        if n_labels is not None:
            self.by_label = LabelSums(neurons, n_labels)
        self.sets: LabelSets | None = None
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
        """Add rows.

        Args:
            values: Values, float32, `(rows, neurons)`.
            missing: Whether a mask excludes each value, same shape, or `None`.
            where: Number of the input, and position in it, `(rows, 2)`.
            labels: Code of the label of each row, `(rows,)`, below 0 without
                a label, or `None`.
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
        """Process the waiting rows."""
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
        tags = rows = None
        if labels is not None:
            half = held_out(where[:, 0])
            tags = np.column_stack([labels, where[:, 0]])
            rows = 2 * labels.astype("int64") + half
            # Sorting makes the values of one label contiguous.
            order = np.argsort(rows, kind="stable")
            values, where, tags = values[order], where[order], tags[order]
            rows = rows[order]
            missing = None if missing is None else missing[order]
        # Transposing makes the values of one neuron contiguous.
        values = np.ascontiguousarray(values.T)
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
        self.spool.append(values, tags)
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)
        self._extremes(0, values, high, where)
        self._extremes(1, values, -low, where)
        self._sum(values, valid, low, high, tags, rows)

    def _extremes(
        self, side: int, values: Array, highest: Array, where: Array
    ) -> None:
        top, row = self.top[side], self.top_row[side]
        # After some chunks, few neurons have a new extreme.
        (new,) = np.nonzero(highest > top[-1])
        if not len(new):
            return
        # Find the highest value of each run of rows of one input.
        inputs = where[:, 0]
        start = np.flatnonzero(np.diff(inputs, prepend=inputs[0] - 1))
        size = np.diff(start, append=len(inputs))
        inputs = inputs[start]
        if len(new) < len(values):
            values = values[new]
        reduce = np.fmin if side else np.fmax
        best = reduce.reduceat(values, start, axis=1)
        best = -best if side else best
        best[np.isnan(best)] = -np.inf
        found, rows = [top[:, new]], [row[:, new]]
        every, places = np.arange(len(new)), np.arange(size.max())
        single = len(np.unique(inputs)) == len(inputs)
        for _ in range(min(len(top), len(start))):
            run = best.argmax(1)
            value = best[every, run]
            (entered,) = np.nonzero(value > top[-1, new])
            if not len(entered):
                break
            # Find the first row of the run with this value.
            own = run[entered]
            at = start[own, None] + np.minimum(places, size[own, None] - 1)
            its = values[entered[:, None], at]
            its = -its if side else its
            first = (its == value[entered, None]).argmax(1)
            rows.append(np.full((1, len(new), 2), -1))
            rows[-1][0, entered] = where[at[every[: len(at)], first]]
            found.append(np.full((1, len(new)), -np.inf, "float32"))
            found[-1][0, entered] = value[entered]
            if single:
                best[every, run] = -np.inf
            else:
                best[inputs == inputs[run, None]] = -np.inf
        top[:, new], row[:, new] = _first_of_inputs(
            np.concatenate(found), np.concatenate(rows), len(top)
        )

    def _sum(
        self,
        values: Array,
        valid: Array | None,
        low: Array,
        high: Array,
        tags: Array | None,
        rows: Array | None,
    ) -> None:
        """Add the sums of one chunk."""
        start, present = np.zeros(1, int), np.zeros(0, int)
        if rows is not None and self.sets is None:
            present, start = np.unique(rows, return_index=True)
        every, parts, magnitude = sums_in_slabs(values, valid, low, high, start)
        self.moments = self.moments.merge(every)
        self.absolute = self.absolute + magnitude
        if rows is None or tags is None or self.by_label is None:
            return
        if self.sets is not None:
            # A value with several labels is added to each of them.
            value, label = self.sets.pairs(tags[:, 0])
            rows = 2 * label.astype("int64") + held_out(tags[value, 1])
            order = np.argsort(rows, kind="stable")
            rows, value = rows[order], value[order]
            present, start = np.unique(rows, return_index=True)
            if len(value):
                _, parts, _ = sums_in_slabs(
                    values, valid, low, high, start, value
                )
        known = present >= 0
        count = parts.count if valid is not None else parts.count[:, :1]
        self.by_label.add(
            present[known],
            Central(count[known], parts.mean[known], parts.second[known]),
        )

    def farthest(self) -> tuple[Array, Array]:
        """Return the values farthest from the mean of their neuron.

        The farthest value comes first, with one value per input.

        Returns:
            Values `(neurons, top)`, NaN where there are fewer, and their
            places, `(neurons, top, 2)`: number of the input, and position in
            it.
        """
        top = self.top.shape[1]
        values = np.concatenate([self.top[0], -self.top[1]])
        rows = np.concatenate([self.top_row[0], self.top_row[1]])
        distance = np.abs(values - self.moments.mean)
        distance[~np.isfinite(values)] = -1.0
        # An input can have both a highest and a lowest value.
        order = np.argsort(-distance, axis=0, kind="stable")
        distance = np.take_along_axis(distance, order, 0)
        values = np.take_along_axis(values, order, 0)
        rows = np.take_along_axis(rows, order[..., None], 0)
        distance[_repeats(rows[..., 0])] = -1.0
        order = np.argsort(-distance, axis=0, kind="stable")[:top]
        distance = np.take_along_axis(distance, order, 0)
        values = np.take_along_axis(values, order, 0)
        rows = np.take_along_axis(rows, order[..., None], 0)
        values[distance < 0], rows[distance < 0] = np.nan, -1
        return values.T, rows.swapaxes(0, 1)


def _first_of_inputs(
    values: Array, rows: Array, number: int
) -> tuple[Array, Array]:
    """Return the highest values, `(number, neurons)`, one per input.

    Args:
        values: Candidates, `(candidates, neurons)`, -inf where there are
            fewer.
        rows: Number of the input and position, `(candidates, neurons, 2)`.
        number: Number of values to return.
    """
    order = np.argsort(-values, axis=0, kind="stable")
    values = np.take_along_axis(values, order, 0)
    rows = np.take_along_axis(rows, order[..., None], 0)
    values[_repeats(rows[..., 0])] = -np.inf
    order = np.argsort(-values, axis=0, kind="stable")[:number]
    values = np.take_along_axis(values, order, 0)
    rows = np.take_along_axis(rows, order[..., None], 0)
    rows[values == -np.inf] = -1
    return values, rows


def _repeats(inputs: Array) -> Array:
    """Return where an input already occurs in an earlier row, per neuron."""
    repeats = np.zeros(inputs.shape, bool)
    for i in range(1, len(inputs)):
        repeats[i] = (inputs[i] == inputs[:i]).any(0)
    return repeats
