"""Tables, figures and pages of the studies, and checks of their claims."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np

from examples.studies.common import training
from keras_memel import Comparison
from keras_memel.evaluation.tables import COLORS

PAGES = training.EXAMPLES.parent / "docs" / "studies"


def environments(runs):
    """Return the backend and the versions of the runs, in one line."""
    found = set()
    for run in runs:
        versions = dict(run["environment"]["versions"])
        # The run files do not all have the same order.
        first = [n for n in ("python", "keras", "keras_memel") if n in versions]
        names = dict.fromkeys([*first, *versions])
        found.add(", ".join(f"{name} {versions[name]}" for name in names))
    return "; ".join(sorted(found))


def check(comparison, claims):
    """Raise unless the stored runs support each claim of a page.

    The sentences of a page are written by hand. This check fails if new runs
    contradict them.

    Args:
        comparison: The stored runs.
        claims: Metric: {(arm, other): verdict}.
    """
    for metric, verdicts in claims.items():
        found = {
            (c.arm, c.other): c.verdict
            for c in comparison.contrasts
            if c.metric == metric
        }
        for pair, verdict in verdicts.items():
            if found[pair] != verdict:
                raise AssertionError(
                    f"The page claims that {pair[0]} vs. {pair[1]} ({metric}) "
                    f"is {verdict!r}; the runs show {found[pair]!r}."
                )


@dataclasses.dataclass(frozen=True)
class Finding:
    """Describe a table of RESULTS.md.

    Attributes:
        title: Data and methods.
        comparison: Its runs.
        metric: The main metric, chosen before the runs.
        scale: Factor of the numbers; 100 converts shares to points.
        unit: Unit of the numbers.
        better: Meaning of "better", if it is not a better network.
        wrong: Share of wrong labels, if the task is accuracy in spite of
            them.
        tuned: Whether each method had several trials.
    """

    title: str
    comparison: Comparison
    metric: str
    scale: float = 100
    unit: str = "points of accuracy"
    better: str = ""
    wrong: float | None = None
    tuned: bool = False


def only(comparison, metric):
    """Return the comparison of one metric, without the slow tests of others."""
    runs = [
        {**run, "scores": {metric: run["scores"][metric]}}
        if metric in run.get("scores", ())
        else run
        for run in comparison.runs
    ]
    pairs = [
        pair for pair in comparison.pairs if pair[1] != comparison.baseline
    ]
    up = comparison.higher_is_better
    if isinstance(up, dict):  # It may only name metrics of the runs.
        up = up.get(metric, True)
    return Comparison(runs, comparison.arms, comparison.baseline, pairs, up)


def decimals(contrasts, scale=1):
    """Return the number of decimals of the ends of these intervals.

    Two digits of the width of the interval: its ends are less accurate than the
    second digit.
    """
    widths = [abs(scale * (c.high - c.low)) for c in contrasts]
    widest = max((w for w in widths if not math.isnan(w)), default=1.0)
    return max(0, 1 - math.floor(math.log10(widest or 1.0)))


def effect(contrast):
    """Return the mean and the interval of a contrast as two cells."""
    places = decimals([contrast])
    mean, low, high = (
        f"{number:+.{places}f}"
        for number in (contrast.mean, contrast.low, contrast.high)
    )
    return [mean, f"{low} to {high}"]


def percent(share):
    return f"{100 * share:.0f} %"


def closed(lines, files, runs):
    """Return the page of these lines, with its run files and versions."""
    files = f"examples/studies/results/{files}"
    return tidy([*lines, "", f"Run files: {files}; {environments(runs)}."])


def tidy(lines):
    """Return the page of these lines, without consecutive empty lines."""
    text = "\n".join(lines) + "\n"
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def answer_first(answer, lines):
    """Return the lines of a page with the answer and the figure on top.

    Args:
        answer: One or two sentences, printed in bold.
        lines: Title, comment, the paragraphs of the method, a paragraph that
            begins with "Finding: ", a figure, and the results.
    """
    figure = next(i for i, line in enumerate(lines) if line.startswith("!["))
    seen = next(i for i, line in enumerate(lines) if line.startswith("Finding"))
    title, method = lines[:4], lines[4:seen]
    results = lines[figure + 1 :]
    first = next((line for line in results if line), "##")
    return [
        *title,
        f"**{answer}**",
        "",
        lines[figure],
        "",
        capital(lines[seen].removeprefix("Finding: ")),
        *lines[seen + 1 : figure],
        "## Method",
        "",
        *method,
        *([] if first.startswith("##") else ["## Results", ""]),
        *results,
    ]


def capital(text):
    return text[0].upper() + text[1:]


def runs_of(comparisons):
    return [run for found in comparisons.values() for run in found.runs]


def notes(comparison, metric="accuracy"):
    """Return the notes on a comparison, for the end of its section."""
    return ["", *(f"- {note}" for note in comparison.notes(metric))]


def table(rows):
    """Return a Markdown table of rows of cells; the first is the header."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def differences(columns):
    """Return a table of the mean difference and the verdict of each pair.

    Args:
        columns: `Comparison` by the title of its column, with the same pairs.
    """
    rows = [["", *columns]]
    for arm, other in next(iter(columns.values())).pairs:
        cells = [
            f"{100 * c.mean:+.1f} {c.verdict}"
            for found in columns.values()
            for c in found.contrasts
            if (c.metric, c.arm, c.other) == ("accuracy", arm, other)
        ]
        rows.append([f"{arm} vs. {other}", *cells])
    return table(rows)


