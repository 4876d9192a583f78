"""Does targeted inhibition help when labels are wrong?

    python examples/studies/label_noise.py [--seeds 10]

The data are digits with 0 to 40 % wrong training labels. The script compares
Reverse Deactivation (RD) of the most deviant values, at five rates, with plain
training and with four controls that have the same number of trials: the
placebo (RD of random values), the naive inhibitions of the paper, and dropout.
For each method, the trial that is best on validation images counts. The script
runs the arms and seeds that are missing in results/, and then writes
docs/studies/label_noise.md.
"""

import functools

import numpy as np

from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from examples.studies.common.training import CONTRASTS
from examples.studies.common.training import METHODS
from keras_memel import Comparison
from keras_memel import RunStore
from keras_memel import compare

SHARES = (0.0, 0.1, 0.2, 0.4)
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
# Useful rates of dropout are higher.
DROPOUT_RATES = (0.1, 0.2, 0.35, 0.5, 0.65)
COLORS = dict(zip(METHODS, ["C3", "C1", "C0", "C2", "0.3"]))
ARMS = training.trials(RATES, DROPOUT_RATES)


def run(share, arm, seed):
    """Train and test one network."""
    digits = training.Digits(seed, share)
    model = training.build(training.layers_of(*arm), seed)
    training.fit(model, digits)
    return scores(model, digits)


def scores(model, split):
    """Return the accuracy, and the agreement with the labels of the study."""
    answers = training.answers(model, split.images[split.test])
    found = {
        "accuracy": np.mean(answers == split.labels[split.test]),
        "validation": training.agreement(model, split, split.validation),
    }
    if len(split.wrong):
        found["wrong_labels_learned"] = training.agreement(
            model, split, split.wrong
        )
    return found


def compared(runs, arms=ARMS):
    """Compare tuned methods with plain training, and RD with its controls."""
    tried = training.tuned(runs, arms)
    return Comparison(tried, ["plain", *METHODS], contrasts=CONTRASTS)


def store(share):
    return training.store("label_noise", share)


def stored():
    """Return the comparison of each share of wrong labels."""
    return {share: compared(RunStore(store(share)).read()) for share in SHARES}


def findings():
    """Yield the tables of this study in RESULTS.md."""
    for share, found in stored().items():
        title = (
            f"digits, {pages.percent(share)} wrong labels, all methods tuned"
        )
        yield pages.Finding(title, found, "accuracy", wrong=share, tuned=True)


# The verdicts that the page claims.
CLAIMS = {
    0.0: {("RD", "plain"): "not shown", ("dropout", "plain"): "better"},
    0.1: {
        ("RD", "plain"): "better",
        ("placebo", "plain"): "better",
        ("RD", "placebo"): "not shown",
        ("RD", "dropout"): "not shown",
    },
    0.2: {
        ("RD", "plain"): "better",
        ("placebo", "plain"): "better",
        ("RD", "placebo"): "not shown",
        ("RD", "dropout"): "not shown",
    },
    0.4: {
        ("RD", "plain"): "better",
        ("placebo", "plain"): "better",
        ("RD", "placebo"): "worse",
        ("RD", "dropout"): "worse",
    },
}


ANSWER = (
    "Yes, compared with plain training, but random noise does the same. With "
    "wrong labels, Reverse Deactivation (RD) raises the accuracy, and is never "
    "shown to be better than its placebo or than dropout, both tuned with the "
    "same number of trials. With correct labels, RD is not shown to help."
)


