"""The rules that pick values, alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from scipy import stats
from steps import fast_step
from steps import state
from steps import step

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import TopK


def select(selection, score, *args):
    score = ops.convert_to_tensor(np.asarray(score, "float32"))
    return ops.convert_to_numpy(selection(score, *args))


@given(k=st.sampled_from([1, 2, 7]), seed=st.integers(0, 1000))
def test_top_k_picks_the_k_highest_of_each_sample(k, seed):
    score = np.random.default_rng(seed).permutation(24).reshape(2, 3, 4) + 1
    mask = select(TopK(k), score)
    for sample, picked in zip(score, mask):
        assert set(sample[picked]) == set(np.sort(sample, axis=None)[-k:])


def test_top_k_takes_ties_but_not_scores_of_zero():
    score = [
        [3.0, 3.0, 1.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [-1.0, -1.0, 2.0, -1.0],
    ]
    for k in (1, 2):
        np.testing.assert_array_equal(
            select(TopK(k), score),
            [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]],
        )


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_of_an_empty_batch_is_empty(k):
    assert select(TopK(k), np.zeros((0, 4))).shape == (0, 4)


def test_threshold_takes_what_reaches_it():
    np.testing.assert_array_equal(
        select(Threshold(2.0), [[1.9, 2.0, -1.0]]), [[0, 1, 0]]
    )


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.02, 0.03, 0.5, 0.99])
def test_rate_starts_at_the_chi_squared_quantile(rate):
    start = Rate(rate).initial_state()["threshold"]
    assert start == pytest.approx(stats.chi2.isf(rate, df=1), rel=1e-6)


def test_rate_is_nudged_towards_its_target():
    rate = Rate(0.02, gain=0.1)
    up, still, down, far = (
        float(rate.update(np.float32(share), np.float32(5.0))["threshold"])
        for share in (0.04, 0.02, 0.0, 1.0)
    )
    assert still == pytest.approx(5.0)
    assert up == pytest.approx(5.0 * np.exp(0.1))
    assert down == pytest.approx(5.0 * np.exp(-0.1))
    assert far == pytest.approx(5.0 * np.exp(2.0))


def test_rate_of_a_dead_layer_comes_back_to_life():
    rate, threshold = Rate(0.02), np.float32(5.0)
    for _ in range(1000):
        threshold = rate.update(np.float32(0.0), threshold)["threshold"]
    assert float(threshold) == pytest.approx(rate.lowest)
    for _ in range(10):
        threshold = rate.update(np.float32(1.0), threshold)["threshold"]
    assert float(threshold) > 5.0


DISTRIBUTIONS = {
    "gaussian": lambda rng, shape: rng.normal(size=shape),
    "laplace": lambda rng, shape: rng.laplace(size=shape),
    "relu": lambda rng, shape: np.maximum(rng.normal(size=shape), 0.0),
    "student_t3": lambda rng, shape: rng.standard_t(3, size=shape),
}


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rate_holds_two_percent_and_recovers_from_a_jump_of_scale(
    name, axis, rng
):
    draw, shape = DISTRIBUTIONS[name], (32, 8, 16)
    layer = MEmeL(Rate(0.02), "observe", axis=axis)
    advance, r = fast_step(layer), np.ones(shape, "float32")

    def rates(steps, scale):
        seen = []
        for _ in range(steps):
            x = (scale * draw(rng, shape)).astype("float32")
            advance(x, r)
            seen.append(float(layer.inhibited_rate.value))
        return np.array(seen)

    rates(200, 1.0)
    assert 0.015 < rates(150, 1.0).mean() < 0.025
    for scale in (10.0, 1.0):  # tenfold up, then down again
        rates(200, scale)
        assert 0.015 < rates(150, scale).mean() < 0.025


def test_random_picks_its_rate_and_the_same_for_the_same_seed(rng):
    x = rng.normal(size=(8, 50, 20)).astype("float32")
    chosen = []
    for seed in (1, 1, 2):
        layer = MEmeL(Random(0.1, seed=seed), "naive_a", late_start=0)
        picked = []
        for _ in range(3):
            y, _ = step(layer, x, np.ones_like(x))
            picked.append(y != x)
        assert not picked[0].any()  # no history yet
        assert 0.09 < float(layer.inhibited_rate.value) < 0.11
        assert (picked[1] != picked[2]).any()
        chosen.append(picked)
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert (chosen[0][2] != chosen[2][2]).any()


def test_random_is_blind_to_the_score(rng):
    layer = MEmeL(Random(0.3, seed=0), "naive_a", axis=-1, late_start=0)
    x = rng.normal(size=(64, 40, 8)).astype("float32")
    step(layer, x, x)
    y, _ = step(layer, x, x)
    far = np.abs(x - x.mean((0, 1))) > 1.5
    near = np.abs(x - x.mean((0, 1))) < 0.5
    assert abs((y != x)[far].mean() - 0.3) < 0.02
    assert abs((y != x)[near].mean() - 0.3) < 0.02


def test_one_selection_may_serve_two_layers(rng):
    selection = Rate(0.1)
    first, second = (MEmeL(selection, late_start=0) for _ in range(2))
    for _ in range(5):
        step(first, rng.normal(size=(8, 6)).astype("float32"), np.ones((8, 6)))
    assert "threshold" in state(first)
    assert not second.built
    second.build((8, 6))
    assert state(first)["threshold"] != state(second)["threshold"]
    assert state(second)["threshold"] == pytest.approx(
        selection.initial_state()["threshold"]
    )
