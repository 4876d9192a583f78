"""What the studies share: the splits, the network, the page.

The sets are small, so that ten seeds of many arms run on two cores in minutes;
what is seen here is seen on small sets.
"""

import dataclasses
import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "torch")
# The matrices are so small that a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import matplotlib.pyplot as plt
import numpy as np
import sklearn.datasets

from keras_memel import Comparison
from keras_memel.study.comparison import COLOURS

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "results"
PAGES = FOLDER.parents[1] / "docs" / "studies"

# The network and its training are those of examples/quickstart.py.
WIDTH, BATCH, LEARNING_RATE, EPOCHS = 256, 100, 3e-3, 50
TRAIN, VALIDATION = 400, 200


class Split:
    """A split of a set, with wrong labels, made from a seed.

    The labels of training *and* validation examples are wrong with the same
    share: who has wrong labels has them in both. Those of the test are right.

    Args:
        images: Examples, `(n, inputs)`; not images in all sets.
        labels: Their classes.
        seed: Of all that is random here.
        wrong_share: Share of the labels to make wrong.
        epochs: Number of epochs in `order`.
        train, validation, test: Number of examples of each part; a test of
            `None` takes what is left.
        groups: One an example, such as the person that it is of. The parts
            then share no group: of 10 groups 5 are for training, 2 for
            validation.
    """

    def __init__(
        self,
        images,
        labels,
        seed,
        wrong_share=0.0,
        epochs=EPOCHS,
        train=TRAIN,
        validation=VALIDATION,
        test=None,
        groups=None,
    ):
        self.images, self.labels = images, labels
        self.given = labels.copy()
        self.classes = int(labels.max()) + 1
        rng = np.random.default_rng(seed)
        if groups is None:
            parts = np.split(
                rng.permutation(len(images)), [train, train + validation]
            )
        else:
            found = rng.permutation(np.unique(groups))
            cuts = [len(found) // 2, len(found) * 7 // 10]
            parts = [
                rng.permutation(np.flatnonzero(np.isin(groups, some)))
                for some in np.split(found, cuts)
            ]
        self.train = parts[0][:train]
        self.validation = parts[1][:validation]
        self.test = parts[2][:test]
        wrong = []
        for part in (self.train, self.validation):
            chosen = rng.permutation(part)[: round(wrong_share * len(part))]
            shift = rng.integers(1, self.classes, len(chosen))
            self.given[chosen] = (labels[chosen] + shift) % self.classes
            wrong.append(chosen)
        self.wrong = wrong[0]
        # All epochs in one, in our own order: each backend shuffles in its
        # own way.
        self.order = np.concatenate(
            [rng.permutation(self.train) for _ in range(epochs)]
        )

    def batches(self):
        return self.order.reshape(-1, BATCH)


class Digits(Split):
    """scikit-learn's digits, split."""

    def __init__(self, seed, wrong_share=0.0, epochs=EPOCHS, train=TRAIN):
        images, labels = sklearn.datasets.load_digits(return_X_y=True)
        images = images.astype("float32") / 16.0
        super().__init__(images, labels, seed, wrong_share, epochs, train)


def build(between, seed, width=WIDTH, inputs=64, classes=10):
    """A network of two hidden layers; `between()` stands before each ReLU.

    The first weights depend on the seed only: initialisers have seeds of
    their own, since the layers of an arm draw from the global one.
    """

    def dense(units, number):
        glorot = keras.initializers.GlorotUniform(seed=10 * seed + number)
        return keras.layers.Dense(units, kernel_initializer=glorot)

    keras.utils.set_random_seed(seed)
    layers = [keras.Input((inputs,))]
    for number in (0, 1):
        layers += [dense(width, number), *between(), keras.layers.ReLU()]
    model = keras.Sequential([*layers, dense(classes, 2)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


_COMPILED = {}


def recycled(key, model):
    """A network that was compiled before, made what `model` is.

    A small network takes longer to compile than to train. Runs that differ in
    nothing but their seed may share what was compiled: all that changes in
    training, of the network and of its optimizer, is set to what it is in
    `model`.

    Args:
        key: What else tells the network from others: the arm.
        model: A new network, compiled in Keras' sense.

    Returns:
        `model` itself the first time; then the first one with its variables.
    """
    model.optimizer.build(model.trainable_variables)
    first = _COMPILED.setdefault(key, model)
    if first is not model:
        for old, new in (
            (first.variables, model.variables),
            (first.optimizer.variables, model.optimizer.variables),
        ):
            for ours, theirs in zip(old, new, strict=True):
                ours.assign(keras.ops.copy(theirs.value))
    return first


def fit(model, split):
    order = split.order
    images, labels = split.images[order], split.given[order]
    model.fit(images, labels, BATCH, shuffle=False, verbose=0)


def answers(model, images):
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    return logits.argmax(axis=-1)


def environments(runs):
    """Backend and versions of the runs, in one line."""
    found = sorted(
        {
            ", ".join(
                f"{name} {version}"
                for name, version in run["environment"]["versions"].items()
            )
            for run in runs
        }
    )
    return "; ".join(found)


def check(comparison, claims):
    """Raise unless each claim of a page, metric: {(arm, other): verdict}, is
    the verdict of the stored runs: words cannot be made from them, but must
    not outlive them."""
    for metric, verdicts in claims.items():
        found = {
            (c.arm, c.other): c.verdict
            for c in comparison.contrasts
            if c.metric == metric
        }
        for pair, verdict in verdicts.items():
            if found[pair] != verdict:
                raise AssertionError(
                    f"The page says that {pair[0]} less {pair[1]} ({metric}) "
                    f"is {verdict!r}; the runs say {found[pair]!r}."
                )


@dataclasses.dataclass(frozen=True)
class Finding:
    """A table of RESULTS.md: what was tried, and what the runs say.

    Attributes:
        title: What was done, on what.
        comparison: What came of it.
        metric: The one that counts, named before the runs.
        scale: 100 makes points of shares.
        unit: Of the numbers.
        better: What "better" means, where it is not a better network.
        wrong: Share of wrong labels, if the task is to do well in spite of
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
    """The same comparison of one metric: statistics of others take time."""
    runs = [
        {**run, "scores": {metric: run["scores"][metric]}}
        if metric in run.get("scores", ())
        else run
        for run in comparison.runs
    ]
    pairs = [
        pair for pair in comparison.pairs if pair[1] != comparison.baseline
    ]
    return Comparison(
        runs,
        comparison.arms,
        comparison.baseline,
        pairs,
        comparison.higher_is_better,
    )


def complete(file, arms):
    """Whether a store has all runs of ten seeds."""
    lines = file.read_bytes().count(b"\n") if file.is_file() else 0
    return lines >= 10 * len(arms)


def percent(share):
    return f"{100 * share:.0f} %"


def closed(lines, files, runs):
    """The page of these lines, with where its numbers come from."""
    files = f"examples/studies/results/{files}"
    return tidy([*lines, "", f"Run files: {files}; {environments(runs)}."])


def tidy(lines):
    """A page of these lines: no empty line follows another."""
    text = "\n".join(lines) + "\n"
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def table(rows):
    """Rows of cells, the first of which is the header, in Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]


def differences(columns, metric, scale=100):
    """Mean difference and verdict of each pair, a column a comparison.

    Args:
        columns: `Comparison` by the title of its column, with the same pairs.
        metric: Name of the metric.
        scale: 100 makes points of shares.
    """
    rows = [["", *columns]]
    for arm, other in next(iter(columns.values())).pairs:
        cells = [
            f"{scale * c.mean:+.1f} {c.verdict}"
            for found in columns.values()
            for c in found.contrasts
            if (c.metric, c.arm, c.other) == (metric, arm, other)
        ]
        rows.append([f"{arm} less {other}", *cells])
    return table(rows)


def means(columns, metric, scale=100, decimals=1):
    """Mean of the seeds of each arm, a column a comparison."""
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


def edges(columns, methods, arms):
    """How often the last strength of a grid was chosen, in per cent.

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
    "accuracy less plain, points\n(mean, 95 % interval; blue: better, orange: "
    "worse, grey: not shown)"
)


def intervals(comparison, metric, axes, title, scale=100):
    """Mean and interval of each arm less the baseline."""
    rows = [
        c
        for c in comparison.contrasts
        if (c.metric, c.other) == (metric, comparison.baseline)
    ]
    for place, c in enumerate(rows):
        colour = COLOURS[c.verdict]
        ends = [scale * c.low, scale * c.high]
        axes.plot(ends, [place] * 2, color=colour, lw=2)
        axes.plot(scale * c.mean, place, "o", color=colour)
    axes.set_yticks(range(len(rows)), [c.arm for c in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.axvline(0.0, color="black", lw=1)
    axes.set_title(title.replace(", ", "\n"), fontsize=9, loc="left")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def side_by_side(comparisons, size, rows=1):
    """A figure of accuracy less plain, a panel a comparison, by its title."""
    plot, panels = plt.subplots(
        rows,
        -(-len(comparisons) // rows),
        figsize=size,
        layout="constrained",
        sharey=True,
    )
    panels = np.atleast_1d(panels).ravel()
    for panel, (title, found) in zip(panels, comparisons.items()):
        intervals(found, "accuracy", panel, title)
    for panel in panels[len(comparisons) :]:
        panel.set_axis_off()
    plot.supxlabel(INTERVALS, fontsize=9)
    return plot


def write_page(name, text, figure=None):
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    if figure is not None:
        figure.savefig(PAGES / f"{name}.png", dpi=110)
