"""What `analyze` found: arrays, tables and curves of every neuron.

A report is data. It holds no model and no tensor, can be saved, loaded and
drawn without either, and never changes.

References:
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
"""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.reports import report_file
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.layer_report import along_last
from keras_memel.reports.layer_report import unlabelled
from keras_memel.utils import renamed
from keras_memel.utils.types import Array
from keras_memel.utils.types import Table


@dataclasses.dataclass(frozen=True)
class Report:
    """What `analyze` found.

    Attributes:
        layers: From path to `LayerReport`, in the order of the model.
        inputs: Number of inputs that were seen.
        threshold: Of `over_threshold`, in variances.
        labels: Names of the labels; empty without labels.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU()])
    >>> x = np.array([[1.0, 0, 0], [0, 2, 0], [0, 0, 3], [0, 0, 0]])
    >>> report = analyze(
    ...     model, x, [0, 1, 2, 3], layers="re_lu*", verbose=0
    ... )
    >>> report.layers["re_lu"].label
    array([0, 1, 2])
    >>> report.to_dataframe()["roc_auc"].tolist()
    [1.0, 1.0, 1.0]
    """

    layers: dict[str, LayerReport]
    inputs: int
    threshold: float
    labels: tuple[str, ...] = ()

    def to_dataframe(self, rate: float = 0.02) -> Table:
        """One row a neuron, in a `pandas.DataFrame`.

        Args:
            rate: Of the False Killing Rate.

        Returns:
            Columns as the attributes of `LayerReport`; `ms_50`, `ms_90` and
            `ms_99` are quantiles. With labels also `label` (that of the
            highest mean scale) and `ms_on_label`, `f1` and `f1_label`
            (that which one threshold on the neuron tells best), and the
            figures of detection. A neuron with `nonfinite` above 0 had values
            that could not be counted.
        """
        import pandas as pd

        tables = []
        for layer in self.layers.values():
            columns: dict[str, Any] = {
                "layer": layer.path,
                "neuron": [layer.name(i) for i in range(len(layer))],
                "count": layer.count,
                "nonfinite": layer.nonfinite,
                "mean": layer.mean,
                "variance": layer.variance,
                "minimum": layer.minimum,
                "maximum": layer.maximum,
                "kurtosis": layer.kurtosis,
                "dead": layer.dead,
                "dormant": layer.dormant(),
                "ms_50": layer.ms_quantile(0.5),
                "ms_90": layer.ms_quantile(0.9),
                "ms_99": layer.ms_quantile(0.99),
                "ms_max": layer.ms_max,
                "over_threshold": layer.over_threshold,
            }
            if layer.label_ms is not None:
                columns.update(self._detection(layer, rate))
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def _detection(self, layer: LayerReport, rate: float) -> dict[str, Any]:
        assert layer.label is not None
        assert layer.label_ms is not None
        assert layer.label_f1 is not None
        names = np.array([*self.labels, ""], dtype=object)
        f1 = np.where(np.isnan(layer.label_f1), -1.0, layer.label_f1)
        best = np.where(layer.count > 0, f1.argmax(1), -1)
        return {
            "label": names[layer.label],
            "ms_on_label": along_last(np.nanmax, layer.label_ms),
            "f1": along_last(np.nanmax, layer.label_f1),
            "f1_label": names[best],
            "class_selectivity": layer.class_selectivity,
            "false_killing_rate": layer.false_killing_rate(rate),
            "roc_auc": layer.roc_auc,
            "average_precision": layer.average_precision,
            "ks_statistic": layer.ks_statistic,
        }

    def false_killing_rate(
        self, rate: float | None = 0.02, threshold: float | None = None
    ) -> Table:
        """Of the values that would be inhibited, the share that is mistaken.

        [Wang et al. 2025] Eq. 4: of all values of a neuron with `phi` of at
        least `tau`, the share whose input is not of its relatively
        monosemantic label.

        Args:
            rate: `tau` is where so large a share of the neuron's own values
                is reached. Ties count in full.
            threshold: `tau` itself, the same for all, in variances: what a
                layer with one threshold does, with `rate=None`. Taken at the
                nearest kept rank above it, exact up to 64 values.

        Returns:
            `pandas.Series` in [0, 1] by layer and neuron; NaN where no value
            reaches `tau`.

        Raises:
            ValueError: Without labels, or if not just one argument is given.

        Example:

        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
        >>> x = np.array([[9.0], [8.0], [7.0], [0], [0], [0], [0], [0]])
        >>> report = analyze(
        ...     model, x, [1, 1, 0, 0, 0, 0, 0, 0], layers="re*", verbose=0
        ... )
        >>> report.false_killing_rate(3 / 8).round(2).tolist()
        [0.33]
        """
        return self._series(
            "false_killing_rate",
            lambda layer: layer.false_killing_rate(rate, threshold),
        )

    def ks_statistic(self) -> Table:
        """Kolmogorov-Smirnov distance, `pandas.Series` by layer and neuron.

        Between `phi` on the most monosemantic label of a neuron and
        `phi` on all inputs: the trend that [Wang et al. 2025] follow over
        scale. As `scipy.stats.ks_2samp(...).statistic`.
        """
        return self._labelled("ks_statistic")

    def roc_auc(self) -> Table:
        """Area under the ROC curve, `pandas.Series` by layer and neuron.

        Of `phi` as a detector of the most monosemantic label: the
        probability that an input of it scores higher than another; 0.5 says
        nothing.
        """
        return self._labelled("roc_auc")

    def precision_recall(self, layer: str, neuron: int) -> tuple[Array, Array]:
        """Precision and recall of `phi` as a detector, from the highest down.

        Args:
            layer: Path of the layer.
            neuron: Number of the neuron.

        Returns:
            Precision and recall at the kept ranks, `(256,)` each.
        """
        found = self.layer(layer)
        if found.label_ms is None:
            raise unlabelled("Precision and recall")
        found.check(neuron)
        hits = found.curve.hits[neuron]
        return hits / found.curve.selected[neuron], hits / hits[-1]

    def layer(self, path: str) -> LayerReport:
        """One layer of the report.

        Raises:
            ValueError: If there is none of this path.
        """
        if path not in self.layers:
            raise ValueError(
                f"Argument `layer` must be one of {list(self.layers)}. "
                f"Received: layer={path!r}"
            )
        return self.layers[path]

    def _labelled(self, name: str) -> Table:
        def get(layer: LayerReport) -> Array:
            found: Array | None = getattr(layer, name)
            if found is None:
                raise unlabelled(f"`{name}`")
            return found

        return self._series(name, get)

    def _series(self, name: str, get: Callable[[LayerReport], Array]) -> Table:
        import pandas as pd

        parts = {
            path: pd.Series(
                get(layer), [layer.name(i) for i in range(len(layer))]
            )
            for path, layer in self.layers.items()
        }
        return pd.concat(parts, names=["layer", "neuron"]).rename(name)

    def summary(
        self, top: int = 5, print_fn: Callable[[str], Any] = print
    ) -> None:
        """Prints what stands out, layer by layer.

        Args:
            top: Neurons to show of each layer: those that tell their label
                best (`roc_auc`), or without labels have the highest scale.
            print_fn: What to print with.
        """
        frame = self.to_dataframe()
        print_fn(f"{self.inputs:,} inputs, {len(frame):,} neurons")
        for path, layer in self.layers.items():
            rows = frame[frame["layer"] == path]
            flags = {
                "dead": int(layer.dead.sum()),
                "dormant": int(layer.dormant().sum()),
                "with values that are not finite": int(
                    (layer.nonfinite > 0).sum()
                ),
            }
            said = "".join(f", {n:,} {flag}" for flag, n in flags.items() if n)
            print_fn(
                f"\n{path}: {len(layer):,} neurons of "
                f"{int(layer.count.max()):,} values{said}"
            )
            if (layer.ranked < layer.count).any():
                print_fn(
                    "  quantiles and detection from a uniform sample of "
                    f"{int(layer.ranked.max()):,} values"
                )
            shown = ["neuron", "ms_50", "ms_99", "ms_max", "over_threshold"]
            by = "ms_max"
            if self.labels:
                by = "roc_auc"
                shown += ["label", "ms_on_label", by]
                shown += ["f1", "false_killing_rate"]
            best = rows.sort_values(by, ascending=False)[shown].head(top)
            print_fn(best.to_string(index=False, float_format="{:.3g}".format))

    def plot(self, ax: Any = None) -> Any:
        """The scales of all layers: `plots.ms_distribution(self)`."""
        from keras_memel.reports import plots

        return plots.ms_distribution(self, ax)

    def to_html(
        self,
        path: str | os.PathLike[str],
        inputs: Sequence[Any] | None = None,
        kind: str = "auto",
        tokenize: Callable[[str], Sequence[str]] | None = None,
        title: str = "Neurons",
    ) -> None:
        """Writes a page to look through the neurons, which stands alone.

        A table of all neurons, to sort, search and filter by layer; for each
        its distribution by label, its mean scale on each, its False Killing
        Rate, and the inputs that move it most. It needs no network, and is
        usable with 10,000 neurons. Needs `pip install keras-memel[plot]`.

        Args:
            path: File to write.
            inputs: The inputs that were analyzed, in their order, as they are
                to be shown: texts or lists of tokens (of which the deciding
                ones are marked), images, or time series.
            kind: "text", "image" (`(height, width)` or with channels) or
                "series" (`(time,)` or `(time, channels)`); "auto" takes what
                has at most 4 columns for a series.
            tokenize: From a text to its tokens, one a position, to mark them:
                `list` for characters.
            title: Of the page.

        Raises:
            ValueError: If there are fewer `inputs` than were analyzed, or
                `kind` is none of these.

        Example:

        >>> import pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> x = np.random.default_rng(0).normal(size=(50, 4))
        >>> path = pathlib.Path(tempfile.mkdtemp(), "neurons.html")
        >>> analyze(model, x, verbose=0).to_html(path, inputs=x)
        >>> path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        True
        """
        from keras_memel.reports import neuron_browser

        neuron_browser.write(self, path, inputs, kind, tokenize, title)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report to one file, `.npz`.

        The file appears in whole or not at all: one that was there before
        stays as it was until the new one is complete.

        Args:
            path: Ends in ".npz".

        Raises:
            ValueError: If it does not.
        """
        report_file.write(vars(self), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Reads what `save` wrote.

        Raises:
            ValueError: If the file holds no report of this version.
        """
        return cls(**report_file.read(path))

    def __getattr__(self, name: str) -> Any:
        renamed.attribute("`Report`", name, {"features": "labels"})

    def __repr__(self) -> str:
        layers = {path: len(layer) for path, layer in self.layers.items()}
        return f"<Report of {self.inputs} inputs, neurons {layers}>"
