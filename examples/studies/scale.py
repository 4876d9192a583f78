"""Are larger networks more monosemantic, and does inhibition do more there?

    python examples/studies/scale.py [--seeds 10]

Open question 1 of the paper, on digits: networks of two hidden layers of 16
to 512 units, 20 % of the training labels wrong, trained plainly, with Reverse
Deactivation (RD), with its placebo, and with dropout, tuned. Writes
docs/studies/scale.md.
"""

import argparse
import functools

import common
import keras
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats

from keras_memel import Comparison
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import RunStore
from keras_memel import compare
from keras_memel import monosemantic_scale

WIDTHS = (16, 32, 64, 128, 256, 512)
WRONG_SHARE, RATE = 0.2, 0.1
METHODS = {
    "plain": lambda: [],
    "RD": lambda: [MEmeL(Rate(RATE))],
    "placebo": lambda: [MEmeL(Random(RATE))],
} | {
    f"dropout {rate:.0%}": functools.partial(
        lambda rate: [keras.layers.Dropout(rate)], rate
    )
    for rate in (0.2, 0.5, 0.65)
}
# As they are compared: of the rates of dropout the best on validation images.
COMPARED = ["plain", "RD", "placebo", "dropout"]
CONTRASTS = [("RD", "placebo"), ("RD", "dropout")]
ARMS = {
    f"{method}, {width}": (method, width)
    for width in WIDTHS
    for method in METHODS
}
STORE = common.RESULTS / "scale.jsonl"
# Share of the values that count as extreme, for phi and False Killing Rate.
EXTREME = 0.02
MEASURES = {
    "phi": "phi that 2 % of the values reach",
    "ks": "Kolmogorov-Smirnov statistic",
    "fkr": "False Killing Rate",
}


def run(arm, seed):
    """Train one network; test it, and measure its second layer."""
    method, width = arm
    digits = common.Digits(seed, WRONG_SHARE)
    model = common.build(METHODS[method], seed, width)
    model = common.recycled(arm, model)
    common.fit(model, digits)
    right = common.answers(model, digits.images) == digits.labels
    return {
        "accuracy": np.mean(right[digits.test]),
        "validation": np.mean(
            common.answers(model, digits.images[digits.validation])
            == digits.given[digits.validation]
        ),
        **monosemanticity(model, digits),
    }


def monosemanticity(model, digits):
    """Of the second layer before its ReLU, on the test images.

    As [Wang et al. 2025] measure it: the relatively monosemantic feature of a
    unit is the class with the largest mean phi (Eq. 3); of all extreme
    values, the False Killing Rate is the share whose image is not of this
    class (Eq. 4); and the Kolmogorov-Smirnov statistic tells phi on this
    class from phi on all images, mean over the units.
    """
    values = keras.ops.convert_to_tensor(digits.images[digits.test])
    seen = 0
    for layer in model.layers:
        values = layer(values)
        seen += isinstance(layer, keras.layers.Dense)
        if seen == 2:
            break
    values = keras.ops.convert_to_numpy(values)
    phi = keras.ops.convert_to_numpy(
        monosemantic_scale(values, values.mean(0), values.var(0, ddof=1))
    )
    labels = digits.labels[digits.test]
    means = [phi[labels == digit].mean(axis=0) for digit in range(10)]
    feature = np.argmax(means, axis=0)
    mine = labels[:, None] == feature
    limit = np.quantile(phi, 1 - EXTREME)
    ks = [
        scipy.stats.ks_2samp(phi[own, unit], phi[:, unit]).statistic
        for unit, own in enumerate(mine.T)
    ]
    return {
        "phi": limit,
        "ks": np.mean(ks),
        "fkr": np.mean(~mine[phi >= limit]),
    }


