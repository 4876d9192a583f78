"""The paper's three experiments, from the runs of examples/paper/tables.py.

    python examples/studies/paper_experiments.py [--families nowcasting]
        [--wrong 0]
    python examples/studies/paper_experiments.py --repeat 2 --cifar10 FILE \
        --minilm FOLDER

Reads examples/paper/results, the files *.jsonl that tables.py left in its
--out, and writes docs/studies/paper_experiments.md. Runs nothing. A condition
is a family with a share of wrong labels. The page names conditions without
runs, and is not written while a condition lacks some.

results/unfinished has runs of conditions that are not complete: copy its files
to the --out of tables.py, and the command goes on with them.

--repeat N trains again N pairs of arm and seed of each family, drawn at
random, and says whether all their scores are equal. That takes minutes. As in
tables.py, PyTorch computes with one thread, or with OMP_NUM_THREADS.
"""

import argparse
import datetime
import functools
import itertools
import json
import os
import pathlib
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in tables.py

import numpy as np

from examples.paper import pages as tables_of
from examples.paper import plan
from examples.paper import tables
from examples.paper.common import arms
from examples.paper.common import longrun
from examples.paper.common import probe
from examples.quickstart import at_least
from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from keras_memel import RunStore
from keras_memel import compare
from keras_memel.evaluation.tables import COLORS

RUNS = training.EXAMPLES / "paper" / "results"
NAMES = {"nowcasting": "ConvGRU", "glue": "MiniLM", "imagenet": "Swin"}
# Written by --repeat: a line per run.
REPEATED = "repeated.txt"
# The paper's own, and the same with its settings tuned.
OURS = ("MEmeL", "MEmeL-Tune")


class IncompleteError(Exception):
    """Runs that a page needs are not there."""


class Stored(tables.Study):
    """A condition of tables.py whose runs are read, and never made."""

    def compare(self, chosen, seeds, store, settings=()):
        """Return the stored comparison. Raise if a run is missing, has other
        settings, or was made by code that is in no commit."""
        name = store.name
        runs = {
            (run["arm"], run["seed"]): run for run in RunStore(store).read()
        }
        wanted = [(arm, seed) for seed in seeds for arm in chosen]
        absent = [key for key in wanted if key not in runs]
        if absent:
            raise IncompleteError(
                f"{name} lacks {len(absent)} of {len(wanted)} runs, such as "
                f"{absent[0][0]} with seed {absent[0][1]}"
            )
        for arm, seed in wanted:
            found = runs[arm, seed]["environment"].get("revision", "")
            if not found or found.endswith("-dirty"):
                raise IncompleteError(
                    f"{name}: the run of {arm} with seed {seed} has no clean "
                    f"revision. Received: {found!r}"
                )
        try:
            return compare(
                _never, chosen, seeds=seeds, store=store, progress=False
            )
        except ValueError as error:
            raise IncompleteError(
                f"{name} has other settings: {error}"
            ) from None


def _never(argument, seed):
    raise AssertionError("All runs are stored.")


def present(runs=RUNS):
    """Return the conditions that have runs of the comparison in a folder."""
    return [
        condition
        for condition in plan.conditions(plan.FAMILIES, plan.WRONG)
        if (runs / f"{condition.name}.jsonl").is_file()
    ]


def options_of(runs=RUNS, families=None, wrong=None, data=()):
    """Return options of tables.py for stored runs, with their `conditions`.

    families, wrong: of the conditions. By default, of all that have runs.
    """
    found = present(runs)
    if families or wrong:
        families = families or plan.FAMILIES
        found = plan.conditions(families, wrong or plan.WRONG)
    if not found:
        raise SystemExit(
            "No runs. Pass --runs FOLDER, the --out of examples/paper/tables.py"
            f", or copy its *.jsonl to {RUNS}. Received: --runs {runs}"
        )
    families = dict.fromkeys(condition.family for condition in found)
    options = tables.parse([f"--out={runs}", "--families", *families, *data])
    options.conditions = found
    return options


def stored(options=None):
    """Return comparison and chosen settings by condition.

    Raises:
        SystemExit: If runs of a condition are missing; names all such.
    """
    options = options or options_of()
    found, missing = {}, []
    for condition in options.conditions:
        try:
            found[condition] = Stored(condition, options).run()
        except IncompleteError as error:
            missing.append(f"{condition.name}: {error}")
    if missing:
        raise SystemExit(
            "No page is written while runs are missing; make them with "
            "examples/paper/tables.py.\n" + "\n".join(missing)
        )
    return found


