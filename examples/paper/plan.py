"""Sizes, arms, seeds and grids of tables.py, fixed before the first run.

    families     three networks that learn, each with a small version
    conditions   a family, and the share of its labels that are wrong
    arms         see common/arms.py
    lengths      numbers of epochs, of which the original's validation chooses
    trials       settings of the tuned arms, of which validation chooses

Lengths and settings are chosen on `TUNING_SEEDS`, which no comparison uses.
"""

import typing

from examples.paper.common import arms

SEEDS = 10
TUNING_SEEDS = (1000, 1001)
WRONG = (0.0, 0.2)  # of the labels, for the classifiers


class Family(typing.NamedTuple):
    """A family of networks.

    module: its program. metric: which decides. scale: of its figures. up:
    whether higher is better. command: arguments of the program. lengths:
    numbers of epochs. small: arguments in place of these. kept_on: the metric
    to compare MEmeL kept on with. seconds: of a run on one core of 2024.
    """

    module: str
    title: str
    metric: str
    scale: float
    up: bool
    command: list[str]
    lengths: tuple[int, ...]
    small: list[str]
    kept_on: str
    seconds: int
    published: dict[str, str]


FAMILIES = {
    "nowcasting": Family(
        "examples.paper.nowcasting.train",
        "a small ConvGRU on Stage IV precipitation, B-MSE (published: HKO-7, "
        "B-MSE)",
        "b_mse",
        1.0,
        False,
        ["--small", "--finetune-epochs=1"],
        (4, 6, 8),
        ["--epochs=1"],
        "pretrained_b_mse",
        45,
        {"original": "309.96", "MEmeL": "309.94", "MEmeL-Tune": "298.16"},
    ),
    "glue": Family(
        "examples.paper.glue.train",
        "MiniLM on sentences from film reviews, accuracy in % "
        "(published: BERT-base, mean of GLUE's test sets)",
        "test",
        100.0,
        True,
        ["--small", "--train=1280", "--validation=1000", "--test=3000"]
        + ["--learning-rates=2e-4"],
        (2,),
        ["--train=416", "--validation=320", "--test=320", "--epochs=1"],
        "test",
        130,
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
        ["--small", "--train=3200", "--validation=1000", "--test=5000"],
        (6,),
        ["--train=704", "--validation=320", "--test=320", "--epochs=1"]
        + ["--warmup=0"],
        "test",
        90,
        {
            "original": "80.9 / 83.2 / 85.1",
            "MEmeL": "81.1 / 83.4 / 85.1",
            "MEmeL-Tune": "81.1 / 83.5 / 85.2",
        },
    ),
}
# Table 4, in %: Swin-B, 10,000 neurons.
RATIOS = {
    "original": 0.003,
    "naive (a)": -0.017,
    "naive (b)": -0.044,
    "RD": 0.013,
}
# Table 5, B-MSE: after pretraining with MEmeL, and a fine-tuning without it.
STAGES = {
    "pretrained_b_mse": {"original": "311.54", "MEmeL": "306.67"},
    "b_mse": {"original": "309.96", "MEmeL": "305.96"},
}


class Condition(typing.NamedTuple):
    """A family, and the share of its labels that are wrong."""

    family: str
    wrong: float

    @property
    def name(self):
        share = f"_wrong_{100 * self.wrong:g}" if self.wrong else ""
        return self.family + share


def conditions(families, wrong):
    """The classifiers with each share of wrong labels; the rain as it is."""
    found = []
    for family in families:
        classifier = FAMILIES[family].up
        found += [
            Condition(family, share)
            for share in (wrong if classifier else [0.0])
        ]
    return found


def lengths(condition, small):
    return () if small else FAMILIES[condition.family].lengths


def trials(small):
    """The settings of each tuned arm; one of each in small, with no choice."""
    return {
        method: dict(list(settings.items())[: 1 if small else None])
        for method, settings in arms.TUNED.items()
    }


def command(condition, small, epochs=None):
    """Arguments of the program of a family for a run."""
    family = FAMILIES[condition.family]
    words = family.command + (family.small if small else [])
    if condition.wrong:
        words = [*words, f"--wrong={condition.wrong:g}"]
    return words + ([f"--epochs={epochs}"] if epochs is not None else [])


def number_of_runs(condition, small, seeds):
    """Runs of a condition: of the comparison, and to choose settings."""
    choices = len(lengths(condition, small))
    tuning = (choices if choices > 1 else 0) + sum(
        len(settings) for settings in trials(small).values() if not small
    )
    return seeds * len(arms.NAMES), tuning * len(TUNING_SEEDS)
