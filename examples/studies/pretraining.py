"""Inhibit while a network is pretrained, fine-tuned, both or neither?

    python examples/studies/pretraining.py [--seeds 10]

Table 5 of Wang et al. (2024) in small: an encoder-forecaster of ConvGRUs is
trained in two stages on hourly rain, with MEmeL on its candidate states in the
first, the second, both or neither; and with a placebo in the first. Writes
docs/studies/pretraining.md.
"""

import argparse
import functools
import sys

import common
import keras
import matplotlib.pyplot as plt

from keras_memel import Comparison
from keras_memel import Random
from keras_memel import RunStore
from keras_memel import compare
from keras_memel import paper

sys.path.insert(0, str(common.FOLDER.parent))
from nowcasting import train as nowcasting

# Settings of MEmeL in either stage. A candidate state has 840 or 2,240 values,
# of which the paper's takes one.
PLACEBO = {**paper.kdd2024, "selection": Random(1e-3)}
ARMS = {
    "neither": (None, None),
    "pretraining": (paper.kdd2024, None),
    "fine-tuning": (None, paper.kdd2024),
    "both": (paper.kdd2024, paper.kdd2024),
    "placebo": (PLACEBO, None),
}
CONTRASTS = [
    ("pretraining", "placebo"),
    ("pretraining", "fine-tuning"),
    ("both", "pretraining"),
]
EPOCHS = {"pretraining": 2, "fine-tuning": 1}
STORE = common.RESULTS / "pretraining.jsonl"
ERROR, MIDDLE = "B-MSE", "B-MSE after pretraining"
PERSISTENCE = "B-MSE of persistence"


@functools.cache
def data():
    """Options of the small network, and the windows of rain."""
    options = nowcasting.parse(["--small"])
    return options, nowcasting.sources(options)


def run(arm, seed):
    """One network through both stages; its errors on held-out hours."""
    keras.backend.clear_session()
    options, parts = data()
    model, done, scores = None, 0, []
    for number, (memel, epochs) in enumerate(zip(arm, EPOCHS.values())):
        before, model = model, nowcasting.build(memel, seed, options)
        # Weights begin alike, with a MEmeL or without.
        nowcasting.copy_weights(
            before or nowcasting.build(None, seed, options), model
        )
        batches = parts["train"].batches(
            options.batch, seed + 10_000 * number, steps=options.steps
        )
        nowcasting.compiled(model, options, done)
        for epoch in range(epochs):
            batches.epoch = epoch
            model.fit(batches, shuffle=False, verbose=0)
        done += epochs * len(batches)
        scores.append(nowcasting.score(model, parts["test"], options.batch))
    first, last = scores
    return {
        MIDDLE: first["b_mse"],
        ERROR: last["b_mse"],
        PERSISTENCE: last["persistence_b_mse"],
    }


def stored():
    return RunStore(STORE).read()


def compared(runs):
    """All arms against neither, and what the questions are."""
    keep = (ERROR, MIDDLE)
    runs = [
        {**run, "scores": {name: run["scores"][name] for name in keep}}
        for run in runs
    ]
    return Comparison(
        runs,
        list(ARMS),
        contrasts=CONTRASTS,
        higher_is_better=dict.fromkeys(keep, False),
    )


def findings():
    """What RESULTS.md takes from here."""
    yield common.Finding(
        "rain, ConvGRU, two stages, nothing tuned",
        compared(stored()),
        ERROR,
        1,
        "B-MSE on held-out hours",
        "a smaller error",
    )


# What the page says in words.
CLAIMS = {
    (arm, "neither"): "not shown" for arm in ARMS if arm != "neither"
} | dict.fromkeys(CONTRASTS, "not shown")
SEEN = (
    "Seen: nothing, in whichever stage MEmeL stands. In the paper it takes "
    "B-MSE from 311.54 to 306.67 in pretraining, 1.6 %, which would be 1.9 "
    "here; all intervals of MEmeL lie within 0.2 of no difference. About one "
    "value in a thousand is inhibited, and a short training "
    "of a small network may be too little to show what that does."
)


def page(runs):
    """What was seen, in Markdown."""
    found = compared(runs)
    common.check(found, {ERROR: CLAIMS})
    first, second = EPOCHS.values()
    last = {run["scores"][PERSISTENCE] for run in runs}
    lines = [
        "# Pretraining or fine-tuning?",
        "",
        "<!-- Written by examples/studies/pretraining.py. -->",
        "",
        "In Table 5 of Wang et al. (2024) MEmeL stands on the candidate states "
        "of a ConvGRU while it is pretrained, and is taken out for the "
        "fine-tuning. Here with the small network of "
        "examples/nowcasting on 23 hours of rain under a hurricane (Stage IV): "
        f"{first} epochs, then {second}, on the balanced loss; MEmeL with the "
        "paper's settings in the first stage, the second, both or neither; "
        "and its placebo, which inhibits about as many values chosen blindly, "
        f"in the first. {len(found.seeds)} paired seeds. Persistence, the last "
        "frame for ever, has a B-MSE of "
        f"{' or '.join(f'{value:.1f}' for value in sorted(last))}.",
        "",
        SEEN,
        "",
        "![B-MSE less that of training without MEmeL](pretraining.png)",
        "",
        "Mean of the seeds:",
        "",
        *common.table(
            [
                ["MEmeL in", MIDDLE, "B-MSE at the end"],
                *(
                    [arm]
                    + [
                        f"{found.scores(name)[arm].mean():.2f}"
                        for name in (MIDDLE, ERROR)
                    ]
                    for arm in found.arms
                ),
            ]
        ),
        "",
        'B-MSE at the end ("better" is lower):',
        "",
        found.to_markdown(ERROR),
        "",
        *[f"- {note}" for note in found.notes(ERROR)],
        "",
        "After pretraining:",
        "",
        found.to_markdown(MIDDLE),
        "",
        "## Limits",
        "",
        "One storm, one small network, minutes of training, nothing tuned. "
        "The paper has a year of radar and 20,000 steps. The same question for "
        "a BERT was not asked: its pretraining is out of reach here.",
    ]
    return common.closed(lines, "pretraining.jsonl", runs)


def figure(runs):
    plot, panel = plt.subplots(figsize=(6, 2.8), layout="constrained")
    compared(runs).plot(ERROR, axes=panel)
    panel.set_xlabel("B-MSE at the end")
    return plot


def write():
    """The page and its figure, from what is stored."""
    runs = stored()
    common.write_page("pretraining", page(runs), figure(runs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    compare(run, ARMS, options.seeds, store=STORE)
    write()


if __name__ == "__main__":
    main()
