"""The accuracy of the layer's statistics, whatever it is fed."""

import keras
import numpy as np
import pytest
from keras import ops
from steps import BACKEND
from steps import assert_state
from steps import fast_step
from steps import state
from steps import step

from keras_memel import MEmeL


@pytest.mark.parametrize("axis", [None, -1])
def test_a_mean_of_ten_thousand_and_a_deviation_of_one(axis, rng):
    layer = MEmeL("rate", axis=axis, forget_steps=None, late_start=0)
    layer.build((64, 4, 8))
    advance = fast_step(layer)
    batches = rng.normal(1e4, 1.0, (30, 64, 4, 8)).astype("float32")
    for x in batches:
        advance(x, np.ones_like(x))
    pool = (0, 1) if axis is None else (0, 1, 2)
    exact = batches.astype("float64")
    now = state(layer)
    np.testing.assert_allclose(now["moving_mean"], exact.mean(pool), rtol=1e-6)
    np.testing.assert_allclose(
        now["moving_variance"], exact.var(pool, ddof=1), rtol=0.01
    )
    # Hence almost all inhibited values are far from the mean.
    assert 0.01 < now["inhibited_rate"] < 0.04


# JAX has no float64 unless it is configured so.
DTYPES = ["float16", "bfloat16"] + ["float64"] * (BACKEND != "jax")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("policy", [None, "mixed"])
def test_statistics_are_float32_of_the_values_as_they_come(dtype, policy, rng):
    policy = f"mixed_{dtype}" if policy and dtype != "float64" else dtype
    layer = MEmeL(axis=-1, forget_steps=None, late_start=1, dtype=policy)
    batches = rng.normal(30.0, 0.5, (4, 16, 8, 3)).astype("float32")
    rounded = []
    for x in batches:
        x = ops.cast(x, dtype)
        rounded.append(np.asarray(ops.convert_to_numpy(x), "float64"))
        y, _ = step(layer, x, np.ones(x.shape))
        assert y.dtype == dtype
    for weight in layer.weights:
        if weight is not layer.steps:
            assert keras.backend.standardize_dtype(weight.dtype) == "float32"
    exact = np.stack(rounded)
    now = state(layer)
    np.testing.assert_allclose(
        now["moving_mean"], exact.mean((0, 1, 2)), rtol=1e-6
    )
    np.testing.assert_allclose(
        now["moving_variance"], exact.var((0, 1, 2), ddof=1), rtol=1e-3
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("selection", ["top_k", "rate", "threshold", "random"])
def test_non_finite_values_pass_untouched_and_do_no_harm(
    selection, axis, bad, rng
):
    layer = MEmeL(selection, axis=axis, late_start=0)
    x = rng.normal(size=(8, 3, 4)).astype("float32")
    for _ in range(3):
        step(layer, x + rng.normal(size=x.shape).astype("float32"), x)
    before = state(layer)
    x[2, 1, 3] = bad
    y, _ = step(layer, x, np.ones_like(x))
    np.testing.assert_array_equal(y[2, 1, 3], x[2, 1, 3])
    now = state(layer)
    assert all(np.isfinite(value).all() for value in now.values())
    hit = (1, 3) if axis is None else 3
    for name in ("moving_mean", "moving_variance", "count"):
        np.testing.assert_array_equal(now[name][hit], before[name][hit])
        assert (now[name] != before[name]).sum() == now[name].size - 1
    assert now["skipped_updates"] == before["skipped_updates"] + 1


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("selection", ["top_k", "rate", "random"])
def test_an_empty_or_single_batch_is_harmless(selection, size, rng):
    layer = MEmeL(selection, late_start=0)
    for x in (
        rng.normal(size=(size, 3)),
        rng.normal(size=(8, 3)),
        rng.normal(size=(size, 3)),
        rng.normal(size=(8, 3)),
    ):
        y, g = step(layer, x.astype("float32"), np.ones_like(x))
        assert y.shape == g.shape == x.shape
        assert np.isfinite(y).all()
        assert all(np.isfinite(v).all() for v in state(layer).values())
    assert (state(layer)["count"] == 16 + 2 * size).all()


def test_a_fully_masked_batch_changes_no_statistic(rng):
    layer = MEmeL("rate", axis=-1, late_start=0)
    x = rng.normal(size=(8, 3, 4)).astype("float32")
    for _ in range(2):
        step(layer, x, x)
    before = state(layer)
    y, g = step(layer, 100 * x, x, mask=np.zeros((8, 3), bool))
    np.testing.assert_array_equal(y, 100 * x)
    np.testing.assert_array_equal(g, x)
    assert state(layer)["steps"] == before["steps"] + 1
    assert_state(layer, before, but=["steps"])
