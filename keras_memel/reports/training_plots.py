"""Draw the effect of training on the scale: over epochs, and of one step."""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.utils import arguments
from keras_memel.utils import plotting
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Axes


def ms_over_training(
    logs: Mapping[str, Sequence[float]],
    quantile: str = "ms_99",
    ax: Axes | None = None,
) -> Axes:
    """Draw the scale of each monitored layer over the epochs of training.

    Args:
        logs: Result of a `fit` with `MonosemanticityMonitor`, its `history`,
            or a table that `CSVLogger` wrote.
        quantile: Name of the logs to draw: `"ms_50"`, `"ms_99"`,
            `"inhibited_rate"`, `"threshold"`.
        ax: Axes to draw into. Defaults to new axes.

    Returns:
        The Axes.

    Raises:
        ValueError: If the logs do not contain `quantile`. The message lists
            the available logs.

    Example:

    >>> ax = ms_over_training({"hidden/ms_99": [6.0, 9.0, 12.0]})
    >>> ax.get_xlabel()
    'epoch'
    """
    arguments.text("quantile", quantile)
    logs = getattr(logs, "history", logs)
    if not hasattr(logs, "keys"):
        raise ValueError(
            "Argument `logs` must be a History of `fit`, a dict, or a table. "
            f"Received: logs={logs!r:.80} ({type(logs).__name__})"
        )
    names = [name for name in logs if name.endswith(f"/{quantile}")]
    if not names:
        raise ValueError(
            f"Argument `logs` must contain a log that ends in '/{quantile}'. "
            "Quantiles of the scale need a monitor with inputs `x`. "
            f"Received: logs of {sorted(logs)}"
        )
    matplotlib = need("matplotlib", "plot", "a plot")
    height = max(3.6, 0.17 * len(names) + 1.0)
    shown = plotting.short([name.rsplit("/", 1)[0] for name in names])
    ax = plotting.new(ax, height, plotting.width(shown))
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.85, len(names)))
    ends = []
    for name, shade in zip(names, shades):
        values = np.asarray(logs[name], "float64")
        steps = np.arange(1, len(values) + 1)
        ax.plot(steps, values, color=shade, marker=".", linewidth=1.5)
        ends.append((values[-1], name.rsplit("/", 1)[0], shade))
    if quantile.startswith("ms"):
        ax.set_yscale("log")
        plotting.plain_log(ax.yaxis)
    plotting.name_lines(ax, steps[-1], ends)
    ax.set_xlabel("epoch")
    label = {
        "inhibited_rate": "inhibited share",
        "threshold": "threshold (variances)",
    }
    ax.set_ylabel(
        label.get(quantile, f"scale, {quantile[3:]} % quantile (variances)")
    )
    ax.xaxis.get_major_locator().set_params(integer=True)
    return ax


def decrease_ratios(found: Any, ax: Axes | None = None) -> Axes:
    """Draw the effect of one training step, [Wang et al. 2024] Table 4.

    Args:
        found: Table of `decrease_ratio`.
        ax: Axes to draw into. Defaults to new axes.

    Returns:
        The Axes.

    Raises:
        ValueError: If `found` is not a table of `decrease_ratio`.

    Example:

    >>> import pandas as pd
    >>> table = pd.DataFrame({"decrease_ratio": {"original": 0.1, "RD": 0.3}})
    >>> ax = decrease_ratios(table)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['original', 'RD']
    """
    if "decrease_ratio" not in getattr(found, "columns", ()):
        raise ValueError(
            "Argument `found` must be the table of `decrease_ratio`. "
            f"Received: {type(found).__name__}"
        )
    names = plotting.short(found.index)
    ax = plotting.new(ax, 0.45 * len(found) + 1.0, plotting.width(names))
    values = 100 * np.asarray(found["decrease_ratio"], "float64")
    rows = np.arange(len(found))
    ax.hlines(rows, 0, values, color=plotting.BLUE, linewidth=2)
    ax.plot(values, rows, "o", color=plotting.BLUE)
    for row, value in zip(rows, values):
        ax.annotate(
            f"{value:+.3g} %",
            (value, row),
            xytext=(6 if value >= 0 else -6, 0),
            textcoords="offset points",
            ha="left" if value >= 0 else "right",
            va="center",
            fontsize=9,
        )
    ax.axvline(0, color=plotting.GRAY, linewidth=1, zorder=0)
    ax.set_yticks(rows, names)
    ax.set_ylim(len(found) - 0.5, -0.5)
    ax.margins(x=0.25)
    ax.set_xlabel("Decrease Ratio of the monosemantic scale (%)")
    return ax
