"""A layer that is the activation of another."""

import keras
from watched import activation_model
from watched import assert_same_state
from watched import fit
from watched import scalar
from watched import watch

from keras_memel import MEmeL


def test_as_an_activation_it_trains(data):
    x, _ = data
    layer = watch()
    model = activation_model(layer)
    fit(model, x, x[:, :5])
    assert scalar(layer.steps) == 4
    assert layer.moving_mean.shape == (5,)


def test_as_an_activation_its_state_is_saved_and_loaded(data, tmp_path):
    x, _ = data
    layer = watch()
    model = fit(activation_model(layer), x, x[:, :5])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    other = again.layers[0].activation
    # Of an unregistered class Keras would make its name, a string.
    assert isinstance(other, MEmeL)
    assert_same_state(layer, other)
