"""Store the results of `analyze`: arrays, tables, curves of every neuron.

A report is data. It contains neither a model nor a tensor, can be saved,
loaded and drawn without them, and never changes.

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
from keras_memel.reports.scored_layers import ScoredLayers
from keras_memel.utils import arguments
from keras_memel.utils import renamed
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array
from keras_memel.utils.types import Table

# `analysis/merging.py` sets this function, because reports must not import
# from the analysis.
merger: Callable[["Report", "Report"], "Report"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no truth value
class Report(ScoredLayers):
    """Results of `analyze`.

    Attributes:
        layers: `LayerReport` of each layer by its path, in the order of the
            model. `report[path]` is one of them, and `report[path][77]` the
            row of one neuron.
        inputs: Number of analyzed inputs.
        threshold: Threshold of `over_threshold`, in variances.
        labels: Names of the labels; empty without labels.
        split: Whether labels were chosen and scored on different inputs. It
            is `False` for a report from a file older than version 3, whose
            scores are too high by chance.
        kept: With `analyze(keep="inputs")`: every input that is an example of
            some neuron (`Examples`), by index, as the model received it.
        parts: Number of inputs of each report that was merged into this one.
            Empty for a report that was not merged.

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
        """Return which inputs scored the labels; the others chose them.

        You can recompute each score from `x[report.held_out()]`.

        Returns:
            Booleans, `(inputs,)`; all true if the inputs were not split. The
            parts of a merged report have been split on their own.

        Example:

        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
        >>> x = np.random.default_rng(0).normal(size=(8, 2))
        >>> report = analyze(model, x, [0, 1] * 4, layers="re_lu*", verbose=0)
        >>> report.held_out().tolist()
        [True, False, False, True, False, True, True, False]
        """
        if not self.split:
            return np.ones(self.inputs, bool)
        # Each part numbered its inputs from 0 before the split.
        parts = self.parts or (self.inputs,)
        return np.concatenate([halves.held_out(np.arange(n)) for n in parts])

    def to_dataframe(self, rate: float = 0.02) -> Table:
        """Return one row per neuron, in a `pandas.DataFrame`.

        Args:
            rate: Rate of the False Killing Rate.

        Returns:
            Table whose columns are attributes of `LayerReport`. `neuron` is
            an integer for a channel and a tuple for a position, as in all
            methods and plots. `ms_50`, `ms_90` and `ms_99` are quantiles of
            `phi`. With labels the table adds `label`, `direction`, the scores
            of that label (`label_mean` is the mean value on it), `f1` with
            its `f1_label` and `f1_baseline`, and `class_selectivity`. NaN
            means undefined, as for a dead neuron, which never gets a label.
            `table[table["p_corrected"] < 0.05]` selects the neurons whose
            label is unlikely to be due to chance.

        Raises:
            ImportError: If pandas is missing; `LayerReport.columns` does not
                need it.
            ValueError: If `rate` is not above 0 and at most 1.

        Example:

        >>> relu = keras.layers.ReLU(name="z")
        >>> model = keras.Sequential([keras.Input((2,)), relu])
        >>> x = np.array([[0.0, 3], [0, 0], [0, 0], [0, 1]])
        >>> table = analyze(model, x, layers="z", verbose=0).to_dataframe()
        >>> table[["layer", "neuron", "dead", "mean"]].values.tolist()
        [['z', 0, True, 0.0], ['z', 1, False, 1.0]]
        """
        pd = need("pandas", "report", "`to_dataframe`")
        tables = [layer.to_dataframe(rate) for layer in self.layers.values()]
        return pd.concat(tables, ignore_index=True)

    def summary(
        self, top: int = 5, print_fn: Callable[[str], Any] = print
    ) -> None:
        """Print the most notable neurons of each layer.

        Args:
            top: Number of neurons to show per layer: those with the best
                `roc_auc` or, without labels, with the highest scale.
            print_fn: Function that prints a line.

        Raises:
            ImportError: If pandas is missing.
            ValueError: If `top` is not an integer of at least 1.

        Example:

        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
        >>> x = np.array([[0.0, 3], [0, 0], [0, 0], [0, 1]])
        >>> lines = []
        >>> report = analyze(model, x, layers="re_lu*", verbose=0)
        >>> report.summary(top=1, print_fn=lines.append)
        >>> lines[0]
        '4 inputs, 2 neurons'
        """
        top = arguments.integer("top", top, "at least 1", 1)
        summary.show(self, top, print_fn)

    def plot(self, ax: Any = None) -> Any:
        """Draw the scales of all layers, as `plots.ms_distribution(self)`.

        Args:
            ax: Axes of matplotlib to draw into; `None` creates them.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is missing.
        """
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
        """Write a self-contained page to browse the neurons.

        The page has a table of all neurons to sort, search and filter. For
        each neuron it shows the values by label, the scale, the False Killing
        Rate, and the activations on the inputs with its highest and lowest
        values and on a sample. The page needs neither network nor server.

        Texts are shown completely, with each token shaded by the value of the
        neuron. All images share one range from black to white: 0 to 255 for
        uint8; otherwise 0 to 1, -1 to 1, or the lowest to the highest value
        shown. A box marks the receptive field where it is known.

        Args:
            path: File to write.
            inputs: The analyzed inputs, in their order, in the form to show:
                texts or lists of tokens, images `(height, width)`, `(height,
                width, channels)` or `(channels, height, width)`, or series
                `(steps,)` or `(steps, channels)`. `None` uses the inputs that
                the report has kept (`analyze(keep="inputs")`).
            kind: "text", "image" or "series". "auto" treats an array with at
                most 4 columns as a series.
            tokenize: Function from an input to its tokens, one per position;
                use `list` for characters. Tokens of byte-pair, SentencePiece
                and WordPiece vocabularies are joined to their text.
            title: Title of the page.
            other: Second report to compare neuron by neuron, such as one of
                another checkpoint.
            other_title: Title of the second report.
            prompts: Results of `prompt`: texts to show with the neurons that
                deviate most on them.

        Raises:
            ValueError: If there are fewer `inputs` than were analyzed, if they
                are not of `kind` or cannot be shown, if `prompts` do not fit
                the report, or if the folder of `path` does not exist. The
                file is then not written.

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

        given = (path, inputs, kind, tokenize, title)
        neuron_browser.write(self, *given, other, other_title, prompts)

    def merge(self, other: "Report") -> "Report":
        """Merge with a report of other inputs of the same model.

        Use it to analyze parts of a data set separately, in several processes,
        or after an interruption. Both need a sample: `analyze(pool=10_000)`.

        These parts are exact up to rounding: counts, moments, extremes,
        histograms, the most extreme values and their examples, means by label
        and half, the label of each neuron and MonoScore. The other examples
        are those of the parts. Quantiles and all other scores come from both
        samples. They are exact while the samples
        contain all values (`ranked` is `count`). The halves that choose and
        score labels are those of each part (`held_out`): the scores of labels
        therefore differ from those of one run, whose halves are other inputs.
        FMS is not merged, because decision trees do not add up: `label_fms` is
        `None`.

        Args:
            other: Report to merge. Its inputs are numbered after those of this
                report. Labels are matched by name.

        Returns:
            A new report, which can be merged again.

        Raises:
            ValueError: If layers, `epsilon`, `threshold` or the dimensions of
                the embeddings differ, if only one report has labels or
                embeddings, or if a report lacks the sample.

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
        """Save the report to one file, `.npz`.

        The file is written completely or not at all, and replaces an old one.

        Args:
            path: Path that ends in ".npz".

        Raises:
            ValueError: If `path` does not end in ".npz", or if its folder does
                not exist.

        Example:

        >>> import pathlib, tempfile
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> report = analyze(model, np.eye(4), verbose=0)
        >>> path = pathlib.Path(tempfile.mkdtemp(), "report.npz")
        >>> report.save(path)
        >>> Report.load(path)
        <Report of 4 inputs, neurons {'dense': 2}>
        """
        report_file.write(vars(self), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Load a report that `save` wrote, also with an older version.

        The file contains arrays and JSON only: loading never runs code.

        Args:
            path: Path that ends in ".npz".

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file contains no report of a known version.
        """
        return cls(**report_file.read(path))

    def __getattr__(self, name: str) -> Any:
        renamed.attribute("`Report`", name, {"features": "labels"})

    def __repr__(self) -> str:
        layers = {path: len(layer) for path, layer in self.layers.items()}
        return f"<Report of {self.inputs} inputs, neurons {layers}>"
