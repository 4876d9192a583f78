"""Style of all plots: colors, axes, and names at the ends of lines.

The colors are those of Okabe and Ito, and viridis. Readers without color
vision can distinguish them.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Axes

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#999999"


def new(ax: Axes | None, height: float = 3.6, width: float = 6.0) -> Axes:
    """Return `ax` or, if it is `None`, new axes, without a box around them."""
    plt = need("matplotlib.pyplot", "plot", "a plot")
    if ax is not None and not hasattr(ax, "spines"):
        raise ValueError(
            "Argument `ax` must be Axes of matplotlib, or None. "
            f"Received: ax={ax!r} ({type(ax).__name__})"
        )
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plain(text: str) -> str:
    r"""Escape `$` in a name, so that it does not start a formula.

    Example:

    >>> print(plain("price in $"))
    price in \$
    """
    return str(text).replace("$", r"\$")


# Longer names would leave too little space for the plot.
_LONGEST = 26


def short(names: Sequence[Any], longest: int = _LONGEST) -> list[str]:
    r"""Shorten names to fit next to the axes. Names that differ stay different.

    If a name is too long, the prefix that all names share is removed first, and
    then the middle of the name. `$` is escaped as by `plain`.

    Args:
        names: Paths, labels or arms.
        longest: Maximum number of characters of each name.

    Example:

    >>> short(["model/block_1/dense", "model/block_2/dense"], longest=12)
    ['…1/dense', '…2/dense']
    >>> short(["price in $ per unit"], longest=12)
    ['price … unit']
    """
    texts = [str(name) for name in names]
    common = ""
    if len(set(texts)) > 1:
        same = [len(set(letters)) == 1 for letters in zip(*texts)]
        common = texts[0][: [*same, False].index(False)]
    found = []
    for text in texts:
        if len(text) > longest and len(common) > 1:
            text = "…" + text[len(common) :]
        if len(text) > longest:
            end = longest // 2 - 1
            text = f"{text[: longest - end - 1]}…{text[-end:]}"
        found.append(text)
    if len(set(found)) < len(set(texts)):  # They differ only in the middle
        found = [f"{i} {text}" for i, text in enumerate(found)]
    return [plain(text) for text in found]


def width(names: Sequence[str]) -> float:
    """Return the width in inches of a figure with names next to its axes."""
    return 5.6 + 0.08 * max(map(len, names), default=0)


def level(ax: Axes, axis: str, value: float, name: str) -> None:
    """Draw a dashed line with a name at a value of `axis`, "x" or "y"."""
    upright = axis == "x"
    draw = ax.axvline if upright else ax.axhline
    draw(value, color=GRAY, linewidth=1, linestyle="--", zorder=0)
    ax.annotate(
        name,
        (value, 1) if upright else (0, value),
        xycoords=("data", "axes fraction")[:: 1 if upright else -1],
        xytext=(3, 2),
        textcoords="offset points",
        color="#666666",
        fontsize=8,
    )


def name_lines(ax: Axes, x: float, ends: list[tuple[float, str, Any]]) -> None:
    """Write names at the ends of lines, moved apart, instead of a legend."""
    ends = [end for end in ends if math.isfinite(end[0])]
    if not ends:
        return
    ax.figure.draw_without_rendering()
    gap = 11.0 * ax.figure.dpi / 72
    box = ax.get_window_extent()
    room = max(1, int(box.height / gap))
    if len(ends) > room:  # Keep as many as fit, the first and last included
        kept = np.linspace(0, len(ends) - 1, room).round().astype(int)
        ends = [ends[i] for i in kept]
    shown = short([name for _, name, _ in ends])
    ends = [(y, name, shade) for (y, _, shade), name in zip(ends, shown)]
    ends.sort(key=lambda end: end[0])
    own = [ax.transData.transform((x, end[0]))[1] for end in ends]
    at: list[float] = []
    for height in own:
        at.append(max(height, at[-1] + gap) if at else height)
    # Move names back down that would be above the axes.
    highest = max(box.y1, own[-1])
    for i in reversed(range(len(at))):
        at[i] = min(at[i], highest)
        highest = at[i] - gap
    for (y, name, shade), height, start in zip(ends, at, own):
        ax.annotate(
            name,
            (x, y),
            xytext=(6, (height - start) * 72 / ax.figure.dpi),
            textcoords="offset points",
            color=shade,
            va="center",
            fontsize=8,
        )


def plain_log(axis: Any) -> None:
    """Label a logarithmic axis with plain numbers, such as 5 and 20.

    The number of labels depends on the range of the axis.
    """
    from matplotlib.ticker import FuncFormatter
    from matplotlib.ticker import LogLocator
    from matplotlib.ticker import NullFormatter

    low, high = axis.get_view_interval()
    span = high / low if low > 0 else np.inf
    subs = [1.0] if span > 200 else [1, 2, 5]
    if span < 8:
        subs = [1, 1.5, 2, 3, 5, 7]
    axis.set_major_locator(LogLocator(subs=subs, numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def percent(axis: Any) -> None:
    """Show fractions in %."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:g} %")
    )
