"""Does inhibition make a sudden jump come earlier?

    python examples/studies/grokking.py [--seeds 20]

Open question 3 of the paper, on a task that is known for its jump (Power et
al. 2022, Gromov 2023): addition modulo a prime, which networks memorize long
before they generalize. The script measures the steps until the network labels
the test sums correctly, with Reverse Deactivation (RD), its controls and
dropout, and the monosemantic scale during training. It writes
docs/studies/grokking.md.
"""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import matplotlib.pyplot as plt
import numpy as np

from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from examples.studies.common.training import METHODS
from keras_memel import Comparison
from keras_memel import RunStore
from keras_memel import compare

PRIME, WIDTH, TAUGHT = 37, 96, 0.5  # share of all sums
LEARNING_RATE, DECAY = 5e-3, 1.0
STEPS, LOOK = 800, 10  # all steps, and steps between tests
MOMENTS = range(100, STEPS + 1, 100)  # steps with stored accuracy and phi
KNOWN = 0.9
RATES = (0.02, 0.1)
DROPOUT_RATES = (0.05, 0.2)
ARMS = training.trials(RATES, DROPOUT_RATES)
STORE = training.store("grokking")
TIME = "steps to 90 % test accuracy"
CHOICE = "steps to 90 % validation accuracy"
LEARNED = "steps to 90 % training accuracy"
IN_TIME = "in time"
END = "test accuracy at the end"
KEPT = (LEARNED, TIME, IN_TIME, END)
COLORS = dict(zip(["plain", *METHODS], ["k", "C3", "C1", "C0", "C2", "0.6"]))


class Sums:
    """Split all sums modulo the prime by a seed.

    Some are the training set. Half of the others select among trials, and half
    test.
    """

    def __init__(self, seed):
        self.left, self.right = np.divmod(np.arange(PRIME**2), PRIME)
        self.labels = (self.left + self.right) % PRIME
        order = np.random.default_rng(seed).permutation(PRIME**2)
        taught = round(TAUGHT * PRIME**2)
        middle = (taught + PRIME**2) // 2
        self.taught, self.validation, self.test = np.split(
            order, [taught, middle]
        )

    def inputs(self, part=slice(None)):
        return [self.left[part].astype(int), self.right[part].astype(int)]


def build(arm, seed):
    """Build two embeddings, the square of their sum, and a dense layer."""
    method, rate = arm
    keras.utils.set_random_seed(seed)

    def normal(number, deviation):
        return keras.initializers.RandomNormal(
            stddev=deviation, seed=10 * seed + number
        )

    inputs = [keras.Input((), dtype="int32") for _ in range(2)]
    values = keras.layers.add(
        [
            keras.layers.Embedding(
                PRIME, WIDTH, normal(place, (2 * PRIME) ** -0.5)
            )(one)
            for place, one in enumerate(inputs)
        ]
    )
    hidden = keras.Model(inputs, values)
    if method in METHODS:
        values = METHODS[method](rate)(values)
    values = keras.ops.square(values)
    logits = keras.layers.Dense(
        PRIME, use_bias=False, kernel_initializer=normal(2, WIDTH**-0.5)
    )(values)
    model = keras.Model(inputs, logits)
    model.hidden = hidden
    model.compile(
        keras.optimizers.AdamW(LEARNING_RATE, DECAY, beta_2=0.98),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def steps_until(accuracies):
    """Return the first step with this accuracy, or the last step."""
    known = np.flatnonzero(np.array(accuracies) >= KNOWN)
    return LOOK * (1 + int(known[0])) if len(known) else STEPS


_COMPILED = {}


def compiled(arm, model, sums):
    """Return two functions of a state, compiled once per arm.

    The first performs `LOOK` steps, the second returns the outputs for all
    sums. A step takes a third of a millisecond, less than a call of `fit` or
    `train_on_batch`, so this loop uses the stateless interface of Keras.
    """
    if arm in _COMPILED:
        return _COMPILED[arm]
    import jax  # The page is made from the stored runs without it.

    optimizer, everything = model.optimizer, sums.inputs()

    def loss(trained, others, inputs, labels):
        logits, others = model.stateless_call(
            trained, others, inputs, training=True
        )
        return keras.ops.mean(
            keras.ops.sparse_categorical_crossentropy(
                labels, logits, from_logits=True
            )
        ), others

    @jax.jit
    def step(state, inputs, labels):
        trained, others, slots = state
        (_, others), gradients = jax.value_and_grad(loss, has_aux=True)(
            trained, others, inputs, labels
        )
        trained, slots = optimizer.stateless_apply(slots, gradients, trained)
        return trained, others, slots

    def advance(state, inputs, labels):
        # Do not use `lax.scan`: in a loop of XLA, a step is far slower on a
        # CPU.
        for _ in range(LOOK):
            state = step(state, inputs, labels)
        return state

    both = keras.Model(
        model.inputs, [model.outputs[0], model.hidden.outputs[0]]
    )

    @jax.jit
    def ask(state):
        return both.stateless_call(*state[:2], everything, training=False)[0]

    return _COMPILED.setdefault(arm, (advance, ask))


def state_of(model):
    """Return the variables of the network and of the optimizer."""
    return tuple(
        [variable.value for variable in some]
        for some in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
        )
    )


