"""A MEmeL on the candidate states of ConvGRU2D, against NumPy.

Each call is worked out by hand in float64: what is selected at each time step,
what becomes of it and of its gradient, and the statistics after the call.
"""

import importlib
import pathlib
import sys
from functools import partial

import keras
import numpy as np
import pytest
from convgru_oracle import Candidates
from convgru_oracle import ConvGRU
from keras import ops
from loops import train
from oracle import Oracle
from steps import BACKEND
from steps import fast_step
from steps import state
from steps import step

import keras_memel
from keras_memel import ConvGRU2D
from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import Random
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import Selection
from keras_memel import Threshold
from keras_memel import TopK
from keras_memel import insert
from keras_memel import strip

FOLDER = pathlib.Path(__file__).parent / "parity"
sys.path.insert(0, str(FOLDER))
parity = importlib.import_module("recurrent")

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHAPE = (3, 4, 4, 5, 2)
FILTERS = 3
STATES = (3, 4, 4, 5, FILTERS)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
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


def numpy(x):
    return ops.convert_to_numpy(x)


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
        # What the layer draws, as if it asked its generator at every step.
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


def assert_statistics(layer, oracle):
    now = state(layer.memel)
    for name in (
        "moving_mean",
        "moving_variance",
        "count",
        "steps",
        "inhibited_rate",
        "skipped_updates",
        "threshold",
    ):
        if name == "threshold" and oracle.selection[0] != "rate":
            continue
        expected = getattr(oracle, name.removeprefix("moving_"))
        np.testing.assert_allclose(
            now[name], expected, rtol=1e-5, atol=1e-6, err_msg=name
        )


def values(rng, steps=3, shape=SHAPE):
    for _ in range(steps):
        x = rng.standard_t(4, size=shape).astype("float32")
        r = rng.normal(size=(*shape[:-1], FILTERS)).astype("float32")
        yield x, r


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


# Where a network trains.

MODES = {
    "default": {},
    "eager": {"run_eagerly": True},
    "not compiled": {"jit_compile": False},
}
if BACKEND == "jax":  # operation by operation, each compiled
    del MODES["eager"]
if BACKEND != "torch":  # its generated code needs a C++ compiler
    MODES["compiled"] = {"jit_compile": True}


@pytest.mark.parametrize("mode", MODES)
def test_fit_updates_once_a_batch(mode, rng):
    layer = new(MEmeL(Rate(0.1), axis=-1, late_start=1))
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile(keras.optimizers.SGD(0.0), "mse", **MODES[mode])
    oracle = Oracle(("rate", 0.1, 0.1), axis=-1, late_start=1)
    pair = Candidates(network_of(layer), oracle)
    x, y = (np.concatenate(a) for a in zip(*values(rng, 3)))
    model.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    for start in (0, 3, 6):
        pair.call(x[start : start + 3], y[start : start + 3])
    assert_statistics(layer, oracle)
    assert oracle.steps == 3
    # Neither evaluation nor prediction changes anything.
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    assert_statistics(layer, oracle)


def test_a_step_of_training_is_the_one_by_hand(rng):
    layer = new(MEmeL(TopK(2), ReverseDeactivation(3.0), late_start=1))
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    oracle = Oracle(("top_k", 2), ("reverse", 3.0), late_start=1)
    pair = Candidates(network_of(layer), oracle)
    (x, _), (x2, y) = values(rng, 2)
    layer(x, training=True)
    pair.call(x, np.zeros(STATES))
    # Selection does not depend on the cotangent: run once to get the states.
    kept = {k: np.copy(v) for k, v in vars(oracle).items() if k in KEPT}
    states, _, _ = pair.call(x2, np.zeros(STATES))
    vars(oracle).update(kept)
    _, _, gradients = pair.call(x2, 2 * (states - y) / y.size)
    before = [numpy(w.value).copy() for w in layer.trainable_weights]
    train(model, keras.optimizers.SGD(1.0), [(x2, y)])
    for i, gradient in enumerate(gradients):
        moved = before[i] - numpy(layer.trainable_weights[i].value)
        np.testing.assert_allclose(moved, gradient, rtol=1e-4, atol=1e-6)
    assert_statistics(layer, oracle)


KEPT = ("mean", "variance", "count", "steps", "inhibited_rate")


def test_the_penalty_leaves_the_scan(rng):
    layer = new(MEmeL(Threshold(1.0), LogPenalty(0.5), -1, late_start=1))
    oracle = Oracle(("threshold", 1.0), ("penalty", 0.5, 1e-6), -1)
    oracle.late_start = 1
    pair = Candidates(network_of_built(layer), oracle)
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


def network_of_built(layer):
    layer.build(SHAPE)
    return network_of(layer)


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
    kept = {k: np.copy(v) for k, v in vars(pair.oracle).items() if k in KEPT}
    expected, _, _ = pair.hand.call(x2, r)
    vars(pair.oracle).update(kept)
    assert np.abs(expected - plain.forward(x2)).max() > 0.01
    pair.layer.trainable = False
    for training in (False, True):
        found = numpy(pair.layer(x2, training=training))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    pair.layer.memel.at_inference = False
    for training in (False, True):
        found = numpy(pair.layer(x2, training=training))
        np.testing.assert_allclose(found, plain.forward(x2), atol=1e-5)
    after = state(pair.layer.memel)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_channels_first_candidates_have_channels_first(rng):
    layer = ConvGRU2D(
        FILTERS, 3, data_format="channels_first", memel=MEmeL(axis=1)
    )
    x = rng.normal(size=(2, 3, 2, 4, 5)).astype("float32")
    layer(x, training=True)
    now = state(layer.memel)
    np.testing.assert_array_equal(now["count"], [2 * 3 * 2 * 3] * FILTERS)


