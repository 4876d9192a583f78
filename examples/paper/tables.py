"""Small stand-ins for Tables 1 to 8 of Wang et al. (2024), side by side.

    python examples/paper/tables.py --small  # minutes
    python examples/paper/tables.py --seeds 10  # for a verdict

It runs the small presets of glue.py, imagenet.py and nowcasting/train.py with
every arm of the paper on paired seeds, and writes OUT/tables.md: what the
paper published, at full size, beside what these small networks did on small
data. The second says that the code runs and how much it varies; it neither
confirms nor refutes the first. Every finished run is kept in OUT: start the
command again, after a stop or with more seeds, and it goes on.

    Table 1, 2, 3   arms on the three families
    Table 4         what one step does to monosemantic values (Swin)
    Table 5         nowcasting: after pretraining, and after fine-tuning
    Table 6, 7, 8   MEmeL kept on when tested, which trains in the same way

MEmeL-Tune takes, of --grid, the settings with the best mean on validation;
the paper's grid of 25 is `--grid all`.
"""

import argparse
import functools
import importlib
import itertools
import os
import pathlib
import typing

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import numpy as np

from keras_memel import compare
from keras_memel import decrease_ratio
from keras_memel import paper

KEPT_ON = {**paper.kdd2024, "at_inference": True}


class Family(typing.NamedTuple):
    module: str
    what: str  # of the small run
    metric: str
    scale: float
    up: bool
    smaller: list[str]  # arguments that make --small smaller still
    published: dict[str, str]


FAMILIES = {
    "glue": Family(
        "examples.paper.glue.train",
        "MiniLM on sentences from film reviews, accuracy in % "
        "(published: BERT-base, mean of GLUE's test sets)",
        "test",
        100.0,
        True,
        ["--train=416", "--validation=100", "--test=200"],
        {
            "original": "79.6",
            "naive (a)": "79.6",
            "naive (b)": "79.8",
            "MEmeL": "80.2",
            "MEmeL-Tune": "80.5",
        },
    ),
    "imagenet": Family(
        "examples.paper.imagenet.train",
        "a Swin of three stages on CIFAR-10, accuracy in % (published: Swin-T "
        "/ S / B on ImageNet, top 1)",
        "test",
        100.0,
        True,
        ["--train=512", "--validation=128", "--test=500", "--epochs=2"],
        {
            "original": "80.9 / 83.2 / 85.1",
            "MEmeL": "81.1 / 83.4 / 85.1",
            "MEmeL-Tune": "81.1 / 83.5 / 85.2",
        },
    ),
    "nowcasting": Family(
        "examples.paper.nowcasting.train",
        "a small ConvGRU on Stage IV precipitation, B-MSE (published: HKO-7, "
        "B-MSE)",
        "b_mse",
        1.0,
        False,
        ["--epochs=1"],
        {"original": "309.96", "MEmeL": "309.94", "MEmeL-Tune": "298.16"},
    ),
}
# Table 5, B-MSE: after pretraining with MEmeL, and a fine-tuning without it.
STAGES = {
    "pretrained_b_mse": {"original": "311.54", "MEmeL": "306.67"},
    "b_mse": {"original": "309.96", "MEmeL": "305.96"},
}
# Table 4, in %: Swin-B, 10,000 neurons.
RATIOS = {
    "original": 0.003,
    "naive (a)": -0.017,
    "naive (b)": -0.044,
    "RD": 0.013,
}


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--small", action="store_true", help="one seed, and smaller runs")
    add("--seeds", type=int)
    add("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    add("--grid", nargs="+", default=["5,10"], metavar="K,DELTA")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/tables"))
    for name in FAMILIES:
        add(f"--{name}", default="", help="further arguments of the family")
    options = parser.parse_args(arguments)
    options.seeds = options.seeds or (1 if options.small else 3)
    if options.grid == ["all"]:
        pairs = itertools.product(*paper.tune_grid.values())
        options.grid = [f"{k},{delta}" for k, delta in pairs]
    return options


def arms(options):
    """All that is trained, by name."""
    every = {**paper.arms, "MEmeL, kept on": KEPT_ON}
    for pair in options.grid:
        k, delta = pair.split(",")
        every[f"tuned {pair}"] = paper.tuned(int(k), float(delta))
    return every


def program(name):
    return importlib.import_module(FAMILIES[name].module)


def options_of(name, options):
    family = FAMILIES[name]
    command = ["--small", f"--out={options.out / name}"]
    command += family.smaller if options.small else []
    return program(name).parse([*command, *getattr(options, name).split()])


def train(arm, seed, name, options):
    """`run` of a family, as `compare` calls it."""
    settings, _ = arm
    return program(name).run(settings, seed, options_of(name, options))


