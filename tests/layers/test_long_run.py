"""Long runs: counters and exact pooling do not stall; older files load."""

import pathlib

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from steps import BACKEND
from steps import compiled_step
from steps import state

from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import Moments
from keras_memel import inserted
from keras_memel import kernels
from keras_memel import pool
from keras_memel.core.moments import History
from keras_memel.core.moments import add_compensated

SAVED = pathlib.Path(__file__).parent / "saved"


def total(now, name):
    """High and low part in float64."""
    return now[name].astype("float64") + now[f"{name}_low"]


@pytest.mark.parametrize("forget_steps", [None, 10])
def test_counters_go_on_beyond_what_a_float32_can_count(forget_steps):
    layer = MEmeL(axis=-1, forget_steps=forget_steps)
    layer.build((None, 3))
    x = np.ones((1, 3), "float32")
    x[0, 0] = np.nan
    advance = compiled_step(layer)
    advance(x, x)
    for name in ("count", "skipped_updates"):
        weight = getattr(layer, name)
        weight.assign(ops.ones(weight.shape) * 2.0**24)
    layer.steps.assign(2.0**24)
    for _ in range(7):
        advance(x, x)
    now = state(layer)
    assert now["steps"] == 2**24 + 7
    np.testing.assert_array_equal(total(now, "count") - 2**24, [0, 7, 7])
    assert total(now, "skipped_updates") - 2**24 == 7


def test_a_mean_and_a_variance_that_are_never_forgotten_do_not_freeze(rng):
    """A compiled step, after a history of which a batch is a millionth."""
    layer = MEmeL(axis=-1, forget_steps=None, late_start=10**9)
    layer.build((None, 2))
    number, batch, steps = 32 * 2**20, 32, 300
    layer.count.assign(np.full(2, number, "float32"))
    layer.moving_mean.assign(np.array([1000.0, -1000.0]))
    layer.moving_variance.assign(np.array([1.0, 4.0]))
    x = rng.normal([1000.3, -999.7], [2.0, 1.0], (steps, batch, 2))
    x = x.astype("float32")
    advance = compiled_step(layer)
    for part in x:
        advance(part, np.ones_like(part))
    values = x.reshape(-1, 2).astype("float64")
    mean, variance = exactly_pooled(
        number, np.array([1000.0, -1000.0]), np.array([1.0, 4.0]), values
    )
    now = state(layer)
    np.testing.assert_array_equal(total(now, "count"), number + len(values))
    # The changes are of 8e-5 and 9e-4, each of their steps below half an ulp.
    moved = total(now, "moving_mean") - [1000.0, -1000.0]
    np.testing.assert_allclose(moved, mean - [1000.0, -1000.0], rtol=0.02)
    moved = total(now, "moving_variance") - [1.0, 4.0]
    np.testing.assert_allclose(moved, variance - [1.0, 4.0], rtol=0.02)
    assert np.abs(moved).min() > 5e-4


def exactly_pooled(number, mean, variance, values):
    """Mean and variance of a history and values, in float64."""
    more, new = len(values), values.mean(0)
    everything = number + more
    squares = (number - 1) * variance + more * values.var(0)
    squares += number * more / everything * (new - mean) ** 2
    return mean + more / everything * (new - mean), squares / (everything - 1)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 2, 7, 500]), min_size=1, max_size=6),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 100),
)
def test_exact_pooling_is_that_of_all_values(sizes, scale, seed):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(scale, scale, (n, 4)) for n in sizes]
    history = History(*map(ops.convert_to_tensor, np.zeros((3, 4), "float32")))
    for x in batches:
        mean = x.mean(0) if len(x) else np.zeros(4)
        variance = x.var(0) if len(x) else np.zeros(4)
        moments = np.stack([np.full(4, len(x)), mean, variance])
        history = pool(history, Moments(*moments.astype("float32")))
    found = [
        ops.convert_to_numpy(high).astype("float64") + ops.convert_to_numpy(low)
        for high, low in zip(history[:3], history.low)
    ]
    values = np.concatenate(batches)
    np.testing.assert_array_equal(found[0], len(values))
    if len(values) > 1:
        np.testing.assert_allclose(
            found[1], values.mean(0), rtol=1e-5, atol=1e-6 * scale
        )
        np.testing.assert_allclose(found[2], values.var(0, ddof=1), rtol=1e-5)


def test_a_neuron_that_was_not_finite_keeps_its_low_parts():
    first = History(
        *(np.full(2, v, "float32") for v in (2.0**24, 1.0, 1.0)),
        low=Moments(*(np.full(2, v, "float32") for v in (1.0, 1e-9, 1e-9))),
    )
    batch = Moments(
        *(np.array([1.0, v], "float32") for v in (1.0, np.inf, np.nan))
    )
    after = pool(first, batch)
    for before, now in zip(first[:3] + first.low, after[:3] + after.low):
        assert ops.convert_to_numpy(now)[1] == before[1]
        assert np.isfinite(ops.convert_to_numpy(now)[0])


@pytest.mark.parametrize("large", [2**24, 2**30, 2**40])
def test_a_compensated_sum_of_integers_is_exact(large, rng):
    high, low = ops.array(float(large), "float32"), ops.zeros((), "float32")
    numbers = rng.integers(0, 5000, 200)
    add = kernels.fused(add_compensated)
    for number in numbers:
        high, low = add(high, low, ops.array(float(number), "float32"))
    found = int(ops.convert_to_numpy(high)) + int(ops.convert_to_numpy(low))
    assert found == large + numbers.sum()


# Files of the layouts of 2026-11, before there were low parts and integers.


@pytest.fixture(scope="module")
def expected():
    with np.load(SAVED / "expected.npz") as file:
        return dict(file)


