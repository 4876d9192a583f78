"""Policies: values in half precision, statistics in float32.

How accurate the statistics are, `test_statistics.py` tests.
"""

import importlib

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from steps import BACKEND
from steps import state
from watched import WIDTH
from watched import fit
from watched import oracle_of
from watched import seen
from watched import watch

from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import TopK


@pytest.mark.parametrize(
    ("policy", "compute"),
    [
        ("mixed_float16", "float16"),
        ("mixed_bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        pytest.param(
            "float64",
            "float64",
            marks=pytest.mark.skipif(
                BACKEND == "jax", reason="JAX has none unless told to"
            ),
        ),
    ],
)
def test_statistics_are_float32_whatever_the_policy(policy, compute, rng):
    layer = watch(dtype=policy, forget_steps=None)
    layer.build((None, 2))
    # 2048 + 1 = 2048 in float16.
    for rows in (2048, 1):
        x = rng.normal(3.0, size=(rows, 2)).astype("float32")
        y = layer(x, training=True)
        assert keras.backend.standardize_dtype(y.dtype) == compute
    assert {w.dtype for w in layer.weights if w is not layer.steps} == {
        "float32"
    }
    now = state(layer)
    del now["steps"]
    assert {value.dtype for value in now.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(now["count"], 2049)
    np.testing.assert_allclose(now["moving_mean"], 3.0, atol=0.1)


@pytest.mark.parametrize("k", [1, 3])
def test_each_sample_has_its_values_selected_in_low_precision(k, rng):
    # XLA may compute what is before the layer twice, and round it once.
    layer = MEmeL(TopK(k), late_start=1, dtype="mixed_bfloat16")
    before = keras.layers.Dense(16, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((8,)), before, layer])
    model.compile("sgd", "mse")
    x = rng.normal(size=(96, 8)).astype("float32")
    model.fit(x, np.zeros((96, 16)), 32, verbose=0)
    # More where values tie.
    assert 16 * float(layer.inhibited_rate) >= k - 1e-5


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_a_stateless_call_has_the_compute_dtype(policy, training, rng):
    # Keras casts in `__call__`, but not there.
    x = rng.normal(size=(4, 3)).astype("float32")
    layer = MEmeL(late_start=0, dtype=policy)
    layer.build(x.shape)
    y, new = layer.stateless_call(
        [],
        [v.value for v in layer.non_trainable_variables],
        ops.convert_to_tensor(x),
        training=training,
    )
    dtype = keras.backend.standardize_dtype(y.dtype)
    assert dtype == policy.removeprefix("mixed_")
    for value, weight in zip(new, layer.non_trainable_variables, strict=True):
        found = keras.backend.standardize_dtype(value.dtype)
        assert found == weight.dtype


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_in_fit(policy, data):
    x, y = data
    x = np.asarray(ops.convert_to_numpy(ops.cast(x, "bfloat16")), "float32")
    layer = watch(dtype=policy)
    model = keras.Sequential(
        [keras.Input((WIDTH,)), layer, layers.Dense(2, dtype=policy)]
    )
    fit(model, x, y)
    expected = oracle_of(seen(x))
    now = state(layer)
    # bfloat16 inputs are the same number in both; float16 rounds a little.
    np.testing.assert_allclose(now["moving_mean"], expected.mean, rtol=1e-3)
    np.testing.assert_allclose(
        now["moving_variance"], expected.variance, rtol=1e-3
    )
    assert now["steps"] == 4


@pytest.fixture
def float64():
    """Set float64 as the dtype of variables, losses and layers."""
    if BACKEND == "jax" and not importlib.import_module("jax").config.read(
        "jax_enable_x64"
    ):
        pytest.skip("JAX has none unless told to")
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["layer", "within a scan"])
def test_a_penalty_is_added_to_losses_of_any_dtype(kind, rng):
    memel = MEmeL("threshold", "penalty", axis=-1, late_start=0)
    inhibited, shape = memel, (6,)
    if kind == "within a scan":
        shape = (3, 4, 4, 1)
        inhibited = ConvGRU2D(2, 3, padding="same", memel=memel)
    model = keras.Sequential([keras.Input(shape), inhibited, layers.Dense(2)])
    model.compile("sgd", "mse")
    x = rng.normal(size=(8, *shape))
    y = np.zeros((8, *model.output_shape[1:]))
    model.train_on_batch(x, y)  # From now on there is a history.
    error = float(np.square(model.predict(20 * x, verbose=0)).mean())
    loss = float(model.train_on_batch(20 * x, y))
    assert state(memel)["inhibited_rate"] > 0
    assert loss != pytest.approx(error, rel=1e-6)
    model(20 * x, training=True)
    (penalty,) = model.losses
    assert keras.backend.standardize_dtype(penalty.dtype) == "float64"
