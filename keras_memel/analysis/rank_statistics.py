"""What takes the values of a neuron in order: quantiles, curves, histograms."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from keras_memel.analysis.value_store import Spool
from keras_memel.reports import ranking
from keras_memel.reports.ranking import RANKS
from keras_memel.reports.ranking import Curve
from keras_memel.reports.ranking import Groups
from keras_memel.utils.types import Array

# Of a histogram: enough to see two humps, few enough for 10,000 neurons.
BINS = 24
_INNER = np.arange(1, BINS) / BINS


class Figures:
    """Of each neuron, as the attributes of `LayerReport` of the same names.

    Args:
        neurons: Number of neurons.
        n_labels: Number of labels; `None` without labels.
        mean, scale: Of `phi`, `(neurons,)`.
        best: Most monosemantic label of each neuron.
        threshold: Of `over_threshold`.
    """

    def __init__(
        self,
        neurons: int,
        n_labels: int | None,
        mean: Array,
        scale: Array,
        best: Array,
        threshold: float,
    ):
        self._n_labels, self._threshold = n_labels, threshold
        self._mean, self._scale, self._best = mean, scale, best
        self.ranked = np.zeros(neurons, "int64")
        self.over_threshold = np.full(neurons, np.nan)
        self.curve = Curve(
            np.full((neurons, RANKS), np.nan),
            *np.zeros((2, neurons, RANKS), "int64"),
        )
        self.histogram = np.zeros((neurons, n_labels or 1, BINS), "int64")
        self.by_label: dict[str, Array] = {}
        if n_labels is not None:
            self.by_label = {
                "label_f1": np.full((neurons, n_labels), np.nan),
                "roc_auc": np.full(neurons, np.nan),
                "average_precision": np.full(neurons, np.nan),
                "ks_statistic": np.full(neurons, np.nan),
            }

    def take(self, spool: Spool) -> Iterator[int]:
        """Works through what is spooled; yields how many neurons were done."""
        labels = spool.labels
        groups = self._groups(labels)
        # NumPy sorts without the lock of the interpreter.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as workers:
            waiting: deque[Any] = deque()
            for start, block in spool.blocks():
                waiting.append(
                    workers.submit(self._block, start, block, labels, groups)
                )
                if len(waiting) > workers._max_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _groups(self, labels: Array | None) -> Groups | None:
        if labels is None:
            return None
        return Groups(labels, self._n_labels or 0)

    def _block(
        self,
        start: int,
        block: Array,
        labels: Array | None,
        groups: Groups | None,
    ) -> int:
        for neuron, values in enumerate(block, start):
            if np.isnan(values.min(initial=np.inf)):
                seen = ~np.isnan(values)
                own = None if labels is None else labels[seen]
                self._neuron(neuron, values[seen], own, self._groups(own))
            else:
                self._neuron(neuron, values, labels, groups)
        return len(block)

    def _neuron(
        self,
        j: int,
        values: Array,
        labels: Array | None,
        groups: Groups | None,
    ) -> None:
        self.ranked[j] = len(values)
        if not len(values):
            return
        if labels is None or groups is None:
            values = np.sort(values).astype("float64")
            own, places = np.zeros(len(values), bool), None
        else:
            values, labels = ranking.in_order(values, labels)
            own, places = labels == self._best[j], groups.places(labels)
        self.histogram[j] = _histogram(values, places, groups)
        phi = np.square(values - self._mean[j]) / self._scale[j]
        self.over_threshold[j] = np.count_nonzero(phi >= self._threshold) / len(
            phi
        )
        found = ranking.detection(phi, own)
        for mine, its in zip(self.curve, found.curve):
            mine[j] = its
        if groups is not None:
            its_f1 = ranking.best_f1(values, places, groups)
            self.by_label["label_f1"][j] = its_f1
            for name in ("roc_auc", "average_precision", "ks_statistic"):
                self.by_label[name][j] = getattr(found, name)


def _histogram(
    ordered: Array, places: Array | None, groups: Groups | None
) -> Array:
    """Values by label and bin, from low to high."""
    low, high = ordered[0], ordered[-1]
    inner = np.searchsorted(ordered, low + (high - low) * _INNER)
    if low == high:
        inner[:] = len(ordered)
    edges = np.concatenate([[0], inner, [len(ordered)]])
    if groups is None:
        return np.diff(edges)[None]
    return groups.between(places, edges)
