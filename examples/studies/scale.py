"""Are larger networks more monosemantic, and does inhibition do more there?

    python examples/studies/scale.py [--seeds 10]

Open question 1 of the paper, on digits: networks of two hidden layers of 16
to 512 units, 20 % of the training labels wrong, trained plainly, with Reverse
Deactivation (RD), its placebo, and dropout. Writes docs/studies/scale.md.
"""

import argparse

import common
import keras
import label_noise
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
RATES, DROPOUT_RATES = (0.02, RATE, 0.3), (0.1, 0.3, 0.5)
METHODS = {
    "RD": lambda rate: MEmeL(Rate(rate)),
    "placebo": lambda rate: MEmeL(Random(rate)),
    "dropout": keras.layers.Dropout,
}
# Method, rate and width, by name.
ARMS = {f"plain, {width}": ("plain", 0.0, width) for width in WIDTHS} | {
    f"{method} {rate:.0%}, {width}": (method, rate, width)
    for width in WIDTHS
    for method in METHODS
    for rate in (DROPOUT_RATES if method == "dropout" else RATES)
}
CONTRASTS = [("RD", "placebo"), ("RD", "dropout")]
STORE = common.RESULTS / "scale.jsonl"
# Share of the values that count as extreme, for phi and False Killing Rate.
EXTREME = 0.02
MEASURES = {
    "phi": "phi that 2 % of the values reach",
    "ks": "Kolmogorov-Smirnov statistic",
    "fkr": "False Killing Rate",
}


def run(arm, seed):
    """Train one network; test it, and measure its second layer if plain."""
    method, rate, width = arm
    digits = common.Digits(seed, WRONG_SHARE)

    def between():
        return [METHODS[method](rate)] if method in METHODS else []

    model = common.recycled(arm, common.build(between, seed, width))
    common.fit(model, digits)
    scores = label_noise.scores(model, digits)
    if method == "plain":
        scores |= monosemanticity(model, digits)
    return scores


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


def at(runs, width, rate=None):
    """The methods at one width.

    Args:
        runs: All runs.
        width: Units of a layer.
        rate: Of RD and placebo; `None` takes of each method and seed the
            trial that is best on validation images.
    """
    arms = {name: a for name, a in ARMS.items() if a[2] == width}
    if rate is not None:
        arms = {n: a for n, a in arms.items() if a[1] in (0.0, rate)}
    arms = {
        n: a[:2] for n, a in arms.items() if rate is None or a[0] != "dropout"
    }
    chosen = label_noise.tuned(runs, arms)
    methods = ["plain", *METHODS] if rate is None else ["plain", *METHODS][:3]
    pairs = CONTRASTS if rate is None else CONTRASTS[:1]
    return Comparison(chosen, methods, contrasts=pairs)


def trends(runs):
    """The change with each doubling of the width, by least squares, seed by
    seed: a comparison of the slopes with 0."""
    doublings = np.log2(WIDTHS)
    tables = {
        rate: {width: at(runs, width, rate) for width in WIDTHS}
        for rate in (None, RATE)
    }
    values = {
        (rate, width, metric, arm): table.scores(metric)[arm]
        for rate, some in tables.items()
        for width, table in some.items()
        for arm in table.arms
        for metric in ("accuracy", *(MEASURES if arm == "plain" else ()))
    }

    def slope(seed, rate, metric, arm, other=None):
        steps = [
            values[rate, width, metric, arm][seed]
            - (values[rate, width, metric, other][seed] if other else 0)
            for width in WIDTHS
        ]
        return float(np.polyfit(doublings, steps, 1)[0])

    found = []
    for seed in tables[None][WIDTHS[0]].seeds:
        scores = {
            text: slope(seed, None, metric, "plain")
            for metric, text in MEASURES.items()
        }
        scores[PLAIN] = 100 * slope(seed, None, "accuracy", "plain")
        for name, (rate, other) in SLOPED.items():
            scores[name] = 100 * slope(seed, rate, "accuracy", "RD", other)
        found += [
            {"arm": "slope", "seed": seed, "scores": scores},
            {"arm": "0", "seed": seed, "scores": dict.fromkeys(scores, 0.0)},
        ]
    return Comparison(found, ["0", "slope"])


PLAIN = "accuracy of plain, points"
SLOPED = {
    f"accuracy of RD less {other}, {how}, points": (rate, other)
    for rate, how in ((None, "tuned"), (RATE, "at 10 %"))
    for other in ("plain", "placebo", "dropout")
    if not (rate and other == "dropout")
}


def stored():
    return RunStore(STORE).read()


def findings():
    """What RESULTS.md takes from here."""
    runs = stored()
    for width in WIDTHS:
        title = f"digits, 20 % wrong labels, {width} units, all methods tuned"
        yield common.Finding(title, at(runs, width), "accuracy")
    for width in WIDTHS:
        title = f"digits, 20 % wrong labels, {width} units, a rate of 10 %"
        yield common.Finding(title, at(runs, width, RATE), "accuracy")


