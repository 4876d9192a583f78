"""A ConvGRU2D with a MEmeL, and all that is known of it in float64 NumPy."""

import contextlib
import copy

import keras
import numpy as np
from convgru_oracle import Candidates
from convgru_oracle import ConvGRU
from oracle import Oracle
from recurrent_pairs import numpy
from steps import assert_statistics
from steps import fast_step

from keras_memel import ConvGRU2D
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import Threshold
from keras_memel import TopK

SHAPE = (3, 4, 4, 5, 2)
FILTERS = 3
STATES = (3, 4, 4, 5, FILTERS)
SELECTIONS = {
    "top_2": (TopK(2), ("top_k", 2)),
    "rate": (Rate(0.3), ("rate", 0.3, 0.1)),
    "threshold": (Threshold(2.0), ("threshold", 2.0)),
    "random": (Random(0.2, seed=5), ("random", 0.2)),
}
INHIBITIONS = {
    "reverse_3": (ReverseDeactivation(3.0), ("reverse", 3.0)),
    "naive_a": ("naive_a", ("reverse", 0.0)),
    "penalty": (LogPenalty(0.5, tiny=1e-2), ("penalty", 0.5, 1e-2)),
    "observe": ("observe", ("observe",)),
}


def new(memel, **settings):
    return ConvGRU2D(
        FILTERS,
        3,
        padding="same",
        return_sequences=True,
        kernel_initializer=keras.initializers.RandomNormal(0.0, 0.4, seed=1),
        memel=memel,
        **settings,
    )


def network_of(layer, **settings):
    weights = [numpy(w.value) for w in layer.cell.weights]
    return ConvGRU(*weights, padding="same", **settings)


class Pair:
    """A layer and its oracle, called together and compared."""

    def __init__(self, selection="top_2", inhibition="reverse_3", **settings):
        settings = {"late_start": 1, "forget_steps": 2, **settings}
        ours, theirs = zip(SELECTIONS[selection], INHIBITIONS[inhibition])
        recurrent = settings.pop("recurrent", {})
        self.random = selection == "random"
        self.layer = new(MEmeL(*ours, **settings), **recurrent)
        self.layer.build(SHAPE)
        known = {k: v for k, v in recurrent.items() if k == "go_backwards"}
        settings.pop("at_inference", None)
        self.oracle = Oracle(*theirs, **settings)
        self.hand = Candidates(network_of(self.layer, **known), self.oracle)
        # This generator repeats the draws of the layer, one per time step.
        self.generator = keras.random.SeedGenerator(5)
        self.run = fast_step(self.layer)

    def step(self, x, r, mask=None):
        chosen = None
        if self.random:
            chosen = [
                numpy(SELECTIONS["random"][0](np.zeros(s), self.generator))
                for s in [STATES[:1] + STATES[2:]] * SHAPE[1]
            ]
        expected, gradient, _ = self.hand.call(x, r, mask, chosen)
        y, found = self.run(x, r, mask)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)
        assert_statistics(self.layer, self.oracle)


@contextlib.contextmanager
def undone(oracle):
    """Restore the oracle after the calls within."""
    before = copy.deepcopy(vars(oracle))
    yield
    vars(oracle).update(before)


def values(rng, steps=3, shape=SHAPE):
    for _ in range(steps):
        x = rng.standard_t(4, size=shape).astype("float32")
        r = rng.normal(size=(*shape[:-1], FILTERS)).astype("float32")
        yield x, r
