"""What all pictures share: colours, axes, names at the ends of lines.

Colours are Okabe and Ito's and viridis: they can be told apart without colour
vision.
"""

import math
from collections.abc import Sequence
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


# Longer names leave no room for what they name.
_LONGEST = 26


def short(names: Sequence[Any], longest: int = _LONGEST) -> list[str]:
    r"""Names that fit beside axes, drawn as they are, and still differ.

    If a name is too long, what all names begin with goes first, and then the
    middle of it.

    Args:
        names: Paths, labels or arms.
        longest: Characters of each at most.

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
    if len(set(found)) < len(set(texts)):  # They differ in the middle only
        found = [f"{i} {text}" for i, text in enumerate(found)]
    return [plain(text) for text in found]


def width(names: Sequence[str]) -> float:
    """The width of a figure with such names beside its axes, in inches."""
    return 5.6 + 0.08 * max(map(len, names), default=0)


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
    shown = short([name for _, name, _ in ends])
    ends = [(y, name, shade) for (y, _, shade), name in zip(ends, shown)]
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
            name,
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
