"""Compute scores of labels over all layers of a report.

References:
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from keras_memel.reports.killing import unlabelled
from keras_memel.reports.layer_report import LayerReport
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array
from keras_memel.utils.types import Table


class ScoredLayers:
    """Layers of a report, and the scores of their labels.

    Attributes:
        layers: `LayerReport` of each layer by its path.
    """

    layers: dict[str, LayerReport]

    def layer(self, path: str) -> LayerReport:
        """Return one layer of the report; `report[path]` does the same.

        Args:
            path: Path of the layer, as in `find`.

        Raises:
            ValueError: If the report does not contain this path.
        """
        if path not in self.layers:
            raise ValueError(
                f"Argument `layer` must be one of {list(self.layers)}. "
                f"Received: layer={path!r}"
            )
        return self.layers[path]

    def false_killing_rate(
        self, rate: float | None = 0.02, threshold: float | None = None
    ) -> Table:
        """Compute the share of inhibited values that do not have the label.

        [Wang et al. 2025] Eq. 4: the share of values whose input does not have
        the label of the neuron, among all scored values of the neuron with
        `phi` of at least `tau`. For a random choice it is 1 minus the share of
        the label.

        Args:
            rate: Share of the neuron's own values that reach `tau`. Ties
                count in full.
            threshold: The value of `tau` in variances, equal for all neurons,
                as in a layer with one threshold. Pass `rate=None` with it. The
                nearest kept rank above it is used, exact up to 64 values.

        Returns:
            `pandas.Series` in [0, 1] by layer and neuron; NaN where no value
            reaches `tau`.

        Raises:
            ImportError: If pandas is missing; `LayerReport.false_killing_rate`
                does not need it.
            ValueError: If the report has no labels, or if not exactly one of
                the two arguments is given.

        Example:

        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
        >>> x = np.repeat([9.0, 8.0, 7.0, 0, 0, 0, 0, 0], 2)[:, None]
        >>> labels = np.repeat([1, 1, 0, 0, 0, 0, 0, 0], 2)
        >>> report = analyze(model, x, labels, layers="re*", verbose=0)
        >>> report.false_killing_rate(3 / 8).round(2).tolist()
        [0.33]
        """
        return self._series(
            "false_killing_rate",
            lambda layer: layer.false_killing_rate(rate, threshold),
        )

    def ks_statistic(self) -> Table:
        """Return the Kolmogorov-Smirnov distance of each neuron.

        It is the distance between `phi` on the label of the neuron and `phi`
        on all inputs, over the inputs that score:
        `scipy.stats.ks_2samp(...).statistic`. [Wang et al. 2025] follow its
        trend over the scale of models.

        Returns:
            `pandas.Series` in [0, 1] by layer and neuron; NaN for a neuron
            without a label. With few values per label it is far above 0 for an
            unrelated label too.

        Raises:
            ImportError: If pandas is missing.
            ValueError: If the report has no labels.

        Example:

        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
        >>> labels = np.arange(60) % 4
        >>> x = 1.0 * (labels == 3)[:, None]
        >>> report = analyze(model, x, labels, layers="re*", verbose=0)
        >>> report.ks_statistic().round(1).tolist()  # a fourth has the label
        [0.8]
        """
        return self._labelled("ks_statistic")

    def roc_auc(self) -> Table:
        """Return the area under the ROC curve of each neuron.

        `phi` is the detector of the neuron's most monosemantic label. The
        area is the probability that a scored value with the label has a
        higher `phi` than a value without it. For an unrelated label it is 0.5
        on average, and 95 % of such labels do not exceed
        `LayerReport.roc_auc_null`.

        Returns:
            `pandas.Series` in [0, 1] by layer and neuron; NaN for a neuron
            without a label.

        Raises:
            ImportError: If pandas is missing.
            ValueError: If the report has no labels.

        Example:

        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
        >>> labels = np.arange(60) % 4
        >>> x = 1.0 * (labels == 3)[:, None]
        >>> report = analyze(model, x, labels, layers="re*", verbose=0)
        >>> report.roc_auc().tolist()
        [1.0]
        """
        return self._labelled("roc_auc")

    def precision_recall(self, layer: str, neuron: Any) -> tuple[Array, Array]:
        """Return precision and recall of `phi` as a detector.

        The thresholds run from the highest value down.

        Args:
            layer: Path of the layer.
            neuron: Name of the neuron, as in the table.

        Returns:
            Precision and recall at the kept ranks, `(256,)` each; NaN for a
            neuron without a label.

        Raises:
            ValueError: If the report has no labels, or does not contain the
                layer or the neuron.

        Example:

        >>> relu = keras.layers.ReLU(name="z")
        >>> model = keras.Sequential([keras.Input((1,)), relu])
        >>> labels = np.arange(60) % 4
        >>> x = 1.0 * (labels == 3)[:, None]
        >>> report = analyze(model, x, labels, layers="z", verbose=0)
        >>> precision, recall = report.precision_recall("z", 0)
        >>> float(precision[0]), float(recall[0])
        (1.0, 1.0)
        """
        found = self.layer(layer)
        if found.curve is None:
            raise unlabelled("A precision-recall curve")
        row = found.row(neuron)
        hits = found.curve.hits[row]
        with np.errstate(invalid="ignore"):
            return hits / found.curve.selected[row], hits / hits[-1]

    def _labelled(self, name: str) -> Table:
        def get(layer: LayerReport) -> Array:
            found: Array | None = getattr(layer, name)
            if found is None:
                raise unlabelled(f"`{name}`")
            return found

        return self._series(name, get)

    def _series(self, name: str, get: Callable[[LayerReport], Array]) -> Table:
        pd = need("pandas", "report", "`to_dataframe`")
        layers = self.layers.values()
        neurons = [one for layer in layers for one in layer.neurons]
        index = pd.MultiIndex.from_arrays(
            [
                np.repeat(list(self.layers), [len(one) for one in layers]),
                pd.Series(neurons, dtype=_kind(neurons)),
            ],
            names=["layer", "neuron"],
        )
        values = np.concatenate([get(layer) for layer in layers])
        return pd.Series(values, index, name=name)


def _kind(neurons: list[Any]) -> str:
    """Return the dtype of a column of neurons: "object" if one is a tuple."""
    one = any(isinstance(neuron, tuple) for neuron in neurons)
    return "object" if one else "int64"