def family_of(condition):
    return plan.FAMILIES[condition.family]


def title(condition):
    wrong = (
        f", {pages.percent(condition.wrong)} wrong" if condition.wrong else ""
    )
    return NAMES[condition.family] + wrong


def scored(condition, comparison, metric=None):
    """Return all arms on a metric, and the scale of deltas: points of
    accuracy, or % of the original's mean.

    metric: by default the one that decides.
    """
    family = family_of(condition)
    found = tables_of.view(
        comparison,
        {arm: (arm, metric or family.metric) for arm in arms.NAMES},
        family.up,
        arms.CONTRASTS,
    )
    original = found.scores("score")["original"].mean()
    return found, 100.0 if family.up else 100.0 / original


def published(condition, arm):
    """Return the published gain of an arm, in the unit of `scored`, or `None`.

    Of the three sizes of Swin the first; none is of wrong labels.
    """
    family = family_of(condition)
    if condition.wrong or arm not in family.published:
        return None
    ours, original = (
        float(family.published[name].split("/")[0])
        for name in (arm, "original")
    )
    return ours - original if family.up else 100 * (ours / original - 1)


def contrasts(found):
    return {(c.arm, c.other): c for c in found.contrasts}


def findings():
    """Yield the tables that RESULTS.md includes."""
    for condition, (comparison, _) in stored().items():
        found, scale = scored(condition, comparison)
        up = family_of(condition).up
        yield pages.Finding(
            f"{title(condition)}, the paper's arms",
            found,
            "score",
            scale=scale,
            unit="points of accuracy" if up else "% of the B-MSE",
            better="" if up else "lower",
            wrong=condition.wrong if up else None,
        )


def answer(views):
    """Return the answer: each verdict, and the networks that have it."""
    texts = []
    for pair in [(arm, "original") for arm in OURS] + [("MEmeL", "placebo")]:
        networks = {}
        for condition, (found, _) in views.items():
            verdict = contrasts(found)[pair].verdict
            networks.setdefault(verdict, []).append(title(condition))
        verdicts = [
            f"{verdict} ({'; '.join(names)})"
            for verdict, names in networks.items()
        ]
        texts.append(f"{' vs. '.join(pair)}: {', '.join(verdicts)}.")
    return " ".join(texts) + " All networks are small."


def absent(found):
    """Return lines on the conditions without runs, if there are any."""
    names = [
        title(condition)
        for condition in plan.conditions(plan.FAMILIES, plan.WRONG)
        if condition not in found
    ]
    if not names:
        return []
    return [f"Not run to the end, and not here: {'; '.join(names)}.", ""]


def first_table(comparisons, views):
    """Mean difference and verdict: a row per pair of arms."""
    columns = {}
    for condition, view in views.items():
        columns[f"{title(condition)}, {unit(condition)}"] = view
        if condition.family == "nowcasting":
            columns[f"{title(condition)}, % of the B-MAE"] = scored(
                condition, comparisons[condition][0], "b_mae"
            )
    rows = [["", *columns]]
    for pair in next(iter(views.values()))[0].pairs:
        cells = []
        for found, scale in columns.values():
            contrast = contrasts(found)[pair]
            cells.append(f"{scale * contrast.mean:+.2f} {contrast.verdict}")
        rows.append([" vs. ".join(pair), *cells])
    return pages.table(rows)


def unit(condition):
    return "points" if family_of(condition).up else "% of the B-MSE"


def size_table(views):
    """Published gains beside what so many seeds of these runs can show."""
    rows = [["", "published", "here", "95 % interval", "detectable", "verdict"]]
    for condition, (found, scale) in views.items():
        for arm in OURS:
            gain = published(condition, arm)
            contrast = contrasts(found)[arm, "original"]
            low, high = scale * contrast.low, scale * contrast.high
            rows.append(
                [
                    f"{title(condition)}: {arm}, {unit(condition)}",
                    "" if gain is None else f"{gain:+.2f}",
                    f"{scale * contrast.mean:+.2f}",
                    f"{low:+.2f} to {high:+.2f}" if np.isfinite(low) else "",
                    f"{scale * contrast.detectable:.2f}",
                    contrast.verdict,
                ]
            )
    return pages.table(rows)


