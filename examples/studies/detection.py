"""Does the monosemantic scale detect the label of a neuron?

    python examples/studies/detection.py [--seeds 10]

Open question 2 of the paper, by architecture: the scale phi of a neuron's
values as a detector of a label, the digit in the image. The script computes
ROC curves in trained and in untrained networks, and after training with
Reverse Deactivation (RD) or its placebo. It writes docs/studies/detection.md.
"""

import keras
import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve

from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from keras_memel import Comparison
from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import RunStore
from keras_memel import compare

EPOCHS, RATE, CHANNELS = 60, 0.1, 32
# The layers after the hidden layer in training; `None` means no training.
STATES = {
    "trained": lambda: [],
    "fresh": None,
    "RD": lambda: [MEmeL(Rate(RATE), axis=-1)],
    "placebo": lambda: [MEmeL(Random(RATE), axis=-1)],
}
# False-alarm rates at which the ROC curves are stored.
ALARMS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
STORE = training.store("detection")


def mlp(images):
    values = keras.layers.ReLU()(keras.layers.Dense(CHANNELS)(images))
    return keras.layers.Dense(CHANNELS)(values)


def cnn(images):
    values = keras.layers.Reshape((8, 8, 1))(images)
    values = keras.layers.Conv2D(CHANNELS, 3, padding="same")(values)
    values = keras.layers.ReLU()(values)
    return keras.layers.Conv2D(CHANNELS, 3, 2, padding="same")(values)


def convgru(images):
    """Process the image as four frames of two rows."""
    frames = keras.layers.Reshape((4, 2, 8, 1))(images)
    # Unrolled: XLA's convolutions within a loop take ten times as long.
    return ConvGRU2D(CHANNELS, 3, padding="same", unroll=True)(frames)


