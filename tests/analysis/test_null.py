"""Labels that are noise score as noise; those that are real are found."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import identity
from report_oracle import null_moments
from report_oracle import upper_tail
from scipy import stats
from statsmodels.stats.multitest import multipletests

from keras_memel import analyze
from keras_memel.reports import ranking
from keras_memel.reports.halves import held_out

pytestmark = pytest.mark.once


def test_the_half_of_an_input_never_changes():
    """Reports that are stored or merged later depend on it."""
    found = held_out(np.arange(32))
    assert "".join(map(str, found.astype(int))) == (
        "10010110010101100110011010101010"
    )
    pairs = held_out(np.arange(20_000)).reshape(-1, 2)
    assert (pairs.sum(1) == 1).all()
    # No pattern in the order of inputs finds itself in one half.
    for period in (2, 3, 4, 7, 10):
        for phase in range(period):
            share = held_out(np.arange(phase, 20_000, period)).mean()
            assert abs(share - 0.5) < 0.05
    many = np.array([0, 5, 2**40, 2**40 + 1, 2**62])
    assert (held_out(many) == [held_out([n])[0] for n in many]).all()


@pytest.mark.parametrize(
    ("inputs", "labels"), [(300, 10), (1000, 100), (2000, 200)]
)
def test_noise_has_a_roc_auc_of_one_half(inputs, labels):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(inputs, 64)).astype("float32") + 3
    noise = rng.integers(0, labels, inputs)
    table = analyze(identity(64), z, noise, "z", verbose=0).to_dataframe()
    assert abs(table["roc_auc"].mean() - 0.5) < 0.03
    assert abs(table["ms_on_label"].mean() - 1) < 0.3
    assert abs(table["class_selectivity"].mean()) < 0.03
    assert (table["f1"] - table["f1_baseline"]).mean() < 0.01
    assert (table["roc_auc"] > table["roc_auc_null"]).mean() < 0.2
    assert (table["p_corrected"] > 0.05).all()


def test_noise_is_no_label_of_neurons_that_are_almost_always_zero():
    """A few values with the label make a normal distribution fail."""
    wrong = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(600, 64)).astype("float32") - 2
        noise = rng.integers(0, 60, 600)
        report = analyze(identity(64), z, noise, "z", keep=None, verbose=0)
        wrong += (report.to_dataframe()["p_corrected"] < 0.05).any()
    assert wrong <= 1


@pytest.mark.parametrize("label", ["input", "token"])
def test_p_values_of_noise_are_uniform_although_tokens_depend(label):
    """Ten values of an input are alike: they are no ten observations."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(200, 1, 300)) + 0.3 * rng.normal(size=(200, 10, 300))
    z = z.reshape(2000, 300)
    inputs = np.repeat(np.arange(200), 10)
    labels = (
        rng.random(200).repeat(10) if label == "input" else rng.random(2000)
    )
    p = np.array(
        [ranking.detection(phi, labels < 0.3, inputs).p for phi in (z**2).T]
    )
    assert stats.kstest(p, "uniform").pvalue > 0.01
    if label == "input":
        # If dependence is ignored, p is far too often below 0.05.
        naive = [ranking.detection(phi, labels < 0.3).p for phi in (z**2).T]
        assert np.mean(np.array(naive) < 0.05) > 0.2


@given(st.integers(4, 40), st.integers(0, 2**32 - 1), st.booleans())
def test_one_value_per_input_is_the_test_of_mann_and_whitney(n, seed, ties):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 5, n) if ties else rng.random(n)
    positive = np.arange(n) < rng.integers(1, n)
    found = ranking.detection(values.astype("float64"), positive)
    if len(np.unique(values)) == 1:
        assert np.isnan(found.p)
        return
    expected = stats.mannwhitneyu(
        values[positive],
        values[~positive],
        alternative="greater",
        method="asymptotic",
        use_continuity=False,
    )
    pairs = positive.sum() * (~positive).sum()
    np.testing.assert_allclose(found.roc_auc, expected.statistic / pairs)
    if ties:
        _, skewness = null_moments(values, positive, np.arange(n))
        deviation = stats.norm.isf(expected.pvalue)
        wanted = upper_tail(deviation, skewness)
        np.testing.assert_allclose(found.p, wanted, rtol=1e-6)
    else:
        np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-6)


