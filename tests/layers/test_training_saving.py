"""Save, load, clone and continue the training of a layer."""

import keras
import numpy as np
import pytest
from keras import layers
from steps import assert_statistics
from steps import state
from watched import WIDTH
from watched import activation_model
from watched import assert_same_state
from watched import fit
from watched import oracle_of
from watched import scalar
from watched import seen
from watched import sequential
from watched import watch

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import TopK


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(1)
    x = rng.normal(1.0, 2.0, (16, WIDTH)).astype("float32")
    y = x[:, :2]
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            MEmeL(TopK(2), late_start=1, forget_steps=None),
            watch(),
            MEmeL(Random(0.3, seed=3), "observe", score_with="current"),
            layers.Dense(2),
        ]
    )
    return fit(model, x, y), x, y


def test_a_saved_model_has_the_same_state_and_resumes(trained, tmp_path):
    model, x, y = trained
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert ours.get_config() == theirs.get_config()
    for i in range(3):
        assert_same_state(model.layers[i], again.layers[i])
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), again.predict(x, verbose=0)
    )
    fit(again, x, y)
    assert scalar(again.layers[1].steps) == 8
    assert np.all(state(again.layers[1])["count"] == 32)


def test_saved_weights_hold_the_state(trained, tmp_path):
    model, _, _ = trained
    model.save_weights(tmp_path / "model.weights.h5")
    again = keras.models.clone_model(model)
    assert scalar(again.layers[0].steps) == 0
    again.load_weights(tmp_path / "model.weights.h5")
    for i in range(3):
        assert_same_state(model.layers[i], again.layers[i])


def test_a_clone_has_the_arguments_and_a_fresh_state(trained):
    model, _, _ = trained
    again = keras.models.clone_model(model)
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert ours is not theirs
        assert ours.get_config() == theirs.get_config()
    assert not state(again.layers[1])["moving_mean"].any()
    again.set_weights(model.get_weights())
    assert_same_state(model.layers[1], again.layers[1])


def test_a_model_comes_back_from_its_config(trained):
    model, _, _ = trained
    again = keras.Sequential.from_config(model.get_config())
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert ours.get_config() == theirs.get_config()


def test_checkpoints_hold_the_state_of_their_epoch(data, tmp_path):
    x, y = data
    path = tmp_path / "{epoch}.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(str(path))
    model = fit(sequential(watch()), x, y, epochs=2, callbacks=[checkpoint])
    first = keras.saving.load_model(tmp_path / "1.keras").layers[0]
    second = keras.saving.load_model(tmp_path / "2.keras").layers[0]
    assert scalar(first.steps) == 4
    assert_same_state(model.layers[0], second)


def test_an_interrupted_run_resumes_from_its_backup(data, tmp_path):
    x, y = data

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    with pytest.raises(KeyboardInterrupt):
        fit(
            sequential(watch()),
            x,
            y,
            epochs=3,
            callbacks=[backup(), Interrupt()],
        )
    model = sequential(watch())
    fit(model, x, y, epochs=3, callbacks=[backup()])
    assert_statistics(model.layers[0], oracle_of(seen(x) * 3))


def test_as_an_activation_its_state_is_saved_and_loaded(data, tmp_path):
    x, _ = data
    layer = watch()
    model = fit(activation_model(layer), x, x[:, :5])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    other = again.layers[0].activation
    # For an unregistered class, Keras would restore its name, a string.
    assert isinstance(other, MEmeL)
    assert_same_state(layer, other)


def test_default_names_are_memel_and_its_numbers():
    # Keras would derive "m_eme_l" from the name of the class.
    keras.backend.clear_session()
    names = [MEmeL().name for _ in range(3)] + [MEmeL(name="mine").name]
    assert names == ["memel", "memel_1", "memel_2", "mine"]
    layer = MEmeL.from_config(MEmeL(name="mine").get_config())
    assert layer.name == "mine"
