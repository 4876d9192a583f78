"""Inhibit monosemanticity, or encourage it?

    python examples/studies/encourage.py [--seeds 10]

Wang et al. (2024) reverse the gradient of the most deviant values. Yan et al.
(2024, arXiv 2406.17969) argue that monosemanticity should be encouraged, by
less correlated features. Nasiri-Sarvi et al. (2026, arXiv 2602.12403) reward
units that respond to similar inputs. This script compares all three, and
placebos, on the same tasks: Reverse Deactivation with a gradient of -delta
(inhibit), of +delta (encourage), a penalty on the correlation of units, and
MonoLoss. It writes docs/studies/encourage.md.
"""

import functools
import pathlib

import keras
import numpy as np

from examples.studies import label_noise
from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import sets
from examples.studies.common import training
from keras_memel import Comparison
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import RunStore
from keras_memel import compare

TASKS = [
    ("digits", 0.2),
    ("fashion_mnist", 0.2),
    ("digits", 0.0),
]
RATE = 0.1  # share of all values that are inhibited


@keras.saving.register_keras_serializable("studies")
class Decorrelation(keras.layers.Layer):
    """Add a loss: the mean squared correlation of two units, times `weight`.

    The correlation is that of a batch. The layer returns its input.
    """

    def __init__(self, weight, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, values, training=None):
        if training:
            self.add_loss(self.weight * squared_correlation(values))
        return values


def squared_correlation(values):
    """Return the mean over pairs of units of `(batch, units)`, a scalar."""
    ops = keras.ops
    centered = values - ops.mean(values, axis=0)
    # A constant unit has a correlation of 0 with all others.
    scale = ops.sqrt(ops.sum(ops.square(centered), axis=0) + 1e-6)
    correlation = ops.matmul(ops.transpose(centered / scale), centered / scale)
    units = values.shape[-1]
    own = ops.sum(ops.square(ops.diagonal(correlation)))
    total = ops.sum(ops.square(correlation)) - own
    return total / (units * (units - 1))


@keras.saving.register_keras_serializable("studies")
class MonoLoss(keras.layers.Layer):
    """A loss: `weight * (1 - mean MonoScore)` of the units over a batch
    (Nasiri-Sarvi et al. 2026). The values stay what they are."""

    def __init__(self, weight, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, values, embeddings, training=None):
        if training:
            score = keras.ops.mean(monoscores(values, embeddings))
            self.add_loss(self.weight * (1.0 - score))
        return values


def monoscores(values, embeddings):
    """Return the MonoScore of each unit over a batch, `(units,)`.

        a_n = (z_n - min z) / (max z - min z)
        MonoScore = sum_(n < m) a_n a_m cos(e_n, e_m) / sum_(n < m) a_n a_m

    `values` holds the `z_n`, `(batch, units)`, `embeddings` the `e_n`. Twice
    each sum over pairs is a squared sum over inputs, minus the sum of squares.
    The gradient flows through the minimum and the maximum too, as it does in
    the code that the authors released (github.com/AtlasAnalyticsLab/MonoLoss,
    sae/loss.py and finetuning/utils.py at commit 7108eb9). A unit that never
    changes scores 0.
    """
    ops = keras.ops
    length = ops.sqrt(ops.sum(ops.square(embeddings), axis=1, keepdims=True))
    directions = embeddings / ops.maximum(length, 1e-8)
    low, high = ops.min(values, axis=0), ops.max(values, axis=0)
    a = (values - low) / (high - low + 1e-8)
    squares = ops.sum(ops.square(a), axis=0)
    mean = ops.matmul(ops.transpose(directions), a)
    similar = ops.sum(ops.square(mean), axis=0) - squares
    return similar / (ops.square(ops.sum(a, axis=0)) - squares + 1e-8)


