"""Write RESULTS.md: the verdicts of all studies on their main metrics.

    python examples/studies/results.py

The script reads the stored runs and trains no network. It writes the page of
every study, the table of all verdicts, docs/when_to_use.md, and the table of
evidence in README.md.
"""

import argparse
import dataclasses
import importlib
import itertools
import math

from examples import quickstart
from examples.studies import paper_experiments
from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from keras_memel import RunStore

ROOT = training.EXAMPLES.parent
# Study by name, in the order of RESULTS.md, and its heading there.
STUDIES = {
    "quickstart": "The first example",
    "label_noise": "Wrong labels",
    "domains": "Other data",
    "encourage": "Inhibit or encourage",
    "scale": "Scale",
    "grokking": "Time",
    "pretraining": "Pretraining",
    "mechanism": "Mechanism",
    "causality": "Causality",
    "detection": "Detection",
}
# Its page exists as soon as examples/paper/results has runs.
if paper_experiments.present():
    STUDIES["paper_experiments"] = "The paper's three experiments"
OTHER_PAGES = ("measures", "validity")


def findings(name):
    """Yield the findings of one study."""
    if name != "quickstart":
        yield from importlib.import_module(
            f"examples.studies.{name}"
        ).findings()
        return
    folder = training.EXAMPLES / "results"
    for backend, file in (
        ("JAX", folder / "quickstart.jsonl"),
        ("TensorFlow", folder / "tensorflow" / "quickstart.jsonl"),
        ("PyTorch", folder / "torch" / "quickstart.jsonl"),
    ):
        found = quickstart.compared(RunStore(file).read())
        title = f"digits, 20 % wrong labels, untuned, {backend}"
        yield pages.Finding(title, found, "accuracy", wrong=0.2)


def everything():
    """Return all findings, by the name of their study."""
    return {
        name: [
            dataclasses.replace(
                finding,
                comparison=pages.only(finding.comparison, finding.metric),
            )
            for finding in findings(name)
        ]
        for name in STUDIES
    }


def contrasts(finding):
    return [
        c for c in finding.comparison.contrasts if c.metric == finding.metric
    ]


def rows(finding):
    """Yield a row per contrast: name, effect, interval, p, seeds, verdict."""
    found = contrasts(finding)
    decimals = pages.decimals(found, finding.scale)

    def text(number):
        if math.isnan(number):
            return ""
        return f"{finding.scale * number:+.{decimals}f}"

    for c in found:
        yield [
            f"{c.arm} vs. {c.other}",
            text(c.mean),
            f"{text(c.low)} to {text(c.high)}" if text(c.low) else "",
            "" if math.isnan(c.p_holm) else f"{c.p_holm:.3f}",
            str(len(c.seeds)),
            c.verdict,
        ]


def page(found):
    """Return the text of RESULTS.md."""
    every = [c for f in itertools.chain(*found.values()) for c in contrasts(f)]
    counts = {
        verdict: sum(c.verdict == verdict for c in every)
        for verdict in ("better", "worse", "not shown")
    }
    lines = [
        "# Results",
        "",
        "<!-- Written by examples/studies/results.py. -->",
        "",
        f"This page lists {len(every)} verdicts: those of all studies on "
        "their main metric, computed from the stored runs ("
        + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        + "). The pages of the studies have the verdicts on other metrics. "
        '"Better" and "worse" need ten paired seeds and p < 0.05 in both a '
        "sign-flip test and a studentized bootstrap of the mean difference, "
        "with Holm's correction over the rows of a table. All other results "
        'are "not shown". There is no correction over tables. '
        "[How often such verdicts are wrong](docs/studies/validity.md), "
        "[when to use it](docs/when_to_use.md).",
        "",
        "RD is Reverse Deactivation, the inhibition of the paper, on a share "
        "of all values (`Rate`). The studies of mechanism and pretraining use "
        "the paper's own selection, one value of each sample. The placebo "
        "applies the same inhibition to randomly selected values. Any effect "
        "they share is due to noise.",
        "",
        "## In one table",
        "",
        "Each row is a task. Each cell compares RD with the method of its "
        "column, in points of accuracy:",
        "",
        *overview(found),
    ]
    for name, some in found.items():
        place = (
            f"docs/{name}.md"
            if name == "quickstart"
            else f"docs/studies/{name}.md"
        )
        lines += ["", f"## {STUDIES[name]}", "", f"[{place}]({place})"]
        if name == "quickstart":  # The table above has every backend.
            some = some[:1]
        for finding in some:
            lines += ["", f"### {finding.title}", ""]
            what = pages.capital(finding.unit)
            if finding.better:
                what += f'; "better" is {finding.better}'
            lines += [f"{what}:", ""]
            lines += pages.table(
                [
                    ["", "mean", "95 % interval", "p", "seeds", "verdict"],
                    *rows(finding),
                ]
            )
            lines += pages.notes(finding.comparison, finding.metric)
    return pages.tidy(lines)


