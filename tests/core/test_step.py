"""The step as a pure function: what the layer keeps in weights."""

import keras
import numpy as np
import pytest
from keras import ops
from steps import state as state_of
from steps import step as layer_step

from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Moments
from keras_memel import Random
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import TopK
from keras_memel import selections
from keras_memel.core import step
from keras_memel.core.moments import History

SETTINGS = {
    "top_1": {},
    "rate_current": {"selection": Rate(0.2), "score_with": "current"},
    "random": {"selection": Random(0.3, seed=4)},
    "penalty": {"inhibition": LogPenalty(0.1), "forget_steps": None},
}


def cold(shape, selection):
    zeros = np.zeros((6, *shape), "float32")
    scalar = np.zeros((), "float32")
    seed = None
    if selection.random:
        seed = keras.random.SeedGenerator(selection.seed).state.value
    return step.LayerState(
        history=History(*zeros[:3], low=Moments(*zeros[3:])),
        steps=np.zeros((), "int32"),
        inhibited_rate=scalar,
        skipped_updates=(scalar, scalar),
        selection={
            name: np.float32(value)
            for name, value in selection.initial_state().items()
        },
        seed=seed,
    )


def as_numpy(tree):
    return keras.tree.map_structure(
        lambda x: None if x is None else np.array(ops.convert_to_numpy(x)),
        tree,
    )


def as_tensors(tree):
    return keras.tree.map_structure(
        lambda x: None if x is None else ops.convert_to_tensor(x), tree
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_the_layer_is_the_step_with_its_state_in_weights(name, rng):
    rules = {
        "selection": TopK(1),
        "inhibition": ReverseDeactivation(),
        "late_start": 1,
        **SETTINGS[name],
    }
    layer = MEmeL(**rules)
    settings = step.Settings(sample_axes=(0,), **rules)
    state = cold((1, 3, 4), settings.selection)
    x = rng.normal(size=(4, 6, 3, 4)).astype("float32")
    x[2, 0, 0, 0] = np.nan
    for values in x:
        y, _ = layer_step(layer, values, np.ones_like(values))
        before = as_numpy(state)
        outputs, loss, new = step.step(
            ops.convert_to_tensor(values), as_tensors(state), None, settings
        )
        np.testing.assert_array_equal(ops.convert_to_numpy(outputs), y)
        assert (loss is None) == (name != "penalty")
        # It is pure: nothing has changed, and once more gives the same.
        again = step.step(
            ops.convert_to_tensor(values), as_tensors(state), None, settings
        )
        for found, expected in ((state, before), (again[2], as_numpy(new))):
            keras.tree.map_structure(
                np.testing.assert_array_equal, as_numpy(found), expected
            )
        state = as_numpy(new)
    now = state_of(layer)
    history = state.history
    shape = (3, 4)
    for key, value in (
        ("moving_mean", history.mean),
        ("moving_variance", history.variance),
        ("count", history.count),
        ("count_low", history.low.count),
    ):
        np.testing.assert_array_equal(now[key], value.reshape(shape))
    assert now["steps"] == state.steps == 4
    assert now["inhibited_rate"] == state.inhibited_rate
    assert now["skipped_updates"] == state.skipped_updates[0] == 1
    assert (y != x[-1]).any() == (name != "penalty")
    for key, value in state.selection.items():
        assert now[key] == value
    if name == "random":
        seed = ops.convert_to_numpy(layer.seed_generator.state)
        np.testing.assert_array_equal(seed, state.seed)


def test_at_inference_statistics_stay(rng):
    settings = step.Settings(Random(0.5, seed=1), Inhibition(), (0,))
    state = as_tensors(cold((1, 4), settings.selection))
    x = ops.convert_to_tensor(rng.normal(size=(6, 4)).astype("float32"))
    outputs, loss, new = step.step(x, state, None, settings, learning=False)
    assert loss is None
    np.testing.assert_array_equal(
        ops.convert_to_numpy(outputs), ops.convert_to_numpy(x)
    )
    assert new.history is state.history
    moved = ops.convert_to_numpy(new.seed) - ops.convert_to_numpy(state.seed)
    assert moved.tolist() == [0, 1]


def test_a_selection_that_draws_twice_draws_others_each_time():
    class Twice(selections.Selection):
        random = True

        def __call__(self, score, seed):
            draws.append(ops.convert_to_numpy(seed.next()))
            draws.append(ops.convert_to_numpy(seed.next()))
            return score > 5

    draws = []
    layer = MEmeL(Twice(), axis=-1, late_start=0)
    x = np.ones((2, 3), "float32")
    layer(x, training=True)
    layer(x, training=True)
    numbers = [int(draw[1]) for draw in draws]
    assert numbers == [0, 1, 2, 3]