def page(comparisons):
    """Return the page in Markdown."""
    for share, found in comparisons.items():
        pages.check(found, {"accuracy": CLAIMS[share]})
    first = next(iter(comparisons.values()))
    columns = {f"{s:.0%} wrong": found for s, found in comparisons.items()}
    lines = [
        "# Wrong labels: does targeted inhibition help?",
        "",
        "<!-- Written by examples/studies/label_noise.py. -->",
        "",
        f"Data: {training.TRAIN} training and {training.VALIDATION} validation "
        "images of scikit-learn's digits, both with the share of wrong labels "
        "that the columns state; the other images, with correct labels, are "
        f"the test set. The network has 2 x {training.WIDTH} units and is "
        f"trained for {training.EPOCHS} epochs; the layer under test precedes "
        f"both ReLUs. {len(first.seeds)} seeds; each fixes the split, the "
        "wrong labels, the initial weights and the batch order for all arms. "
        "Each method has five trials: rates of 2, 5, 10, 20 and 40 % "
        "(dropout: 10, 20, 35, 50 and 65 %). For each seed, the trial with the "
        "best *validation* accuracy counts. The fifth rate was added after the "
        "results of the first four were known, because the validation images "
        "selected the highest rate so often.",
        "",
        "Finding: with wrong labels, Reverse Deactivation (RD) helps, and "
        "noise helps as well. The placebo and dropout, tuned alike, are never "
        "shown to be worse than RD; with 40 % wrong labels both are better. "
        "Untuned, at a rate of 10 %, RD is better than the placebo at the same "
        "rate ([the first experiment](../quickstart.md)): RD needs fewer "
        "values for the same gain, and reaches no higher. With the first four "
        "rates only, RD would have been better than its placebo at every share "
        "of wrong labels; with the fifth rate it is not. With correct labels, "
        "only dropout is shown to help, and little.",
        "",
        "![Four panels, one per share of wrong labels: accuracy minus that of "
        "plain training, by rate and method](label_noise.png)",
        "",
        *pages.accuracies(columns),
    ]
    lines = pages.answer_first(ANSWER, lines)
    for share, found in comparisons.items():
        lines += ["", f"## {share:.0%} wrong", "", found.to_markdown(scale=100)]
        lines += pages.notes(found)
    lines += [
        "",
        "## Limits",
        "",
        "How often the highest rate of a grid was chosen, %:",
        "",
        *pages.edges(columns, METHODS, ARMS),
        "",
        "If a method often chooses its highest rate, a wider grid could help "
        "it further.",
        "",
        "The study uses one small network and one small data set, with labels "
        "that are wrong at random, unlike human errors. The 200 validation "
        "labels are partly wrong too, and select rates unreliably. See also "
        "[other data](domains.md).",
        "",
    ]
    return pages.closed(
        lines, "label_noise_*.jsonl", pages.runs_of(comparisons)
    )


def figure():
    """Plot every trial by rate: the mean over the seeds and its interval."""
    plot, panels = pages.panels_of(len(SHARES), sharey=True)
    for panel, share in zip(panels, SHARES):
        found = Comparison(RunStore(store(share)).read(), list(ARMS))
        rows = {c.arm: c for c in found.contrasts if c.metric == "accuracy"}
        for method, color in COLORS.items():
            names = [name for name in rows if ARMS[name][0] == method]
            rates = [100 * ARMS[name][1] for name in names]
            mean, low, high = (
                [100 * getattr(rows[name], end) for name in names]
                for end in ("mean", "low", "high")
            )
            panel.plot(rates, mean, "o-", color=color, label=method, ms=4)
            panel.fill_between(rates, low, high, color=color, alpha=0.15)
        panel.axhline(0.0, color="black", lw=1)
        panel.set_title(f"{share:.0%} wrong", loc="left", fontsize=10)
        panel.set_xlabel("rate, %")
        pages.bare(panel)
    panels[0].set_ylabel("accuracy vs. plain, points")
    panels[0].legend(frameon=False, fontsize=8)
    return plot


def write():
    """Write the page and its figure from the stored runs."""
    pages.write("label_noise", page(stored()), figure())


def main():
    options = training.parser(__doc__).parse_args()
    if options.dry_run:
        stores = {store(share): ARMS for share in SHARES}
        dry_run.show(stores, options.seeds, dry_run.sizes(), "label_noise")
        return
    for share in SHARES:
        train = functools.partial(run, share)
        compare(train, ARMS, options.seeds, store=store(share))
    write()


if __name__ == "__main__":
    main()
