"""Batch moments and Lemma 3.2, alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from keras_memel import Moments
from keras_memel import batch_moments
from keras_memel import pool
from keras_memel.core.moments import History

pytestmark = pytest.mark.quick

COLD = Moments(*np.zeros((3, 1, 4), "float32"))


def numpy(moments):
    return Moments(*map(ops.convert_to_numpy, moments[:3]))


def measure(x, history=COLD, axes=(0,), mask=None):
    mask = None if mask is None else ops.convert_to_tensor(mask)
    history = Moments(*map(ops.convert_to_tensor, history[:3]))
    x = ops.convert_to_tensor(np.asarray(x, "float32"))
    return batch_moments(x, axes, history, mask)


def follow(batches, forget_steps=None):
    history = Moments(*map(ops.convert_to_tensor, COLD))
    for x in batches:
        history = pool(history, measure(x, history), forget_steps)
    return numpy(history)


def test_a_batch_has_its_mean_and_biased_variance(rng):
    x = rng.normal(3.0, 2.0, (50, 4))
    batch = numpy(measure(x))
    np.testing.assert_allclose(batch.count, [[50] * 4])
    np.testing.assert_allclose(batch.mean[0], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(batch.variance[0], x.var(0), rtol=1e-5)


def test_without_forgetting_batches_pool_to_the_moments_of_all(rng):
    batches = [rng.normal(2.0, 3.0, (n, 4)) for n in (5, 1, 17, 2, 40)]
    pooled = follow(batches)
    everything = np.concatenate(batches)
    np.testing.assert_allclose(pooled.count, [[65] * 4])
    np.testing.assert_allclose(pooled.mean[0], everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        pooled.variance[0], everything.var(0, ddof=1), rtol=1e-5
    )


def test_forgetting_gives_every_batch_the_same_weight(rng):
    """After n_f equal batches: mu <- mu + (mu' - mu) / (n_f + 1)."""
    batches = [rng.normal(size=(8, 4)) for _ in range(30)]
    expected = follow(batches[:20], forget_steps=4).mean
    for x in batches[20:]:
        expected = expected + (x.mean(0) - expected) / 5
    pooled = follow(batches, forget_steps=4)
    np.testing.assert_allclose(pooled.mean, expected, rtol=1e-4, atol=1e-5)


def test_lemma_3_2_by_hand():
    """History 1, 3 (m = 2, mean 2, unbiased variance 2); batch 5, 7, 9."""
    history = Moments(*(np.full((1, 4), v, "float32") for v in (2, 2, 2)))
    x = np.repeat([[5.0], [7.0], [9.0]], 4, axis=1)
    pooled = numpy(pool(history, measure(x, history)))
    np.testing.assert_allclose(pooled.mean, [[5.0] * 4])
    # The variance of 1, 3, 5, 7 and 9 is 10.
    np.testing.assert_allclose(pooled.variance, [[10.0] * 4])


@pytest.mark.parametrize("m", [16, 2**20])
def test_low_parts_count_in_the_mean_and_the_variance(m):
    """All that a history knows, in float64, beyond what a float32 holds."""
    parts = [np.full((1, 1), x, "float32") for x in (m, 1e4, 4.0)]
    low = [np.full((1, 1), x, "float32") for x in (0.0, 2**-12, 2**-24)]
    b, new, v_new = 8, 1e4 + 1, 3.0
    batch = Moments(*(np.full((1, 1), x, "float32") for x in (b, new, v_new)))
    pooled = pool(History(*parts, Moments(*low)), batch)
    mu, v = 1e4 + 2**-12, 4.0 + 2**-24
    expected = (m * mu + b * new) / (m + b)
    change = m * b * (mu - new) ** 2 / (m + b) + b * (v_new - v)
    found, left = numpy(pooled.moments), numpy(pooled.low)
    sums = [a.item() + c.item() for a, c in zip(found, left)]
    assert sums[0] == m + b
    assert sums[1] - 1e4 == pytest.approx(expected - 1e4, rel=1e-5)
    assert sums[2] - 4.0 == pytest.approx(
        v + change / (m + b - 1) - 4.0, rel=1e-4
    )


@pytest.mark.parametrize("mean", [1.0, 1e4, -1e4])
@pytest.mark.parametrize("deviation", [1.0, 0.01])
def test_a_large_mean_does_not_cost_the_variance(mean, deviation, rng):
    if abs(mean) * 1e-6 > deviation:
        deviation = abs(mean) * 1e-5  # below, float32 inputs hold no deviation
    batches = [
        rng.normal(mean, deviation, (256, 4)).astype("float32")
        for _ in range(20)
    ]
    everything = np.concatenate(batches).astype("float64")
    pooled = follow(batches)
    np.testing.assert_allclose(pooled.mean[0], everything.mean(0), rtol=1e-6)
    np.testing.assert_allclose(
        pooled.variance[0], everything.var(0, ddof=1), rtol=0.01
    )


def test_a_masked_first_batch_with_a_large_mean_is_right_too(rng):
    x = rng.normal(1e4, 1.0, (64, 4)).astype("float32")
    mask = np.arange(64)[:, None] >= 32
    x[:32] = 0.0  # the values of padding
    batch = numpy(measure(x, mask=mask))
    kept = x[32:].astype("float64")
    np.testing.assert_allclose(batch.count, [[32] * 4])
    np.testing.assert_allclose(batch.mean[0], kept.mean(0), rtol=1e-6)
    np.testing.assert_allclose(batch.variance[0], kept.var(0), rtol=0.01)


def test_a_mask_may_differ_between_neurons(rng):
    x = rng.normal(size=(3, 5, 4))  # each position of the second axis is one
    mask = rng.random((3, 5, 1)) < 0.6
    mask[0] = True
    history = Moments(*np.zeros((3, 1, 5, 1), "float32"))
    batch = numpy(measure(x, history, axes=(0, 2), mask=mask))
    for i in range(5):
        kept = x[mask[:, i, 0], i].astype("float32")
        assert batch.count[0, i, 0] == kept.size
        np.testing.assert_allclose(batch.mean[0, i, 0], kept.mean(), rtol=1e-4)
        np.testing.assert_allclose(
            batch.variance[0, i, 0], kept.var(), rtol=1e-4
        )


def test_what_a_mask_hides_does_not_cost_small_values_their_variance(rng):
    x = rng.normal(0.0, 1e-3, (64, 4)).astype("float32")
    batch = numpy(measure(x, mask=np.arange(64)[:, None] < 16))
    kept = x[:16].astype("float64")
    np.testing.assert_allclose(batch.variance[0], kept.var(0), rtol=1e-4)


def test_a_batch_far_from_the_history_still_pools_right(rng):
    """The shift is far off here, which the pooled variance must not show."""
    batches = [rng.normal(0, 1, (64, 4)), rng.normal(1e4, 1, (64, 4))]
    everything = np.concatenate(batches)
    np.testing.assert_allclose(
        follow(batches).variance[0], everything.var(0, ddof=1), rtol=1e-5
    )


@pytest.mark.parametrize("size", [0, 1])
def test_an_empty_or_single_batch_is_harmless(size, rng):
    first = rng.normal(size=(6, 4))
    cold = follow([first[:size]])
    np.testing.assert_allclose(cold.count, [[size] * 4])
    np.testing.assert_array_equal(cold.variance, np.zeros((1, 4)))
    after = follow([first, first[:size]])
    everything = np.concatenate([first, first[:size]])
    np.testing.assert_allclose(after.mean[0], everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        after.variance[0], everything.var(0, ddof=1), rtol=1e-5
    )


def test_a_fully_masked_batch_changes_nothing(rng):
    history = pool(
        Moments(*map(ops.convert_to_tensor, COLD)),
        measure(rng.normal(size=(6, 4))),
    )
    batch = measure(np.ones((3, 4)), history, mask=np.zeros((3, 1), bool))
    for before, after in zip(numpy(history), numpy(pool(history, batch, 10))):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38, -1e30])