SIGNS = {"better": "rises", "worse": "falls", "not shown": "not shown"}


# What the page says in words.
CLAIMS = {}
SLOPES = {}
SEEN = "Seen: not yet written."


def page(runs):
    """What was seen, in Markdown."""
    tuned = {width: at(runs, width) for width in WIDTHS}
    fixed = {width: at(runs, width, RATE) for width in WIDTHS}
    slopes = trends(runs)
    for (width, rate), claims in CLAIMS.items():
        some = tuned if rate is None else fixed
        common.check(some[width], {"accuracy": claims})
    common.check(
        slopes, {name: {("slope", "0"): v} for name, v in SLOPES.items()}
    )
    seeds = tuned[WIDTHS[0]].seeds
    lines = [
        "# Scale: monosemanticity and inhibition against width",
        "",
        "<!-- Written by examples/studies/scale.py. -->",
        "",
        f"Digits with {WRONG_SHARE:.0%} wrong labels in training and "
        f"validation, two hidden layers, {common.EPOCHS} epochs, {len(seeds)} "
        "seeds. RD, its placebo and dropout stand before both ReLUs and have "
        "three trials at each width, of which the one counts that is best on "
        "validation images, seed by seed: rates of 2, 10 and 30 % (dropout: "
        "10, 30 and 50 %). phi, the Kolmogorov-Smirnov statistic and the "
        "False Killing Rate are of the second layer of the plain network, on "
        "test images; 2 % of the values of a Gaussian unit reach a phi of "
        f"{scipy.stats.chi2.isf(EXTREME, 1):.2f}.",
        "",
        SEEN,
        "",
        "![Accuracy, phi and KS by width](scale.png)",
        "",
        "All methods tuned, points:",
        "",
        *common.table(
            [
                ["width", "plain, %", "RD less plain", "placebo less plain"]
                + ["dropout less plain", "RD less placebo"]
                + ["RD less dropout", "phi", "KS", "FKR"],
                *(
                    [str(width), *cells(found)]
                    + [
                        f"{found.scores(metric)['plain'].mean():.2f}"
                        for metric in MEASURES
                    ]
                    for width, found in tuned.items()
                ),
            ]
        ),
        "",
        f"RD and placebo at a rate of {RATE:.0%} for all widths, points:",
        "",
        *common.table(
            [
                ["width", "plain, %", "RD less plain", "placebo less plain"]
                + ["RD less placebo"],
                *(
                    [str(width), *cells(found)]
                    for width, found in fixed.items()
                ),
            ]
        ),
        "",
        "Change with each doubling of the width (least squares, seed by seed; "
        "each row a question of its own, without correction over rows):",
        "",
        *common.table(
            [
                ["", "slope", "95 % interval", "p", "verdict"],
                *(
                    [c.metric, f"{c.mean:+.3f}"]
                    + [f"{c.low:+.3f} to {c.high:+.3f}", f"{c.p:.3f}"]
                    + [SIGNS[c.verdict]]
                    for c in slopes.contrasts
                ),
            ]
        ),
        "",
        "## Limits",
        "",
        "Widths of one kind of network on one small set, far from where "
        "emergence is spoken of; a straight line through six widths, which "
        "says nothing beyond them. The number of epochs is the same for all "
        "widths, so that wide networks learn more of the wrong labels. Naive "
        "inhibition is not part of it.",
    ]
    return common.closed(lines, "scale.jsonl", runs)


def cells(found):
    """Accuracy of plain, and all differences with their verdicts."""
    return [f"{100 * found.scores('accuracy')['plain'].mean():.1f}"] + [
        f"{100 * c.mean:+.1f} {c.verdict}"
        for c in found.contrasts
        if c.metric == "accuracy"
    ]


def figure(runs):
    plot, panels = plt.subplots(
        1, 3, figsize=(11, 3), layout="constrained", sharex=True
    )
    tables = [at(runs, width) for width in WIDTHS]
    colours = {"plain": "k", "RD": "C3", "placebo": "C1", "dropout": "0.6"}
    for method, colour in colours.items():
        panels[0].plot(
            WIDTHS,
            [100 * t.scores("accuracy")[method].mean() for t in tables],
            "o-",
            color=colour,
            label=method,
            ms=4,
        )
    for metric, panel in zip(("phi", "ks"), panels[1:]):
        values = np.array([t.scores(metric)["plain"] for t in tables])
        panel.plot(WIDTHS, values, "o", color="k", ms=3, alpha=0.4)
        panel.plot(WIDTHS, values.mean(axis=1), "-", color="k", lw=2)
        panel.set_title(MEASURES[metric], loc="left", fontsize=10)
    panels[0].set_title("accuracy, tuned, %", loc="left", fontsize=10)
    panels[0].legend(frameon=False, fontsize=8)
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