def compared(name, options):
    family = FAMILIES[name]
    # Beside the arm, what else a stored run must have been made with.
    what = " ".join(family.smaller if options.small else [])
    what += getattr(options, name)
    return compare(
        functools.partial(train, name=name, options=options),
        {arm: (settings, what) for arm, settings in arms(options).items()},
        seeds=options.seeds,
        baseline="original",
        store=options.out / f"{name}.jsonl",
        higher_is_better=family.up or dict.fromkeys(STAGES, False),
    )


def best_tuned(comparison, options):
    """The arm of the grid that is best on validation; tests have no say."""
    means = comparison.scores("validation").mean()
    return max((f"tuned {pair}" for pair in options.grid), key=means.get)


def rows_of(comparison, metric, scale, chosen, published):
    """Rows of a Markdown table: `chosen` is by title the name of an arm."""
    scores = scale * comparison.scores(metric)
    verdicts = {
        c.arm: c.verdict for c in comparison.contrasts if c.metric == metric
    }
    rows = []
    for title, arm in chosen.items():
        deltas = (scores[arm] - scores["original"]).dropna()
        each = " ".join(f"{delta:+.2f}" for delta in deltas)
        rows.append(
            [
                title if title == arm else f"{title} ({arm})",
                published.get(title, ""),
                f"{scores[arm].mean():.2f}",
                "" if arm == "original" else each,
                verdicts.get(arm, ""),
            ]
        )
    return rows


HEADER = [
    "arm",
    "published, full size",
    "here, small",
    "less original",
    "verdict",
]


def markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratios(options):
    """Table 4 on the trained plain network of each seed."""
    from examples.paper.common import longrun
    from examples.paper.imagenet import train as imagenet

    settings = options_of("imagenet", options)
    found = []
    for seed in range(options.seeds):
        with longrun.devices(settings):
            model, data = imagenet.make(None, seed, settings)
            # Finished in Table 2: its weights are loaded.
            imagenet.fit(model, data, None, seed, settings)
            parts = [data["validation"][i] for i in range(2)]
            x, y = (np.concatenate(arrays) for arrays in zip(*parts))
            table = decrease_ratio(
                model,
                x,
                y,
                imagenet.middle_four(model),
                batch_size=max(1, len(x) // 12),
                seed=seed,
            )
        found.append(100 * table["decrease_ratio"])
    rows = []
    for arm, published in RATIOS.items():
        values = [float(column[arm]) for column in found]
        each = " ".join(f"{value:+.3f}" for value in values)
        rows.append([arm, f"{published:+.3f}", f"{np.mean(values):+.3f}", each])
    return rows


def tables(options):
    """The text of all tables of the families that were asked for."""
    parts = [
        "# Small stand-ins for the tables of Wang et al. (2024)\n\n"
        "What is published is of large networks on large data; what is here "
        "is of small ones on small data. This is **no reproduction**: it "
        "shows that every arm runs, and how far apart the seeds are. "
        f"{options.seeds} seed(s); a verdict needs ten."
    ]
    for number, name in enumerate(FAMILIES, 1):
        if name not in options.families:
            continue
        family, comparison = FAMILIES[name], compared(name, options)
        chosen = {arm: arm for arm in paper.arms}
        chosen["MEmeL-Tune"] = best_tuned(comparison, options)
        rows = functools.partial(rows_of, comparison)
        scored = rows(family.metric, family.scale, chosen, family.published)
        parts.append(f"## Table {number}: {family.what}")
        parts.append(markdown(HEADER, scored))
        kept = {arm: arm for arm in ("original", "MEmeL", "MEmeL, kept on")}
        metric = "pretrained_b_mse" if name == "nowcasting" else family.metric
        parts.append(f"## Table {number + 5}: MEmeL kept on when tested")
        parts.append(markdown(HEADER, rows(metric, family.scale, kept, {})))
        if name == "imagenet":
            header = ["arm", *HEADER[1:3], "each seed"]
            parts.append("## Table 4: Decrease Ratio in % (published: Swin-B)")
            parts.append(markdown(header, ratios(options)))
        if name == "nowcasting":
            parts.append("## Table 5: pretraining, then fine-tuning without it")
            for metric, published in STAGES.items():
                two = {arm: arm for arm in ("original", "MEmeL")}
                parts.append(f"{metric}:")
                parts.append(
                    markdown(HEADER, rows(metric, 1.0, two, published))
                )
    return "\n\n".join(parts) + "\n"


def main(arguments=None):
    options = parse(arguments)
    text = tables(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "tables.md"
    path.write_text(text, encoding="utf-8")
    print(text, f"\nwritten: {path}", sep="", flush=True)
    return text


if __name__ == "__main__":
    main()