@pytest.mark.parametrize("cold", [True, False])
def test_a_neuron_with_a_non_finite_value_skips_the_batch(bad, cold, rng):
    before = [] if cold else [rng.normal(size=(6, 4))]
    x = rng.normal(size=(6, 4))
    good = follow([*before, x])
    x[2, 1] = bad
    pooled = follow([*before, x])
    without = follow(before) if before else COLD
    for now, expected, unchanged in zip(pooled, good, without):
        np.testing.assert_allclose(now[0, [0, 2, 3]], expected[0, [0, 2, 3]])
        np.testing.assert_array_equal(now[0, 1], unchanged[0, 1])


@given(
    sizes=st.lists(st.sampled_from([0, 1, 4]), min_size=1, max_size=4),
    forget_steps=st.sampled_from([None, 1, 3]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    seed=st.integers(0, 1000),
)
def test_statistics_are_finite_and_variances_not_negative(
    sizes, forget_steps, scale, seed
):
    rng = np.random.default_rng(seed)
    batches = [scale * rng.normal(1.0, 1.0, (n, 4)) for n in sizes]
    pooled = follow(batches, forget_steps)
    assert np.isfinite(np.concatenate(pooled)).all()
    assert (pooled.variance >= 0).all()
    np.testing.assert_array_equal(pooled.count, [[sum(sizes)] * 4])


@pytest.mark.parametrize("axes", [(0, 2), (0, 2, 3), (0, 1), (0, 1, 2), (0,)])
def test_any_axes_can_be_pooled(axes, rng):
    x = rng.normal(size=(3, 4, 5, 6)).astype("float32")
    shape = tuple(1 if a in axes else s for a, s in enumerate(x.shape))
    batch = numpy(measure(x, Moments(*np.zeros((3, *shape), "float32")), axes))
    assert batch.mean.shape == batch.count.shape == shape
    np.testing.assert_allclose(
        batch.mean, x.mean(axes, keepdims=True), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        batch.variance, x.var(axes, keepdims=True), rtol=1e-4
    )
    assert (batch.count == np.prod([x.shape[a] for a in axes])).all()
