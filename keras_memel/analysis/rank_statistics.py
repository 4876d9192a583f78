"""Compute measures of sorted values: quantiles, curves, histograms."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_memel.analysis.labelled_rows import Chosen
from keras_memel.analysis.labelled_rows import Ordered
from keras_memel.analysis.labelled_rows import Rows
from keras_memel.analysis.value_store import Spool
from keras_memel.reports import bins
from keras_memel.reports import ranking
from keras_memel.reports import rules
from keras_memel.reports.bins import BINS
from keras_memel.reports.examples import Unlabelled
from keras_memel.reports.ranking import RANKS
from keras_memel.reports.ranking import Curve
from keras_memel.utils.types import Array


class Figures:
    """Measures of each neuron, named as the attributes of `LayerReport`.

    Args:
        mean, scale: Mean and denominator of `phi`, `(neurons,)`.
        moved: Whether the values of a neuron differ, `(neurons,)`.
        threshold: Threshold of `over_threshold`.
        chosen: Labels; `None` without labels.
        ends: Lowest and highest value of each neuron, `(neurons,)` each.
        all_cells: Whether to keep the counts of labels that the histogram
            does not show, in `cells`.
    """

    def __init__(
        self,
        mean: Array,
        scale: Array,
        moved: Array,
        threshold: float,
        chosen: Chosen | None,
        ends: tuple[Array, Array],
        all_cells: bool = False,
    ):
        self.bin_start, self.bin_width = bins.grid(*ends)
        self._inner = bins.edges(self.bin_start, self.bin_width)[:, 1:-1]
        self._cells: dict[int, tuple[Array, Array]] | None = None
        if all_cells:
            self._cells = {}
        self._mean, self._scale, self._moved = mean, scale, moved
        self._threshold, self._chosen = threshold, chosen
        neurons = len(mean)
        self.ranked = np.zeros(neurons, "int64")
        self.over_threshold = np.full(neurons, np.nan)
        self.ms_curve = np.full((neurons, RANKS), np.nan)
        shown = 1 if chosen is None else chosen.shown.shape[1]
        self.histogram = np.zeros((neurons, shown, BINS), "int32")
        self.histogram_all = np.zeros((neurons, BINS), "int32")
        self.zeros = np.zeros(neurons, "int64")
        self.activity = np.full(neurons, np.nan)
        self.by_label: dict[str, Any] = {}
        if chosen is not None:
            names = len(chosen.sets.names)
            self.by_label = {
                name: np.full(neurons, np.nan)
                for name in (
                    "f1",
                    "f1_baseline",
                    "roc_auc",
                    "roc_auc_null",
                    "roc_auc_p",
                    "average_precision",
                    "ks_statistic",
                )
            }
            self.by_label |= {
                "label_zeros": np.zeros((neurons, shown), "int64"),
                "scored": np.zeros(neurons, "int64"),
                "f1_label": np.full(neurons, -1),
                "label_f1": np.full((neurons, names), np.nan, "float32"),
                "curve": Curve(
                    np.full((neurons, RANKS), np.nan),
                    *np.zeros((2, neurons, RANKS), "int64"),
                ),
            }

    def take(self, spool: Spool) -> Iterator[int]:
        """Process the stored values, and yield numbers of finished neurons."""
        tags = spool.tags
        rows = self._rows(tags)
        if rows is not None and rows.unlabelled < len(rows.order):
            neurons = spool.neurons
            self.by_label["unlabelled"] = Unlabelled(
                count=np.zeros(neurons, "int64"),
                zeros=np.zeros(neurons, "int64"),
                mean=np.full(neurons, np.nan),
                ms=np.full(neurons, np.nan),
                histogram=np.zeros((neurons, BINS), "int32"),
            )
        # Threads run in parallel, because NumPy sorts without the interpreter
        # lock.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
            waiting: deque[Any] = deque()
            for start, block in spool.blocks():
                waiting.append(
                    workers.submit(self._block, start, block, tags, rows)
                )
                if len(waiting) > workers._max_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _rows(self, tags: Array | None) -> Rows | None:
        if tags is None or self._chosen is None:
            return None
        return Rows(tags, self._chosen)

    def _block(
        self, start: int, block: Array, tags: Array | None, rows: Rows | None
    ) -> int:
        for neuron, values in enumerate(block, start):
            own = rows
            if np.isnan(values.min(initial=np.inf)):
                seen = ~np.isnan(values)
                values = values[seen]
                own = None if tags is None else self._rows(tags[seen])
            if own is not None:
                values = values.take(own.order)
            self._neuron(neuron, values, own)
        return len(block)

    def _neuron(self, j: int, values: Array, rows: Rows | None) -> None:
        number = self.ranked[j] = len(values)
        if not number:
            return
        ordered, order = ranking.in_order(values)
        phi = ordered - self._mean[j]
        phi *= phi
        phi /= self._scale[j]
        self.over_threshold[j] = np.count_nonzero(phi >= self._threshold)
        self.over_threshold[j] /= number
        # `phi` falls and then rises, and a stable sort merges the two runs.
        highest = np.sort(phi.astype("float32"), kind="stable")
        self.ms_curve[j] = highest[number - ranking.ranks(number)]
        edges = self._edges(j, ordered)
        self.histogram_all[j] = edges[1:] - edges[:-1]
        at_zero = _zeros(ordered)
        self.zeros[j] = at_zero[1] - at_zero[0]
        self.activity[j] = _activity(ordered)
        if rows is None:
            self.histogram[j] = self.histogram_all[j]
            return
        assert self._chosen is not None
        shown = self._chosen.shown[j]
        halves = [
            part.of(ordered, order) for part in (rows.choosing, rows.scoring)
        ]
        for half in halves:
            self.histogram[j] += half.counts_between(edges, shown)
            if self.zeros[j]:
                found = half.counts_between(at_zero, shown)[:, 0]
                self.by_label["label_zeros"][j] += found
        if self._cells is not None:
            self._cells[j] = _unshown(halves, shown, edges, at_zero)
        self._unlabelled(j, ordered, order, phi, rows, (edges, at_zero))
        if self._moved[j]:
            self._rules(j, *halves)
            self._detection(j, halves[1], rows, self._chosen.best[j])

    def _edges(self, j: int, ordered: Array) -> Array:
        """Return the positions of the bin edges among the sorted values."""
        inner = np.searchsorted(ordered, self._inner[j])
        if not self.bin_width[j]:
            inner[:] = len(ordered)
        return np.concatenate([[0], inner, [len(ordered)]])

    def cells(self) -> tuple[Array, Array]:
        """Return the counts of labels that the histogram does not show.

        Returns:
            Keys `(neuron * labels + label) * (BINS + 1) + bin`, ascending, and
            the number of values of each. Bin `BINS` counts the values that are
            0 a second time.
        """
        names = len(self._chosen.sets.names) if self._chosen else 0
        keys, counts = [np.zeros(0, "int64")], [np.zeros(0, "int64")]
        for j, (key, count) in sorted((self._cells or {}).items()):
            keys.append(j * names * (BINS + 1) + key)
            counts.append(count)
        return np.concatenate(keys), np.concatenate(counts)

    def _unlabelled(
        self,
        j: int,
        ordered: Array,
        order: Array,
        phi: Array,
        rows: Rows,
        edges: tuple[Array, Array],
    ) -> None:
        if rows.unlabelled == len(order):
            return
        at = np.flatnonzero(order >= rows.unlabelled)
        found = self.by_label["unlabelled"]
        found.count[j] = len(at)
        found.zeros[j] = np.diff(np.searchsorted(at, edges[1]))[0]
        found.mean[j], found.ms[j] = ordered[at].mean(), phi[at].mean()
        found.histogram[j] = np.diff(np.searchsorted(at, edges[0]))

    def _rules(self, j: int, first: Ordered, second: Ordered) -> None:
        """Choose and score one threshold on the activation for each label."""
        choosing, scoring = first.groups, second.groups
        chosen = rules.best_rules(first.values, first.places, choosing)
        found = rules.f1_of_rules(chosen, second.values, second.places, scoring)
        self.by_label["label_f1"][j] = found
        # The gain is relative to a rule that selects all values. Without this
        # the label with the most values would always have the highest F1.
        gain = np.where(
            np.isnan(found), -np.inf, chosen.f1 - choosing.baseline_f1
        )
        # Gains that differ only by rounding tie, and the first label wins.
        gain = np.round(gain, 6)
        best = int(gain.argmax())
        if gain[best] > -np.inf:
            self.by_label["f1_label"][j] = best
            self.by_label["f1"][j] = found[best]
            self.by_label["f1_baseline"][j] = scoring.baseline_f1[best]

    def _detection(self, j: int, half: Ordered, rows: Rows, best: int) -> None:
        """Score the scale as a detector of the label."""
        values, numbers = half.values, half.numbers
        if best < 0 or not len(values):
            return
        phi = np.square(values - self._mean[j]) / self._scale[j]
        positive = half.groups.mask(best).take(numbers)
        inputs = None if rows.inputs is None else rows.inputs.take(numbers)
        found = ranking.detection(phi, positive, inputs)
        self.by_label["scored"][j] = len(values)
        for mine, its in zip(self.by_label["curve"], found.curve):
            mine[j] = its
        self.by_label["roc_auc_p"][j] = found.p
        for name in (
            "roc_auc",
            "roc_auc_null",
            "average_precision",
            "ks_statistic",
        ):
            self.by_label[name][j] = getattr(found, name)


def _unshown(
    halves: list[Ordered], shown: Array, edges: Array, at_zero: Array
) -> tuple[Array, Array]:
    """Count the values of the labels that a histogram does not show.

    Args:
        halves: Labelled values of both halves.
        shown: Labels that the histogram shows.
        edges: Positions of the bin edges among the sorted values.
        at_zero: Start and end of the values that are 0.

    Returns:
        Keys `label * (BINS + 1) + bin`, ascending, and the number of values of
        each. Bin `BINS` counts the values that are 0 a second time.
    """
    labels, hidden_places = [], []
    for half in halves:
        counts = half.groups.counts[half.groups.present]
        every = np.repeat(half.groups.present, counts)
        hidden = np.isin(every, shown, invert=True)
        labels.append(every[hidden].astype("int64"))
        hidden_places.append(half.at[half.places[hidden]])
    label, places = np.concatenate(labels), np.concatenate(hidden_places)
    which = np.searchsorted(edges, places, "right") - 1
    zero = (at_zero[0] <= places) & (places < at_zero[1])
    first = label * (BINS + 1)
    both = np.concatenate([first + which, first[zero] + BINS])
    keys, found = np.unique(both, return_counts=True)
    return keys, found


def _zeros(ordered: Array) -> Array:
    """Return start and end of the values that are 0."""
    ends = (
        np.searchsorted(ordered, 0.0),
        np.searchsorted(ordered, 0.0, "right"),
    )
    return np.array(ends)


def _activity(ordered: Array) -> float:
    """Compute the share of the values that are far from the median.

    Far means more than a tenth of the largest distance.
    """
    number = len(ordered)
    median = ordered[(number - 1) // 2]
    near = 0.1 * max(ordered[-1] - median, median - ordered[0])
    first = np.searchsorted(ordered, median - near)
    last = np.searchsorted(ordered, median + near, "right")
    return float(1 - (last - first) / number)