def at(runs, width):
    """The methods at one width."""
    chosen = {}
    for run in runs:
        method, own = ARMS[run["arm"]]
        if own != width:
            continue
        method, scores = method.split()[0], dict(run["scores"])
        # Runs of methods that have but one trial are told apart by nothing.
        rank = scores.pop("validation", 0.0)
        key = method, run["seed"]
        if key not in chosen or rank > chosen[key][0]:
            chosen[key] = rank, {**run, "arm": method, "scores": scores}
    return Comparison(
        [run for _, run in chosen.values()], COMPARED, contrasts=CONTRASTS
    )


def trends(runs):
    """The change with each doubling of the width, by least squares, seed by
    seed: a comparison of the slopes with 0."""
    doublings = np.log2(WIDTHS)
    tables = {width: at(runs, width) for width in WIDTHS}
    seeds = tables[WIDTHS[0]].seeds
    found = []
    for seed in seeds:

        def slope(metric, arm, other=None, seed=seed):
            values = [
                tables[width].scores(metric)[arm][seed]
                - (tables[width].scores(metric)[other][seed] if other else 0)
                for width in WIDTHS
            ]
            return float(np.polyfit(doublings, values, 1)[0])

        scores = {
            text: slope(metric, "plain") for metric, text in MEASURES.items()
        }
        scores["accuracy of plain, points"] = 100 * slope("accuracy", "plain")
        for other in ("plain", "placebo"):
            name = f"accuracy of RD less {other}, points"
            scores[name] = 100 * slope("accuracy", "RD", other)
        found += [
            {"arm": "slope", "seed": seed, "scores": scores},
            {"arm": "0", "seed": seed, "scores": dict.fromkeys(scores, 0.0)},
        ]
    return Comparison(found, ["0", "slope"])


def stored():
    return RunStore(STORE).read()


def findings():
    """What RESULTS.md takes from here."""
    runs = stored()
    for width in WIDTHS:
        title = f"digits, 20 % wrong labels, {width} units, a rate of 10 %"
        found = at(runs, width)
        yield common.Finding(title, found, "accuracy", wrong=WRONG_SHARE)


SIGNS = {"better": "rises", "worse": "falls", "not shown": "not shown"}


# What the page says in words.
CLAIMS = {
    width: {
        ("RD", "plain"): verdict,
        ("RD", "placebo"): verdict,
        ("RD", "dropout"): beside,
    }
    for width, verdict, beside in (
        (16, "worse", "worse"),
        (32, "worse", "worse"),
        (256, "better", "worse"),
        (512, "better", "not shown"),
    )
}
SLOPES = {
    MEASURES["phi"]: "better",
    MEASURES["ks"]: "worse",
    MEASURES["fkr"]: "better",
    "accuracy of plain, points": "worse",
    "accuracy of RD less plain, points": "better",
    "accuracy of RD less placebo, points": "better",
}


