"""A MEmeL on the candidate states of ConvGRU2D, against NumPy.

Each call is worked out by hand in float64: what is selected at each time step,
what becomes of it and of its gradient, and the statistics after the call.
"""

from functools import partial

import keras
import numpy as np
import pytest
from convgru_oracle import Candidates
from keras import ops
from oracle import Oracle
from recurrent_memel_pairs import FILTERS
from recurrent_memel_pairs import SHAPE
from recurrent_memel_pairs import Pair
from recurrent_memel_pairs import network_of
from recurrent_memel_pairs import new
from recurrent_memel_pairs import undone
from recurrent_memel_pairs import values
from recurrent_pairs import MASK
from recurrent_pairs import numpy
from steps import assert_state
from steps import state
from steps import step

from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Selection
from keras_memel import Threshold
from keras_memel import TopK

pytestmark = pytest.mark.usefixtures("quick_compilation")


# Every selection, every inhibition, both kinds of neurons, with masks and
# backwards: each at least once.
CASES = [
    ("top_2", "reverse_3", {}),
    ("top_2", "naive_a", {"axis": -1, "forget_steps": None, "epsilon": 0.1}),
    ("rate", "penalty", {"axis": -1, "recurrent": {"unroll": True}}),
    ("rate", "reverse_3", {"late_start": 0, "masked": True}),
    (
        "random",
        "reverse_3",
        {"axis": -1, "masked": True, "recurrent": {"go_backwards": True}},
    ),
    ("threshold", "penalty", {"axis": (1, 3), "masked": True}),
    ("threshold", "observe", {"recurrent": {"reset_after": True}}),
    ("threshold", "reverse_3", {"late_start": 2}),
]


@pytest.mark.parametrize(("selection", "inhibition", "settings"), CASES)
def test_outputs_gradients_and_statistics(selection, inhibition, settings, rng):
    settings = dict(settings)
    masked = settings.pop("masked", False)
    pair = Pair(selection, inhibition, **settings)
    for x, r in values(rng):
        pair.step(x, r, MASK if masked else None)
    assert pair.oracle.steps == 3
    assert pair.oracle.inhibited_rate > 0
    expected = MASK.sum() if masked else SHAPE[0] * SHAPE[1]
    places = {None: 1, -1: 20, (1, 3): 5}[settings.get("axis")]
    assert (pair.oracle.count == 3 * places * expected).all()


def test_eager_equals_compiled(rng):
    # The others are compiled, but on PyTorch, where tracing takes a minute.
    pair = Pair("rate", "reverse_3", axis=-1)
    pair.run = partial(step, pair.layer)
    for x, r in values(rng, 2):
        pair.step(x, r)


def test_a_far_mean_keeps_its_variance(rng):
    layer = new(MEmeL(axis=-1), activation="linear")
    layer.build(SHAPE)
    layer.cell.bias.assign(1000.0 * np.eye(2)[:, :1] @ np.ones((1, 9)))
    for weight in (layer.cell.kernel, layer.cell.recurrent_kernel):
        weight.assign(0.01 * rng.normal(size=weight.shape))
    pair = Candidates(network_of(layer, activation="linear"), Oracle(axis=-1))
    for x, r in values(rng, 1):
        pair.call(x, r)
        layer(x, training=True)
    np.testing.assert_allclose(
        state(layer.memel)["moving_variance"], pair.oracle.variance, rtol=1e-2
    )


def test_a_step_that_is_not_finite_is_skipped_once_a_neuron(rng):
    layer = new(MEmeL(axis=-1, late_start=0), activation="linear")
    (x, _), (bad, _) = values(rng, 2)
    layer(x, training=True)
    before = state(layer.memel)
    bad[0, 1, 2, 3, 1] = np.inf
    layer(bad, training=True)
    after = state(layer.memel)
    for name in ("moving_mean", "moving_variance", "count"):
        np.testing.assert_array_equal(before[name], after[name])
    assert after["skipped_updates"] == FILTERS
    assert after["steps"] == 2


def test_the_penalty_leaves_the_scan(rng):
    layer = new(MEmeL(Threshold(1.0), LogPenalty(0.5), -1, late_start=1))
    layer.build(SHAPE)
    oracle = Oracle(
        ("threshold", 1.0), ("penalty", 0.5, 1e-6), -1, late_start=1
    )
    pair = Candidates(network_of(layer), oracle)
    (x, r), (x2, _) = values(rng, 2)
    layer(x, training=True)
    pair.call(x, r)
    assert [numpy(loss) for loss in layer.losses] == [0.0]
    mean = oracle.mean.copy()
    pair.call(x2, r)
    layer(x2, training=True)
    # All that is selected in the call, at whatever time step.
    off = np.concatenate(pair.seen) - mean
    chosen = np.concatenate(pair.chosen)
    expected = 0.5 * np.log(off[chosen] ** 2 + 1e-6).mean()
    (loss,) = layer.losses
    assert numpy(loss) == pytest.approx(expected, rel=1e-4)
    layer(x2)
    assert layer.losses == []