def size_sentences(views):
    """Say for each published gain whether these runs could have shown it."""
    shown, missed = [], []
    for condition, (found, scale) in views.items():
        for arm in OURS:
            gain = published(condition, arm)
            if gain is None:
                continue
            least = scale * contrasts(found)[arm, "original"].detectable
            (shown if abs(gain) >= least else missed).append(
                f"{title(condition)}, {arm}: {abs(gain):.2f} published, "
                f"{least:.2f} detectable"
            )
    lines = []
    if shown:
        lines += [
            "",
            "Effects as large as these published gains would have been shown "
            f"in about three studies of four: {'; '.join(shown)}.",
        ]
    if missed:
        lines += [
            "",
            "Effects as small as these published gains would be missed more "
            'often than that, so that "not shown" says nothing against them: '
            f"{'; '.join(missed)}.",
        ]
    return lines


def learned(found):
    """How good the originals are, beside what takes no training."""
    rows = [["", "original", "chance or persistence"]]
    for condition, (comparison, _) in found.items():
        scores = comparison.scores(family_of(condition).metric)["original"]
        if family_of(condition).up:
            chance = {"glue": "50 (chance)", "imagenet": "10 (chance)"}
            cell = chance[condition.family]
            mean = f"{100 * scores.mean():.1f} %"
        else:
            last = comparison.scores("persistence_b_mse")["original"].mean()
            cell, mean = f"{last:.1f} (persistence)", f"{scores.mean():.1f}"
        rows.append([title(condition), mean, cell])
    return pages.table(rows)


def diagnosis(found, metrics, scale=100.0, up=None, pairs=(), form=".3g"):
    """A row per score of a run, a column per condition: mean, and verdict vs.
    the first row.

    metrics: by the title of a row the arm and its score.
    """
    columns, rows = {}, [["", *map(title, found)]]
    for condition, (comparison, _) in found.items():
        higher = family_of(condition).up if up is None else up
        columns[condition] = tables_of.view(
            comparison, metrics, higher, contrasts=pairs
        )
    first = next(iter(metrics))
    for name in metrics:
        cells = []
        for condition, view in columns.items():
            by = scale(condition) if callable(scale) else scale
            mean = by * view.scores("score")[name].mean()
            verdict = ""
            if name != first:
                verdict = f" {contrasts(view)[name, first].verdict}"
            cells.append(f"{mean:{form}}{verdict}")
        rows.append([name, *cells])
    for pair in pairs:
        cells = []
        for condition, view in columns.items():
            by = scale(condition) if callable(scale) else scale
            contrast = contrasts(view)[pair]
            cells.append(f"{by * contrast.mean:+{form}} {contrast.verdict}")
        rows.append([" vs. ".join(pair), *cells])
    return pages.table(rows)


def diagnoses(found):
    """Sections on Decrease Ratio, monosemantic values and their ablation."""
    ratios = {arm: ("original", f"decrease_ratio {arm}") for arm in arms.STEPS}
    after = {
        f"after: {arm}": (arm, "share_after")
        for arm in arms.NAMES
        if arm != "original"
    }
    shares = {
        "after: original": ("original", "share_after"),
        "before training": ("original", "share_before"),
        **after,
    }
    ablated = {"whole network": ("original", "ablated_0")}
    pairs = []
    for k in probe.ABLATED:
        for way in ("top", "random"):
            ablated[f"{way} {k}"] = "original", f"ablated_{way}_{k}"
        pairs.append((f"top {k}", f"random {k}"))
    shown = ", ".join(
        f"{arm} {ratio:+.3f}" for arm, ratio in plan.RATIOS.items()
    )
    return [
        "",
        "## Does a step lower the scale? (Table 4)",
        "",
        "Decrease Ratio in %: how much one step of each arm, from the trained "
        "original, lowers phi of the value of highest phi in each sample, the "
        "same values for all arms; verdict vs. a step without inhibition. "
        f"Published for Swin-B: {shown}.",
        "",
        *diagnosis(found, ratios, up=True),
        "",
        "## How many values are monosemantic?",
        "",
        f"Values whose phi is at least {probe.THRESHOLD:g}, in % (0.27 % of a "
        'Gaussian\'s are); "better" is fewer than in the original after '
        "training.",
        "",
        *diagnosis(found, shares, up=False),
        "",
        "## Does the network need them?",
        "",
        "In the trained original, the k values per sample of highest phi are "
        "held at the mean of their neuron while it is tested, after each "
        "place; against k values chosen at random. Accuracy in %, or B-MSE; "
        'verdict vs. the whole network, "worse" if it loses by it.',
        "",
        *diagnosis(
            found,
            ablated,
            scale=lambda condition: family_of(condition).scale,
            pairs=pairs,
            form=".2f",
        ),
    ]


