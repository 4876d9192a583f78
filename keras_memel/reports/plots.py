"""Draw a report: its most notable neurons, their labels and scores.

The functions receive a `Report` and need no model. Each draws into `ax`, or
into new axes, and returns the matplotlib Axes.
"""

from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_memel.reports import killing
from keras_memel.reports import layer_report
from keras_memel.utils import arguments
from keras_memel.utils import plotting
from keras_memel.utils import renamed
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array
from keras_memel.utils.types import Axes

if TYPE_CHECKING:
    from keras_memel.reports.report import Report


# With more names, the names on an axis overlap.
_MOST_NAMES = 40
# Number of characters of a path in a title, and of dead neurons listed there.
_TITLE, _LISTED = 36, 5


def _dead(layer: layer_report.LayerReport) -> str:
    """Return the dead neurons of a layer as text, empty if there are none."""
    (rows,) = np.nonzero(layer.dead)
    if not len(rows):
        return ""
    neurons = layer.neurons
    listed = ", ".join(str(neurons[row]) for row in rows[:_LISTED])
    more = len(rows) - _LISTED
    return f"dead: {listed}" + (f" and {more:,} more" if more > 0 else "")


def _checked(report: Any) -> None:
    """Raise unless `report` is a Report."""
    if not isinstance(getattr(report, "layers", None), dict):
        raise ValueError(
            "Argument `report` must be a Report of `analyze`. "
            f"Received: {type(report).__name__}"
        )


def _between(path: str, text: str) -> str:
    return ", " if len(path) + len(text) <= _TITLE else "\n"


def _title(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=10, loc="left")


def ms_distribution(report: "Report", ax: Axes | None = None) -> Axes:
    """Draw the distribution of the scales of neurons, layer by layer.

    Each layer has a box plot of the 99 % quantiles of the monosemantic scale
    of its neurons. The box shows the middle half and the median, the whiskers
    reach to the 5 % and 95 % quantiles, and points show the neurons beyond. The
    line marks the value of a Gaussian neuron, 6.63. Dead neurons are omitted,
    and the name of a layer shows their number.

    Args:
        report: Report to draw.
        ax: Axes to draw into. Defaults to new axes.

    Returns:
        The Axes.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> ax = ms_distribution(analyze(model, x, verbose=0))
    >>> ax.get_xlabel()
    '99 % quantile of the monosemantic scale (variances)'
    """
    _checked(report)
    paths = list(report.layers)
    dead = [int(layer.dead.sum()) for layer in report.layers.values()]
    names = [
        f"{name} ({number:,} dead)" if number else name
        for name, number in zip(plotting.short(paths), dead)
    ]
    height = max(1.8, 0.4 * len(paths) + 1.2)
    ax = plotting.new(ax, height, plotting.width(names))
    values = []
    for layer in report.layers.values():
        q = layer.ms_quantile(0.99)
        values.append(q[np.isfinite(q) & (q > 0)])
    ax.boxplot(
        values,
        orientation="horizontal",
        whis=(5, 95),
        widths=0.55,
        patch_artist=True,
        boxprops={"facecolor": "#CCE3F0", "edgecolor": plotting.BLUE},
        medianprops={"color": plotting.BLUE, "linewidth": 2},
        whiskerprops={"color": plotting.BLUE},
        capprops={"color": plotting.BLUE},
        flierprops={
            "marker": ".",
            "markersize": 4,
            "markerfacecolor": plotting.GRAY,
            "markeredgecolor": "none",
        },
    )
    ax.set_yticks(range(1, len(paths) + 1), names)
    ax.invert_yaxis()
    ax.set_xscale("log")
    plotting.plain_log(ax.xaxis)
    plotting.level(ax, "x", 6.63, "Gaussian")
    ax.set_xlabel("99 % quantile of the monosemantic scale (variances)")
    return ax