# Common names of arms that are named differently in the studies.
CALLED = {
    "MEmeL 10 %": "RD",
    "inhibit": "RD",
    "placebo 10 %": "placebo",
    "placebo of inhibit": "placebo",
    "dropout 50 %": "dropout",
}
AGAINST = ("plain", "placebo", "dropout", "naive (a)")


def called(arm):
    return CALLED.get(arm, arm)


def overview(found):
    """Compare RD with each other method, a row per task of accuracy."""
    table = [["", *AGAINST]]
    for finding in itertools.chain(*found.values()):
        cells = {
            called(c.other): c
            for c in contrasts(finding)
            if called(c.arm) == "RD"
        }
        if finding.unit != "points of accuracy" or "plain" not in cells:
            continue
        texts = [
            f"{finding.scale * cells[name].mean:+.1f} {cells[name].verdict}"
            if name in cells
            else ""
            for name in AGAINST
        ]
        table.append([finding.title, *texts])
    return pages.table(table)


def cases(found, other, choose=lambda finding: True):
    """Yield RD vs. another arm, for all chosen tasks of accuracy."""
    for finding in itertools.chain(*found.values()):
        if finding.wrong is None or not choose(finding):
            continue
        for c in contrasts(finding):
            if (called(c.arm), called(c.other)) == ("RD", other):
                yield finding, c


def tally(found, other, choose=lambda finding: True):
    """Return the number of each verdict, in words."""
    verdicts = [c.verdict for _, c in cases(found, other, choose)]
    return (
        f"better in {verdicts.count('better')}, worse in "
        f"{verdicts.count('worse')}, not shown in "
        f"{verdicts.count('not shown')} of {len(verdicts)}"
    )


def tuned(finding):
    return finding.tuned


def wrong(finding):
    return finding.tuned and finding.wrong


def right(finding):
    return finding.tuned and not finding.wrong


def evidence(found):
    """Return the table of the README: how often RD was better or worse."""

    def count(other, choose, verdict):
        points = [
            finding.scale * c.mean
            for finding, c in cases(found, other, choose)
            if c.verdict == verdict
        ]
        ends = sorted({f"{end:+.1f}" for end in points}, key=float)
        ends = " to ".join([ends[0], ends[-1]][: len(ends)]) if ends else ""
        return f"{len(points)} {verdict}" + (
            f" ({ends} points)" if ends else ""
        )

    def number(choose):
        return len(list(cases(found, "plain", choose)))

    rows = [
        [
            '`MEmeL("rate")` vs.',
            f"{number(wrong)} tasks with wrong labels",
            f"{number(right)} tasks with correct labels",
        ]
    ]
    for other, name in (
        ("plain", "plain training"),
        ("placebo", "placebo (inhibits random values)"),
        ("dropout", "dropout"),
    ):
        row = [name]
        for choose in (wrong, right):
            found_here = (
                count(other, choose, verdict) for verdict in ("better", "worse")
            )
            row.append(", ".join(found_here))
        rows.append(row)
    return pages.table(rows)


def with_evidence(readme, found):
    """Return the text of README.md with an updated table of evidence."""
    begin, end = "<!-- evidence: begin -->", "<!-- evidence: end -->"
    if readme.count(begin) != 1 or readme.count(end) != 1:
        raise ValueError(f"Expected one {begin} and one {end} in README.md.")
    before, rest = readme.split(begin)
    table = "".join(f"> {line}\n" for line in evidence(found))
    return f"{before}{begin}\n{table}> {end}{rest.split(end)[1]}"


def advice(found):
    """Return docs/when_to_use.md; raise if the runs contradict a sentence."""

    def narrow(finding):
        return finding in found["scale"][:2]

    verdicts = {
        (other, name): {c.verdict for _, c in cases(found, other, choose)}
        for other in ("plain", "placebo", "dropout")
        for name, choose in {"tuned": tuned, "right": right}.items()
    }
    expect("better" not in verdicts["dropout", "tuned"], "dropout is enough")
    expect("better" not in verdicts["plain", "right"], "not for right labels")
    harmed = {c.verdict for _, c in cases(found, "plain", narrow)}
    expect(harmed == {"worse"}, "harms narrow networks")
    check_sentences(found)
    lines = [
        "# When to use it, when not",
        "",
        "<!-- Written by examples/studies/results.py. -->",
        "",
        "This page summarizes the stored runs of the studies: small networks "
        "on small data sets. [RESULTS.md](../RESULTS.md) lists all verdicts. "
        "For your own network, [run `compare`](evidence.md).",
        "",
        "## For accuracy",
        "",
        'The table compares Reverse Deactivation (RD), `MEmeL("rate")`, with '
        "each other method, over all tasks in which every method was tuned "
        "with the same number of trials:",
        "",
        *pages.table(
            [
                ["RD vs.", "wrong labels", "correct labels"],
                *(
                    [other, tally(found, other, wrong)]
                    + [tally(found, other, right)]
                    for other in AGAINST
                ),
            ]
        ),
        "",
        "- **With correct labels, do not use it.** No task with correct "
        "labels shows a gain.",
        "- **With wrong labels, try dropout first.** In no task is tuned RD "
        "shown to be better than tuned dropout.",
        "- **If you use it, run the placebo too** (`Random` instead of "
        "`Rate`). Where RD helps, inhibiting random values often helps as "
        "much. The gain is then due to noise, and simpler methods add noise.",
        "- **Do not use it in narrow networks.** With 16 and 32 units per "
        "layer, a rate of 10 % is worse than plain training "
        "([scale](studies/scale.md)).",
        *SEEN,
        *of_the_paper(),
        "",
        "## For inspecting a network",
        "",
        *LOOKING,
        "",
        "## Questions that these studies leave open",
        "",
        "- Large models, and GLUE, ImageNet and HKO-7, where the papers report "
        "gains of tenths of a point.",
        "- Fine-tuning of models that were pretrained at large scale: the "
        "pretraining in these studies takes only [a "
        "minute](studies/pretraining.md).",
        "- Labels with systematic human errors. The labels here are wrong at "
        "random.",
    ]
    return pages.tidy(lines)