def with_monoloss(plain, weight):
    """Return `plain` with a MonoLoss before both ReLUs, whose embeddings are
    the inputs. Its layers are those of `plain`, so that training it trains
    both."""
    inputs = values = keras.Input(plain.input_shape[1:])
    for layer in plain.layers:
        if isinstance(layer, keras.layers.ReLU):
            values = MonoLoss(weight)(values, inputs)
        values = layer(values)
    model = keras.Model(inputs, values)
    model.compile(plain.optimizer, plain.loss)
    return model


def stands_out(delta):
    return MEmeL(Rate(RATE), ReverseDeactivation(delta))


def any_value(delta):
    return MEmeL(Random(RATE), ReverseDeactivation(delta))


# The layer of each method, a function of its strength, and its trials. The
# released scripts of MonoLoss try weights up to 0.1, on one layer.
METHODS = {
    "inhibit": (stands_out, (0.5, 1.0, 2.0)),
    # -1 is naive (b) of the paper.
    "encourage": (stands_out, (-0.5, -1.0, -2.0)),
    "decorrelate": (Decorrelation, (0.1, 1.0, 10.0)),
    "MonoLoss": (MonoLoss, (0.1, 1.0, 10.0)),
    "placebo of inhibit": (any_value, (0.5, 1.0, 2.0)),
    "placebo of encourage": (any_value, (-0.5, -1.0, -2.0)),
    "naive (a)": (lambda rate: MEmeL(Rate(rate), "naive_a"), (0.05, 0.1, 0.2)),
    "dropout": (keras.layers.Dropout, (0.2, 0.5, 0.65)),
}


def trials(methods):
    """Arms by name: plain training, and each method with each strength."""
    return {"plain": ("plain", 0.0)} | {
        f"{method} {strength:g}": (method, strength)
        for method in methods
        for strength in METHODS[method][1]
    }


# MonoLoss was added later. The methods that it is compared with were trained
# again, into a separate store: the earlier runs of one task do not repeat.
FIRST = [method for method in METHODS if method != "MonoLoss"]
LATER = ("MonoLoss", "inhibit", "dropout")
ARMS, LATER_ARMS = trials(FIRST), trials(LATER)
CONTRASTS = [
    ("inhibit", "encourage"),
    ("inhibit", "decorrelate"),
    ("inhibit", "placebo of inhibit"),
    ("encourage", "placebo of encourage"),
    ("decorrelate", "dropout"),
]
LATER_CONTRASTS = [("inhibit", "MonoLoss"), ("MonoLoss", "dropout")]
MEASURES = {
    "phi": "phi that 2 % of the values exceed",
    "fkr": "False Killing Rate",
    "correlation": "squared correlation of two units",
}


def run(name, share, path, arm, seed):
    """Train and test one network, and measure its second layer."""
    method, strength = arm
    data = sets.split(name, share, seed, path)

    def between():
        return [METHODS[method][0](strength)] if method in METHODS else []

    if method == "MonoLoss":
        model = training.build(
            list, seed, inputs=data.images.shape[1], classes=data.classes
        )
        training.fit(with_monoloss(model, strength), data)
    else:
        model = training.trained(data, between, seed, key=(name, arm))
    return label_noise.scores(model, data) | measures(model, data)


def measures(model, data):
    """Measure the second layer before its ReLU, on the test images.

    phi and the False Killing Rate are those of scale.py.
    """
    values = training.second_layer(model, data.images[data.test])
    phi, labels = training.phi(values), data.labels[data.test]
    own = labels[:, None] == training.features(phi, labels, data.classes)
    limit, killed = training.extremes(phi, own)
    tensor = keras.ops.convert_to_tensor(values)
    images = keras.ops.convert_to_tensor(data.images[data.test])
    return {
        "phi": limit,
        "fkr": killed,
        "correlation": float(squared_correlation(tensor)),
        "monoscore": float(keras.ops.mean(monoscores(tensor, images))),
    }


def store(name, share, which="encourage"):
    return training.store(f"{which}_{name}", share)


