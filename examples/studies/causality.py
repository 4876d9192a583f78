"""Does inhibiting monosemantic units, as such, change the accuracy?

    python examples/studies/causality.py [--seeds 10]

The papers do not include this experiment. In a trained network, an auxiliary
loss makes some hidden units monosemantic on purpose: high on one class and
constant on all others. Training then continues with these units inhibited,
with the same number of other units inhibited, or with none. The script writes
docs/studies/causality.md.
"""

import functools

import keras
import matplotlib.pyplot as plt
import numpy as np

from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from keras_memel import Comparison
from keras_memel import MEmeL
from keras_memel import RunStore
from keras_memel import Selection
from keras_memel import compare

SHARES = (0.0, 0.2)
UNITS = 20  # planted, of the second layer: two for each class
HIGH = 5.0  # target of a planted unit on its class; 0 on all others
MOMENTS = ("accuracy before", "accuracy planted", "accuracy")
TRAINING, PLANTING, AFTER = 20, 10, 20  # epochs
# Whether units are planted, and which units are inhibited afterwards.
ARMS = {
    "planted": (True, None),
    "never planted": (False, None),
    "planted, inhibited": (True, "planted"),
    "planted, others inhibited": (True, "others"),
    "planted, dropout": (True, "dropout"),
}
DROPOUT = 0.5  # of the second layer
CONTRASTS = [("planted, inhibited", "planted, others inhibited")]


@keras.saving.register_keras_serializable("studies")
class HighestOfUnits(Selection):
    """Select the tenth of a batch with the highest scores, for some units.

    A planted unit fires on one class of ten. For other units, the same share
    is selected, so that both are treated alike.
    """

    def __init__(self, units):
        self.units = list(units)

    def __call__(self, score):
        chosen = np.zeros(score.shape[-1], bool)
        chosen[self.units] = True
        limit = keras.ops.quantile(score, 0.9, axis=0, keepdims=True)
        chosen = keras.ops.convert_to_tensor(chosen)
        return keras.ops.logical_and(score >= limit, chosen)

    def get_config(self):
        return {"units": self.units}


def epochs(model, digits, start, number, target=None):
    """Train on the epochs from `start` on, in the order of the seed."""
    steps = digits.train.size // training.BATCH
    for batch in digits.batches()[start * steps : (start + number) * steps]:
        given = digits.given[batch]
        labels = given if target is None else [given, target[given]]
        model.train_on_batch(digits.images[batch], labels)


def plant(model, digits, units):
    """Train each unit to be `HIGH` on one class and 0 on the others."""
    values = training.dense(model)[1].output
    both = keras.Model(
        model.inputs[0],
        [model.outputs[0], keras.ops.take(values, units, axis=-1)],
    )
    both.compile(
        keras.optimizers.Adam(training.LEARNING_RATE),
        [
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            keras.losses.MeanSquaredError(),
        ],
    )
    target = HIGH * np.eye(10, dtype="float32")[:, np.arange(UNITS) % 10]
    epochs(both, digits, TRAINING, PLANTING, target)


def silenced(model, digits, units):
    """Return the accuracy with these units fixed at their mean."""
    values = training.second_layer(model, digits.images[digits.test])
    values[:, units] = values[:, units].mean(axis=0)
    logits = training.dense(model)[2](keras.ops.relu(values))
    answers = keras.ops.convert_to_numpy(logits).argmax(axis=1)
    return np.mean(answers == digits.labels[digits.test])


def separation(model, digits, units):
    """Return the mean phi of a unit on its class, divided by that on all."""
    values = training.second_layer(model, digits.images[digits.test])
    phi = training.phi(values[:, units])
    labels = digits.labels[digits.test]
    mine = [phi[labels == unit % 10, unit].mean() for unit in range(UNITS)]
    return np.mean(mine / phi.mean(axis=0))


def run(share, arm, seed):
    """Train, plant, continue with some units inhibited; test at each stage."""
    planted, inhibited = arm
    digits = training.Digits(seed, share)
    shuffled = np.random.default_rng([seed, 1]).permutation(training.WIDTH)
    units, others = shuffled[:UNITS], shuffled[UNITS : 2 * UNITS]
    model = training.build_with(None, seed)
    epochs(model, digits, 0, TRAINING)
    scores = {"accuracy before": training.accuracy(model, digits)}
    if planted:
        plant(model, digits, units)
    else:
        epochs(model, digits, TRAINING, PLANTING)
    scores["accuracy planted"] = training.accuracy(model, digits)
    scores["separation planted"] = separation(model, digits, units)
    layer = None
    if inhibited == "dropout":
        layer = keras.layers.Dropout(DROPOUT)
    elif inhibited:
        chosen = units if inhibited == "planted" else others
        layer = MEmeL(HighestOfUnits(map(int, chosen)))
    # A fresh optimizer for all arms.
    after = training.build_with(layer, seed)
    training.copy_dense(model, after)
    epochs(after, digits, TRAINING + PLANTING, AFTER)
    scores["accuracy"] = training.accuracy(after, digits)
    scores["separation"] = separation(after, digits, units)
    lost = scores["accuracy"] - silenced(after, digits, units)
    scores["lost when silenced"] = lost
    return scores


def store(share):
    return training.store("causality", share)


def stored():
    """Return the comparison of each share of wrong labels."""
    return {
        share: Comparison(
            RunStore(store(share)).read(), list(ARMS), "planted", CONTRASTS
        )
        for share in SHARES
    }