def transformer(images):
    """Process the rows of the image as tokens, in two blocks."""
    rows = keras.layers.Reshape((8, 8))(images)
    # Each row has a separate first layer, which encodes its position.
    tokens = keras.layers.EinsumDense("btf,tfc->btc", (8, CHANNELS))(rows)
    for _ in range(2):
        seen = keras.layers.LayerNormalization()(tokens)
        seen = keras.layers.MultiHeadAttention(2, CHANNELS // 2)(seen, seen)
        tokens = keras.layers.add([tokens, seen])
        inner = keras.layers.LayerNormalization()(tokens)
        inner = keras.layers.Dense(2 * CHANNELS, "relu")(inner)
        inner = keras.layers.Dense(CHANNELS)(inner)
        tokens = keras.layers.add([tokens, inner])
    return tokens


ARCHITECTURES = {
    "MLP": mlp,
    "CNN": cnn,
    "ConvGRU": convgru,
    "transformer": transformer,
}
ARMS = {
    f"{architecture}, {state}": (architecture, state)
    for architecture in ARCHITECTURES
    for state in STATES
}
AUC = "area under the ROC curve of phi"
VALUE = "area under the ROC curve of the value"
BEST = "area of the best tenth of the neurons"


def build(arm, seed):
    """Return the network; its attribute `hidden` ends in the hidden layer."""
    architecture, state = arm
    keras.utils.set_random_seed(seed)
    images = keras.Input((64,))
    values = hidden = ARCHITECTURES[architecture](images)
    for layer in (STATES[state] or STATES["trained"])():
        values = layer(values)
    values = keras.layers.ReLU()(values)
    if len(values.shape) > 2:
        values = keras.layers.Reshape((-1, CHANNELS))(values)
        values = keras.layers.GlobalAveragePooling1D()(values)
    model = keras.Model(images, keras.layers.Dense(10)(values))
    model.hidden = keras.Model(images, hidden)
    model.compile(
        keras.optimizers.Adam(training.LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def detection(values, other, labels, other_labels):
    """Return how well phi, and the value itself, detect a neuron's label.

    The label of a neuron is the digit with the largest mean phi (Wang et al.
    2025, Eq. 3). It is chosen on some images and tested on others, because a
    label that is tested on the images that chose it scores well by chance.
    For the value, it is the digit with the largest mean value.

    Args:
        values: Values on the images that choose, `(images, neurons)`.
        other: Values on the images that test.
        labels, other_labels: Their digits.
    """
    known, tested = training.phi(values), training.phi(other)

    def areas(scores, features):
        return [
            roc_auc_score(other_labels == digit, scores[:, unit])
            for unit, digit in enumerate(features)
        ]

    features = training.features(known, labels, 10)
    loudest = training.features(values, labels, 10)
    found = np.array(areas(tested, features))
    curves = []
    for unit, digit in enumerate(features):
        alarms, hit, _ = roc_curve(other_labels == digit, tested[:, unit])
        curves.append(np.interp(ALARMS, alarms, hit))
    return {
        AUC: found.mean(),
        VALUE: np.mean(areas(other, loudest)),
        BEST: np.sort(found)[-max(1, len(found) // 10) :].mean(),
    } | {
        hits(alarm): round(float(hit), 4)
        for alarm, hit in zip(ALARMS, np.mean(curves, axis=0))
    }


def run(arm, seed):
    """Train one network and test its hidden layer as a detector."""
    digits = training.Digits(seed, epochs=EPOCHS)
    model = training.recycled(arm, lambda: build(arm, seed), digits)
    if STATES[arm[1]] is not None:
        training.fit(model, digits)
    choosing, testing = np.array_split(digits.test, 2)

    def values(part):
        found = model.hidden(digits.images[part], training=False)
        found = keras.ops.convert_to_numpy(found)
        # A neuron is a channel. Its value is the mean over all positions.
        return found.reshape(len(part), -1, CHANNELS).mean(axis=1)

    return {"accuracy": training.accuracy(model, digits)} | detection(
        values(choosing),
        values(testing),
        digits.labels[choosing],
        digits.labels[testing],
    )


def stored():
    return RunStore(STORE).read()


def by_architecture(runs):
    """Compare training, RD and its placebo within each architecture."""
    found = {}
    for architecture in ARCHITECTURES:
        chosen = [
            {**run, "arm": ARMS[run["arm"]][1]}
            for run in runs
            if ARMS[run["arm"]][0] == architecture
        ]
        found[architecture] = Comparison(
            chosen, list(STATES), contrasts=[("RD", "placebo")]
        )
    return found


def across(runs):
    """Compare the trained networks with the MLP."""
    chosen = [
        {**run, "arm": ARMS[run["arm"]][0]}
        for run in runs
        if ARMS[run["arm"]][1] == "trained"
    ]
    return Comparison(chosen)


def value_or_scale(runs):
    """Compare phi with the value itself as a detector, in trained networks."""
    found = {}
    for architecture in ARCHITECTURES:
        found[architecture] = Comparison(
            [
                {
                    "arm": name,
                    "seed": run["seed"],
                    "scores": {"area": run["scores"][metric]},
                }
                for run in runs
                if run["arm"] == f"{architecture}, trained"
                for name, metric in (("value", VALUE), ("phi", AUC))
            ]
        )
    return found


def findings():
    """Yield the tables of this study in RESULTS.md."""
    runs = stored()
    more = "a larger area"
    for architecture, found in by_architecture(runs).items():
        title = f"digits, {architecture}: phi as a detector of the digit"
        yield pages.Finding(title, found, AUC, 1, AUC, more)
    title = "digits, trained: phi as a detector of the digit"
    yield pages.Finding(title, across(runs), AUC, 1, AUC, more)
    for architecture, found in value_or_scale(runs).items():
        title = f"digits, {architecture}, trained: phi or the value"
        yield pages.Finding(
            title, found, "area", 1, "area under the ROC curve", more
        )


# The verdicts that the page claims.
LESS = {
    ("fresh", "trained"): "worse",
    ("RD", "trained"): "worse",
    ("RD", "placebo"): "worse",
}
CLAIMS = {
    "MLP": {AUC: LESS},
    "CNN": {AUC: LESS, "accuracy": {("RD", "trained"): "worse"}},
    "ConvGRU": {AUC: LESS, "accuracy": {("RD", "trained"): "not shown"}},
    "transformer": {AUC: LESS, "accuracy": {("RD", "trained"): "not shown"}},
}
SEEN = (
    "Finding: in all four architectures, training makes phi a better detector "
    "of a digit; the best is the transformer, the poorest the CNN. Reverse "
    "Deactivation (RD) makes it a poorer detector than plain training or the "
    "placebo does. RD therefore makes neurons less monosemantic, as intended. "
    "This does not raise the accuracy, and the CNN loses much of its accuracy. "
    "In all architectures the value itself detects the digit better than phi, "
    "because phi does not distinguish the two sides of the mean."
)


ANSWER = (
    "Yes, but the value itself detects a digit better than the monosemantic "
    "scale (phi) does. Training makes phi a better detector, and Reverse "
    "Deactivation makes it a poorer one."
)


def page(runs):
    """Return the page in Markdown."""
    found, wide = by_architecture(runs), across(runs)
    for architecture, claims in CLAIMS.items():
        pages.check(found[architecture], claims)
    rows = [
        ["", "accuracy, %", "area of phi", "of its best tenth"]
        + ["area of the value", *map(hits, ALARMS[:3])]
    ]
    for arm in ARMS:
        areas = [mean(runs, arm, metric) for metric in (AUC, BEST, VALUE)]
        seen = [mean(runs, arm, hits(alarm)) for alarm in ALARMS[:3]]
        rows.append(
            [
                arm,
                f"{100 * mean(runs, arm, 'accuracy'):.1f}",
                *(f"{area:.3f}" for area in areas),
                *(f"{share:.2f}" for share in seen),
            ]
        )
    lines = [
        "# Does phi detect the label of a neuron?",
        "",
        "<!-- Written by examples/studies/detection.py. -->",
        "",
        "Data: digits with correct labels, 400 for training. Four small "
        f"networks, each with a last hidden layer of {CHANNELS} channels "
        "before its ReLU: two dense layers (MLP); two convolutions (CNN); a "
        "ConvGRU that receives the image as four frames of two rows; and two "
        f"transformer blocks with the rows as tokens. {EPOCHS} epochs, "
        f"{len(wide.seeds)} paired seeds. A neuron is a channel, and its value "
        "on an image is the mean over all positions.",
        "",
        "The label of a neuron is the digit with the largest mean phi (Wang "
        "et al. 2025, Eq. 3) on half of the test images. The other half "
        "measures how well phi separates this digit from all others: the area "
        "under the ROC curve is 0.5 for an unrelated neuron. The value itself "
        "is tested in the same way, with the digit of the largest mean value. "
        "RD and placebo are trained with "
        f'{RATE:.0%} of the values of the hidden layer inhibited; "fresh" '
        "networks are untrained.",
        "",
        SEEN,
        "",
        "![Four panels, one per architecture: the mean ROC curve of phi in "
        "trained and fresh networks, with RD and with the placebo]"
        "(detection.png)",
        "",
        "Mean over the seeds:",
        "",
        *pages.table(rows),
    ]
    lines = pages.answer_first(ANSWER, lines)
    for architecture, one in found.items():
        lines += ["", f"## {architecture}", "", "Area of phi:", ""]
        lines += [one.to_markdown(AUC), "", "Accuracy, points:", ""]
        lines += [one.to_markdown("accuracy", scale=100)]
        lines += pages.notes(one, AUC)
    lines += [
        "",
        "## Architectures, trained",
        "",
        wide.to_markdown(AUC),
        "",
        "## phi or the value",
        "",
        "Trained networks; each row is a separate question:",
        "",
        *pages.table(
            [
                ["area of phi vs. that of the value", "mean"]
                + ["95 % interval", "p", "verdict"],
                *(
                    [name, *pages.effect(c), f"{c.p:.3f}", c.verdict]
                    for name, one in value_or_scale(runs).items()
                    for c in one.contrasts
                ),
            ]
        ),
        "",
        "## Limits",
        "",
        "The networks are small, there is one data set, and the labels are the "
        "classes of the task: a neuron may respond to a stroke, for which no "
        "label exists. The architectures also differ in their number of "
        "weights and in their accuracy.",
    ]
    return pages.closed(lines, "detection.jsonl", runs)


def hits(alarm):
    return f"hits at {alarm:.0%} false alarms"


def mean(runs, arm, metric):
    return np.mean([r["scores"][metric] for r in runs if r["arm"] == arm])


def figure(runs):
    number = len(ARCHITECTURES)
    plot, panels = pages.panels_of(number, sharey=True)
    colors = {"trained": "k", "fresh": "0.6", "RD": "C3", "placebo": "C1"}
    for panel, architecture in zip(panels, ARCHITECTURES):
        for state, color in colors.items():
            arm = f"{architecture}, {state}"
            curve = [mean(runs, arm, hits(alarm)) for alarm in ALARMS]
            panel.plot(
                [0, *ALARMS, 1], [0, *curve, 1], color=color, label=state
            )
        panel.plot([0, 1], [0, 1], ":", color="0.5", lw=1)
        panel.set_title(architecture, loc="left", fontsize=10)
        panel.set_xlabel("false alarms")
        pages.bare(panel)
    panels[0].set_ylabel("hits, mean of the neurons")
    panels[-1].legend(frameon=False, fontsize=8)
    return plot


def write():
    """Write the page and its figure from the stored runs."""
    runs = stored()
    pages.write("detection", page(runs), figure(runs))


def main():
    options = training.parser(__doc__).parse_args()
    if options.dry_run:
        stores = {STORE: ARMS}
        dry_run.show(
            stores, options.seeds, dry_run.sizes(epochs=EPOCHS), "detection"
        )
        return
    # The most important arms come first, for all seeds.
    for states in (("trained", "fresh"), ("RD", "placebo")):
        arms = {name: arm for name, arm in ARMS.items() if arm[1] in states}
        compare(run, arms, options.seeds, store=STORE)
    write()


if __name__ == "__main__":
    main()
