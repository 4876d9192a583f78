"""What `analyze` found: arrays, tables and curves of every neuron.

A report is data. It holds no model and no tensor, can be saved, loaded and
drawn without either, and never changes.

References:
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
"""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.reports import halves
from keras_memel.reports import report_file
from keras_memel.reports import summary
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.layer_report import unlabelled
from keras_memel.utils import renamed
from keras_memel.utils.types import Array
from keras_memel.utils.types import Table

# Set by `analysis/merging.py`: this room is below the analysis.
merger: Callable[["Report", "Report"], "Report"] | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """What `analyze` found.

    Attributes:
        layers: From path to `LayerReport`, in the order of the model;
            `report[path]` is one of them, and `report[path][77]` the row of
            one neuron.
        inputs: Number of inputs that were seen.
        threshold: Of `over_threshold`, in variances.
        labels: Names of the labels; empty without labels.
        split: Whether labels were chosen and scored on different inputs. False
            for a report that was saved before version 3 of the file: its
            scores come from the inputs that chose the labels, and are too high
            by chance.
        kept: With `analyze(keep="inputs")`: from its number to each input
            that is an example of some neuron (`Examples`), as the model got
            it.
        parts: Numbers of inputs of the reports that were merged into this one;
            empty for one that was not.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU()])
    >>> labels = np.arange(60) % 4
    >>> x = np.eye(4)[labels, :3]
    >>> report = analyze(
    ...     model, x, labels, layers="re_lu*", label_names="abcd", verbose=0
    ... )
    >>> report.to_dataframe()["label"].tolist()
    ['a', 'b', 'c']
    >>> report.to_dataframe()["roc_auc"].tolist()
    [1.0, 1.0, 1.0]
    >>> float(report["re_lu"][2]["direction"])
    1.0
    """

    layers: dict[str, LayerReport]
    inputs: int
    threshold: float
    labels: tuple[str, ...] = ()
    split: bool = True
    kept: dict[int, Any] | None = None
    parts: tuple[int, ...] = ()

    def __getitem__(self, path: str) -> LayerReport:
        return self.layer(path)

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def held_out(self) -> Array:
        """Return which inputs scored the labels.

        The others chose them. `x[report.held_out()]` are the inputs from which
        you can compute each score again.

        Returns:
            Booleans, `(inputs,)`; all true if the labels were not split.
        """
        if not self.split:
            return np.ones(self.inputs, bool)
        # Each part was split by the numbers of its own inputs.
        parts = self.parts or (self.inputs,)
        return np.concatenate([halves.held_out(np.arange(n)) for n in parts])

    def to_dataframe(self, rate: float = 0.02) -> Table:
        """Return one row per neuron, in a `pandas.DataFrame`.

        Args:
            rate: Of the False Killing Rate.

        Returns:
            Columns as the attributes of `LayerReport`; `neuron` is an integer
            for a channel and a tuple for a position, as all methods and plots
            take it. `ms_50`, `ms_90` and `ms_99` are quantiles. With labels
            also `label`, `direction` and the scores of that label, of which
            `label_mean` is the mean value on it; `f1`, its `f1_label` and
            `f1_baseline`; and `class_selectivity`. NaN is undefined, as for
            a dead neuron, which has no label. Neurons whose label is unlikely
            to be chance: `table[table["p_corrected"] < 0.05]`.
        """
        import pandas as pd

        tables = [layer.to_dataframe(rate) for layer in self.layers.values()]
        return pd.concat(tables, ignore_index=True)

    def false_killing_rate(
        self, rate: float | None = 0.02, threshold: float | None = None
    ) -> Table:
        """Compute the share of inhibited values that do not have the label.

        [Wang et al. 2025] Eq. 4: of all scored values of a neuron with `phi`
        of at least `tau`, the share whose input does not have the label of
        the neuron. A blind choice has 1 minus the share of the label.

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
        """Kolmogorov-Smirnov distance, `pandas.Series` by layer and neuron.

        Between `phi` on the label of a neuron and `phi` on all inputs, of those
        that score: the trend that [Wang et al. 2025] follow over
        scale. As `scipy.stats.ks_2samp(...).statistic`.
        """
        return self._labelled("ks_statistic")

    def roc_auc(self) -> Table:
        """Area under the ROC curve, `pandas.Series` by layer and neuron.

        Of `phi` as a detector of the most monosemantic label: the
        probability that a scored value with the label has a higher `phi` than
        one without. It is 0.5 on average for a label that is unrelated;
        `LayerReport.roc_auc_null` is what 95 % of such labels do not exceed.
        """
        return self._labelled("roc_auc")

    def precision_recall(self, layer: str, neuron: Any) -> tuple[Array, Array]:
        """Precision and recall of `phi` as a detector, from the highest down.

        Args:
            layer: Path of the layer.
            neuron: The neuron, as in the table.

        Returns:
            Precision and recall at the kept ranks, `(256,)` each; NaN for a
            neuron without a label.
        """
        found = self.layer(layer)
        if found.curve is None:
            raise unlabelled("Precision and recall")
        row = found.row(neuron)
        hits = found.curve.hits[row]
        with np.errstate(invalid="ignore"):
            return hits / found.curve.selected[row], hits / hits[-1]

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

    def summary(
        self, top: int = 5, print_fn: Callable[[str], Any] = print
    ) -> None:
        """Print the neurons that stand out, layer by layer.

        Args:
            top: Neurons to show per layer: those that detect their label best
                (`roc_auc`), or without labels have the highest scale.
            print_fn: What to print with.
        """
        summary.show(self, top, print_fn)

    def plot(self, ax: Any = None) -> Any:
        """The scales of all layers: `plots.ms_distribution(self)`."""
        from keras_memel.reports import plots

        return plots.ms_distribution(self, ax)

    def to_html(
        self,
        path: str | os.PathLike[str],
        inputs: Any = None,
        kind: str = "auto",
        tokenize: Callable[[Any], Sequence[str]] | None = None,
        title: str = "Neurons",
        *,
        other: "Report | None" = None,
        other_title: str = "other report",
        prompts: Sequence[Any] = (),
    ) -> None:
        """Write a page to look through the neurons, which stands alone.

        A table of all neurons to sort, search and filter. For each neuron: its
        values by label, its scale, its False Killing Rate, and what it does on
        the inputs that move it most, on those that move it least, and on a
        sample. The page needs no network and no server.

        Texts are shown in whole, each token shaded by the value of the neuron
        there. Images keep their values: black and white are the same for all
        of them, 0 and 255 of uint8, else 0 and 1, -1 and 1, or the lowest and
        highest value that is shown. A box is the receptive field, where that
        could be found.

        Args:
            path: File to write.
            inputs: The inputs that were analyzed, in their order, as they are
                to be shown: texts or lists of tokens, images `(height,
                width)`, `(height, width, channels)` or `(channels, height,
                width)`, or series `(steps,)` or `(steps, channels)`. `None`:
                those that the report has kept (`analyze(keep="inputs")`).
            kind: "text", "image" or "series"; "auto" takes what has at most 4
                columns for a series.
            tokenize: From an input to its tokens, one per position: `list` for
                characters. Tokens of byte-pair, SentencePiece and WordPiece
                vocabularies are joined to the text that they were made of.
            title: Of the page.
            other: A second report, to compare neuron by neuron, as of another
                checkpoint of the same model.
            other_title: Its title.
            prompts: What `prompt` returned: texts to show with the neurons
                that deviate most on them.

        Raises:
            ValueError: Before anything is written: if there are fewer
                `inputs` than were analyzed, if they are not of `kind` or
                cannot be shown, if `prompts` do not fit the report, or if the
                folder of `path` does not exist.

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

        neuron_browser.write(
            self,
            path,
            inputs,
            kind,
            tokenize,
            title,
            other,
            other_title,
            prompts,
        )

    def merge(self, other: "Report") -> "Report":
        """Merge the report of other inputs of the same model into a new one.

        So parts of a data set can be analyzed one after the other, on several
        processes, or again after one was stopped. Both reports need a sample
        of values, `analyze(pool=10_000)`.

        Exact, up to rounding: counts, moments, extremes, the values farthest
        out, means by label and half, the label of each neuron, examples and
        kept inputs. Quantiles, histograms and all scores come from both
        samples, and are exact while these hold all values (`ranked` is
        `count`). MonoScore and FMS are not merged: they are `None`.

        Args:
            other: The other report. Its inputs are numbered after those of
                this one. Labels are matched by name.

        Returns:
            A new report, that can be merged again.

        Raises:
            ValueError: If layers, `epsilon` or `threshold` differ, if only one
                report has labels, or if one has no sample.

        Example:

        >>> relu = keras.layers.ReLU(name="z")
        >>> model = keras.Sequential([keras.Input((3,)), relu])
        >>> x = np.random.default_rng(0).normal(size=(60, 3))
        >>> parts = [
        ...     analyze(model, one, layers="z", pool=100, verbose=0)
        ...     for one in (x[:20], x[20:])
        ... ]
        >>> whole = analyze(model, x, layers="z", verbose=0)
        >>> merged = parts[0].merge(parts[1])
        >>> bool(np.allclose(merged["z"].mean, whole["z"].mean))
        True
        """
        assert merger is not None
        return merger(self, other)

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


def _kind(neurons: list[Any]) -> str:
    """Of a column of neurons: objects as soon as one of them is a tuple."""
    one = any(isinstance(neuron, tuple) for neuron in neurons)
    return "object" if one else "int64"
