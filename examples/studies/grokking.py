"""Does inhibition make a sudden jump come earlier?

    python examples/studies/grokking.py [--seeds 10]

Open question 3 of the paper, on the task that is known for its jump (Power et
al. 2022, Gromov 2023): addition modulo a prime, learned by heart long before
it is understood. How many steps until the network knows the sums that it was
not taught, with Reverse Deactivation (RD), its controls and dropout; and what
becomes of the monosemantic scale meanwhile? Writes docs/studies/grokking.md.
"""

import argparse

import common
import keras
import numpy as np

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import RunStore
from keras_memel import compare
from keras_memel import monosemantic_scale

PRIME, WIDTH, TAUGHT = 53, 128, 0.45  # share of all sums
LEARNING_RATE, DECAY = 5e-3, 1.0
STEPS, LOOK = 800, 20  # all steps, and how often to look
MOMENTS = range(100, STEPS + 1, 100)  # of which more is kept
KNOWN = 0.9
RATES = (0.02, 0.1)
DROPOUT_RATES = (0.05, 0.2)
METHODS = {
    "RD": lambda rate: MEmeL(Rate(rate)),
    "placebo": lambda rate: MEmeL(Random(rate)),
    "naive (a)": lambda rate: MEmeL(Rate(rate), "naive_a"),
    "naive (b)": lambda rate: MEmeL(Rate(rate), "naive_b"),
    "dropout": keras.layers.Dropout,
}
ARMS = {"plain": ("plain", 0.0)} | {
    f"{method} {rate:.0%}": (method, rate)
    for method in METHODS
    for rate in (DROPOUT_RATES if method == "dropout" else RATES)
}
CONTRASTS = [("RD", method) for method in METHODS if method != "RD"]
STORE = common.RESULTS / "grokking.jsonl"
TIME = "steps to 90 % test accuracy"
CHOICE = "steps to 90 % validation accuracy"
LEARNED = "steps to 90 % training accuracy"


class Sums:
    """All sums modulo the prime, split by a seed: some are taught; half of
    the others choose among trials, and half test."""

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
    """Two tables of vectors, their sum squared, and a layer of answers."""
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
    """The first look with this much known; the last if there is none."""
    known = np.flatnonzero(np.array(accuracies) >= KNOWN)
    return LOOK * (1 + int(known[0])) if len(known) else STEPS


def scale(model, sums):
    """phi that 2 % of the hidden values of all sums reach."""
    values = model.hidden(sums.inputs(), training=False)
    values = keras.ops.convert_to_numpy(values)
    phi = monosemantic_scale(values, values.mean(0), values.var(0, ddof=1))
    return np.quantile(keras.ops.convert_to_numpy(phi), 0.98)


def run(arm, seed):
    """Train one network on all that is taught at once, and look on."""
    sums = Sums(seed)
    model = common.recycled(arm, build(arm, seed))
    inputs = [np.tile(x, LOOK) for x in sums.inputs(sums.taught)]
    labels = np.tile(sums.labels[sums.taught], LOOK)
    parts = {name: getattr(sums, name) for name in ("taught", "validation")}
    parts["test"] = sums.test
    seen = {name: [] for name in parts}
    scores = {}
    for step in range(LOOK, STEPS + 1, LOOK):
        # A batch is all that is taught, in its order; LOOK of them a call.
        model.fit(inputs, labels, len(sums.taught), shuffle=False, verbose=0)
        logits = model(sums.inputs(), training=False)
        answers = keras.ops.convert_to_numpy(logits).argmax(axis=1)
        for name, part in parts.items():
            seen[name].append(np.mean(answers[part] == sums.labels[part]))
        if step in MOMENTS:
            scores[f"test {step}"] = round(seen["test"][-1], 4)
            scores[f"phi {step}"] = round(float(scale(model, sums)), 3)
    return {
        TIME: steps_until(seen["test"]),
        CHOICE: steps_until(seen["validation"]),
        LEARNED: steps_until(seen["taught"]),
        "in time": float(max(seen["test"]) >= KNOWN),
        "test accuracy at the end": seen["test"][-1],
        **scores,
    }


def stored():
    return RunStore(STORE).read()


def page(found):
    return "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    compare(run, ARMS, options.seeds, store=STORE)
    runs = stored()
    common.write_page("grokking", page(runs))


if __name__ == "__main__":
    main()