def findings():
    """Yield the tables of this study in RESULTS.md."""
    for share, found in stored().items():
        title = f"digits, {pages.percent(share)} wrong labels, planted units"
        yield pages.Finding(title, found, "accuracy")


INHIBITED, OTHERS = CONTRASTS[0]
# The verdicts that the page claims.
CLAIMS = {
    0.0: {
        "accuracy": {
            ("never planted", "planted"): "not shown",
            (INHIBITED, "planted"): "not shown",
            (OTHERS, "planted"): "not shown",
            (INHIBITED, OTHERS): "not shown",
        },
        "separation": {(INHIBITED, "planted"): "not shown"},
    },
    0.2: {
        "accuracy": {
            ("never planted", "planted"): "not shown",
            (INHIBITED, "planted"): "not shown",
            (OTHERS, "planted"): "not shown",
            (INHIBITED, OTHERS): "worse",
            ("planted, dropout", "planted"): "better",
        },
        "separation": {
            (INHIBITED, "planted"): "worse",
            ("planted, dropout", "planted"): "worse",
        },
    },
}


ANSWER = (
    "No harm of planted monosemantic units is shown. With wrong labels, "
    "inhibiting them is worse than inhibiting the same number of other units."
)


def page(comparisons):
    """Return the page in Markdown."""
    for share, found in comparisons.items():
        pages.check(found, CLAIMS[share])
    first = next(iter(comparisons.values()))
    lines = [
        "# Do planted monosemantic units matter?",
        "",
        "<!-- Written by examples/studies/causality.py. -->",
        "",
        f"Data: digits. The network has 2 x {training.WIDTH} units. After "
        f"{TRAINING} epochs of plain training, {UNITS} randomly chosen units "
        f"of the second layer are trained for {PLANTING} epochs to output "
        f"{HIGH:.0f} on one class and 0 on all others, by an additional "
        f"squared loss. {AFTER} more epochs follow: plain; with Reverse "
        "Deactivation of the most deviant tenth of their values; with the same "
        "inhibition of the same number of other, randomly chosen units; or "
        f"with dropout of half of the layer. {len(first.seeds)} seeds.",
        "",
        "Separation is the mean monosemantic scale (phi) of a planted unit on "
        "its class, divided by that on all test images: 1 for a unit that is "
        "unrelated to the classes, 9 for one that fires on one class of ten "
        "only. Silenced means that these units are fixed at their mean in the "
        "test, for all arms.",
        "",
        "Finding: with correct labels no effect is shown; the network hardly "
        "needs these units. With wrong labels, inhibiting the planted units "
        "ends in a *lower* accuracy than inhibiting the same number of other "
        "units; neither is shown to differ from no inhibition. Inhibition "
        "lowers the separation slightly; with correct labels this is not "
        "shown. Dropout of the same layer helps with wrong labels, and lowers "
        "the separation as well. Harm of monosemantic units as such is not "
        "shown here.",
        "",
        "![Two panels, one per share of wrong labels: accuracy minus that of "
        "planted units without inhibition, one dot per seed](causality.png)",
    ]
    lines = pages.answer_first(ANSWER, lines)
    for share, found in comparisons.items():
        lines += [
            "",
            f"## {share:.0%} of the training labels wrong",
            "",
            "Mean over the seeds:",
            "",
            "| arm | accuracy before planting, % | after planting, % | "
            "at the end, % | separation after planting | at the end | "
            "points lost when silenced |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        for arm in found.arms:
            cells = [
                f"{100 * found.scores(metric)[arm].mean():.1f}"
                for metric in MOMENTS
            ]
            cells += [
                f"{found.scores(metric)[arm].mean():.2f}"
                for metric in ("separation planted", "separation")
            ]
            lost = found.scores("lost when silenced")[arm].mean()
            cells.append(f"{100 * lost:.1f}")
            lines.append(f"| {arm} | {' | '.join(cells)} |")
        lines += ["", "Accuracy at the end, points:", ""]
        lines += [found.to_markdown("accuracy", scale=100)]
        lines += ["", 'Separation at the end ("better" is higher):', ""]
        lines += [found.to_markdown("separation")]
        lines += pages.notes(found)
    lines += [
        "",
        "## Limits",
        "",
        "The study uses one small network. Units that are trained to be "
        "monosemantic for the classes of the task may differ from units that "
        "become monosemantic in ordinary training. No method was tuned.",
    ]
    return pages.closed(lines, "causality_*.jsonl", pages.runs_of(comparisons))


def figure(comparisons):
    plot, panels = plt.subplots(
        1,
        len(comparisons),
        figsize=(8, 2.8),
        layout="constrained",
        sharey=True,
    )
    for panel, (share, found) in zip(panels, comparisons.items()):
        found.plot("accuracy", scale=100, ax=panel)
        panel.set_title(f"{share:.0%} of the labels wrong", loc="left")
        panel.set_xlabel("accuracy at the end, points")
    plot.set_layout_engine("constrained")
    return plot


def write():
    """Write the page and its figure from the stored runs."""
    found = stored()
    pages.write("causality", page(found), figure(found))


def main():
    options = training.parser(__doc__).parse_args()
    if options.dry_run:
        stores = {store(share): ARMS for share in SHARES}
        dry_run.show(
            stores,
            options.seeds,
            dry_run.sizes(epochs=TRAINING + PLANTING + AFTER),
            "causality",
        )
        return
    for share in SHARES:
        train = functools.partial(run, share)
        compare(train, ARMS, options.seeds, store=store(share))
    write()


if __name__ == "__main__":
    main()
