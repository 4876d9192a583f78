"""A ConvGRU2D with a MEmeL where it is trained, saved and looked after."""

import keras
import numpy as np
import pytest
from convgru_oracle import Candidates
from loops import train
from oracle import Oracle
from recurrent_memel_pairs import FILTERS
from recurrent_memel_pairs import SHAPE
from recurrent_memel_pairs import STATES
from recurrent_memel_pairs import network_of
from recurrent_memel_pairs import new
from recurrent_memel_pairs import undone
from recurrent_memel_pairs import values
from recurrent_pairs import numpy
from scripts import HELPERS
from scripts import load
from steps import BACKEND
from steps import assert_statistics
from steps import state
from steps import step

import keras_memel
from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import TopK
from keras_memel import insert
from keras_memel import strip

parity = load(HELPERS / "parity" / "recurrent.py")

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
    with undone(oracle):
        states, _, _ = pair.call(x2, np.zeros(STATES))
    _, _, gradients = pair.call(x2, 2 * (states - y) / y.size)
    before = [numpy(w.value).copy() for w in layer.trainable_weights]
    train(model, keras.optimizers.SGD(1.0), [(x2, y)])
    for i, gradient in enumerate(gradients):
        moved = before[i] - numpy(layer.trainable_weights[i].value)
        np.testing.assert_allclose(moved, gradient, rtol=1e-4, atol=1e-6)
    assert_statistics(layer, oracle)


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
    assert {
        w.dtype for w in layer.memel.weights if w is not layer.memel.steps
    } == {"float32"}
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
    # A copy from the config works with frames of another size.
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
    """A layer whose `call` does not accept `training`."""

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
