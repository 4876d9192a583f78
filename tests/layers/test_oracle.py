"""The layer against the float64 oracle: every combination, random cases."""

import itertools

import numpy as np
import pytest
from hypothesis import assume
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from oracle import Oracle
from steps import BACKEND
from steps import compiled_step
from steps import state
from steps import step

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Observe
from keras_memel import Random
from keras_memel import RandomK
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import Threshold
from keras_memel import TopK

SELECTIONS = {
    "top_1": (TopK(1), ("top_k", 1)),
    "top_3": (TopK(3), ("top_k", 3)),
    "rate": (Rate(0.1), ("rate", 0.1, 0.1)),
    "threshold": (Threshold(2.0), ("threshold", 2.0)),
    "random": (Random(0.2, seed=1), ("random", 0.2)),
    "random_k": (RandomK(2, seed=1), ("random", 2)),
}
INHIBITIONS = {
    "reverse": (ReverseDeactivation(), ("reverse", 1.0)),
    "reverse_5": (ReverseDeactivation(5.0), ("reverse", 5.0)),
    "naive_a": ("naive_a", ("reverse", 0.0)),
    "naive_b": ("naive_b", ("reverse", -1.0)),
    "penalty": (LogPenalty(0.5, tiny=1e-3), ("penalty", 0.5, 1e-3)),
    "observe": (Observe(), ("observe",)),
}


class Pair:
    """A layer and its oracle, stepped together and compared."""

    def __init__(self, selection, inhibition, compiled=False, **settings):
        self.random = selection.startswith("random")
        self.observes = inhibition in ("penalty", "observe")
        layer_selection, oracle_selection = SELECTIONS[selection]
        layer_inhibition, oracle_inhibition = INHIBITIONS[inhibition]
        self.layer = MEmeL(layer_selection, layer_inhibition, **settings)
        self.oracle = Oracle(oracle_selection, oracle_inhibition, **settings)
        self._step = compiled_step(self.layer) if compiled else None

    def step(self, x, r, mask=None):
        if self._step:
            y, gradient = self._step(x, r, mask)
        else:
            y, gradient = step(self.layer, x, r, mask)
        random_mask = None
        if self.random:
            # The die is the layer's; what it does to the values is not.
            random_mask = (y != x) | (gradient != r)
        expected_y, expected_gradient = self.oracle.step(
            x, r, mask, random_mask
        )
        np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(
            gradient, expected_gradient, rtol=1e-5, atol=1e-5
        )
        self.compare_state()

    def compare_state(self):
        now = state(self.layer)
        for name, expected in (
            ("moving_mean", self.oracle.mean),
            ("moving_variance", self.oracle.variance),
            ("count", self.oracle.count),
            ("steps", self.oracle.steps),
            ("skipped_updates", self.oracle.skipped_updates),
        ):
            np.testing.assert_allclose(
                now[name], expected, rtol=1e-5, atol=1e-6, err_msg=name
            )
        if not (self.random and self.observes):  # nothing shows what it chose
            np.testing.assert_allclose(
                now["inhibited_rate"], self.oracle.inhibited_rate, rtol=1e-5
            )
        if "threshold" in now:
            np.testing.assert_allclose(
                now["threshold"], self.oracle.threshold, rtol=1e-5
            )


def run_and_check(pair, rng, shape, steps=5, masked=False, vary_batch=True):
    scale = rng.uniform(0.1, 3.0, shape[1:])
    for t in range(steps):
        batch = shape[0] + (t % 2 if vary_batch else 0)
        x = rng.normal(1.0, scale, (batch, *shape[1:])).astype("float32")
        r = rng.normal(size=x.shape).astype("float32")
        mask = rng.random(x.shape[:2]) < 0.7 if masked else None
        pair.step(x, r, mask)


AXES = [None, -1, 1, (1, 3)]
COMBINATIONS = itertools.product(
    enumerate(SELECTIONS), enumerate(INHIBITIONS), enumerate(AXES), (0, 1)
)


def case(selection, inhibition, axis, current):
    """All on PyTorch, where they cost least; where each takes a compilation,
    every selection with every inhibition and both kinds of scores, and any two
    settings together."""
    numbers = [number for number, _ in (selection, inhibition, axis)]
    return pytest.param(
        *(value for _, value in (selection, inhibition, axis)),
        ("history", "current")[current],
        marks=[] if (sum(numbers) + current) % 4 == 0 else pytest.mark.once,
    )


@pytest.mark.parametrize(
    ("selection", "inhibition", "axis", "score_with"),
    [*itertools.starmap(case, COMBINATIONS)],
)
def test_every_combination(selection, inhibition, axis, score_with, rng):
    pair = Pair(
        selection,
        inhibition,
        axis=axis,
        score_with=score_with,
        late_start=2,
        forget_steps=3,
    )
    run_and_check(pair, rng, (4, 3, 2, 5))


@pytest.mark.parametrize("forget_steps", [None, 1, 10])
@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_masked_positions_neither_count_nor_are_selected(
    selection, axis, forget_steps, rng
):
    pair = Pair(
        selection, "reverse", axis=axis, late_start=1, forget_steps=forget_steps
    )
    run_and_check(pair, rng, (3, 4, 5), steps=6, masked=True)


@pytest.mark.parametrize(
    ("selection", "inhibition", "axis"),
    [
        ("top_1", "reverse", None),
        ("top_3", "naive_a", -1),
        ("rate", "penalty", -1),
        ("threshold", "reverse", None),
        ("random", "reverse", -1),
    ],
)
def test_compiled_equals_eager(selection, inhibition, axis, rng):
    pair = Pair(selection, inhibition, compiled=True, axis=axis, late_start=1)
    run_and_check(pair, rng, (4, 3, 5), steps=4, vary_batch=False)


def test_compiled_with_a_mask_equals_eager(rng):
    pair = Pair("rate", "reverse", compiled=True, axis=-1, late_start=1)
    run_and_check(pair, rng, (4, 3, 5), steps=4, masked=True, vary_batch=False)


@settings(max_examples=6 if BACKEND == "jax" else 15)
@given(
    # There are few shapes, because JAX compiles each operation again for each.
    shape=st.sampled_from([(3, 4), (1, 5), (4, 1), (2, 3, 4), (1, 2, 2, 3)]),
    selection=st.sampled_from(["top_1", "rate", "threshold", "random"]),
    inhibition=st.sampled_from(["reverse", "naive_a", "penalty"]),
    score_with=st.sampled_from(["history", "current"]),
    channels=st.booleans(),
    forget_steps=st.sampled_from([None, 1, 2, 10]),
    late_start=st.integers(0, 3),
    epsilon=st.sampled_from([0.0, 0.01, 1.0]),
    masked=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_random_cases(
    shape,
    selection,
    inhibition,
    score_with,
    channels,
    forget_steps,
    late_start,
    epsilon,
    masked,
    seed,
):
    # The gradient shows the values that Random selected, except if the gradient
    # of the penalty is 0.
    assume((selection, inhibition) != ("random", "penalty"))
    pair = Pair(
        selection,
        inhibition,
        axis=-1 if channels else None,
        score_with=score_with,
        forget_steps=forget_steps,
        late_start=late_start,
        epsilon=epsilon,
    )
    rng = np.random.default_rng(seed)
    run_and_check(pair, rng, shape, steps=4, masked=masked)