def test_at_inference_each_call_draws_anew(rng):
    memel = MEmeL(
        Random(0.3, seed=1), "naive_a", -1, late_start=0, at_inference=True
    )
    layer = new(memel)
    (x, _), *_ = values(rng, 1)
    layer(x, training=True)
    before = state(layer.memel)
    first, second = (numpy(layer(x)) for _ in range(2))
    assert np.abs(first - second).max() > 0.01
    # The seed moves on, and nothing else does.
    seed = numpy(memel.seed_generator.state.value)
    assert seed[1] == 3 * SHAPE[1]
    assert_state(layer.memel, before)


def test_the_penalty_of_a_single_value_is_its_own(rng):
    layer = new(MEmeL(TopK(1), LogPenalty(0.5), -1, late_start=1))
    oracle = Oracle(("top_k", 1), ("penalty", 0.5, 1e-6), -1, late_start=1)
    layer.build((1, 1, *SHAPE[2:]))
    pair = Candidates(network_of(layer), oracle)
    mask = np.ones((1, 1), bool)
    for x, r in values(rng, 2):
        mean = np.copy(getattr(oracle, "mean", 0.0))
        layer(x[:1, :1], mask=mask, training=True)
        pair.call(x[:1, :1], r[:1, :1], mask)
    off = (np.concatenate(pair.seen) - mean)[np.concatenate(pair.chosen)]
    assert off.shape == (1,)
    (loss,) = layer.losses
    expected = 0.5 * np.log(off[0] ** 2 + 1e-6)
    assert numpy(loss) == pytest.approx(expected, rel=1e-4)


def test_losses_of_ones_own_are_added_up(rng):
    class Count(Inhibition):
        def loss(self, values, mask, mean):
            return ops.sum(ops.cast(mask, "float32"))

    layer = new(MEmeL(TopK(2), Count(), late_start=0))
    for x, _ in values(rng, 2):
        layer(x, training=True)
    (loss,) = layer.losses
    assert numpy(loss) == 2 * SHAPE[0] * SHAPE[1]


def test_a_selection_may_draw_twice(rng):
    class Both(Selection):
        random = True
        seed = 3

        def __call__(self, score, seed):
            first, second = (
                keras.random.uniform(ops.shape(score), seed=seed) < 0.5
                for _ in range(2)
            )
            return ops.logical_and(first, second)

    layer = new(MEmeL(Both(), late_start=0))
    for x, _ in values(rng, 2):
        layer(x, training=True)
    assert 0.15 < state(layer.memel)["inhibited_rate"] < 0.35


def test_frozen_and_at_inference(rng):
    (x, _), (x2, r) = values(rng, 2)
    settings = {"late_start": 0, "at_inference": True}
    pair = Pair(**settings)
    plain = network_of(pair.layer)
    # Nothing to go by yet.
    np.testing.assert_allclose(
        numpy(pair.layer(x)), plain.forward(x), atol=1e-5
    )
    pair.step(x, r)
    before = state(pair.layer.memel)
    with undone(pair.oracle):
        expected, _, _ = pair.hand.call(x2, r)
    assert np.abs(expected - plain.forward(x2)).max() > 0.01
    pair.layer.trainable = False
    for training in (False, True):
        found = numpy(pair.layer(x2, training=training))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    pair.layer.memel.at_inference = False
    for training in (False, True):
        found = numpy(pair.layer(x2, training=training))
        np.testing.assert_allclose(found, plain.forward(x2), atol=1e-5)
    assert_state(pair.layer.memel, before)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`memel` must be a `MEmeL`"):
        new(keras.layers.Dropout(0.1))
    with pytest.raises(ValueError, match="have score_with='history'"):
        new(MEmeL(score_with="current"))
    memel = MEmeL()
    new(memel).build(SHAPE)
    with pytest.raises(ValueError, match="must be new"):
        new(memel).build(SHAPE)
    with pytest.raises(ValueError, match="at most the number of values"):
        new(MEmeL(TopK(61))).build(SHAPE)