def of_the_paper():
    """Return the item on the paper's own arms, if they were run."""
    if "paper_experiments" not in STUDIES:
        return []
    text = paper_experiments.answer(
        {
            condition: paper_experiments.scored(condition, comparison)
            for condition, (comparison, _) in paper_experiments.stored().items()
        }
    )
    link = "[the paper's three experiments](studies/paper_experiments.md)"
    return [f"- **With the arms of the paper:** {text} See {link}."]


SEEN = [
    "- **Do not expect a gain from inhibiting units because they are "
    "monosemantic.** Inhibiting units that were made monosemantic on purpose "
    "was not shown to be better than inhibiting other units, and was worse "
    "with wrong labels ([causality](studies/causality.md)).",
    "- **Do not encourage them instead.** On digits with wrong labels, "
    "inhibiting was better than encouraging, than decorrelating and than "
    "MonoLoss; the last two were worse than dropout "
    "([inhibit or encourage](studies/encourage.md)).",
]
LOOKING = [
    "- A step with RD lowers the monosemantic scale (phi) of the inhibited "
    "values by more than its placebo does, in a half-trained and in a trained "
    "network. In an untrained network this is not shown. A late start "
    "therefore loses no effect that was measured "
    "([mechanism](studies/mechanism.md)).",
    "- phi measures how far a value is from its history. It does not show "
    "which input caused the deviation. Decorrelated units have a higher phi, "
    "and their extreme values belong *less* often to their class ([inhibit or "
    "encourage](studies/encourage.md)). Pass labels as well: "
    "`analyze(model, x, labels=labels)`.",
    "- In wider networks, the extreme values are slightly more extreme and "
    "separate the classes less well ([scale](studies/scale.md)).",
]


def check_sentences(found):
    """Raise unless the verdicts support `SEEN` and `LOOKING`.

    The pages of the studies check their sentences on phi and on the False
    Killing Rate.
    """
    planted = [f.comparison for f in found["causality"]]
    pair = ("planted, inhibited", "planted, others inhibited")
    for comparison, verdict in zip(planted, ("not shown", "worse")):
        pages.check(comparison, {"accuracy": {pair: verdict}})
    pages.check(
        found["encourage"][0].comparison,
        {
            "accuracy": {
                ("inhibit", "encourage"): "better",
                ("inhibit", "decorrelate"): "better",
                ("decorrelate", "dropout"): "worse",
            }
        },
    )
    (rewarded,) = (
        finding.comparison
        for finding in found["encourage"]
        if finding.title == "digits, 20 % wrong labels, MonoLoss"
    )
    pages.check(
        rewarded,
        {
            "accuracy": {
                ("inhibit", "MonoLoss"): "better",
                ("MonoLoss", "dropout"): "worse",
            }
        },
    )
    for finding, verdict in zip(
        found["mechanism"], ("not shown", "better", "better")
    ):
        claims = {finding.metric: {("RD", "placebo"): verdict}}
        pages.check(finding.comparison, claims)


def expect(true, what):
    """Raise if the runs contradict a sentence of the page."""
    if not true:
        raise AssertionError(f"The runs contradict the page: {what}")


def write():
    for name in [*STUDIES, *OTHER_PAGES]:
        if name != "quickstart":
            importlib.import_module(f"examples.studies.{name}").write()
    found = everything()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path, text in (
        ("RESULTS.md", page(found)),
        ("docs/when_to_use.md", advice(found)),
        ("README.md", with_evidence(readme, found)),
    ):
        (ROOT / path).write_text(text, encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    training.add_dry_run(parser)
    if parser.parse_args().dry_run:
        studies = [name for name in STUDIES if name != "quickstart"]
        dry_run.lines(
            trains="no network",
            reads="examples/results, examples/studies/results",
            studies=", ".join([*studies, *OTHER_PAGES]),
            writes="the pages and figures of docs/studies, RESULTS.md, "
            "docs/when_to_use.md, the table of evidence in README.md",
        )
        return
    write()


if __name__ == "__main__":
    main()