def stored():
    """Return the comparison of tuned methods for each task."""
    return compared("encourage", ARMS, FIRST, CONTRASTS)


def stored_later():
    """Return that of MonoLoss and the methods that were run again with it."""
    return compared("monoloss", LATER_ARMS, LATER, LATER_CONTRASTS)


def compared(which, arms, methods, contrasts):
    """Return the comparison of tuned methods for each task that is complete."""
    return {
        (name, share): Comparison(
            training.tuned(RunStore(store(name, share, which)).read(), arms),
            ["plain", *methods],
            contrasts=contrasts,
        )
        for name, share in TASKS
        if training.complete(store(name, share, which), arms)
    }


def findings():
    """Yield the tables of this study in RESULTS.md."""
    for (name, share), found in stored().items():
        yield pages.Finding(
            f"{sets.title(name, share)} labels, inhibit or encourage",
            found,
            "accuracy",
            wrong=share,  # The page is not `tuned`, because the rate is fixed.
        )
    for (name, share), found in stored_later().items():
        yield pages.Finding(
            f"{sets.title(name, share)} labels, MonoLoss",
            found,
            "accuracy",
            wrong=share,
        )


# The verdicts that the page claims.
CLAIMS = {
    ("digits", 0.2): {
        "accuracy": {
            ("inhibit", "plain"): "better",
            ("inhibit", "encourage"): "better",
            ("inhibit", "decorrelate"): "better",
            ("inhibit", "placebo of inhibit"): "better",
            ("decorrelate", "plain"): "better",
            ("encourage", "plain"): "not shown",
            ("decorrelate", "dropout"): "worse",
        },
        "correlation": {
            ("decorrelate", "plain"): "worse",
            ("encourage", "plain"): "better",
        },
        "fkr": {
            ("decorrelate", "plain"): "not shown",
            ("encourage", "plain"): "not shown",
        },
    },
    ("fashion_mnist", 0.2): {
        "accuracy": {
            ("inhibit", "plain"): "better",
            ("inhibit", "placebo of inhibit"): "not shown",
            ("inhibit", "encourage"): "not shown",
            ("encourage", "plain"): "not shown",
            ("decorrelate", "plain"): "not shown",
        },
    },
    ("digits", 0.0): {
        "accuracy": {
            ("inhibit", "plain"): "not shown",
            ("encourage", "plain"): "worse",
            ("decorrelate", "plain"): "not shown",
        },
    },
}
LATER_CLAIMS = {
    key: {
        "accuracy": {
            ("MonoLoss", "plain"): "not shown",
            ("inhibit", "MonoLoss"): "better" if key[1] else "not shown",
            ("MonoLoss", "dropout"): "worse" if key[1] else "not shown",
        },
        "monoscore": {("MonoLoss", "plain"): "better"},
        "correlation": {
            ("MonoLoss", "plain"): "not shown"
            if key == ("digits", 0.2)
            else "better"
        },
    }
    for key in TASKS
}
LATER_SEEN = (
    "MonoLoss raises the MonoScore on all three tasks, as intended, and makes "
    "the units more correlated on two of them; on digits with wrong labels "
    "this is not shown. It is not shown to raise accuracy on any task. "
    "With wrong labels, inhibition and dropout are better than MonoLoss; with "
    "correct labels this is not shown."
)
LATER_MEASURES = {
    "monoscore": "MonoScore, mean of the units",
    "fkr": "False Killing Rate",
    "correlation": "squared correlation of two units",
}
SEEN = (
    "Finding: on digits with 20 % wrong labels, inhibiting a tenth of the "
    "values helps the most of the three, decorrelating helps a little, and "
    "encouraging is not shown to help. Dropout is better than decorrelation. "
    "Inhibition is better than its placebo at this rate, but not at a higher "
    "one ([wrong labels](label_noise.md)). On Fashion-MNIST inhibition helps, "
    "but is not shown to differ from its placebo; the other two are not shown "
    "to help. On digits with correct labels, encouraging harms, and no effect "
    "of the others is shown. Decorrelation lowers the correlation, as "
    "intended, and raises the monosemantic scale (phi). Encouraging by "
    "gradient makes the units more correlated. The two kinds of encouragement "
    "therefore have different effects. Neither is shown to change how often "
    "the extreme values belong to the unit's class. A third kind, MonoLoss, "
    "is not shown to help on any task; with wrong labels it is worse than "
    "inhibition and dropout "
    "([below](#monoloss-reward-units-for-similar-inputs))."
)


