"""The tests of the mean of paired differences, held to brute force."""

import collections
import itertools
import math

import numpy as np
import paired_oracle
import pytest
import scipy.stats
from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_memel import Comparison
from keras_memel.evaluation import paired_tests
from keras_memel.evaluation.paired_tests import paired_test

pytestmark = [
    pytest.mark.once,
    pytest.mark.quick,
]

LEVELS = st.sampled_from([0.05, 0.01, 0.045, 0.02])


def whole(low, high, size=20):
    return st.lists(st.integers(-size, size), min_size=low, max_size=high)


def rejects(test):
    return test.low > 0 or test.high < 0


@example([0] * 6 + [2, 2, -2, -2])
@example([0, 0])
@settings(max_examples=30)
@given(whole(2, 10, 5))
def test_the_sign_flip_counts_all_flips_and_ties(deltas):
    found = paired_test(deltas).p_sign_flip
    assert found == paired_oracle.sign_flip_p(deltas)
    scipys = scipy.stats.permutation_test(
        (np.array(deltas),), np.sum, permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue  # fmt: skip
    assert found == pytest.approx(scipys)


@settings(max_examples=20)
@given(whole(2, 7, 9), LEVELS)
def test_the_interval_of_the_sign_flip_is_what_it_does_not_reject(
    deltas, level
):
    values = paired_tests.sign_flip(np.array(deltas), np.zeros(len(deltas)))
    low, high = paired_tests.interval(values, level)
    # The p changes at means of subsets alone; between them, in the middle.
    means = sorted(set(paired_oracle.subset_means(deltas)))
    between = [(a + b) / 2 for a, b in itertools.pairwise(means)]
    outside = [means[0] - 1, means[-1] + 1]
    for mean in [*means, *between, *outside]:
        rejected = paired_oracle.sign_flip_rejects(deltas, mean, level)
        assert rejected == (not low - 1e-9 <= mean <= high + 1e-9)


@example([5, 5, 5, 5])
@example([1, 2])
@example([3, 1, 1, 0, 0, -1])
@settings(max_examples=20)
@given(whole(2, 5, 4))
def test_the_bootstrap_counts_all_resamples_and_ties(deltas):
    resamples = paired_oracle.all_resamples(deltas)
    expected = paired_oracle.bootstrap_p(deltas, resamples)
    assert paired_test(deltas).p_bootstrap == float(expected)


def resampled(deltas):
    """How often the library counts each resample of integers."""
    shares, weights = paired_tests.resamples(len(deltas))
    counts = np.rint(shares * len(deltas)).astype(int).tolist()
    found = collections.Counter()
    for row, weight in zip(counts, weights.astype(int).tolist(), strict=True):
        values = itertools.chain.from_iterable(
            [delta] * count
            for delta, count in zip(sorted(deltas), row, strict=True)
        )
        found[tuple(values)] += weight
    return found


@pytest.mark.parametrize(
    "deltas",
    [[0] * 9 + [1], [1] * 7 + [0, 0, -1], [0] * 8 + [3] * 4 + [-1],
     [0] * 12 + [3] * 7 + [-1]],
)  # fmt: skip
def test_the_bootstrap_counts_many_resamples_and_ties(deltas):
    expected = paired_oracle.bootstrap_p(deltas, resampled(deltas))
    assert paired_test(deltas).p_bootstrap == float(expected)


@pytest.mark.parametrize("number", [2, 3, 6, 10])
def test_up_to_ten_differences_every_resample_is_there(number):
    shares, weights = paired_tests.resamples(number)
    # Multisets of n positions, and sequences of n positions.
    assert len(shares) == math.comb(2 * number - 1, number)
    assert len(np.unique(shares, axis=0)) == len(shares)
    assert weights.sum() == number**number
    np.testing.assert_allclose(shares.sum(1), 1)
    expected = scipy.stats.multinomial.pmf(
        np.rint(shares * number), number, [1 / number] * number
    )
    np.testing.assert_allclose(weights / number**number, expected)


@pytest.mark.parametrize("number", [11, 20])
def test_beyond_ten_differences_resamples_are_drawn(number):
    shares, weights = paired_tests.resamples(number)
    assert shares.shape == (99_999, number)
    np.testing.assert_array_equal(weights, 1)
    counts = shares * number
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    np.testing.assert_allclose(counts.sum(1), number)
    # Each place is as probable: 4 standard errors of its share.
    error = math.sqrt((1 - 1 / number) / number / (99_999 * number))
    assert np.abs(shares.mean(0) - 1 / number).max() < 4 * error
    # Mirrored, so that neither arm is favored.
    np.testing.assert_allclose(shares.mean(0), shares.mean(0)[::-1])


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_the_bootstrap_is_that_of_scipys_quantiles(seed):
    deltas = np.random.default_rng(seed).normal(1.0, 2.0, size=12)
    mean, error = deltas.mean(), scipy.stats.sem(deltas)

    def t(resampled, axis):
        shift = resampled.mean(axis) - mean
        return shift / scipy.stats.sem(resampled, axis=axis)

    quantiles = scipy.stats.bootstrap(
        (deltas,), t, method="percentile", n_resamples=40_000, rng=seed
    ).confidence_interval
    values = paired_tests.bootstrap_t(deltas, np.zeros(12))
    low, high = paired_tests.interval(values)
    # Both are sampled: an end is known to a few hundredths of the width.
    width = (quantiles.high - quantiles.low) * error
    assert low == pytest.approx(mean - quantiles.high * error, abs=0.06 * width)
    assert high == pytest.approx(mean - quantiles.low * error, abs=0.06 * width)


def numbers(low, high):
    """Deltas with ties, with rounding, and with one that is far off."""
    fine = st.floats(-3, 3, allow_subnormal=False)
    coarse = st.integers(-3, 3).map(lambda k: 0.1 * k)
    far = st.sampled_from([1e15, -1e15, 1e-12])
    return st.lists(fine | coarse | far, min_size=low, max_size=high)


@example([1.0] * 8 + [2.0, 2.0], 0.05)
@example([0.1 * 3 - 0.3] * 10, 0.05)
@example(list(np.arange(20) / 7 - 0.3), 0.05)
@settings(max_examples=60)
@given(numbers(2, 12), LEVELS)
def test_p_is_below_the_level_exactly_if_the_interval_excludes_0(deltas, level):
    for noise in (0.0, 1e-6):
        test = paired_test(deltas, noise, level)
        assert (test.p < level) == rejects(test)
        assert test.low <= test.high
        assert 0 < test.p <= 1


@pytest.mark.parametrize("number", [10, 16, 17, 24])
def test_the_interval_holds_the_means_that_are_not_rejected(number):
    deltas = np.random.default_rng(number).exponential(size=number)
    low, high = paired_test(deltas)[2:]
    step = 1e-6
    for mean, rejected in [
        (low - step, True), (low + step, False), (deltas.mean(), False),
        (high - step, False), (high + step, True),
    ]:  # fmt: skip
        assert (paired_test(deltas - mean).p < 0.05) == rejected


@settings(max_examples=15)
@given(numbers(2, 12), st.randoms())
def test_neither_the_order_nor_the_name_of_the_better_arm_matters(
    deltas, random
):
    test = paired_test(deltas)
    shuffled = random.sample(deltas, len(deltas))
    assert paired_test(shuffled) == test
    turned = paired_test(-np.array(deltas))
    assert turned[:2] == test[:2]
    np.testing.assert_allclose((-turned.high, -turned.low), test[2:], 1e-9)


@pytest.mark.parametrize("unit", [1e-6, 0.3, 1e12])
def test_the_unit_of_the_scores_does_not_matter(unit):
    deltas = np.random.default_rng(0).normal(0.8, 1, 10)
    test, scaled = paired_test(deltas), paired_test(unit * deltas)
    assert scaled[:2] == test[:2]
    np.testing.assert_allclose(scaled[2:], unit * np.array(test[2:]))


@example([1, 1, 1, 1, 1, 1])
@example([0, 0, 1, 2, 2, 3])
@settings(max_examples=20)
@given(whole(2, 6, 4))
def test_under_the_sharp_null_the_sign_flip_is_exact_for_any_deltas(deltas):
    # One of each pair of arms is picked at random: all signs are as probable.
    signs = itertools.product((1, -1), repeat=len(deltas))
    zero = np.zeros(len(deltas))
    found = np.array(
        [
            paired_tests.p_value(paired_tests.sign_flip(row, zero))
            for row in np.array(list(signs)) * deltas
        ]
    )
    for p in np.unique(found):
        assert np.mean(found <= p) <= p


def test_under_the_sharp_null_the_tests_reject_and_seldom():
    sizes = [1, 1, 2, 3, 5, 8, 13, 400]
    signs = np.array(list(itertools.product((1, -1), repeat=8)))
    tests = [paired_test(row) for row in signs * sizes]
    flips = np.array([test.p_sign_flip for test in tests])
    for p in np.unique(flips):
        assert np.mean(flips <= p) <= p
    assert np.mean(flips < 0.05) > 0.02
    assert all(test.p >= test.p_sign_flip for test in tests)


@pytest.mark.parametrize("shift", [0.3, 0.6])
def test_beyond_16_seeds_subsets_are_drawn_and_the_same_each_time(shift):
    deltas = np.random.default_rng(3).normal(shift, 1, 18)
    found = paired_test(deltas).p_sign_flip
    assert paired_test(deltas).p_sign_flip == found
    sums = np.zeros(1)
    for delta in deltas:
        sums = np.concatenate([sums, sums + delta])
    exact = 2 * np.mean(sums <= 0)
    error = 2 * math.sqrt(exact / 2 / paired_tests.SUBSETS)
    assert abs(found - exact) < 4 * error


@pytest.mark.parametrize("number", [0, 1])
def test_there_is_no_test_below_two_differences(number):
    assert all(map(math.isnan, paired_test(np.ones(number))))


@pytest.mark.parametrize("number", [2, 3, 5])
def test_few_differences_reject_nothing(number):
    test = paired_test(100.0 + np.arange(number))
    assert test.p_sign_flip == 2 / 2**number
    assert (test.low, test.high) == (-math.inf, math.inf)


def test_six_differences_are_the_fewest_that_can_reject():
    test = paired_test([10, 11, 12, 13, 14, 15])
    assert test.p_sign_flip == 2 / 2**6
    assert 0 < test.low <= 10


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
@pytest.mark.parametrize("number", [2, 3, 10, 20])
def test_equal_differences_have_no_deviation(value, number):
    test = paired_test(np.full(number, value) + 1e-17)
    assert test.p == test.p_bootstrap == 1.0
    assert (test.low, test.high) == (-math.inf, math.inf)


def test_a_resample_without_deviation_is_left_out():
    # A third of the resamples (0.9^10) contain one value ten times.
    deltas = np.array([9.0] * 9 + [8.0])
    values = paired_tests.bootstrap_t(deltas, np.zeros(10))
    assert len(values.lows) == len(values.highs) == len(values.weights)
    assert values.weights.sum() == 10**10 - 9**10 - 1
    test = paired_test(deltas)
    assert test.p == 2 / 2**10
    assert 8 < test.low < test.high < 9.1


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(wrong):
    with pytest.raises(ValueError, match="must be finite"):
        paired_test([1.0, wrong])
    with pytest.raises(ValueError, match="must be finite"):
        paired_test([1.0, 2.0], [0.0, wrong])


@settings(max_examples=10)
@given(whole(6, 6, 6), st.sampled_from([10**15, -(10**15)]))
def test_a_score_that_diverged_does_not_hide_the_others(deltas, far):
    deltas = [*deltas, far]
    ours, theirs = 0.5 + 0.01 * np.array(deltas), np.full(7, 0.5)
    ours[-1] = far
    noise = paired_tests.rounding(ours, theirs)
    test = paired_test(ours - theirs, noise)
    assert test.p_sign_flip == paired_oracle.sign_flip_p(deltas)
    expected = float(paired_oracle.bootstrap_p(deltas, resampled(deltas)))
    assert test.p_bootstrap == pytest.approx(expected, abs=1e-3)


def test_the_sizes_of_floats_are_no_limit():
    for far in (1e30, 1e200):
        test = paired_test([1.0, 2, 3, 4, 5, 6, 7, 8, 9, far])
        assert test.p_sign_flip == 2 / 2**10
        assert 0 < test.p_bootstrap <= 1
    tiny = paired_test(1e-200 * np.arange(1, 11))
    assert tiny[:2] == paired_test(np.arange(1, 11))[:2]


# One resample is about as far from 0 as the rounding error.
NEARLY_TIED = [
    *((140, 159), (140, 168), (143, 140), (144, 163), (145, 147)),
    *((153, 154), (153, 165), (157, 140), (157, 149), (159, 157)),
]


@settings(max_examples=20)
@example(NEARLY_TIED, 200)
@given(
    st.lists(
        st.tuples(st.integers(140, 170), st.integers(140, 170)),
        min_size=10,
        max_size=10,
    ),
    st.sampled_from([200, 333, 1397]),
)
def test_scores_in_float32_have_the_p_of_those_in_float64(counts, examples):
    p = []
    for kind in (np.float64, np.float32):
        runs = [
            {
                "arm": arm,
                "seed": seed,
                "scores": {"accuracy": float(kind(count) / kind(examples))},
            }
            for seed, pair in enumerate(counts)
            for arm, count in zip("ab", pair, strict=True)
        ]
        contrast = Comparison(runs, "ab").contrasts[0]
        p.append((contrast.p_sign_flip, contrast.p_bootstrap))
    whole = [ours - theirs for theirs, ours in counts]
    assert p[0][0] == p[1][0]
    # Ties are ties in both. One or two resamples may be no tie, and be as far
    # from 0 as the rounding of a score in float32 can move them.
    assert p[0][1] == pytest.approx(p[1][1], abs=2.5 * 2 / 10_000)
    assert p[0][0] == paired_oracle.sign_flip_p(whole)