def means(columns, metric, scale=100, decimals=1):
    """Return a table of the mean of each arm, a column per comparison."""
    rows = [["", *columns]]
    for arm in next(iter(columns.values())).arms:
        rows.append(
            [arm]
            + [
                f"{scale * found.scores(metric)[arm].mean():.{decimals}f}"
                for found in columns.values()
            ]
        )
    return table(rows)


def accuracies(columns):
    """Return the tables of differences and means of the accuracy."""
    return [
        "Difference of accuracy in points, and verdict (Holm's correction over "
        "the rows of a column):",
        "",
        *differences(columns),
        "",
        "Accuracy, %, mean over the seeds:",
        "",
        *means(columns, "accuracy"),
    ]


def edges(columns, methods, arms):
    """Return a table of how often the last rate of a grid was chosen, in %.

    Args:
        columns: `Comparison` of tuned methods, by the title of the column.
        methods: Names of the methods.
        arms: By name: method and strength, weakest first.
    """
    rows = [["", *columns]]
    for method in methods:
        edge = [rate for name, rate in arms.values() if name == method][-1]
        cells = []
        for found in columns.values():
            chosen = [r["rate"] for r in found.runs if r["arm"] == method]
            cells.append(f"{100 * np.mean(np.array(chosen) == edge):.0f}")
        rows.append([method, *cells])
    return table(rows)


INTERVALS = (
    "accuracy vs. plain, points\n(mean, 95 % interval; blue: better, orange: "
    "worse, gray: not shown)"
)


def intervals(comparison, axes, title):
    """Plot the accuracy of each arm vs. the baseline, mean and interval."""
    rows = [
        c
        for c in comparison.contrasts
        if (c.metric, c.other) == ("accuracy", comparison.baseline)
    ]
    for place, c in enumerate(rows):
        color = COLORS[c.verdict]
        ends = [100 * c.low, 100 * c.high]
        axes.plot(ends, [place] * 2, color=color, lw=2)
        axes.plot(100 * c.mean, place, "o", color=color)
    axes.set_yticks(range(len(rows)), [c.arm for c in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0.0, color="black", lw=1)
    axes.set_title(title.replace(", ", "\n"), fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def panels_of(number, height=2.8, **settings):
    """Return a figure and its panels, two in a row: legible on a telephone."""
    rows = -(-number // 2)
    plot, panels = plt.subplots(
        rows,
        min(number, 2),
        figsize=(8, height * rows),
        layout="constrained",
        **settings,
    )
    panels = np.atleast_1d(panels).ravel()
    for panel in panels[number:]:
        panel.set_axis_off()
    return plot, panels[:number]


def side_by_side(comparisons):
    """Draw accuracy vs. plain, one panel per comparison, by its title."""
    plot, panels = panels_of(len(comparisons), 2.4, sharey=True)
    for panel, (title, found) in zip(panels, comparisons.items()):
        intervals(found, panel, title)
    plot.supxlabel(INTERVALS, fontsize=9)
    return plot


def bare(panel):
    """Remove spines from a panel, and add a light grid."""
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def write(name, text, figure=None):
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    if figure is not None:
        figure.savefig(PAGES / f"{name}.png", dpi=110)