def activation_by_label(
    report: "Report",
    layer: str,
    neuron: Any,
    ax: Axes | None = None,
    most: int = 20,
) -> Axes:
    """Draw the activation of one neuron on each label: the papers' Figure 1.

    One row per label shows the share of its values in each bin of activation.
    The neuron's own label comes first, in color, followed by the labels with
    the highest mean scale. A dead neuron has no own label.

    Args:
        report: Report to draw, with or without labels.
        layer: Path of the layer.
        neuron: Name of the neuron, as in the table: an integer for a channel,
            a tuple for a position.
        ax: Axes to draw into. Defaults to new axes.
        most: Maximum number of labels to show. The title gives the number of
            the other labels.

    Returns:
        The Axes.

    Raises:
        ValueError: If the report does not contain the layer or the neuron, or
            `most` is below 1.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> report = analyze(model, x, x[:, 0] > 1, verbose=0)
    >>> path = list(report.layers)[0]
    >>> ax = activation_by_label(report, path, neuron=3)
    >>> len(ax.get_yticklabels())
    2
    """
    _checked(report)
    most = arguments.integer("most", most, "at least 1", 1)
    found = report.layer(layer)
    row = found.row(neuron)
    counts = found.histogram[row].astype("float64")
    names = ["all inputs"]
    order, own_label = np.arange(1), -1
    if found.label is not None:
        assert found.label_ms is not None
        assert found.histogram_label is not None
        shown = found.histogram_label[row]
        names = [report.labels[label] for label in shown]
        own_label = found.label[row]
        ms = np.nan_to_num(found.label_ms[row, shown], nan=-1.0)
        ms[shown == own_label] = np.inf
        order = np.argsort(-ms, kind="stable")[:most]
    # Without values the rows are empty, so the limits do not matter.
    edges = np.nan_to_num(found.histogram_edges[row])
    inside = edges[:-1] <= np.nan_to_num(found.maximum[row])
    counts, edges = counts[:, inside], edges[: inside.sum() + 1]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    shown_names = plotting.short([names[i] for i in order])
    height = max(1.8, 0.28 * len(order) + 1.2)
    ax = plotting.new(ax, height, plotting.width(shown_names))
    for line, label in enumerate(order):
        own = line == 0 and own_label >= 0
        # Each row is scaled to its own maximum and nearly fills its line, as
        # in a ridge plot.
        height = 0.85 * shares[label] / max(shares[label].max(), 1e-12)
        ax.stairs(
            line - height,
            edges,
            baseline=line,
            fill=True,
            color=plotting.ORANGE if own else plotting.GRAY,
            alpha=0.9 if own else 0.6,
        )
        ax.axhline(line, color="#dddddd", linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(order)), shown_names)
    ax.set_ylim(len(order) - 0.5, -1)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("activation")
    cut = max(1, len(report.labels)) - len(order)
    more = f" ({cut} more labels)" if cut else ""
    dead = ", dead" if found.dead[row] else ""
    (path,) = plotting.short([layer], _TITLE)
    which = f"neuron {neuron}{dead}{more}"
    _title(ax, f"{path}{_between(path, which)}{which}")
    return ax


def label_map(
    report: "Report", layer: str, ax: Axes | None = None, most: int = 60
) -> Axes:
    """Draw a map of neurons and labels, colored by the mean scale.

    The map shows the neurons that detect their label best (`roc_auc`), sorted
    by label: a monosemantic layer shows a bright staircase. Dead neurons are
    omitted, and the title lists them.

    Args:
        report: Report to draw, with labels.
        layer: Path of the layer.
        ax: Axes to draw into. Defaults to new axes.
        most: Maximum number of neurons to show.

    Returns:
        The Axes.

    Raises:
        ValueError: If the report has no labels or does not contain the layer,
            or `most` is below 1.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> report = analyze(model, x, x[:, 0] > 1, verbose=0)
    >>> ax = label_map(report, list(report.layers)[0])
    >>> ax.images[0].get_array().shape
    (2, 8)
    """
    _checked(report)
    most = arguments.integer("most", most, "at least 1", 1)
    found = report.layer(layer)
    if found.label_ms is None or found.label is None:
        raise killing.unlabelled("A map of labels")
    ms = np.where(np.isnan(found.label_ms), 0.0, found.label_ms)
    sure = np.nan_to_num(found.roc_auc, nan=0.0)
    chosen = np.argsort(-sure, kind="stable")[:most]
    alive = ~found.dead[chosen]
    chosen = chosen[alive] if alive.any() else chosen
    chosen = chosen[np.lexsort((-ms.max(1)[chosen], found.label[chosen]))]
    names = plotting.short(report.labels)
    height = min(9.0, max(2.2, 0.22 * ms.shape[1] + 1.4))
    ax = plotting.new(ax, height, 1 + plotting.width(names))
    # The mean scale over all labels is 1. The colors end at the 99 %
    # quantile, so that single high values do not hide the rest.
    high = max(2.0, float(np.quantile(ms[chosen], 0.99)))
    image = ax.imshow(
        ms[chosen].T,
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=high,
        interpolation="nearest",
    )
    ax.spines[:].set_visible(False)
    if len(report.labels) <= _MOST_NAMES:
        ax.set_yticks(range(len(report.labels)), names)
    ax.set_ylabel("label")
    if len(chosen) <= _MOST_NAMES:
        ax.set_xticks(
            range(len(chosen)),
            [str(found.neurons[i]) for i in chosen],
            rotation=90,
            fontsize=7,
        )
        ax.set_xlabel("neuron")
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(chosen)} of {len(found)} neurons, by label")
    ax.figure.colorbar(
        image, ax=ax, label="mean scale (variances)", extend="max"
    )
    (path,) = plotting.short([layer], _TITLE)
    dead = _dead(found)
    _title(ax, f"{path}\n{dead}" if dead else path)
    return ax


