"""The rules that pick values, alone."""

import keras
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
from keras_memel import RandomK
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


SHAPES = [(3, 4), (1, 5), (2, 3, 4)]


@given(
    shape=st.sampled_from(SHAPES),
    k=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 1000),
)
def test_random_k_picks_as_many_as_top_k_among_what_it_could(shape, k, seed):
    rng = np.random.default_rng(seed)
    # Masked, where the neuron always was, and distinct scores above 0.
    score = rng.permutation(np.prod(shape)).reshape(shape) + 1.0
    score[rng.random(shape) < 0.3] = -1.0
    score[rng.random(shape) < 0.2] = 0.0
    mask = select(RandomK(k), score, keras.random.SeedGenerator(seed))
    assert not (mask & (score <= 0)).any()
    for sample, picked, top in zip(score, mask, select(TopK(k), score)):
        assert picked.sum() == top.sum() == min(k, (sample > 0).sum())


def test_random_k_picks_exactly_k_where_draws_are_equal(monkeypatch):
    # All draws are equal, so a cutoff would select every value.
    monkeypatch.setattr(
        keras.random, "uniform", lambda shape, **_: ops.full(shape, 0.5)
    )
    mask = select(RandomK(3), np.ones((4, 5, 6)), 0)
    assert mask.sum(axis=(1, 2)).tolist() == [3] * 4


def test_random_k_picks_each_value_as_often_and_never_looks_at_scores():
    score = np.tile(np.arange(1.0, 11.0) ** 4, (4000, 1))
    generator = keras.random.SeedGenerator(0)
    first, second = (select(RandomK(3), score, generator) for _ in range(2))
    assert (first != second).any()
    # Each is a share of 0.3, with a deviation of 0.007; so is each pair.
    np.testing.assert_allclose(first.mean(axis=0), 0.3, atol=0.035)
    pairs = first.T.astype(float) @ first / len(first)
    np.testing.assert_allclose(
        pairs[~np.eye(10, dtype=bool)], 3 * 2 / (10 * 9), atol=0.02
    )


@pytest.mark.parametrize("k", [1, 3])
def test_random_k_of_an_empty_batch_is_empty(k):
    seed = keras.random.SeedGenerator(0)
    assert select(RandomK(k), np.zeros((0, 4)), seed).shape == (0, 4)


def test_random_k_trains_in_a_model_and_selects_its_share(rng):
    # The length and the last batch are not known when the step is traced.
    memel = MEmeL(RandomK(2, seed=1), axis=-1, late_start=0)
    inputs = keras.Input((None, 4))
    dense = keras.layers.Dense(4)
    model = keras.Model(inputs, memel(dense(inputs)))
    model.compile("sgd", "mse")
    x = rng.normal(size=(10, 5, 4)).astype("float32")
    model.fit(x, x, batch_size=4, verbose=0)
    assert float(memel.inhibited_rate.value) == pytest.approx(2 / 20)
    with pytest.raises(ValueError, match=r"`k` of `RandomK` .* 20 values"):
        MEmeL(RandomK(21)).build((None, 5, 4))


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
