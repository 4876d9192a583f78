"""Store the neurons of one layer as arrays.

References:
    [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
    [Morcos et al. 2018] On the Importance of Single Directions for
        Generalization (arXiv 1803.06959).
    [Sokar et al. 2023] The Dormant Neuron Phenomenon in Deep Reinforcement
        Learning (arXiv 2302.12902).
    [Pach et al. 2025] Sparse Autoencoders Learn Monosemantic Features in
        Vision-Language Models (arXiv 2504.02821).
    [Härle et al. 2025] Measuring and Guiding Monosemanticity (arXiv
        2506.19382).
"""

import dataclasses
from typing import Any

import numpy as np

from keras_memel.reports import bins
from keras_memel.reports import killing
from keras_memel.reports import ranking
from keras_memel.reports import table
from keras_memel.reports.examples import Examples
from keras_memel.reports.examples import Field
from keras_memel.reports.examples import Unlabelled
from keras_memel.reports.merge_state import MergeState
from keras_memel.reports.named_neurons import NamedNeurons
from keras_memel.reports.ranking import Curve
from keras_memel.utils import arguments
from keras_memel.utils import renamed
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array

# A neuron is rare if a smaller share of its values is far from the median.
RARE = 0.01


@dataclasses.dataclass(frozen=True, eq=False)  # arrays have no truth value
class LayerReport(NamedNeurons):
    """Results for the neurons of one layer, as arrays with one row per neuron.

    `phi` is the monosemantic scale of a value, computed with the mean and
    variance of its neuron over all the data: `(z - mean)^2 / (variance +
    epsilon * mean_k(variance_k))` [Wang et al. 2024, Eq. 7], in variances.

    One half of the inputs chooses the label of each neuron and the rules for
    F1; the other half scores them (`Report.held_out`). Attributes that are
    marked "scored" below come from the second half only.

    `layer[77]` is the row of a neuron in the table of the layer, a
    `pandas.Series`. The name of a neuron is an integer if the neurons are
    channels, and a tuple if they are positions of `shape`.

    Attributes:
        path: Path of the layer, as in `find`.
        shape: Shape of the neurons; `(neurons,)` if they are channels. The
            first axis of all arrays indexes them in this order.
        directions: Whether the "neurons" are directions that were passed to
            `analyze`; `shape` is then `(directions,)`.
        epsilon: Fraction of the mean variance in `phi`.
        count: Number of values that count: not masked, and finite.
        nonfinite: Number of values that are not masked but not finite. All
            other attributes exclude them.
        mean, variance, minimum, maximum: Statistics of the values. The
            variance is unbiased.
        kurtosis: Excess kurtosis of the values, 0 for a Gaussian (biased, as
            in `scipy.stats.kurtosis`).
        magnitude: Mean absolute value.
        over_threshold: Share of the values with `phi` of at least the
            `threshold` of the report.
        ranked: Number of values that `ms_curve` and all detection scores are
            based on: `count`, or the size of a uniform sample if the values
            exceeded the disk limit or reports were merged. Histograms use the
            same values, and those of a merged report use all values of the
            merged histograms.
        ms_curve: `phi` at some ranks (`ranking.ranks`), highest first.
        histogram: Number of values per label and bin, `(neurons, shown,
            bins)`; one row without labels. `histogram_edges` returns the edges
            of the bins.
        bin_start, bin_width: Lowest edge of the bins of each neuron, and their
            width, `(neurons,)`. The width is the smallest power of two for
            which 32 bins suffice, and 0 for a dead neuron, whose values are
            all in the first bin. `None` in files of older versions, whose bins
            have equal width from minimum to maximum.
        top_input: Indices of the inputs with the highest `phi`, highest
            first, `(neurons, top)`, each input once; -1 where there are fewer,
            and for a dead neuron.
        top_position: Position in that input, as a flat index into the axes
            that are neither batch nor neurons; 0 without such axes.
        top_value, top_ms: Value with the highest `phi` in that input, and its
            `phi`.
        sizes: Sizes of the axes that `top_position` counts.
        zeros: Number of ranked values that are exactly 0.
        activity: Share of the ranked values whose distance from the median
            exceeds a tenth of the largest such distance (`rare`).
        histogram_all: Number of ranked values per bin, `(neurons, bins)`,
            including values without a label.
        examples: Activations of each neuron on the inputs with its highest
            and lowest values, and on a sample (`Examples`).
        field: Part of the input that one value depends on (`Field`). `None`
            if it is unknown, as in files of older versions; the same applies
            to `zeros`, `activity`, `histogram_all` and `examples`.
        state: Data for `Report.merge` (`MergeState`), with `analyze(pool=)`.
        monoscore: Similarity of the inputs that a neuron responds to [Pach et
            al. 2025, Eq. 9], with `embeddings`, else `None`. In the form of
            arXiv 2602.12403 it is the mean cosine similarity of the
            embeddings of two inputs, weighted by `a_n a_m`, with `a_n = (z_n -
            minimum) / (maximum - minimum)`, over all pairs of values with
            different embeddings: those of different inputs, or of different
            positions if each position has its own. The highest possible score
            is 1. A neuron that responds equally to all inputs has the mean
            similarity of all inputs, not 0. NaN for a dead neuron.

    With labels, else `None`:
        labels: Names of the labels. All label numbers below are indices into
            it.
        label_count: Number of values of each label, over all inputs,
            `(neurons, labels)`.
        label_mean: Mean value on each label, over all inputs.
        label_ms: Mean `phi` on each label, over all inputs.
        label_f1: Scored F1 of one threshold for each label: the best on the
            half that chooses (`ranking.best_rules`).
        histogram_label: Labels of the rows of the histogram, `(neurons,
            shown)`: all, or the 64 with the highest mean `phi`.
        label: Label of each neuron: among the labels that occur in both
            halves, the one with the highest mean `phi` on the half that
            chooses [Wang et al. 2025, Eq. 3]; -1 for a dead neuron.
        mean_on_label, ms_on_label: Scored mean value and mean `phi` on that
            label.
        f1_label: Label whose F1, on the half that chooses, most exceeds the
            F1 of a rule without the neuron; -1 for a dead neuron.
        f1, f1_baseline: Scored F1 for `f1_label`, and `2 p / (1 + p)`, the F1
            of a rule that selects all values, with `p` the share of the label.
        class_selectivity: Scored selectivity index of [Morcos et al. 2018],
            `(m - r) / (m + r)`. `m` is the mean value on the label with the
            highest mean on the half that chooses, and `r` the mean of the
            means of the other labels. About 0 for noise labels, 1 for a neuron
            that is 0 on all other labels. NaN if values are negative: the
            index is defined for values such as those after a ReLU.
        roc_auc, average_precision, ks_statistic: Scored quality of `phi` as a
            detector of the values of the label (`ranking.detection`).
        roc_auc_null: ROC-AUC that 95 % of unrelated labels do not exceed.
        roc_auc_p: p-value of the ROC-AUC, for one neuron (`ranking.detection`).
        p_corrected: `roc_auc_p` with Holm's correction for the number of
            neurons in the report.
        label_fms: Feature monosemanticity score of each label [Härle et al.
            2025], with `fms=p`, else `None`. It is stored at the neuron that
            detects the label best, `(neurons, labels)`, with NaN for all other
            neurons. The score is `A (2 (A - B) + 1 - G) / 2`. `A` is the
            balanced accuracy of the best rule with one threshold on one neuron.
            `B` is that of the best rule after the best neuron was removed `p`
            times. `G` is the average gain over `A` from 1 to 5 more levels of a
            decision tree. The rules are fitted on the half that chooses and
            scored on the other. The score is 0.25 for a noise label, 0.5 for a
            label that many neurons detect without error, and 1 for a label that
            only one neuron detects, without error. The mean over labels,
            `np.nanmean(label_fms)`, is the score of the layer. NaN or a mask at
            one neuron excludes a row, unless that neuron never has a value.
        scored: Number of values that the scores are based on.
        label_zeros: Number of ranked values of each label of the histogram
            that are exactly 0, `(neurons, shown)`.
        unlabelled: Values without a label (`Unlabelled`); `None` if all values
            have labels.
        curve: Scored `phi` at some ranks, with the number of values selected
            there and the number of these with the label (`ranking.Curve`).

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU()])
    >>> x = np.array([[1.0, 0], [3.0, 0], [2.0, 0]])
    >>> layer = analyze(model, x, layers="re_lu*", verbose=0)["re_lu"]
    >>> layer.mean.tolist(), layer.variance.tolist(), layer.dead.tolist()
    ([2.0, 0.0], [1.0, 0.0], [False, True])
    >>> float(layer[0]["maximum"])
    3.0
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
    ms_curve: Array
    histogram: Array
    top_input: Array
    top_position: Array
    top_value: Array
    top_ms: Array
    directions: bool = False
    monoscore: Array | None = None
    labels: tuple[str, ...] = ()
    label_count: Array | None = None
    label_mean: Array | None = None
    label_ms: Array | None = None
    label_f1: Array | None = None
    histogram_label: Array | None = None
    label: Array | None = None
    mean_on_label: Array | None = None
    ms_on_label: Array | None = None
    f1_label: Array | None = None
    f1: Array | None = None
    f1_baseline: Array | None = None
    class_selectivity: Array | None = None
    roc_auc: Array | None = None
    roc_auc_null: Array | None = None
    roc_auc_p: Array | None = None
    p_corrected: Array | None = None
    average_precision: Array | None = None
    ks_statistic: Array | None = None
    label_fms: Array | None = None
    scored: Array | None = None
    curve: Curve | None = None
    zeros: Array | None = None
    activity: Array | None = None
    histogram_all: Array | None = None
    bin_start: Array | None = None
    bin_width: Array | None = None
    label_zeros: Array | None = None
    unlabelled: Unlabelled | None = None
    examples: Examples | None = None
    field: Field | None = None
    state: MergeState | None = None

    def __getattr__(self, name: str) -> Any:
        names = {"feature": "label"} | {
            f"feature_{what}": f"label_{what}"
            for what in ("count", "f1", "mean", "ms")
        }
        renamed.attribute("`LayerReport`", name, names)

    def __getitem__(self, neuron: Any) -> Any:
        row = self.row(neuron)
        return self.to_dataframe().iloc[row].rename(f"{self.path}/{neuron}")

    @property
    def ms_max(self) -> Array:
        """Highest `phi` of each neuron, `(neurons,)`; 0 for a dead neuron."""
        return np.where(self.dead, 0.0, self.top_ms[:, 0])

    @property
    def dead(self) -> Array:
        """Whether the values of a neuron never differ."""
        return (self.count > 0) & (self.minimum == self.maximum)

    def dormant(self, tau: float = 0.025, reference: str = "mean") -> Array:
        """Return which neurons are nearly silent, compared with the layer.

        The mean absolute value of a dormant neuron is at most `tau` times a
        reference: the mean over all neurons of the layer [Sokar et al. 2023,
        Definition 3.1]. One neuron that is `1 / tau` times as large as all
        others together makes all others dormant. The median ignores such a
        neuron. It is not the default, because it fails if half of the neurons
        are dormant: its value is then that of a dormant neuron, and no neuron
        is found.

        Args:
            tau: Share of the reference, at least 0.
            reference: "mean", or "median" for a layer with a few huge neurons.

        Returns:
            Booleans, `(neurons,)`; False for a neuron without values.

        Raises:
            ValueError: If `tau` or `reference` is invalid.

        Example:

        >>> relu = keras.layers.ReLU(name="z")
        >>> model = keras.Sequential([keras.Input((3,)), relu])
        >>> x = np.array([[1.0, 2, 0.01], [3, 2, 0.02]])
        >>> layer = analyze(model, x, layers="z", verbose=0)["z"]
        >>> layer.dormant().tolist()
        [False, False, True]
        """
        tau = arguments.number("tau", tau, "at least 0", 0.0)
        if reference not in ("mean", "median"):
            raise ValueError(
                "Argument `reference` must be 'mean' or 'median'. "
                f"Received: reference={reference!r}"
            )
        seen = self.count > 0
        of_layer = np.mean if reference == "mean" else np.median
        level = of_layer(self.magnitude[seen]) if seen.any() else 0.0
        return np.asarray(seen & (self.magnitude <= tau * level))

    @property
    def rare(self) -> Array:
        """Whether a neuron rarely leaves its resting value, the median.

        Less than 1 % of its values are farther from the median than a tenth of
        the largest distance. The scores of such a neuron depend on few values.
        """
        if self.activity is None:
            return np.zeros(len(self), bool)
        return ~self.dead & (self.activity < RARE)

    @property
    def direction(self) -> Array | None:
        """Direction of the response: 1 if a neuron is above its mean, else -1.

        It is the sign of `mean_on_label - mean`: 1 for a neuron that fires for
        its label, -1 for a neuron that is silent on it, and NaN without a
        label. The scale is high in both directions.
        """
        if self.mean_on_label is None:
            return None
        return np.sign(self.mean_on_label - self.mean)

    @property
    def fms(self) -> Array | None:
        """Highest `label_fms` per neuron; NaN if it detects no label best."""
        if self.label_fms is None:
            return None
        highest = np.nan_to_num(self.label_fms, nan=-np.inf).max(1)
        return np.where(np.isfinite(highest), highest, np.nan)

    @property
    def histogram_edges(self) -> Array:
        """Edges of the bins of each neuron, `(neurons, bins + 1)`."""
        if self.bin_start is not None and self.bin_width is not None:
            return bins.edges(self.bin_start, self.bin_width)
        share = np.linspace(0, 1, self.histogram.shape[2] + 1)
        low, high = self.minimum[:, None], self.maximum[:, None]
        return np.asarray(low + (high - low) * share)

    def ms_quantile(self, q: float) -> Array:
        """Compute a quantile of `phi` of each neuron, `(neurons,)`.

        It is the value at rank `ceil((1 - q) n)` from the top, which a share
        `1 - q` of all values reaches, interpolated as in `ranking.quantile`.

        Args:
            q: Quantile, from 0 to 1.

        Returns:
            `phi`, in variances; 0 for a dead neuron, NaN without values.

        Raises:
            ValueError: If `q` is not between 0 and 1.

        Example:

        >>> relu = keras.layers.ReLU(name="z")
        >>> model = keras.Sequential([keras.Input((1,)), relu])
        >>> x = np.array([[0.0], [0], [0], [4]])
        >>> layer = analyze(model, x, layers="z", verbose=0)["z"]
        >>> layer.ms_quantile(1.0).tolist(), layer.ms_quantile(0.5).tolist()
        ([2.25], [0.25])
        """
        q = arguments.number("q", q, "between 0 and 1", 0.0, 1.0 + 1e-12)
        rank = np.ceil(np.round((1 - q) * self.ranked, 6))
        return ranking.quantile(self.ms_curve, self.ranked, rank)

    def false_killing_rate(
        self, rate: float | None = 0.02, threshold: float | None = None
    ) -> Array:
        """Compute `Report.false_killing_rate` for this layer, `(neurons,)`.

        Arguments and errors are the same. pandas is not needed.
        """
        return killing.rates(self.curve, self.scored, rate, threshold)

    @property
    def blind_rate(self) -> Array:
        """False Killing Rate of a random choice; NaN without a label.

        It raises `ValueError` if the report has no labels.
        """
        if self.curve is None:
            raise killing.unlabelled("The False Killing Rate")
        hits, every = self.curve.hits[:, -1], self.curve.selected[:, -1]
        with np.errstate(invalid="ignore"):
            return np.asarray(1 - hits / every)

    def to_dataframe(self, rate: float = 0.02) -> Any:
        """Return the rows of `Report.to_dataframe` for this layer."""
        pd = need("pandas", "report", "`to_dataframe`")
        return pd.DataFrame(self.columns(rate))

    def columns(self, rate: float = 0.02) -> dict[str, Any]:
        """Return the columns of `to_dataframe` by name, without pandas.

        Args:
            rate: Rate of the False Killing Rate.

        Returns:
            Arrays `(neurons,)`; `layer` is the path alone.
        """
        return table.columns(self, rate)
