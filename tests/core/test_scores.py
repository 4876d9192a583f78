"""The Monosemantic Scale, alone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_memel import monosemantic_scale
from keras_memel.core import scores

pytestmark = pytest.mark.quick


def scale(*args, **kwargs):
    args = [np.asarray(a, "float32") for a in args]
    return ops.convert_to_numpy(monosemantic_scale(*args, **kwargs))


def test_is_the_squared_deviation_in_variances():
    phi = scale([[1.0, 5.0], [-2.0, 2.0]], [1.0, 2.0], [4.0, 9.0])
    np.testing.assert_allclose(phi, [[0.0, 1.0], [2.25, 0.0]])


def test_epsilon_adds_a_share_of_the_mean_variance():
    phi = scale([[3.0, 3.0]], [0.0, 0.0], [0.0, 2.0], epsilon=0.5)
    np.testing.assert_allclose(phi, [[9 / 0.5, 9 / 2.5]])


def test_a_gaussian_neuron_has_two_percent_above_the_chi_squared_quantile(rng):
    phi = scale(rng.normal(3.0, 2.0, (200_000, 1)), [3.0], [4.0])
    assert 0.019 < (phi > 5.41).mean() < 0.021
    assert 0.0094 < (phi > 6.63).mean() < 0.0106


@pytest.mark.parametrize("variance", [0.0, 1e-45])
def test_without_any_variance_nothing_is_far(variance):
    np.testing.assert_array_equal(scale([[5.0, 0.0]], [0.0], [variance]), 0.0)


def test_neurons_without_history_have_no_score_and_no_say():
    phi = scale(
        [[3.0, 3.0, 3.0]],
        [0.0, 0.0, 0.0],
        [1.0, 3.0, 0.0],
        epsilon=0.5,
        where=ops.convert_to_tensor([True, True, False]),
    )
    np.testing.assert_allclose(phi[0, :2], [9 / 2.0, 9 / 4.0])
    assert np.isnan(phi[0, 2])


def test_half_precision_is_scored_in_float32():
    values = ops.cast([[300.0, 1000.0]], "float16")  # squared, 65504 is passed
    phi = monosemantic_scale(values, [0.0, 0.0], [1.0, 100.0])
    assert keras.backend.standardize_dtype(phi.dtype) == "float32"
    np.testing.assert_allclose(ops.convert_to_numpy(phi), [[9e4, 1e4]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_non_finite_value_has_no_finite_score(bad):
    phi = scale([[bad, 1.0]], [0.0, 0.0], [1.0, 1.0])
    assert not np.isfinite(phi[0, 0])
    assert phi[0, 1] == 1.0


@pytest.mark.parametrize("where", [None, [True, True, False, True]])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_the_scale_of_arrays_is_that_of_tensors(epsilon, where, rng):
    values = rng.normal(size=(5, 4)).astype("float32")
    mean = rng.normal(size=4).astype("float32")
    variance = np.array([0.5, 3.0, 2.0, 0.0], "float32")
    known = None if where is None else np.array(where)
    expected = scale(
        values,
        mean,
        variance,
        epsilon=epsilon,
        where=None if where is None else ops.convert_to_tensor(where),
    )
    found = scores.phi(values, mean, variance, epsilon, known)
    # A neuron without a history has 0 instead of NaN.
    np.testing.assert_allclose(found, np.nan_to_num(expected), rtol=1e-5)
    if epsilon == 0.0:
        assert (found[:, 3] == 0).all()


def test_arrays_of_neurons_without_a_history_score_0():
    nothing = np.zeros(2, bool)
    found = scores.phi(np.ones((3, 2)), np.zeros(2), np.ones(2), 0.5, nothing)
    np.testing.assert_array_equal(found, np.zeros((3, 2)))