def run(arm, seed):
    """Train one network on the whole training set, and test it regularly."""
    sums = Sums(seed)
    model = build(arm, seed)
    model.optimizer.build(model.trainable_variables)
    advance, ask = compiled(arm, model, sums)
    state = state_of(model)
    inputs, labels = sums.inputs(sums.taught), sums.labels[sums.taught]
    seen = {"taught": [], "validation": [], "test": []}
    scores = {}
    for step in range(LOOK, STEPS + 1, LOOK):
        state = advance(state, inputs, labels)
        logits, hidden = map(np.array, ask(state))
        right = logits.argmax(axis=1) == sums.labels
        for name, some in seen.items():
            some.append(np.mean(right[getattr(sums, name)]))
        if step in MOMENTS:
            phi = np.quantile(training.phi(hidden), 1 - training.EXTREME)
            scores[f"test {step}"] = round(seen["test"][-1], 4)
            scores[f"phi {step}"] = round(float(phi), 3)
    return {
        TIME: steps_until(seen["test"]),
        CHOICE: steps_until(seen["validation"]),
        LEARNED: steps_until(seen["taught"]),
        IN_TIME: float(max(seen["test"]) >= KNOWN),
        END: seen["test"][-1],
        **scores,
    }


def stored():
    return RunStore(STORE).read()


def tuned(runs):
    """Return the fastest trial on validation sums, per method and seed.

    If trials never reach the accuracy, or tie, the lowest rate is chosen.
    """
    return training.tuned(
        runs, ARMS, lambda scores, rate: (scores[CHOICE], rate)
    )


def compared(runs):
    """Compare tuned methods with plain training, and RD with its controls."""
    runs = [
        {**run, "scores": {name: run["scores"][name] for name in KEPT}}
        for run in tuned(runs)
    ]
    return Comparison(
        runs,
        ["plain", *METHODS],
        contrasts=training.CONTRASTS,
        higher_is_better={TIME: False, LEARNED: False},
    )


def findings():
    """Yield the tables of this study in RESULTS.md."""
    yield pages.Finding(
        f"sums modulo {PRIME}, all methods tuned",
        compared(stored()),
        TIME,
        1,
        TIME,
        "fewer steps",
    )


# The verdicts that the page claims.
CLAIMS = {
    ("RD", "plain"): "worse",
    ("naive (a)", "plain"): "worse",
    ("naive (b)", "plain"): "worse",
    ("placebo", "plain"): "better",
    ("dropout", "plain"): "better",
    ("RD", "placebo"): "worse",
    ("RD", "dropout"): "worse",
}
SEEN = (
    "Finding: with Reverse Deactivation (RD) the jump comes *later* than in "
    "plain training, as with both naive inhibitions. With its placebo and with "
    "dropout it comes earlier. At a rate of 10 %, RD and the naive inhibitions "
    "are much slower, and the placebo is not. In the plain network the "
    "monosemantic scale (phi) rises while the network learns the rule, and "
    "then falls. With 2 % inhibited it stays low; with 10 % it is high early "
    "and stays high."
)


ANSWER = (
    "No. With Reverse Deactivation the jump in test accuracy comes later than "
    "in plain training. With its placebo and with dropout it comes earlier."
)


