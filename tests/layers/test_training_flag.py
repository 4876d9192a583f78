"""The `training` flag and frozen layers decide whether the layer learns.

The flag has no default that could leak, reaches the layer in every model, and
counts for nothing where the layer or its model is not trainable.
"""

import inspect

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from steps import assert_state
from steps import assert_statistics
from steps import state
from watched import Subclassed
from watched import fit
from watched import functional
from watched import oracle_of
from watched import scalar
from watched import seen
from watched import sequential
from watched import watch

from keras_memel import MEmeL


def test_the_flag_has_no_default_that_could_leak():
    parameters = inspect.signature(MEmeL.call).parameters
    assert parameters["training"].default is None


def test_it_leaks_no_flag_into_layers_after_it(data):
    x, _ = data
    model = keras.Sequential([watch(), layers.Dropout(0.9)])
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), x)


class Silent(Subclassed):
    """A model whose `call` does not take the flag."""

    def call(self, inputs):
        return self.dense(self.layer(inputs, training=True))


def test_a_flag_passed_explicitly_reaches_it_in_any_model(data):
    x, y = data
    layer = watch()
    fit(Silent(layer), x, y)
    assert_statistics(layer, oracle_of(seen(x)))


def test_evaluation_and_prediction_count_nothing(data):
    x, y = data
    layer = watch()
    model = fit(sequential(layer), x, y)
    before = state(layer)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x, training=False)
    assert_state(layer, before)


@pytest.mark.parametrize("frozen", ["layer", "model"])
def test_what_is_not_trainable_is_frozen(frozen, data):
    x, y = data
    layer = watch(late_start=0)
    inner = functional(layer)
    model = sequential(inner)
    fit(model, x, y)
    before = state(layer)
    assert before["steps"] == 4
    (layer if frozen == "layer" else inner).trainable = False
    fit(model, x, y)
    assert_state(layer, before)
    y = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_array_equal(y, x)
    (layer if frozen == "layer" else inner).trainable = True
    fit(model, x, y[:, :2])
    assert scalar(layer.steps) == 8
