"""Compute moments of the values of each label, and label statistics."""

import numpy as np

from keras_memel.analysis.central_moments import Central
from keras_memel.utils.types import Array

# Maximum number of labels of a histogram: those with the highest scale.
SHOWN = 64
# Number of pairs of a neuron and a label to process at once.
_CELLS = 1 << 20


class LabelSums:
    """Moments of the values of each label, in each half of the inputs.

    The memory grows with the number of labels that occur. Row `2 * label +
    half` of the arrays holds the values of a label in one half. Half 0
    chooses the labels and half 1 scores them.

    Args:
        neurons: Number of neurons.
        n_labels: Number of known labels.
    """

    def __init__(self, neurons: int, n_labels: int):
        self._neurons = neurons
        # All neurons share one count until a mask makes their counts differ.
        self.moments = Central(np.zeros((0, 1)), *np.zeros((2, 0, neurons)))
        self._grow(2 * n_labels)

    def _grow(self, rows: int) -> None:
        old = self.moments
        if rows <= len(old.count):
            return
        grown = []
        for array in (old.count, old.mean, old.second):
            wide = np.zeros((rows, array.shape[1]))
            wide[: len(array)] = array
            grown.append(wide)
        self.moments = Central(*grown)

    def add(self, rows: Array, parts: Central) -> None:
        """Add the moments of some rows.

        Args:
            rows: Distinct numbers of rows, ascending.
            parts: Moments of the rows, `(rows, neurons)`.
        """
        if not len(rows):
            return
        if rows[-1] >= len(self.moments.count):
            # The stream may have more labels, so a quarter more is reserved.
            self._grow(2 * int(rows[-1] // 2 * 1.25 + 1))
        old = self.moments
        if parts.count.shape[1] > old.count.shape[1]:
            wide = (len(old.count), self._neurons)
            old.count = np.broadcast_to(old.count, wide).copy()
        new = Central(old.count[rows], old.mean[rows], old.second[rows])
        new = new.merge(parts)
        old.count[rows], old.mean[rows] = new.count, new.mean
        old.second[rows] = new.second

    def halves(self, order: Array, neurons: slice) -> tuple[Central, Central]:
        """Return the moments of each half, `(labels, neurons)`.

        Args:
            order: Numbers of the labels, in the order of the result.
            neurons: Slice of the neurons.
        """
        self._grow(2 * len(order))
        found = self.moments
        one = found.count.shape[1] == 1
        first, second = (
            Central(
                found.count[rows][:, slice(None) if one else neurons],
                found.mean[rows, neurons],
                found.second[rows, neurons],
            )
            for rows in (2 * order, 2 * order + 1)
        )
        return first, second

    def statistics(
        self, order: Array, mean: Array, scale: Array, minimum: Array
    ) -> dict[str, Array]:
        """Compute the label statistics of each neuron from the moments.

        Args:
            order: Numbers of the labels, in the order of the result.
            mean: Mean of each neuron, `(neurons,)`.
            scale: Denominator of `phi`, infinite for a dead neuron.
            minimum: Lowest value of each neuron, `(neurons,)`.

        Returns:
            Attributes of `LayerReport` of the same names, and `shown`, the
            labels of the histogram.
        """
        width = max(1, _CELLS // max(len(order), 1))
        found = []
        for i in range(0, self._neurons, width):
            neurons = slice(i, i + width)
            found.append(
                _statistics(
                    *self.halves(order, neurons),
                    mean[neurons],
                    scale[neurons],
                    minimum[neurons],
                )
            )
        joined = {
            name: np.concatenate([part[name] for part in found])
            for name in found[0]
        }
        count = joined["label_count"]
        if (count == count[:1]).all():  # A broadcast row saves memory.
            joined["label_count"] = np.broadcast_to(count[:1], count.shape)
        return joined


def _statistics(
    first: Central, second: Central, mean: Array, scale: Array, minimum: Array
) -> dict[str, Array]:
    """Compute the statistics of some neurons from `(labels, neurons)` moments.

    The first half of the inputs chooses labels, the second scores them.
    """
    every = first.merge(second)
    moved = np.isfinite(scale)
    shape = every.mean.shape
    with np.errstate(invalid="ignore", divide="ignore"):
        ms, ms_first, ms_second = (
            np.where(
                half.count > 0,
                (half.second / half.count + (half.mean - mean) ** 2) / scale,
                np.nan,
            )
            for half in (every, first, second)
        )
    # Only a label with values in both halves can be chosen and scored.
    both = np.broadcast_to((first.count > 0) & (second.count > 0), shape)
    rows = np.arange(shape[1])

    def highest(values: Array) -> tuple[Array, Array]:
        choice = np.where(both, values, -np.inf)
        best = choice.argmax(0)
        return best, moved & (choice[best, rows] > -np.inf)

    label, known = highest(ms_first)
    loudest, comparable = highest(first.mean)
    scored = np.where(both, second.mean, 0.0)
    own = scored[loudest, rows]
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = (scored.sum(0) - own) / (both.sum(0) - 1)
        selectivity = (own - rest) / (own + rest)
    label_mean = np.where(every.count > 0, every.mean, np.nan)
    order = np.argsort(-np.nan_to_num(ms, nan=-1.0), axis=0, kind="stable")
    order = order[:SHOWN]
    if len(ms) <= SHOWN:
        order = np.broadcast_to(np.arange(len(ms))[:, None], order.shape)
    else:
        # The label of a neuron is always shown.
        lost = known & (order != label).all(0)
        order[-1, lost] = label[lost]
    return {
        "label_count": np.broadcast_to(every.count, shape).T.astype("int64"),
        "label_mean": label_mean.T.astype("float32"),
        "label_ms": ms.T.astype("float32"),
        "label": np.where(known, label, -1),
        "mean_on_label": np.where(known, second.mean[label, rows], np.nan),
        "ms_on_label": np.where(known, ms_second[label, rows], np.nan),
        "class_selectivity": np.where(
            comparable & (minimum >= 0), selectivity, np.nan
        ),
        "shown": order.T,
    }