def assert_loaded(layer, expected, prefix):
    now = state(layer)
    names = [n for n in expected if n.startswith(f"{prefix}/")]
    assert len(names) >= 6
    for name in names:
        np.testing.assert_array_equal(now[name.split("/")[-1]], expected[name])
    for name, value in now.items():
        if name.endswith("_low"):
            np.testing.assert_array_equal(value, np.zeros_like(value))


def test_an_older_model_loads_and_goes_on(expected):
    model = keras.saving.load_model(SAVED / "layers.keras")
    for layer in model.layers[:3]:
        assert_loaded(layer, expected, f"layers/{layer.name}")
    model.compile("sgd", "mse", jit_compile=False)
    x = np.ones((4, 4, 3), "float32")
    model.fit(x, x[:, 0, :1], batch_size=4, verbose=0)
    for layer in model.layers[:3]:
        assert state(layer)["steps"] == 4


def test_older_weights_load(expected):
    model = keras.saving.load_model(SAVED / "layers.keras")
    again = keras.models.clone_model(model)
    for layer in again.layers[:3]:
        layer.count_low.assign(ops.ones(layer.count_low.shape))
    again.load_weights(SAVED / "layers.weights.h5")
    for layer in again.layers[:3]:
        assert_loaded(layer, expected, f"layers/{layer.name}")


def test_an_older_model_with_insertions_loads(expected):
    model = keras.saving.load_model(SAVED / "inserted.keras")
    (layer,) = inserted(model).values()
    assert_loaded(layer, expected, "inserted/memel_block")
    layer.steps.assign(0)
    model.load_weights(SAVED / "inserted.weights.h5")
    assert_loaded(layer, expected, "inserted/memel_block")


def test_an_older_scan_loads(expected):
    model = keras.saving.load_model(SAVED / "scan.keras")
    (scan,) = (x for x in model.layers if isinstance(x, ConvGRU2D))
    assert_loaded(scan.memel, expected, "scan/memel")


@pytest.mark.parametrize("forget_steps", [None, 10])
def test_low_parts_are_saved_and_loaded(forget_steps, tmp_path):
    def make(forget_steps):
        layer = MEmeL("rate", axis=-1, forget_steps=forget_steps)
        return keras.Sequential([keras.Input((3,)), layer])

    model = make(forget_steps)
    layer = model.layers[0]
    for number, weight in enumerate(layer.weights):
        weight.assign(ops.ones(weight.shape, weight.dtype) * (number + 1))
    layer.steps.assign(2**24 + 1)
    before = state(layer)
    assert sum(name.endswith("_low") for name in before) == (
        2 if forget_steps else 4
    )
    model.save(tmp_path / "m.keras")
    again = state(keras.saving.load_model(tmp_path / "m.keras").layers[0])
    for name, value in before.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    assert again["steps"] == 2**24 + 1
    # Into a layer that keeps fewer low parts, or more.
    model.save_weights(tmp_path / "m.weights.h5")
    other = make(None if forget_steps else 10)
    other.load_weights(tmp_path / "m.weights.h5")
    found = state(other.layers[0])
    for name in before.keys() & found.keys():
        np.testing.assert_array_equal(found[name], before[name], err_msg=name)
    for name in found.keys() - before.keys():
        np.testing.assert_array_equal(found[name], 0 * found[name])


def test_weights_of_another_layer_are_refused(tmp_path):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]).save_weights(
        tmp_path / "m.weights.h5"
    )
    model = keras.Sequential([keras.Input((3,)), MEmeL()])
    with pytest.raises(ValueError, match="expected 8 variables"):
        model.load_weights(tmp_path / "m.weights.h5")


@pytest.mark.parametrize("forget_steps", [None, 10])
@pytest.mark.parametrize("more", range(-1, 7))
def test_files_hold_the_old_state_and_no_two_or_four_low_parts(
    more, forget_steps
):
    layer = MEmeL(forget_steps=forget_steps)
    layer.build((None, 3))
    shapes = [tuple(weight.shape) for weight in layer.weights]
    old = next(i for i, w in enumerate(layer.weights) if w.name == "count_low")
    shapes = [*shapes[:old], (3,), (), (3,), (3,), (3,), (3,)]
    store = {str(i): np.ones(shapes[i]) for i in range(old + more)}
    if more in (0, 2, 4):
        layer.load_own_variables(store)
        number = min(old + more, len(layer.weights))
        for i, weight in enumerate(layer.weights):
            expected = np.full(shapes[i], float(i < number))
            np.testing.assert_array_equal(state(layer)[weight.name], expected)
    else:
        with pytest.raises(ValueError, match=f"received {old + more} variab"):
            layer.load_own_variables(store)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="of tf.data")
@pytest.mark.parametrize("selection", ["top_k", "rate", "random"])
@pytest.mark.parametrize("layout", ["layer", "scan"])
def test_data_of_unknown_length_add_no_step(selection, layout):
    import tensorflow as tf

    layer = MEmeL(selection, late_start=2)
    shape = (3, 2, 2, 1)
    block = layer if layout == "layer" else ConvGRU2D(1, 1, memel=layer)
    model = keras.Sequential([keras.Input(shape), block, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((15, *shape), "float32")
    y = x if layout == "layer" else x[:, 0]
    data = tf.data.Dataset.from_tensor_slices((x, y))
    data = data.filter(lambda *_: True).batch(5)
    if selection == "random":
        seed = ops.convert_to_numpy(layer.seed_generator.state)
    model.fit(data, epochs=4, shuffle=False, verbose=0)
    now = state(layer)
    assert now["steps"] == 12
    if selection == "random":
        drawn = ops.convert_to_numpy(layer.seed_generator.state) - seed
        assert drawn.tolist() == [0, 12 if layout == "layer" else 36]
