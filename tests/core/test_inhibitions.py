"""Inhibitions on their own: selected values and their gradients."""

import keras
import numpy as np
import pytest
from keras import ops
from steps import step

from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import Observe
from keras_memel import ReverseDeactivation

pytestmark = pytest.mark.quick


class Fixed(keras.layers.Layer):
    """Applies an inhibition with a mask and a mean that are given."""

    def __init__(self, inhibition, mask, mean, **kwargs):
        super().__init__(**kwargs)
        self.inhibition, self.mask, self.mean = inhibition, mask, mean

    def call(self, inputs, training=None):
        mask = ops.convert_to_tensor(self.mask)
        mean = ops.cast(ops.convert_to_tensor(self.mean), inputs.dtype)
        loss = self.inhibition.loss(inputs, mask, mean)
        if loss is not None:
            self.add_loss(loss)
        return self.inhibition(inputs, mask, mean)


VALUES = np.array([[1.0, -2.0, 100.0], [4.0, 5.0, 6.0]], "float32")
MEAN = np.array([[0.1, 0.2, 0.1]], "float32")
MASK = np.array([[True, False, True], [False, False, True]])
COTANGENT = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "float32")


@pytest.mark.parametrize("delta", [1.0, 0.0, -1.0, 5.0, 100.0])
def test_value_is_the_mean_and_gradient_is_reversed(delta):
    y, g = step(
        Fixed(ReverseDeactivation(delta), MASK, MEAN), VALUES, COTANGENT
    )
    np.testing.assert_array_equal(y, np.where(MASK, MEAN, VALUES))
    np.testing.assert_array_equal(
        g, np.where(MASK, -delta * COTANGENT, COTANGENT)
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_the_mean(dtype):
    """-z + (mean + z) gives 0.125 for a mean of 0.1 and z = 100 in float16."""
    layer = Fixed(ReverseDeactivation(), MASK, MEAN, dtype=dtype)
    y, _ = step(layer, ops.cast(VALUES, dtype), COTANGENT)
    rounded = ops.convert_to_numpy(ops.cast(MEAN, dtype))
    np.testing.assert_array_equal(y[0, 2], rounded[0, 2])


def test_a_gradient_that_is_not_finite_is_stopped_by_naive_a():
    cotangent = np.where(MASK, np.inf, COTANGENT).astype("float32")
    layer = Fixed(ReverseDeactivation(0.0), MASK, MEAN)
    _, g = step(layer, np.ones_like(VALUES), cotangent)
    np.testing.assert_array_equal(g, np.where(MASK, 0.0, COTANGENT))


def test_log_penalty_adds_its_loss_and_leaves_the_values():
    layer = Fixed(LogPenalty(0.5, tiny=1e-3), MASK, MEAN)
    y, g = step(layer, VALUES, COTANGENT)
    d = (VALUES - MEAN).astype("float64")
    np.testing.assert_array_equal(y, VALUES)
    pull = 0.5 * 2 * d / (d**2 + 1e-3) / MASK.sum()
    np.testing.assert_allclose(g, COTANGENT + MASK * pull, rtol=1e-6)
    loss = LogPenalty(0.5, tiny=1e-3).loss(
        ops.array(VALUES), ops.array(MASK), ops.array(MEAN)
    )
    expected = 0.5 * np.log(d[MASK] ** 2 + 1e-3).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_log_penalty_is_finite_at_the_mean_and_beside_bad_values():
    values = np.array([[0.1, np.inf, np.nan]], "float32")
    mask = np.array([[True, False, False]])
    layer = Fixed(LogPenalty(1.0), mask, MEAN)
    _, g = step(layer, values, np.ones_like(values))
    np.testing.assert_array_equal(g, np.ones_like(values))


def test_log_penalty_of_nothing_is_zero():
    none = ops.zeros((2, 3), "bool")
    assert float(LogPenalty(1.0).loss(ops.array(VALUES), none, MEAN)) == 0.0


@pytest.mark.parametrize("inhibition", [Observe(), Inhibition()])
def test_observing_changes_nothing(inhibition):
    y, g = step(Fixed(inhibition, MASK, MEAN), VALUES, COTANGENT)
    np.testing.assert_array_equal(y, VALUES)
    np.testing.assert_array_equal(g, COTANGENT)