def page(runs):
    """What was seen, in Markdown."""
    tables = {width: at(runs, width) for width in WIDTHS}
    for width, claims in CLAIMS.items():
        common.check(tables[width], {"accuracy": claims})
    common.check(
        trends(runs), {name: {("slope", "0"): v} for name, v in SLOPES.items()}
    )
    seeds = tables[WIDTHS[0]].seeds
    lines = [
        "# Scale: monosemanticity and inhibition against width",
        "",
        "<!-- Written by examples/studies/scale.py. -->",
        "",
        f"Digits with {WRONG_SHARE:.0%} wrong training labels, two hidden "
        f"layers, {common.EPOCHS} epochs, {len(seeds)} seeds. RD and placebo "
        f"inhibit {RATE:.0%} of the values before both ReLUs; neither was "
        "tuned to the width. Dropout was, seed by seed: of 20, 50 and 65 % "
        "the best on validation images, whose labels are wrong as often. "
        "phi, the Kolmogorov-Smirnov statistic and the False Killing Rate are "
        "of the second layer of the plain network, on test images; 2 % of the "
        "values of a Gaussian unit reach a phi of "
        f"{scipy.stats.chi2.isf(EXTREME, 1):.2f}.",
        "",
        "Seen: Reverse Deactivation (RD) harms the narrowest networks and "
        "helps the wide ones, against plain training and against its placebo; "
        "the effect grows with each doubling of the width. So does what there "
        "is to gain: wide networks learn more of the wrong labels, and plain "
        "training gets worse. As they get wider, their extreme values become "
        "slightly more extreme but tell the classes *less* apart: the "
        "Kolmogorov-Smirnov statistic falls, the False Killing Rate rises. "
        "Dropout, which was tuned, is better than RD, which was not, but for "
        "the widest networks, where no difference is shown.",
        "",
        "![Accuracy, phi and KS by width](scale.png)",
        "",
        "| width | plain, % | RD less plain | placebo less plain | "
        "RD less placebo | dropout less plain | RD less dropout | phi | KS "
        "| FKR |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for width, found in tables.items():
        rows = {
            (c.arm, c.other): f"{100 * c.mean:+.1f} {c.verdict}"
            for c in found.contrasts
            if c.metric == "accuracy"
        }
        cells = [f"{100 * found.scores('accuracy')['plain'].mean():.1f}"]
        for pair in (
            ("RD", "plain"),
            ("placebo", "plain"),
            ("RD", "placebo"),
            ("dropout", "plain"),
            ("RD", "dropout"),
        ):
            cells.append(rows[pair])
        cells += [
            f"{found.scores(metric)['plain'].mean():.2f}" for metric in MEASURES
        ]
        lines.append(f"| {width} | {' | '.join(cells)} |")
    lines += [
        "",
        "Change with each doubling of the width (least squares, seed by seed; "
        "each row a question of its own, without correction over rows):",
        "",
        "| | slope | 95 % interval | p | verdict |",
        "|---|--:|--:|--:|---|",
    ]
    for c in trends(runs).contrasts:
        lines.append(
            f"| {c.metric} | {c.mean:+.3f} | {c.low:+.3f} to {c.high:+.3f} "
            f"| {c.p:.3f} | {SIGNS[c.verdict]} |"
        )
    lines += [
        "",
        "## Limits",
        "",
        "RD and its placebo at one rate: at a higher one the placebo is not "
        "shown to be worse with 256 units (label_noise.md). "
        "Widths of one kind of network on one small set, far from where "
        "emergence is spoken of; a straight line through six widths, which "
        "says nothing beyond them. The number of epochs is the same for all "
        "widths, so that wide networks learn more of the wrong labels.",
    ]
    return common.closed(lines, "scale.jsonl", runs)


def figure(runs):
    plot, panels = plt.subplots(
        1, 3, figsize=(11, 3), layout="constrained", sharex=True
    )
    tables = [at(runs, width) for width in WIDTHS]
    for place, method in enumerate(COMPARED):
        panels[0].plot(
            WIDTHS,
            [100 * t.scores("accuracy")[method].mean() for t in tables],
            "o-",
            color=f"C{place}",
            label=method,
        )
    for metric, panel in zip(("phi", "ks"), panels[1:]):
        values = np.array([t.scores(metric)["plain"] for t in tables])
        panel.plot(WIDTHS, values, "o", color="C0", ms=3, alpha=0.4)
        panel.plot(WIDTHS, values.mean(axis=1), "-", color="C0", lw=2)
        panel.set_title(MEASURES[metric], loc="left", fontsize=10)
    panels[0].set_title("accuracy, %", loc="left", fontsize=10)
    panels[0].legend(frameon=False)
    for panel in panels:
        panel.set_xscale("log", base=2)
        panel.set_xlabel("units of a hidden layer")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    return plot


def write():
    """The page and its figure, from what is stored."""
    runs = stored()
    common.write_page("scale", page(runs), figure(runs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    compare(run, ARMS, options.seeds, store=STORE)
    write()


if __name__ == "__main__":
    main()