ANSWER = (
    "On digits with wrong labels, inhibiting a tenth of the values helps more "
    "than encouraging them or decorrelating units. On Fashion-MNIST, "
    "inhibiting is not shown to differ from encouraging or from its placebo. "
    "MonoLoss, which rewards monosemantic units, is not shown to help."
)


def page(comparisons):
    """Return the page in Markdown."""
    for key, claims in CLAIMS.items():
        pages.check(comparisons[key], claims)
    columns = sets.titled(comparisons)
    lines = [
        "# Inhibit monosemanticity, or encourage it?",
        "",
        "<!-- Written by examples/studies/encourage.py. -->",
        "",
        f"The networks have 2 x {training.WIDTH} units. The columns state the "
        "share of wrong labels in training and validation. Inhibiting and "
        f"encouraging replace the most deviant {pages.percent(RATE)} of the "
        "values before both ReLUs with the mean of their neuron, and multiply "
        "the gradient by -delta. Inhibit reverses the gradient (delta of 0.5, "
        "1 or 2); encourage keeps its sign (delta of -0.5, -1 or -2; -1 is the "
        "paper's naive (b)). The placebos do the same to random values. "
        "Decorrelate adds the mean squared correlation of two units over a "
        "batch to the loss, with a weight of 0.1, 1 or 10. It follows Yan et "
        "al. (2024, arXiv 2406.17969), who use decorrelation to encourage "
        "monosemanticity. naive (a) tries rates of 5, 10 and 20 %, dropout 20, "
        "50 and 65 %. For each method and seed, the trial that is best on "
        "validation images counts. "
        f"{len(next(iter(comparisons.values())).seeds)} paired seeds.",
        "",
        SEEN,
        "",
        "![One panel per task: accuracy minus that of plain training, by "
        "method](encourage.png)",
        "",
        *pages.accuracies(columns),
    ]
    lines = pages.answer_first(ANSWER, lines)
    for metric, text in MEASURES.items():
        scale = 1 if metric == "phi" else 100
        unit = "" if metric == "phi" else ", %"
        lines += [
            "",
            f"{pages.capital(text)}{unit} (second layer before its "
            "ReLU, test images), mean over the seeds:",
            "",
            *pages.means(columns, metric, scale, 2 if metric == "phi" else 1),
        ]
    for name, found in columns.items():
        lines += ["", f"## {pages.capital(name)}", ""]
        lines += [found.to_markdown("accuracy", scale=100)]
        for metric, text in MEASURES.items():
            table = found.to_markdown(
                metric, scale=1 if metric == "phi" else 100
            )
            lines += ["", f'{pages.capital(text)} ("better" is higher):']
            lines += ["", table]
        lines += pages.notes(found)
    missing = [sets.title(*task) for task in TASKS if task not in comparisons]
    incomplete = f"Incomplete: {'; '.join(missing)}. " if missing else ""
    also = stored_later()
    lines += later(also)
    lines += [
        "",
        "## Limits",
        "",
        "How often the last strength of a grid was chosen, %:",
        "",
        *pages.edges(columns, FIRST, ARMS),
        "",
        f"{incomplete}The networks are small and classify images, whereas Yan "
        "et al. study the alignment of language models and the correlation "
        "between inputs; the penalty here implements the same idea "
        "differently. phi is high for any unit with extreme values, whatever "
        "their cause. The False Killing Rate is the share of the extreme "
        "values that do not belong to the unit's class.",
    ]
    files = "encourage_*.jsonl, monoloss_*.jsonl"
    runs = pages.runs_of(comparisons) + pages.runs_of(also)
    return pages.closed(lines, files, runs)


