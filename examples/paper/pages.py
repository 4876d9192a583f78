"""The page of tables.py, from the runs of each condition."""

import math

from examples.paper import plan
from examples.paper.common import arms
from examples.paper.common import probe
from keras_memel import Comparison

HEADER = [
    *("arm", "published, full size", "here, small", "vs. original"),
    *("lowest to highest", "95 % interval", "p", "detectable", "verdict"),
]


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def view(comparison, chosen, up, contrasts=()):
    """A comparison of scores of runs, by the title of a row.

    chosen: by title the arm and the metric that it shows. The first is what
    the others are compared with.
    """
    runs = []
    for title, (arm, metric) in chosen.items():
        for run in comparison.runs:
            if run["arm"] != arm:
                continue
            kept = {
                k: v for k, v in run.items() if k in ("seed", "environment")
            }
            found = run.get("scores", {}).get(metric)
            if found is None:
                error = run.get("error", f"has no {metric}")
                runs.append({**kept, "arm": title, "error": error})
            else:
                score = {"score": found}
                runs.append({**kept, "arm": title, "scores": score})
    return Comparison(runs, list(chosen), None, contrasts, up)


def rows(found, published=None, scale=1.0):
    """Rows of a table: each arm beside the first, and further pairs."""
    first, *_ = found.arms
    means = scale * found.scores("score").mean() if found.metrics else {}
    contrasts = {
        (c.arm, c.other): c for c in found.contrasts if c.metric == "score"
    }
    lines = []
    for arm in found.arms:
        cells = [arm, (published or {}).get(arm, ""), _number(means.get(arm))]
        contrast = contrasts.get((arm, first))
        lines.append([*cells, *_cells(contrast, scale)])
    for (arm, other), contrast in contrasts.items():
        if other != first:
            cells = [f"{arm} vs. {other}", "", ""]
            lines.append([*cells, *_cells(contrast, scale)])
    return lines


def _number(value, form=".2f"):
    if value is None or not math.isfinite(value):
        return ""
    return format(value, form)


def _cells(contrast, scale):
    if contrast is None or not contrast.seeds:
        return [""] * 5 + ["" if contrast is None else contrast.verdict]

    def number(value):
        return _number(scale * value, "+.2f")

    deltas = contrast.deltas
    span = [number(contrast.low), number(contrast.high)]
    return [
        number(contrast.mean),
        f"{number(min(deltas))} to {number(max(deltas))}",
        " to ".join(span) if all(span) else "",
        _number(contrast.p_holm, ".3f"),
        _number(scale * contrast.detectable),
        contrast.verdict,
    ]


def page(studies):
    """Text of all tables: `studies` is by condition the runs and choices."""
    first = next(iter(studies.values()))[0]
    parts = [
        "# Small stand-ins for the tables of Wang et al. (2024)\n\n"
        "Published numbers are of large networks on large data; ours are of "
        "small ones on small data. This is **no reproduction**. "
        f"{len(first.seeds)} seed(s); a verdict needs ten. Every difference "
        "is of arms of the same seed. Lengths and settings were chosen by "
        f"validation on the seeds {plan.TUNING_SEEDS}, which no table uses."
    ]
    for condition, (comparison, chosen) in studies.items():
        parts += sections(condition, comparison, chosen)
    return "\n\n".join(parts) + "\n"


def sections(condition, comparison, chosen):
    """Return the tables of a condition, each with its title."""
    family = plan.FAMILIES[condition.family]
    numbers = {"glue": (1, 6), "imagenet": (2, 7), "nowcasting": (3, 8)}
    table, kept = numbers[condition.family]
    wrong = f", {condition.wrong:.0%} wrong labels" if condition.wrong else ""
    published = {} if wrong else family.published

    def add(title, chosen, published=None, scale=family.scale, **further):
        found = view(comparison, chosen, **{"up": family.up, **further})
        text = markdown(HEADER, rows(found, published, scale))
        notes = "".join(f"\n- {note}" for note in found.notes())
        return [f"## {title}{wrong}", text + ("\n" + notes if notes else "")]

    metrics = [family.metric]
    if condition.family == "nowcasting":
        metrics.append("b_mae")
    parts = []
    for metric in metrics:
        parts += add(
            f"Table {table}: {family.title}, {metric}",
            {arm: (arm, metric) for arm in arms.NAMES},
            published if metric == family.metric else {},
            contrasts=arms.CONTRASTS,
        )
    settings = "; ".join(f"{k}: {v}" for k, v in chosen.items() if v)
    parts.append(f"Chosen by validation: {settings or 'nothing'}.")
    two = {arm: (arm, family.kept_on) for arm in ("original", "MEmeL")}
    name = family.kept_on.removeprefix("pretrained_")
    parts += add(
        f"Table {kept}: MEmeL kept on when tested, {family.kept_on}",
        {**two, "MEmeL, kept on": ("MEmeL", f"kept_on_{name}")},
    )
    if condition.family == "nowcasting":
        for metric, shown in plan.STAGES.items():
            parts += add(
                f"Table 5: pretraining, then fine-tuning without it, {metric}",
                {arm: (arm, metric) for arm in ("original", "MEmeL")},
                shown,
            )
    swin = condition.family == "imagenet" and not wrong
    ratios = {name: f"{ratio:+.3f}" for name, ratio in plan.RATIOS.items()}
    parts += add(
        "Table 4: Decrease Ratio of the trained original in %"
        + (" (published: Swin-B)" if swin else ""),
        {arm: ("original", f"decrease_ratio {arm}") for arm in arms.STEPS},
        ratios if swin else {},
        scale=100.0,
        up=True,
    )
    after = {arm: (arm, "share_after") for arm in arms.NAMES}
    parts += add(
        f"Values with phi of at least {probe.THRESHOLD:g}, in %",
        {"before training": ("original", "share_before"), **after},
        scale=100.0,
        up=False,
    )
    ways = [f"{way}_{k}" for k in probe.ABLATED for way in ("top", "random")]
    parts += add(
        "Values held at their mean when the original is tested, per sample",
        {
            title: ("original", f"ablated_{way}")
            for way, title in {
                "0": "whole network",
                **{way: way.replace("_", " ") for way in ways},
            }.items()
        },
        contrasts=[(f"top {k}", f"random {k}") for k in probe.ABLATED],
    )
    return parts + _mcnemar(comparison)


def _mcnemar(comparison):
    """On how many examples the networks of a seed differ."""
    table = comparison.mcnemar()
    if not len(table):
        return []
    lines = [
        [
            f"{arm} vs. {other}",
            f"{group['only_arm'].mean():.1f}",
            f"{group['only_other'].mean():.1f}",
            f"{(group['p'] < 0.05).sum()} of {len(group)}",
        ]
        for (arm, other), group in table.groupby(["arm", "other"], sort=False)
    ]
    header = ["networks", "only the first is right", "only the second"]
    header.append("seeds with p < 0.05 (McNemar)")
    return ["Test examples per seed:", markdown(header, lines)]
