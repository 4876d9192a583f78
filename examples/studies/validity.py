"""How often is `compare` wrong, and how often does it find what is there?

    python examples/studies/validity.py

Runs `compare` on simulated trainers, whose true effects are known, and counts:
verdicts where there is no effect, effects found, intervals that hold the true
effect. Writes results/validity.jsonl and docs/studies/validity.md.
"""

import functools
import gc
import json
import typing

import numpy as np
import scipy.stats
from tqdm import tqdm

from examples.studies.common import pages
from examples.studies.common import training
from keras_memel import compare
from keras_memel.evaluation.contrasts import detectable_effect

IMAGES, ACCURACY = 1000, 0.9


# The noise of a score, by arm and seed. That of the seed itself cancels.
class Law(typing.NamedTuple):
    draw: typing.Callable
    deviation: float  # of the delta between two arms


LAWS = {
    "Gaussian": Law(lambda rng: rng.normal(), np.sqrt(2)),
    "heavy tails (Student, 3 degrees of freedom)": Law(
        lambda rng: rng.standard_t(3), np.sqrt(2 * 3)
    ),
    f"share of {IMAGES} images": Law(
        lambda rng: rng.binomial(IMAGES, ACCURACY) / IMAGES,
        np.sqrt(2 * ACCURACY * (1 - ACCURACY) / IMAGES),
    ),
    # Noise in one arm alone: that of two would make symmetric deltas.
    "skewed (exponential)": Law(lambda rng: rng.exponential() - 1, 1.0),
}
ONE_SIDED = "skewed (exponential)"
# Deviations of the delta that each arm beside "plain" adds.
SITUATIONS = {
    "5 arms, no effect": (0.0,) * 5,
    "1 arm, effect of 1 deviation": (1.0,),
    "5 arms, effect of 1 deviation in one": (1.0, 0.0, 0.0, 0.0, 0.0),
    # `Contrast.detectable`: one deviation with 10 seeds and 1 arm.
    "1 arm, detectable effect": None,
    "9 arms, detectable effect in one": None,
}
SEEDS = (10, 20)
COUNTS = ("wrong", "found", "covered")
FILE = training.RESULTS / "validity.jsonl"
# What a plain BCa interval covers, in the same way.
PLAIN = training.RESULTS / "validity_plain_bca.json"
# More where it matters or costs little.
REPETITIONS = {
    (10, "1 arm"): 1000,
    (10, "5 arms"): 400,
    (20, "1 arm"): 100,
    (20, "5 arms"): 100,
    (20, "5 arms, no effect"): 400,
    (10, "9 arms"): 400,
    (20, "9 arms"): 100,
}


def effects(situation, seeds):
    found = SITUATIONS[situation]
    if found is None:
        arms = int(situation.split()[0])
        found = (detectable_effect(seeds, arms),) + (0.0,) * (arms - 1)
    return found


def simulate(law, situation, seeds, repetitions):
    """One line of the store: what each repetition showed.

    A digit a repetition: the number of verdicts on arms without effect, of
    right verdicts on arms with one, and of intervals that hold the truth.
    """
    true = [e * LAWS[law].deviation for e in effects(situation, seeds)]
    arms = ["plain"] + [f"arm {number}" for number in range(len(true))]
    wrong, found, covered = "", "", ""
    for repetition in repetitions:
        train = functools.partial(score, law, arms, [0.0, *true], repetition)
        comparison = compare(train, arms, seeds, progress=False)
        seen = list(zip(comparison.contrasts, true))
        wrong += str(
            sum(c.verdict != "not shown" for c, effect in seen if effect == 0)
        )
        found += str(sum(c.verdict == "better" for c, e in seen if e > 0))
        covered += str(sum(c.low <= e <= c.high for c, e in seen))
    return {
        "law": law,
        "situation": situation,
        "seeds": seeds,
        "arms": len(true),
        "wrong": wrong,
        "found": found,
        "covered": covered,
    }


def score(law, arms, true, repetition, arm, seed):
    """A simulated trainer: a score with noise of the seed and of the arm."""
    number = arms.index(arm)
    key = [list(LAWS).index(law), repetition, seed]
    common_noise = np.random.default_rng(key).normal()
    if law == ONE_SIDED and number == 0:
        return common_noise
    rng = np.random.default_rng([*key, 1 + number])
    return common_noise + LAWS[law].draw(rng) + true[number]


def share(digits):
    """Share of the repetitions with at least one."""
    return np.mean([digit > "0" for digit in digits])