def page(runs):
    """Return the page in Markdown."""
    found = compared(runs)
    pages.check(found, {TIME: CLAIMS})
    number = len(found.seeds)
    ends = [
        [
            "",
            "steps to 90 % training accuracy",
            "steps to 90 % test accuracy",
            "runs that reach it",
            "test accuracy at the end, %",
        ]
    ]
    for arm in found.arms:
        learned, known, in_time, end = (
            found.scores(metric)[arm] for metric in KEPT
        )
        ends.append(
            [
                arm,
                f"{learned.mean():.0f}",
                f"{known.mean():.0f}",
                f"{in_time.sum():.0f} of {number}",
                f"{100 * end.mean():.1f}",
            ]
        )
    scales = [["step", *map(str, MOMENTS)]]
    accuracies = [[*scales[0], f"90 % not reached by {STEPS}"]]
    for arm in ARMS:
        reached = [r["scores"][IN_TIME] for r in runs if r["arm"] == arm]
        phi = mean_along(runs, arm, "phi")
        test = mean_along(runs, arm, "test")
        scales.append([arm, *(f"{value:.2f}" for value in phi)])
        accuracies.append(
            [
                arm,
                *(f"{100 * value:.0f}" for value in test),
                f"{reached.count(0)} of {number}",
            ]
        )
    lines = [
        "# Does the jump of grokking come earlier?",
        "",
        "<!-- Written by examples/studies/grokking.py. -->",
        "",
        f"The task is addition modulo {PRIME}. {TAUGHT:.0%} of all "
        f"{PRIME**2:,} sums are the training set, all of them in each step. "
        "Half of the others select among trials, the other half test. The "
        f"network (after Gromov 2023) embeds each summand in {WIDTH} "
        "dimensions, squares the sum of both, and ends in a dense layer. The "
        f"optimizer is AdamW with a learning rate of {LEARNING_RATE} and a "
        f"weight decay of {DECAY:g}. Such a network memorizes its training "
        "sums long before it generalizes: Power et al. (2022) call this jump "
        "grokking. The layer under test precedes the square. Every "
        f"{LOOK} steps the study checks whether {KNOWN:.0%} of the test sums "
        "are correct. Each method has two trials (2 and 10 % of the values; "
        "dropout 5 and 20 %). For each seed, the trial that first reaches "
        f"90 % on the *validation* sums counts. {len(found.seeds)} paired "
        "seeds.",
        "",
        f"Training ends after {STEPS} steps. A run that does not reach the "
        f"accuracy counts as {STEPS} steps, fewer than it would need. The "
        "tables therefore compare mean times up to that limit, and favor a "
        "method that does not reach it.",
        "",
        SEEN,
        "",
        "![Two panels: test accuracy and the phi that 2 % of the values "
        "exceed, by training step and trial](grokking.png)",
        "",
        *pages.table(ends),
        "",
        '"Better" is fewer steps:',
        "",
        found.to_markdown(TIME),
        *pages.notes(found, TIME),
        "",
        "phi that 2 % of the hidden values of all sums exceed, per trial, mean "
        "over the seeds (Gaussian values: 5.41):",
        "",
        *pages.table(scales),
        "",
        "Test accuracy, %:",
        "",
        *pages.table(accuracies),
        "",
        "## Limits",
        "",
        "The study has one task, in which weight decay causes the jump, and "
        "one small network with squares. Its units compute waves and are no "
        "detectors: their values are spread more evenly than Gaussian ones, "
        "and few deviate strongly. Each method has two trials. The result does "
        "not apply to jumps of large language models.",
    ]
    lines = pages.answer_first(ANSWER, lines)
    return pages.closed(lines, "grokking.jsonl", runs)


def mean_along(runs, arm, name):
    """Return the mean over the seeds at each of `MOMENTS`."""
    chosen = [run["scores"] for run in runs if run["arm"] == arm]
    return [
        np.mean([scores[f"{name} {step}"] for scores in chosen])
        for step in MOMENTS
    ]


def figure(runs):
    plot, panels = plt.subplots(
        1, 2, figsize=(8, 3.2), layout="constrained", sharex=True
    )
    rates = {}  # the lower one is solid
    for arm, (method, rate) in ARMS.items():
        first = method not in rates
        rates[method] = rate
        color = COLORS[method]
        for panel, (name, scale) in zip(panels, (("test", 100), ("phi", 1))):
            panel.plot(
                list(MOMENTS),
                [scale * mean for mean in mean_along(runs, arm, name)],
                "-" if first else "--",
                color=color,
                label=arm,
            )
    panels[0].set_title("test accuracy, %", loc="left", fontsize=10)
    panels[1].set_title(
        "phi that 2 % of the values exceed", loc="left", fontsize=10
    )
    panels[1].legend(
        frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    for panel in panels:
        panel.set_xlabel("steps")
        pages.bare(panel)
    return plot


def write():
    """Write the page and its figure from the stored runs."""
    runs = stored()
    pages.write("grokking", page(runs), figure(runs))


def main():
    options = training.parser(__doc__, seeds=20).parse_args()
    if options.dry_run:
        sizes = f"{PRIME**2} sums modulo {PRIME}, {STEPS} steps, width {WIDTH}"
        stores = {STORE: ARMS}
        dry_run.show(stores, options.seeds, sizes, "grokking")
        return
    compare(run, ARMS, options.seeds, store=STORE)
    write()


if __name__ == "__main__":
    main()
