"""What all pictures share: colours, axes, names at the ends of lines.

Colours are Okabe and Ito's and viridis: they can be told apart without colour
vision.
"""

import math
from typing import Any

import numpy as np

from keras_memel.utils.types import Axes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#999999"


def new(ax: Axes | None, height: float = 3.6, width: float = 6.0) -> Axes:
    """The axes that were given, or new ones, without a box around them."""
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plain(text: str) -> str:
    r"""A name that is drawn as it is: `$` begins no formula.

    Example:

    >>> print(plain("price in $"))
    price in \$
    """
    return str(text).replace("$", r"\$")


def level(ax: Axes, axis: str, value: float, name: str) -> None:
    """A dashed line where `axis`, "x" or "y", has a value; and its name."""
    upright = axis == "x"
    draw = ax.axvline if upright else ax.axhline
    draw(value, color=GREY, linewidth=1, linestyle="--", zorder=0)
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
    """Names at the ends of lines, moved apart, in place of a legend."""
    ends = [end for end in ends if math.isfinite(end[0])]
    if not ends:
        return
    ax.figure.draw_without_rendering()
    gap = 11.0 * ax.figure.dpi / 72
    box = ax.get_window_extent()
    room = max(1, int(box.height / gap))
    if len(ends) > room:  # As many as fit, first and last among them
        kept = np.linspace(0, len(ends) - 1, room).round().astype(int)
        ends = [ends[i] for i in kept]
    ends.sort(key=lambda end: end[0])
    own = [ax.transData.transform((x, end[0]))[1] for end in ends]
    at: list[float] = []
    for height in own:
        at.append(max(height, at[-1] + gap) if at else height)
    # Back down, where names would rise above the axes.
    highest = max(box.y1, own[-1])
    for i in reversed(range(len(at))):
        at[i] = min(at[i], highest)
        highest = at[i] - gap
    for (y, name, shade), height, start in zip(ends, at, own):
        ax.annotate(
            plain(name),
            (x, y),
            xytext=(6, (height - start) * 72 / ax.figure.dpi),
            textcoords="offset points",
            color=shade,
            va="center",
            fontsize=8,
        )


def plain_log(axis: Any) -> None:
    """Numbers as 5 and 20 rather than powers, and as many as have room."""
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
    """Shares as per cent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{100 * value:g} %")
    )