def stored():
    """The simulations, and what a plain BCa interval covers."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    plain = json.loads(PLAIN.read_text(encoding="utf-8"))
    return [json.loads(line) for line in lines], plain


def write():
    """The page, from what is stored."""
    pages.write("validity", page(stored()))


def coverage(line):
    """Share of the intervals that hold the true effect."""
    held = map(int, line["covered"])
    return sum(held) / len(line["covered"]) / line["arms"]


def page(found):
    lines, plain = found
    rates = sorted(map(coverage, lines))
    power = sorted(
        share(line["found"])
        for line in lines
        if "detectable" in line["situation"]
        and line["seeds"] == SEEDS[0]
        and line["law"] != ONE_SIDED
    )
    text = [
        "# How often `compare` is wrong",
        "",
        "<!-- Written by examples/studies/validity.py. -->",
        "",
        "`compare` itself, on simulated trainers whose true effects are known. "
        "A deviation is that of the delta between two arms over the seeds.",
        "",
        "Wrong: repetitions in which an arm without effect got a verdict, at "
        "least one of all; 5 % are allowed. Found: repetitions in which the "
        "arm with an effect was called better. Covered: 95 % intervals that "
        "hold the true effect.",
    ]
    for seeds in dict.fromkeys(line["seeds"] for line in lines):
        chosen = [line for line in lines if line["seeds"] == seeds]
        text += [
            "",
            f"## {seeds} seeds",
            "",
            "| noise | situation | repetitions | wrong, % | found, % "
            "| covered, % |",
            "|---|---|--:|--:|--:|--:|",
        ]
        for line in chosen:
            true = effects(line["situation"], seeds)
            number = len(line["covered"])
            covered = coverage(line)
            wrong = f"{share(line['wrong']):.1%}" if 0.0 in true else ""
            found = f"{share(line['found']):.1%}" if any(true) else ""
            text.append(
                f"| {line['law']} | {line['situation']} | {number:,} | {wrong} "
                f"| {found} | {covered:.1%} |".replace("%", "")
            )
    text += [
        "",
        "The interval is a BCa bootstrap at a level that makes up for the "
        "small number of seeds (`Comparison` gives the formula). A plain one "
        "of nominal 95 %, of Gaussian deltas:",
        "",
        "| seeds | plain BCa, covered, % |",
        "|--:|--:|",
    ]
    for seeds, held in plain.items():
        text.append(f"| {seeds} | {100 * held:.1f} |")
    text += [
        "",
        "## What to take from it",
        "",
        "The sign-flip test is exact for deltas that lie symmetrically about "
        "their mean. They do so if arm and baseline have the same noise, in "
        "shape and size, or each a symmetric one. If one of them has a skewed "
        "noise that the other lacks, the first line of the skewed rows shows "
        "what a verdict is worth: look at the dots of `Comparison.plot`. The "
        f"95 % intervals hold the true effect in {pages.percent(rates[0])} to "
        f"{pages.percent(rates[-1])} of all cases, most rarely where tails are "
        "heavy. `detectable` goes by the power of Student's test, 80 %; since "
        "the sign-flip test and the interval must agree, it is "
        f"{pages.percent(power[0])} to {pages.percent(power[-1])} with 10 "
        "seeds and noise that is not skewed.",
        "",
        "Run files: examples/studies/results/validity*.",
    ]
    return "\n".join(text) + "\n"


def plain_coverage(seeds, repetitions=1000):
    """What a BCa interval of nominal 95 % holds, with Gaussian deltas."""
    deltas = np.random.default_rng(seeds).normal(size=(repetitions, seeds))
    held = 0
    for part in np.split(deltas, 20):  # all at once would take gigabytes
        low, high = scipy.stats.bootstrap(
            (part,), np.mean, axis=-1, rng=0
        ).confidence_interval
        held += np.sum((low <= 0) & (high >= 0))
    return held / repetitions


def main():
    # statsmodels' Holm collects garbage at each call, which takes half a
    # second of looking through a backend.
    gc.freeze()
    old = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    lines = {
        (line["law"], line["situation"], line["seeds"]): line
        for line in map(json.loads, old.splitlines())
    }
    settings = [
        (law, situation, seeds)
        for seeds in SEEDS
        for law in LAWS
        for situation in SITUATIONS
    ]
    for setting in tqdm(settings):
        _, situation, seeds = setting
        line = lines.get(setting, dict.fromkeys(COUNTS, ""))
        wanted = REPETITIONS.get(
            (seeds, situation),
            REPETITIONS[seeds, situation.partition(",")[0]],
        )
        more = simulate(*setting, range(len(line["covered"]), wanted))
        more.update({count: line[count] + more[count] for count in COUNTS})
        lines[setting] = more
        kept = [json.dumps(lines[s]) + "\n" for s in settings if s in lines]
        FILE.write_text("".join(kept), encoding="utf-8")
    if not PLAIN.exists():
        held = {str(seeds): float(plain_coverage(seeds)) for seeds in SEEDS}
        PLAIN.write_text(json.dumps(held) + "\n", encoding="utf-8")
    write()


if __name__ == "__main__":
    main()