def method(found):
    """Describe the runs of the plan."""
    first = next(iter(found.values()))[0]
    budgets = ", ".join(
        f"{name}: {'; '.join(settings)}"
        for name, settings in plan.trials(False).items()
    )
    lines = [
        "",
        "## Method",
        "",
        f"{len(arms.NAMES)} arms, {len(first.seeds)} paired seeds each: a seed "
        "fixes split, first weights, order and wrong labels for all arms. "
        "MEmeL inhibits one value per sample, as in the paper; the placebo as "
        "many, chosen at random; L2E 2 % of the values, by a penalty. Each "
        f"tuned arm has {len(plan.trials(False)['dropout'])} settings "
        f"({budgets}), of which the one with the best mean validation on seeds "
        f"{plan.TUNING_SEEDS[0]} and {plan.TUNING_SEEDS[1]} counts; no "
        "comparison uses these seeds, nor did a test score choose anything. "
        "Sizes, arms, seeds and settings were fixed in examples/paper/plan.py "
        "before the first run. Verdicts have Holm's correction over the rows "
        "of a table. Published numbers are of full-size networks on GLUE, "
        "ImageNet and HKO-7: this is no reproduction.",
        "",
    ]
    rows = [["", "command of examples/paper", "chosen by validation"]]
    for condition, (_, chosen) in found.items():
        words = plan.command(condition, False, chosen["epochs"])
        settings = "; ".join(
            f"{k}: {v}" for k, v in chosen.items() if v and k != "epochs"
        )
        name = condition.family
        rows.append(
            [title(condition), f"`{name}/train.py {' '.join(words)}`", settings]
        )
    lines += pages.table(rows)
    return lines


def repeated(options):
    """Describe the result of --repeat, from its file."""
    path = options.out / REPEATED
    if not path.is_file():
        return ["No run was repeated yet."]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    equal = sum(line["largest"] == 0 for line in lines)
    text = (
        f"{equal} of {len(lines)} runs that were drawn at random and trained "
        "again have the same numbers in every digit"
    )
    others = [line for line in lines if line["largest"]]
    if others:
        worst = max(others, key=lambda line: line["largest"])
        text += (
            f"; the others differ by up to {worst['largest']:.3g} "
            f"({worst['condition']}, {worst['arm']}, seed {worst['seed']}: "
            f"{worst['score']})"
        )
    return [text + "."]


LIMITS = (
    "Another processor adds numbers in another order, and training is chaotic: "
    "of five runs of the study of wrong labels that were repeated on another "
    "processor two were equal to the digit, two within a point of accuracy and "
    "one seven points off. The verdicts are over ten seeds; single runs are "
    "those of one processor."
)


def page(found, options=None):
    """Return the page in Markdown, from what `stored` returns."""
    options = options or options_of()
    views = {c: scored(c, comparison) for c, (comparison, _) in found.items()}
    lines = [
        "# The paper's three experiments",
        "",
        "<!-- Written by examples/studies/paper_experiments.py. -->",
        "",
        f"**{answer(views)}**",
        "",
        *absent(found),
        "![Each arm vs. the original, by network](paper_experiments.png)",
        "",
        "Mean difference and verdict. A positive difference of accuracy is "
        "better, a negative one of B-MSE or B-MAE:",
        "",
        *first_table(found, views),
        "",
        "## What the size allows to say",
        "",
        "The published gain of each arm beside the one here. Detectable is "
        "the effect that so many seeds show in about three studies of four:",
        "",
        *size_table(views),
        *size_sentences(views),
        "",
        "## Do the networks learn?",
        "",
        *learned(found),
        *method(found),
        *diagnoses(found),
        "",
        "## All tables",
    ]
    for condition, (comparison, chosen) in found.items():
        text = "\n\n".join(
            tables_of.sections(condition, comparison, chosen)
        ).replace("## ", "### ")
        lines += ["", text]
    runs = [run for comparison, _ in found.values() for run in comparison.runs]
    revisions = sorted({run["environment"]["revision"][:7] for run in runs})
    lines += [
        "",
        "## Limits",
        "",
        *repeated(options),
        "",
        LIMITS,
        "",
        f"Run files: examples/paper/results/*.jsonl; {pages.environments(runs)}"
        f"; revision {', '.join(revisions)}.",
    ]
    return pages.tidy(lines)


