"""The arms of the paper's three experiments, and the settings of each.

An arm is a dictionary of arguments of `MEmeL`, or `None` for the original.
Every other arm acts at the same places, dropout and L2E too.

    original       the network without a layer
    naive (a), (b) the mean in place of the value, with gradient 0 or g
    MEmeL          the paper's: one value per sample, Reverse Deactivation
    placebo        as MEmeL, on the same number of random values per sample
    L2E            2 % of the values, by a moving threshold, and a penalty
    MEmeL-Tune     k values per sample and the factor delta, tuned
    placebo-Tune   the same, on k values chosen at random, tuned alike
    dropout        its rate tuned

Each tuned arm has as many settings as the others. They are fixed here, before
the first run, and `tables.py` chooses among them by validation alone.
"""

import keras
from keras import ops

from keras_memel import Inhibition
from keras_memel import Random
from keras_memel import RandomK
from keras_memel import paper

# Four of the paper's 25: each of k and delta alone, both, and many values.
K_AND_DELTA = ((1, 10), (10, 1), (10, 10), (100, 1))
RATES = (0.05, 0.1, 0.2, 0.4)


@keras.saving.register_keras_serializable("keras_memel_examples")
class Drop(Inhibition):
    """Set the selected values to 0 and scale up the others, as dropout does.

    The scale follows from the selected share, so the first step, in which no
    neuron has a history, scales no value.
    """

    def __call__(self, values, mask, mean):
        share = ops.mean(ops.cast(mask, "float32"))
        scale = 1.0 / ops.maximum(1.0 - share, 1e-6)
        kept = values * ops.cast(scale, values.dtype)
        return ops.where(mask, ops.zeros_like(values), kept)


def placebo(k, delta=1.0):
    """Return `paper.tuned(k, delta)` with k random values per sample."""
    return {**paper.tuned(k, delta), "selection": RandomK(k)}


def dropout(rate):
    """Return dropout at the places of MEmeL, as selection and inhibition."""
    return {
        "selection": Random(rate),
        "inhibition": Drop(),
        "axis": -1,
        "late_start": 0,
    }


FIXED = {**paper.arms, "placebo": placebo(1), "L2E": paper.l2e}
TUNED = {
    "MEmeL-Tune": {
        f"k {k}, delta {delta}": paper.tuned(k, delta)
        for k, delta in K_AND_DELTA
    },
    "placebo-Tune": {
        f"k {k}, delta {delta}": placebo(k, delta) for k, delta in K_AND_DELTA
    },
    "dropout": {f"rate {rate}": dropout(rate) for rate in RATES},
}
NAMES = (
    *("original", "naive (a)", "naive (b)", "MEmeL", "MEmeL-Tune", "placebo"),
    *("placebo-Tune", "dropout", "L2E"),
)
# Rows of Table 4, and of the other arms.
STEPS = (
    *("original", "naive (a)", "naive (b)", "RD", "placebo", "L2E"),
    *TUNED,
)
# Besides each arm vs. the original.
CONTRASTS = [
    ("MEmeL", "placebo"),
    ("MEmeL-Tune", "placebo-Tune"),
    ("MEmeL-Tune", "dropout"),
]


def steps(tuned=()):
    """Return arms for `decrease_ratio`, by name.

    A step of MEmeL is called RD, as in Table 4. tuned: texts such as
    "dropout=rate 0.1", a tuned arm and the setting that was chosen.
    """
    found = {
        "RD" if name == "MEmeL" else name: settings
        for name, settings in FIXED.items()
    }
    for text in tuned:
        name, setting = text.split("=", 1)
        found[name] = TUNED[name][setting]
    return found
