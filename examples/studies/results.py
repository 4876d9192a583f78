"""All verdicts of all studies, in one file: RESULTS.md.

    python examples/studies/results.py

Reads what is stored, runs nothing, and writes the page of every study, the
table of all verdicts, and docs/when_to_use.md.
"""

import importlib
import itertools
import math
import pathlib
import sys

import common

from keras_memel import RunStore

ROOT = common.FOLDER.parents[1]
# In the order of the questions: what, and the page of it.
STUDIES = {
    "quickstart": "The first example",
    "label_noise": "Wrong labels",
    "domains": "Other data",
    "encourage": "Inhibit or encourage",
    "scale": "Scale",
    "grokking": "Time",
    "mechanism": "Mechanism",
    "causality": "Causality",
    "detection": "Detection",
}
OTHER_PAGES = ("validity",)


def load(name):
    return importlib.import_module(name)


def findings(name):
    """The tables of one study."""
    if name != "quickstart":
        yield from load(name).findings()
        return
    sys.path.insert(0, str(common.FOLDER.parent))
    try:
        quickstart = load(name)
    finally:
        sys.path.pop(0)
    folder = common.FOLDER.parent / "results"
    for backend, file in (
        ("JAX", folder / "quickstart.jsonl"),
        ("TensorFlow", folder / "tensorflow" / "quickstart.jsonl"),
        ("PyTorch", folder / "torch" / "quickstart.jsonl"),
    ):
        found = quickstart.compared(RunStore(file).read())
        title = f"digits, 20 % wrong labels, nothing tuned, {backend}"
        yield common.Finding(title, found, "accuracy")


def everything():
    """All findings, by the name of their study."""
    return {name: list(findings(name)) for name in STUDIES}


def contrasts(finding):
    return [
        c for c in finding.comparison.contrasts if c.metric == finding.metric
    ]


def rows(finding):
    """A row a contrast: what, effect, interval, p, seeds, verdict."""
    found = contrasts(finding)
    spread = [abs(finding.scale * (c.high - c.low)) for c in found]
    widest = max((s for s in spread if not math.isnan(s)), default=1.0)
    decimals = max(0, 1 - math.floor(math.log10(widest or 1.0)))

    def text(number):
        if math.isnan(number):
            return ""
        return f"{finding.scale * number:+.{decimals}f}"

    for c in found:
        yield [
            f"{c.arm} less {c.other}",
            text(c.mean),
            f"{text(c.low)} to {text(c.high)}" if text(c.low) else "",
            "" if math.isnan(c.p_holm) else f"{c.p_holm:.3f}",
            str(len(c.seeds)),
            c.verdict,
        ]


def page(found):
    """RESULTS.md."""
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
        f"All {len(every)} verdicts of all studies, from the stored runs: "
        + ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        + '. "Better" and "worse" need ten paired seeds, a 95 % bootstrap '
        "interval (BCa) of the mean difference without 0, and p < 0.05 in a "
        "sign-flip test with Holm's correction over the rows of a table; all "
        'else is "not shown". There is no correction over tables. '
        "[How often such verdicts are wrong](docs/studies/validity.md), "
        "[when to use it](docs/when_to_use.md).",
        "",
        "RD is Reverse Deactivation, the method of the paper; the placebo is "
        "the same on values chosen blindly. What both have is an effect of "
        "noise.",
        "",
        "## In one table",
        "",
        "Each line a task, RD less what the column names, in points of "
        "accuracy:",
        "",
        *overview(found),
    ]
    for name, some in found.items():
        place = (
            "README.md" if name == "quickstart" else f"docs/studies/{name}.md"
        )
        lines += ["", f"## {STUDIES[name]}", "", f"[{place}]({place})"]
        for finding in some:
            lines += ["", f"### {finding.title}", ""]
            what = finding.unit[0].upper() + finding.unit[1:]
            if finding.better:
                what += f'; "better" is {finding.better}'
            lines += [f"{what}:", ""]
            lines += common.table(
                [
                    ["", "mean", "95 % interval", "p", "seeds", "verdict"],
                    *rows(finding),
                ]
            )
            notes = finding.comparison.notes(finding.metric)
            lines += [""] + [f"- {note}" for note in notes]
    return common.tidy(lines)


# What the arms of the studies call the same thing.
CALLED = {"MEmeL 10 %": "RD", "inhibit": "RD", "dropout 50 %": "dropout"} | {
    "placebo 10 %": "placebo",
    "placebo of inhibit": "placebo",
}
AGAINST = ("plain", "placebo", "dropout", "naive (a)")


def overview(found):
    table = [["", *AGAINST]]
    for finding in itertools.chain(*found.values()):
        cells = {
            CALLED.get(c.other, c.other): c
            for c in contrasts(finding)
            if CALLED.get(c.arm, c.arm) == "RD"
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
    return common.table(table)


def advice(found):
    return ""


def write():
    for name in [*STUDIES, *OTHER_PAGES]:
        if name != "quickstart":
            load(name).write()
    found = everything()
    for path, text in (
        (ROOT / "RESULTS.md", page(found)),
        (ROOT / "docs" / "when_to_use.md", advice(found)),
    ):
        pathlib.Path(path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