def figure(found):
    """Draw each arm vs. the original, and the published gains."""
    plot, panels = pages.panels_of(len(found), 2.8, sharey=True)
    for panel, (condition, (comparison, _)) in zip(panels, found.items()):
        view, scale = scored(condition, comparison)
        names = [arm for arm in arms.NAMES if arm != "original"]
        for place, arm in enumerate(names):
            contrast = contrasts(view)[arm, "original"]
            color = COLORS[contrast.verdict]
            ends = [scale * contrast.low, scale * contrast.high]
            panel.plot(ends, [place] * 2, color=color, lw=2)
            panel.plot(scale * contrast.mean, place, "o", color=color)
            gain = published(condition, arm)
            if gain is not None:
                panel.plot(gain, place, "D", color="black", mfc="none")
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.axvline(0.0, color="black", lw=1)
        up = "right" if family_of(condition).up else "left"
        panel.set_title(
            f"{title(condition)}\n{unit(condition)}, better: {up}",
            fontsize=9,
            loc="left",
        )
        pages.bare(panel)
        panel.tick_params(axis="y", length=0)
    plot.supxlabel(
        "vs. original (mean, 95 % interval; blue: better, orange: worse, "
        "gray: not shown; diamond: published)",
        fontsize=9,
    )
    return plot


def repeat(found, options, number, seed=None):
    """Train again pairs of arm and seed of each family, drawn at random.

    Returns:
        Whether all scores are equal. Each result is printed and appended to
        the file REPEATED.
    """
    rng = np.random.default_rng(seed)
    same = True
    for family in options.families:
        pool = [
            (condition, run)
            for condition, (comparison, _) in found.items()
            for run in comparison.runs
            if condition.family == family and "error" not in run
        ]
        for index in rng.choice(len(pool), min(number, len(pool)), False):
            condition, run = pool[index]
            line = again(condition, run, options)
            same &= line["largest"] == 0
            print(json.dumps(line), flush=True)
            with (options.out / REPEATED).open("a") as file:
                file.write(json.dumps(line) + "\n")
    return same


def again(condition, run, options):
    """Return how far a fresh run is from a stored one."""
    study = Stored(condition, options)
    settings, chosen = study.arms()
    arm, seed = run["arm"], run["seed"]
    with tempfile.TemporaryDirectory() as folder:
        train = functools.partial(
            tables.train,
            module=family_of(condition).module,
            further=study.further(chosen),
            out=pathlib.Path(folder) / condition.name,
        )
        fresh = dict(train(settings[arm], seed))
    answers = "".join(str(int(right)) for right in fresh.pop("correct", ()))
    distances = {
        name: abs(float(fresh.get(name, np.inf)) - score)
        for name, score in run["scores"].items()
    }
    distances["correct"] = sum(
        one != other
        for one, other in itertools.zip_longest(run.get("correct", ""), answers)
    )
    worst = max(distances, key=distances.get)
    return {
        "condition": condition.name,
        "arm": arm,
        "seed": seed,
        "scores": len(run["scores"]),
        "score": worst,
        "largest": float(distances[worst]),
        "date": datetime.date.today().isoformat(),
    }


def write(options=None):
    """Write the page and its figure, from what is stored."""
    options = options or options_of()
    found = stored(options)
    pages.write("paper_experiments", page(found, options), figure(found))


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--runs", type=pathlib.Path, default=RUNS)
    add("--families", nargs="+", choices=plan.FAMILIES)
    add("--wrong", type=float, nargs="+", choices=plan.WRONG, help="of labels")
    add("--repeat", type=at_least(1), metavar="N")
    add("--cifar10", type=pathlib.Path, help="as for tables.py")
    add("--minilm", type=pathlib.Path, help="as for tables.py")
    training.add_dry_run(parser)
    given = parser.parse_args(arguments)
    if given.dry_run:
        dry_run.lines(
            conditions="; ".join(map(title, present(given.runs))) or "none",
            reads=given.runs,
            repeats=f"{given.repeat or 0} runs per family",
            writes="docs/studies/paper_experiments.md",
        )
        return
    data = [
        f"--{name}={value}"
        for name in ("cifar10", "minilm")
        if (value := getattr(given, name)) is not None
    ]
    options = options_of(given.runs, given.families, given.wrong, data)
    if given.repeat is None:
        write(options)
    elif not repeat(stored(options), options, given.repeat):
        raise SystemExit("Not all numbers are the same: see above.")


if __name__ == "__main__":
    longrun.start(main)
