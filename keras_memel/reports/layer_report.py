"""The neurons of one layer, as arrays.

References:
    [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
    [Morcos et al. 2018] On the Importance of Single Directions for
        Generalization (arXiv 1803.06959).
    [Sokar et al. 2023] The Dormant Neuron Phenomenon in Deep Reinforcement
        Learning (arXiv 2302.12902).
"""

import dataclasses
from typing import Any

import numpy as np

from keras_memel.reports import ranking
from keras_memel.reports.ranking import Curve
from keras_memel.utils import arguments
from keras_memel.utils import renamed
from keras_memel.utils.types import Array


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """The neurons of one layer: arrays whose first axis is the neuron.

    `phi` is the monosemantic scale of a value by the mean and variance of its
    neuron over all the data, `(z - mean)^2 / (variance + epsilon * mean_k(
    variance_k))` [Wang et al. 2024, Eq. 7], in variances.

    Attributes:
        path: Path of the layer, as in `find`.
        shape: Shape of the neurons; `(neurons,)` if they are channels. The
            first axis of all arrays counts them in this order.
        epsilon: Of the scale.
        count: Values that count: not masked, and finite.
        nonfinite: Values that are not masked, and not finite either. They are
            left out of everything else.
        mean, variance, minimum, maximum: Of the values; the variance unbiased.
        kurtosis: Their excess kurtosis, 0 for a Gaussian (biased, as in
            `scipy.stats.kurtosis`).
        magnitude: Mean absolute value.
        over_threshold: Share of the values with `phi` of at least the
            `threshold` of the report.
        ranked: Number of values that the curve, the histogram and all figures
            of detection rest on: `count`, or that of a uniform sample where
            the values did not fit the disk limit.
        curve: `phi` at some ranks, and how many values are selected there,
            and of the most monosemantic label (`ranking.Curve`).
        histogram: Values by label and bin, `(neurons, labels, bins)`, bins
            of equal width from minimum to maximum; one label without labels.
        top_input: Number of the input of each of the values with the highest
            `phi`, highest first, `(neurons, top)`; -1 where there are fewer.
        top_position: Where in the input, as a flat index into the axes that
            are neither batch nor neurons; 0 where there are none.
        top_value, top_ms: The value, and its `phi`.
        sizes: Sizes of the axes that `top_position` counts.

    With labels, else `None`:
        label_count: Values of each label, `(neurons, labels)`.
        label_mean: Mean value on each label.
        label_ms: Mean `phi` on each label.
        label_f1: F1 of the best threshold for each (`ranking.best_f1`).
        roc_auc, average_precision, ks_statistic: How well `phi` tells the
            values of the most monosemantic label (`ranking.Detection`).

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
    >>> x = np.array([[1.0, 0], [3.0, 0], [2.0, 0]])
    >>> layer = analyze(model, x, layers="re_lu*", verbose=0).layers["re_lu"]
    >>> layer.mean.tolist(), layer.variance.tolist(), layer.dead.tolist()
    ([2.0, 0.0], [1.0, 0.0], [False, True])
    """

    path: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    epsilon: float
    count: Array
    nonfinite: Array
    mean: Array
    variance: Array
    minimum: Array
    maximum: Array
    kurtosis: Array
    magnitude: Array
    over_threshold: Array
    ranked: Array
    curve: Curve
    histogram: Array
    top_input: Array
    top_position: Array
    top_value: Array
    top_ms: Array
    label_count: Array | None = None
    label_mean: Array | None = None
    label_ms: Array | None = None
    label_f1: Array | None = None
    roc_auc: Array | None = None
    average_precision: Array | None = None
    ks_statistic: Array | None = None

    def __getattr__(self, name: str) -> Any:
        names = {"feature": "label"} | {
            f"feature_{what}": f"label_{what}"
            for what in ("count", "f1", "mean", "ms")
        }
        renamed.attribute("`LayerReport`", name, names)

    def __len__(self) -> int:
        return len(self.count)

    @property
    def ms_max(self) -> Array:
        """Highest `phi` of each neuron, `(neurons,)`."""
        return self.top_ms[:, 0]

    @property
    def dead(self) -> Array:
        """Whether the values of a neuron never differ."""
        return (self.count > 0) & (self.minimum == self.maximum)

    def dormant(self, tau: float = 0.025) -> Array:
        """Whether a neuron hardly fires, compared with its layer.

        Its mean absolute value is at most `tau` times the mean of those of
        the layer [Sokar et al. 2023, Definition 3.1].
        """
        seen = self.count > 0
        mean = self.magnitude[seen].mean() if seen.any() else 0.0
        return seen & (self.magnitude <= tau * mean)

    @property
    def label(self) -> Array | None:
        """The most monosemantic label of each neuron.

        That with the highest mean `phi` [Wang et al. 2025, Eq. 3]; -1 for a
        neuron without values.
        """
        if self.label_ms is None:
            return None
        known = np.where(np.isnan(self.label_ms), -1.0, self.label_ms)
        best = known.argmax(1)
        return np.where(self.count > 0, best, -1)

    @property
    def class_selectivity(self) -> Array | None:
        """Selectivity index of [Morcos et al. 2018] of each neuron.

        `(m - r) / (m + r)` with `m` the highest mean value on a label and
        `r` the mean of the other labels' means: 0 to 1. It is defined for
        values that are never negative, such as those after a ReLU; NaN else.
        """
        if self.label_mean is None:
            return None
        means = self.label_mean
        highest = along_last(np.nanmax, means)
        seen = np.isfinite(means).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            rest = (np.nansum(means, 1) - highest) / (seen - 1)
            index = (highest - rest) / (highest + rest)
        return np.where(self.minimum >= 0, index, np.nan)

    def ms_quantile(self, q: float) -> Array:
        """A quantile of `phi` of each neuron, `(neurons,)`.

        The value at rank `ceil((1 - q) n)` from the top: that of which a share
        `1 - q` is reached or exceeded. Interpolated as in `ranking.at_rank`.
        """
        q = arguments.number("q", q, "between 0 and 1", 0.0, 1.0 + 1e-12)
        rank = np.ceil(np.round((1 - q) * self.ranked, 6))
        found = ranking.at_rank(self.curve, self.ranked, rank).threshold
        return np.where(self.ranked > 0, found, np.nan)

    def false_killing_rate(
        self, rate: float | None = 0.02, threshold: float | None = None
    ) -> Array:
        """As `Report.false_killing_rate`, of this layer, `(neurons,)`."""
        if self.label_ms is None:
            raise unlabelled("The False Killing Rate")
        if (rate is None) == (threshold is None):
            raise ValueError(
                "Pass either `rate` or `threshold`, and None for the other. "
                f"Received: rate={rate!r}, threshold={threshold!r}"
            )
        if threshold is not None:
            low = arguments.number("threshold", threshold, "at least 0", 0.0)
            low *= 1 - 2.0**-21  # `detection` compares to 22 bits
            reach = (self.curve.threshold >= low).sum(1) - 1
            rows = np.arange(len(self))
            selected = self.curve.selected[rows, reach].astype("float64")
            hits = self.curve.hits[rows, reach].astype("float64")
            selected[reach < 0] = np.nan
        else:
            share = arguments.number(
                "rate", rate, "above 0 and at most 1", 0.0, 1.0 + 1e-12, False
            )
            rank = np.ceil(np.round(share * self.ranked, 6))
            found = ranking.at_rank(self.curve, self.ranked, rank)
            selected, hits = found.selected, found.hits
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(
                np.where(selected > 0, 1 - hits / selected, np.nan)
            )

    def check(self, neuron: int) -> None:
        """Raises if there is no neuron of this number."""
        if not 0 <= neuron < len(self):
            raise ValueError(
                f"Argument `neuron` must be from 0 to {len(self) - 1}. "
                f"Received: neuron={neuron!r}"
            )

    def name(self, neuron: int) -> str:
        """What a neuron is called in tables: `7`, or `3,5` by position."""
        return ",".join(map(str, np.unravel_index(neuron, self.shape)))


def unlabelled(what: str) -> ValueError:
    """The error of asking for what needs labels."""
    return ValueError(
        f"{what} needs labels: pass `labels` to `analyze`. "
        "Received: a report without labels"
    )


def along_last(function: Any, values: Array) -> Array:
    """A reduction along the last axis; NaN, and no warning, where all are."""
    filled = np.where(np.isnan(values).all(-1, keepdims=True), 0.0, values)
    found = function(filled, -1)
    return np.where(np.isnan(values).all(-1), np.nan, found)