def repeated():
    """Say how far the runs that were made twice differ in accuracy."""
    for name, share in TASKS:
        first, again = (
            {
                (run["arm"], run["seed"]): run["scores"]
                for run in RunStore(store(name, share, which)).read()
            }
            for which in ("encourage", "monoloss")
        )
        both = [key for key in again if key in first]
        equal = [
            all(again[key][name] == value for name, value in first[key].items())
            for key in both
        ]
        text = f"{sets.title(name, share)}: {sum(equal)} of {len(both)} equal"
        distances = [
            100 * abs(first[key]["accuracy"] - again[key]["accuracy"])
            for key in both
        ]
        if not all(equal):
            text += (
                f", accuracy {np.mean(distances):.1f} points apart on "
                f"average and {max(distances):.1f} at most"
            )
        yield text


def later(comparisons):
    """Return the section on MonoLoss."""
    if not comparisons:
        return []
    for key, found in comparisons.items():
        pages.check(found, LATER_CLAIMS[key])
    columns = sets.titled(comparisons)
    lines = [
        "",
        "## MonoLoss: reward units for similar inputs",
        "",
        LATER_SEEN,
        "",
        "MonoLoss (Nasiri-Sarvi et al. 2026, arXiv 2602.12403) adds 1 minus "
        "the mean MonoScore of the units over a batch to the loss, with a "
        "weight of 0.1, 1 or 10, before both ReLUs. The MonoScore of a unit is "
        "the mean cosine similarity of two inputs, weighted by its activations "
        "on both. The similarity is here that of the images themselves; the "
        "authors take features of a pretrained network, and activations that "
        "are not negative.",
        "",
        "MonoLoss was added later than the other methods. Plain training, "
        "inhibition and dropout were then run again, and the tables of this "
        "section compare these runs alone. Runs with the same scores in every "
        f"digit as before: {'; '.join(repeated())}. Where they differ, the "
        "earlier runs are of another revision, and possibly of another "
        "processor, which the run files do not name.",
        "",
        *pages.accuracies(columns),
    ]
    for metric, text in LATER_MEASURES.items():
        lines += ["", f"{pages.capital(text)}, %, mean over the seeds:", ""]
        lines += pages.means(columns, metric, decimals=1)
    for name, found in columns.items():
        lines += ["", f"{pages.capital(name)}:", ""]
        lines += [found.to_markdown("accuracy", scale=100), ""]
        lines += [found.to_markdown("monoscore", scale=100)]
        lines += pages.notes(found)
    return [
        *lines,
        "",
        "How often the last weight or strength was chosen, %:",
        "",
        *pages.edges(columns, LATER, LATER_ARMS),
    ]


def figure(comparisons):
    return pages.side_by_side(sets.titled(comparisons))


def write():
    """Write the page and its figure from the stored runs."""
    found = stored()
    pages.write("encourage", page(found), figure(found))


def main():
    parser = training.parser(__doc__)
    parser.add_argument(
        "--data", type=pathlib.Path, help="file of Fashion-MNIST"
    )
    options = parser.parse_args()
    if options.dry_run:
        stores = {store(*task): ARMS for task in TASKS}
        stores |= {store(*task, "monoloss"): LATER_ARMS for task in TASKS}
        dry_run.show(
            stores,
            options.seeds,
            dry_run.sizes("images of each set"),
            "encourage",
        )
        return
    sets.check_data(parser, "fashion_mnist", options.data)
    for name, share in TASKS:
        train = functools.partial(run, name, share, options.data)
        compare(train, ARMS, options.seeds, store=store(name, share))
        later = store(name, share, "monoloss")
        compare(train, LATER_ARMS, options.seeds, store=later)
    write()


if __name__ == "__main__":
    main()