def test_one_label_per_input_is_a_permutation_of_inputs():
    rng = np.random.default_rng(1)
    values = rng.random(18)
    inputs = np.repeat(np.arange(6), 3)
    ranks = stats.rankdata(values) - 9.5
    sums = [
        ranks[np.isin(inputs, chosen)].sum()
        for chosen in itertools.combinations(range(6), 2)
    ]
    positive = inputs < 2
    expected = np.sqrt(np.mean(np.square(sums)))
    spread, skewness = null_moments(values, positive, inputs)
    np.testing.assert_allclose(spread, expected)
    found = ranking.detection(values, positive, inputs)
    p = upper_tail((found.roc_auc_null - 0.5) * 6 * 12 / spread, skewness)
    np.testing.assert_allclose(p, 0.05)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("share", [0.15, 0.05, 0.02])
def test_rare_labels_do_not_find_sparse_neurons_by_chance(tokens, share):
    """Most ranks tie, so that the rank sum of a few values is skewed."""
    rng = np.random.default_rng(4)
    n, drawn = 600, 200_000
    values = rng.random(n) * (rng.random(n) < share)
    labels = rng.integers(0, n, (drawn, 5))
    labels = labels[(np.diff(np.sort(labels, 1), axis=1) > 0).all(1)]
    sums = stats.rankdata(values)[labels].sum(1)
    # One label in a thousand reaches this sum.
    at = np.argsort(sums)[-len(labels) // 1000]
    chance = np.mean(sums >= sums[at])
    positive = np.isin(np.arange(n), labels[at])
    found = ranking.detection(values, positive, np.arange(n) // tokens)
    assert 0.6 * chance < found.p < 20 * chance
    normal = stats.mannwhitneyu(
        *(values[positive], values[~positive]),
        alternative="greater",
        method="asymptotic",
    )
    assert normal.pvalue < 0.3 * chance


@given(st.floats(0.01, 3), st.floats(1, 6))
def test_the_tail_is_that_of_a_pearson_distribution(skewness, deviation):
    found = ranking._upper_tail(deviation, skewness)
    expected = stats.pearson3.sf(deviation, skewness)
    normal = stats.norm.sf(deviation)
    assert found >= normal
    if expected > 1e-8:
        assert found == pytest.approx(max(expected, normal), rel=0.25)


def test_corrected_p_values_are_holms(rng):
    for number in (1, 2, 20):
        p = rng.random(number) ** 3
        p[p > 0.8] = np.nan
        p[: number // 3] = p[0]  # Ties
        known = np.isfinite(p)
        found = ranking.holm(p)
        assert (np.isfinite(found) == known).all()
        expected = multipletests(p[known], method="holm")[1]
        np.testing.assert_allclose(found[known], expected)


def test_a_real_label_among_many_is_found_and_survives_the_correction():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2000, 64)).astype("float32") + 4
    labels = rng.integers(0, 100, 2000)
    z[labels == 42, 7] += 4
    z[labels == 17, 9] -= 4
    report = analyze(identity(64), z, labels, "z", verbose=0)
    table = report.to_dataframe()
    real = table[table["p_corrected"] < 0.05]
    assert real["neuron"].tolist() == [7, 9]
    assert real["label"].tolist() == ["42", "17"]
    assert real["direction"].tolist() == [1, -1]
    assert (real["roc_auc"] > 0.95).all()


def test_two_layers_are_corrected_together():
    import keras

    model = keras.Sequential([identity(3), keras.layers.ReLU(name="y")])
    z = np.abs(np.random.default_rng(0).normal(size=(80, 3)))
    report = analyze(model, z, np.arange(80) % 2, ["**/z", "y"], verbose=0)
    p = np.concatenate([one.roc_auc_p for one in report.layers.values()])
    assert len(p) == 6
    np.testing.assert_allclose(
        report.to_dataframe()["p_corrected"], ranking.holm(p)
    )