def test_half_precision_keeps_float32_statistics(rng):
    layer = new(MEmeL(axis=-1, late_start=0), dtype="mixed_float16")
    plain = new(MEmeL(axis=-1, late_start=0))
    plain.build(SHAPE)
    layer.build(SHAPE)
    layer.set_weights(plain.get_weights())
    for x, _ in values(rng, 2):
        y = layer(x, training=True)
        plain(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    ours, theirs = state(layer.memel), state(plain.memel)
    assert {w.dtype for w in layer.memel.weights} == {"float32"}
    for name in ("moving_mean", "moving_variance", "count"):
        np.testing.assert_allclose(
            ours[name], theirs[name], rtol=2e-2, atol=1e-3
        )


def test_a_stateful_layer_with_dropout_trains(rng):
    layer = new(
        MEmeL(TopK(1), axis=-1, late_start=0),
        stateful=True,
        dropout=0.2,
        recurrent_dropout=0.2,
    )
    model = keras.Sequential([keras.Input(batch_shape=SHAPE), layer])
    model.compile("sgd", "mse")
    x, y = (np.concatenate(a) for a in zip(*values(rng, 3)))
    model.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    assert state(layer.memel)["steps"] == 3
    assert np.abs(numpy(layer.states[0])).max() > 0


# Files and surroundings.


def test_a_saved_model_goes_on_with_its_statistics(tmp_path, rng):
    layer = new(MEmeL(Rate(0.1), "penalty", -1, late_start=1, name="watch"))
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    batches = list(values(rng, 3))
    for x, r in batches[:2]:
        step(model, x, r)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    again = loaded.layers[0]
    assert again.memel.get_config() == layer.memel.get_config()
    for trained in (model, loaded):
        step(trained, *batches[2])
    first, second = state(layer.memel), state(again.memel)
    assert first["steps"] == 3
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-6)
    # A copy for frames of another size, from the config alone.
    copy = ConvGRU2D.from_config(layer.get_config())
    assert tuple(copy(np.ones((1, 2, 6, 6, 2))).shape) == (1, 2, 6, 6, 3)


@pytest.mark.parametrize("backend", parity.BACKENDS)
def test_what_one_backend_trained_every_backend_goes_on_with(backend):
    model = keras.saving.load_model(parity.file(backend))
    (layer,) = model.layers
    oracle = Oracle(("rate", 0.3, 0.1), axis=-1, late_start=1)
    hand = Candidates(network_of(layer), oracle)
    *before, last = parity.data()
    for x, r in before:
        hand.call(x, r)
    assert oracle.inhibited_rate > 0
    assert_statistics(layer, oracle)
    expected, gradient, _ = hand.call(*last)
    y, found = step(model, *last)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-5)
    assert_statistics(layer, oracle)
    ours, theirs = parity.network().get_config(), model.get_config()
    assert ours["layers"][1]["config"] == theirs["layers"][1]["config"]


def test_the_monitor_sees_it_and_insertion_leaves_it(rng):
    memel = MEmeL(TopK(1), late_start=0, name="memel")
    layer = new(memel, name="cell")
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    insert(model, "cell", MEmeL(axis=-1))
    assert keras_memel.find(model) == ["cell"]
    model.compile("sgd", "mse")
    x, y = next(values(rng))
    logs = model.fit(
        x, y, epochs=2, callbacks=[MonosemanticityMonitor()], verbose=0
    ).history
    expected = 1 / np.prod(STATES[2:])
    assert logs["cell/memel/inhibited_rate"][1] == pytest.approx(expected)
    strip(model)
    assert layer.memel is not None
    assert state(layer.memel)["steps"] == 2


class Parent(keras.layers.Layer):
    """Whose own `training` JAX cannot trace: it takes none."""

    learns = True

    def __init__(self):
        super().__init__()
        self.inner = new(MEmeL())

    def build(self, shape):
        self.inner.build(shape)

    def call(self, inputs):
        return self.inner(inputs, training=self.learns)


def test_it_is_not_rematerialized_and_works_in_no_parent_that_is(rng):
    x, y = next(values(rng))
    with keras.RematScope("full"):
        layer = new(MEmeL())
        parent = Parent()
    parent.build(SHAPE)
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile("sgd", "mse")
    model.train_on_batch(x, y)
    assert state(layer.memel)["steps"] == 1
    with pytest.raises(ValueError, match="rematerialized"):
        parent(x)
    parent.learns = False
    parent(x)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`memel` must be a `MEmeL`"):
        new(keras.layers.Dropout(0.1))
    with pytest.raises(ValueError, match="score with the history"):
        new(MEmeL(score_with="current"))
    memel = MEmeL()
    new(memel).build(SHAPE)
    with pytest.raises(ValueError, match="must be new"):
        new(memel).build(SHAPE)
    with pytest.raises(ValueError, match="at most the number of values"):
        new(MEmeL(TopK(61))).build(SHAPE)