def false_killing_rate(
    report: "Report", ax: Axes | None = None, rates: Array = None
) -> Axes:
    """Draw the False Killing Rate against the rate, [Wang et al. 2025] Eq. 4.

    Each line is the median over the neurons of a layer. The band contains the
    middle half of the neurons of the first layer. The dashed line is the rate
    of a random choice.

    Args:
        report: Report to draw, with labels.
        ax: Axes to draw into. Defaults to new axes.
        rates: Shares of values to inhibit, ascending. Defaults to 0.1 % to
            50 %.

    Returns:
        The Axes.

    Raises:
        ValueError: If the report has no labels, or `rates` are not ascending
            numbers above 0 and at most 1.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8)])
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> ax = false_killing_rate(analyze(model, x, x[:, 0] > 1, verbose=0))
    >>> ax.get_ylabel()
    'False Killing Rate (median neuron)'
    """
    _checked(report)
    matplotlib = need("matplotlib", "plot", "a plot")
    rates = np.geomspace(1e-3, 0.5, 40) if rates is None else np.asarray(rates)
    if (
        rates.ndim != 1
        or not rates.size
        or rates.dtype.kind not in "fiu"
        or not (np.diff(rates) > 0).all()
        or not (rates[0] > 0 and rates[-1] <= 1)
    ):
        raise ValueError(
            "Argument `rates` must be numbers above 0 and at most 1, "
            f"increasing. Received: rates={rates!r}"
        )
    names = plotting.short(list(report.layers))
    height = max(3.6, 0.17 * len(names) + 1.0)
    ax = plotting.new(ax, height, plotting.width(names))
    layers = list(report.layers.values())
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(layers)))
    ends, blind = [], []
    for number, (layer, shade) in enumerate(zip(layers, shades)):
        found = np.stack([layer.false_killing_rate(r) for r in rates])
        moved = np.isfinite(found).all(0)
        found = found[:, moved]
        blind.append(layer.blind_rate[moved])
        if not moved.any():
            continue
        low, middle, high = np.quantile(found, [0.25, 0.5, 0.75], axis=1)
        if not number:
            ax.fill_between(
                rates, low, high, color=shade, alpha=0.15, linewidth=0
            )
        ax.plot(rates, middle, color=shade, linewidth=1.8)
        ends.append((middle[-1], layer.path, shade))
    every = np.concatenate(blind)
    if len(every):
        plotting.level(ax, "y", float(np.median(every)), "blind choice")
    ax.set_xscale("log")
    plotting.percent(ax.xaxis)
    ax.set_xlim(rates[0], rates[-1])  # The names are outside the limits.
    ax.set_ylim(0.0, 1.0)
    plotting.name_lines(ax, rates[-1], ends)
    ax.set_xlabel("share of values inhibited")
    ax.set_ylabel("False Killing Rate (median neuron)")
    return ax


def __getattr__(name: str) -> Any:
    names = {
        "activation_by_feature": "activation_by_label",
        "feature_map": "label_map",
    }
    renamed.attribute(f"module `{__name__}`", name, names)
