"""Show the contrasts of one metric as tables and in a figure."""

import math
import re
import statistics
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_memel.evaluation.contrasts import Contrast
from keras_memel.utils import plotting
from keras_memel.utils.types import Axes

COLORS = {
    "better": plotting.BLUE,
    "worse": plotting.ORANGE,
    "not shown": plotting.GRAY,
}


def markdown(
    contrasts: Sequence[Contrast],
    scale: float,
    labels: Mapping[str, str] | None,
) -> str:
    """Return the table of `Comparison.to_markdown`."""
    header, *rows = _cells(contrasts, scale, labels)
    rule = "|---" + "|--:" * (len(header) - 2) + "|---|"
    lines = [
        "| " + " | ".join(map(_escaped, row)) + " |" for row in (header, *rows)
    ]
    return "\n".join([lines[0], rule, *lines[1:]])


def _escaped(text: str) -> str:
    """Escape text so that Markdown shows it unchanged in one table cell."""
    text = " ".join(text.split())
    text = re.sub(r"[\\`*|<\[]", r"\\\g<0>", text)
    # Markdown ignores an underscore within a word.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)


def pair(contrast: Contrast, labels: Mapping[str, str] | None = None) -> str:
    """Return the name of a comparison, "MEmeL vs. plain"."""
    labels = labels or {}
    arm, other = (
        labels.get(name, name) for name in (contrast.arm, contrast.other)
    )
    return f"{arm} vs. {other}"


def check_labels(labels: Mapping[str, str] | None, arms: Sequence[str]) -> None:
    """Raise unless `labels` maps some of the arms to names to show."""
    good = labels is None or isinstance(labels, Mapping)
    if not good or any(name not in arms for name in labels or {}):
        raise ValueError(
            "Argument `labels` must be a dictionary from names of arms to "
            f"names to show; the arms are {list(arms)}. "
            f"Received: labels={labels!r}"
        )


def text(
    contrasts: Sequence[Contrast],
    scale: float,
    labels: Mapping[str, str] | None = None,
) -> str:
    """Return the table of `markdown` in columns for a terminal."""
    table = _cells(contrasts, scale, labels)
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row, widths)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([lines[0], rule, *lines[1:]])


def _cells(
    contrasts: Sequence[Contrast],
    scale: float,
    labels: Mapping[str, str] | None,
) -> list[list[str]]:
    """Return the column names, then one row of texts per contrast."""
    # The number of decimals gives the typical deviation two digits.
    spread = [np.std(scale * c.deltas) for c in contrasts if c.seeds]
    typical = statistics.median(spread) if spread else 0.0
    decimals = 1 - math.floor(math.log10(typical)) if typical > 0 else 2
    decimals = max(0, decimals)

    def number(value: float) -> str:
        return f"{scale * value:+.{decimals}f}"

    def span(low: float, high: float) -> str:
        return "" if math.isnan(low) else f"{number(low)} to {number(high)}"

    interval = f"{100 * (1 - contrasts[0].level):.4g} % interval"
    header = [contrasts[0].metric, "mean", "lowest to highest", interval]
    rows = [[*header, "p", "detectable", "verdict"]]
    for c in contrasts:
        ends = (min(c.deltas), max(c.deltas)) if c.seeds else (math.nan,) * 2
        rows.append(
            [
                pair(c, labels),
                "" if math.isnan(c.mean) else number(c.mean),
                span(*ends),
                span(c.low, c.high),
                "" if math.isnan(c.p) else f"{c.p_holm:.3f}",
                "" if math.isinf(c.detectable) else number(c.detectable)[1:],
                c.verdict,
            ]
        )
    return rows


def plot(
    contrasts: Sequence[Contrast],
    scale: float,
    ax: Axes | None,
    labels: Mapping[str, str] | None = None,
) -> Axes:
    """Draw the figure of `Comparison.plot`."""
    ax = plotting.new(ax, 1.2 + 0.5 * len(contrasts), width=7)
    for place, c in enumerate(contrasts):
        # Seeds run from top to bottom, so that a reader can follow one.
        spread = place + np.linspace(-0.22, 0.22, len(c.deltas))
        shade, ends = COLORS[c.verdict], [scale * c.low, scale * c.high]
        ax.plot(scale * c.deltas, spread, "o", color=shade, alpha=0.5, ms=4)
        ax.plot(ends, [place] * 2, color=shade, lw=3)
        ax.plot(scale * c.mean, place, "D", color=shade, ms=8, mec="w")
    ax.axvline(0.0, color="black", lw=1)
    names = [plotting.plain(pair(c, labels)) for c in contrasts]
    ax.set_yticks(range(len(contrasts)), names)
    # An explicit order, which also holds where panels share the axis.
    ax.set_ylim(len(contrasts) - 0.5, -0.5)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", alpha=0.3)
    ax.set_xlabel(plotting.plain(f"difference in {contrasts[0].metric}"))
    return ax
