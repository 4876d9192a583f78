"""Saving, loading, exporting: nothing inserted is lost without a word."""

import copy
import pathlib
import pickle
import signal
import textwrap
import zipfile

import keras
import numpy as np
import processes
import pytest
from keras import ops
from models import BACKEND
from models import MODELS
from models import Blocks
from models import X
from models import Y
from models import functional
from models import numbers
from models import same
from models import sequential
from models import statistics
from models import steps
from models import trained

from keras_memel import MEmeL
from keras_memel import Threshold
from keras_memel import insert
from keras_memel import inserted
from keras_memel import save
from keras_memel import strip

# Keras warns of an optimizer that has not made a step yet.
pytestmark = pytest.mark.filterwarnings("ignore:Skipping variable loading")


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_has_the_layers_and_goes_on(name, tmp_path):
    model = trained(name)

    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")

    assert type(loaded) is type(model)
    assert len(inserted(loaded)) == len(inserted(model))
    assert same(statistics(loaded), statistics(model))
    assert same(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    for one in (model, loaded):
        one.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert set(steps(loaded)) == {4.0}
    for a, b in zip(numbers(model.weights), numbers(loaded.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    strip(loaded)
    strip(model)
    np.testing.assert_allclose(
        loaded.predict(X, verbose=0), model.predict(X, verbose=0), atol=1e-5
    )
    loaded.get_config()


def test_arguments_of_the_layer_and_the_output_come_back(tmp_path):
    layer = MEmeL(selection=Threshold(4.0), axis=-1, late_start=7, name="mine")
    model = insert(functional(), ["first", "total"], layer)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")

    assert list(inserted(loaded)) == ["first", "total"]
    for a, b in zip(inserted(model).values(), inserted(loaded).values()):
        assert a.get_config() == b.get_config()


def test_a_loaded_model_is_saved_again(tmp_path):
    model = trained("sequential")
    for i in range(2):
        model.save(tmp_path / f"{i}.keras")
        model = keras.saving.load_model(tmp_path / f"{i}.keras")
    assert len(inserted(model)) == 3


def test_loading_without_compiling(tmp_path):
    model = trained("functional")
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras", compile=False)

    assert not loaded.compiled
    assert same(statistics(loaded), statistics(model))


@pytest.mark.parametrize("way", ["json", "pickle", "deepcopy"])
def test_other_copies_of_a_model_hold_the_layers(way):
    model = trained("functional")
    if way == "json":
        other = keras.models.model_from_json(model.to_json())
        other.set_weights(model.get_weights())
    else:
        other = (
            pickle.loads(pickle.dumps(model))
            if way == "pickle"
            else copy.deepcopy(model)
        )
    assert type(other) is type(model)
    assert same(statistics(other), statistics(model))
    assert inserted(other).keys() == inserted(model).keys()


@pytest.mark.parametrize(
    "lose",
    [
        keras.models.clone_model,
        lambda model: model.get_config(),
        lambda model: model.get_layer("first").get_config(),
        lambda model: keras.saving.save_model(model, "m.h5"),
        lambda model: keras.Sequential([model]).get_config(),
        lambda model: keras.saving.serialize_keras_object(model),
    ],
)
def test_what_would_lose_the_layers_raises_and_says_what_to_call(
    lose, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    model = insert(functional(), "first", MEmeL())
    with pytest.raises(
        ValueError, match=r"model\.save\(path\).*\.keras.*strip\(model\)"
    ):
        lose(model)


def test_clone_works_once_stripped():
    clone = keras.models.clone_model(strip(trained("functional")))
    assert inserted(insert(clone, "first", MEmeL()))


def test_legacy_files_are_refused(tmp_path):
    model = trained("functional")
    for name in ("m.h5", "m.hdf5"):
        with pytest.raises(
            ValueError, match=rf"HDF5 .*ends in '\.keras'\. .*filepath=.*{name}"
        ):
            model.save(tmp_path / name)


def test_a_model_around_is_saved_by_the_function(tmp_path):
    inner = trained("functional")
    outer = keras.Sequential([keras.Input((8,)), inner])
    save(outer, tmp_path / "0.keras")
    outer.save(tmp_path / "1.keras")
    for number in range(2):
        loaded = keras.saving.load_model(tmp_path / f"{number}.keras")
        assert same(statistics(loaded), statistics(inner))
        assert list(inserted(loaded)) == list(inserted(outer))
    with pytest.raises(ValueError, match=r"HDF5 .*ends in '\.keras'"):
        save(outer, tmp_path / "m.h5")


def test_weights_files_hold_the_statistics(tmp_path):
    model, other = trained("sequential"), sequential()
    model.save_weights(tmp_path / "m.weights.h5")

    insert(other, "middle:3", MEmeL())
    other.load_weights(tmp_path / "m.weights.h5")

    assert same(statistics(other), statistics(model))
    plain = sequential()
    plain.load_weights(tmp_path / "m.weights.h5")
    assert same(plain.predict(X, verbose=0), model.predict(X, verbose=0))
    plain.save_weights(tmp_path / "plain.weights.h5")
    with pytest.raises(ValueError, match=r"memel\w*_block_1"):
        other.load_weights(tmp_path / "plain.weights.h5")


@pytest.mark.filterwarnings("ignore:A total of 1 objects could not be loaded")
def test_weights_files_of_a_plain_model_are_loaded_as_the_page_says(tmp_path):
    plain = functional()
    plain.save_weights(tmp_path / "w.weights.h5")
    before, after = functional(), insert(functional(), "total", MEmeL())
    before.load_weights(tmp_path / "w.weights.h5")
    insert(before, "total", MEmeL())
    after.load_weights(tmp_path / "w.weights.h5", skip_mismatch=True)
    for model in (before, after):
        assert same(numbers(strip(model).weights), numbers(plain.weights))


def test_model_checkpoint_keeps_whole_models(tmp_path):
    model = trained("functional")
    model.fit(
        X,
        Y,
        verbose=0,
        epochs=2,
        callbacks=keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
    )
    loaded = keras.saving.load_model(tmp_path / "2.keras")
    assert same(statistics(loaded), statistics(model))
    earlier = keras.saving.load_model(tmp_path / "1.keras")
    assert steps(earlier) == [step - 1 for step in steps(model)]


def test_renaming_a_layer_after_insertion_does_no_harm(tmp_path):
    model = trained("sequential")
    for i, layer in enumerate(model.layers):
        layer.name = f"renamed_{i}"
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")

    assert list(inserted(loaded)) == [f"renamed_{i}" for i in (1, 2, 3)]
    assert same(statistics(loaded), statistics(model))


def test_deleting_a_layer_after_insertion_does_no_harm(tmp_path):
    model = insert(sequential(), "block_[34]", MEmeL(late_start=0))
    model.pop()
    model.pop()  # block_4, with its MEmeL
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    assert list(inserted(model)) == ["block_3"]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")

    assert list(inserted(loaded)) == ["block_3"]
    assert same(statistics(loaded), statistics(model))


def test_a_list_that_shrank_makes_the_load_fail_rather_than_guess(tmp_path):
    model = Blocks()
    model.build((None, 8))
    insert(model, model.blocks[3], MEmeL())
    model.blocks = list(model.blocks[1:])
    model.save(tmp_path / "m.keras")

    with pytest.raises(ValueError, match="differs from the saved one"):
        keras.saving.load_model(tmp_path / "m.keras")


@keras.saving.register_keras_serializable("memel_tests")
class Branches(keras.Model):
    """Parts of one class, told apart by their attributes alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.left = keras.layers.Activation("tanh")
        self.right = keras.layers.Activation("tanh")
        self.table = {"a": keras.layers.Activation("relu")}

    def call(self, inputs):
        return self.right(self.left(self.table["a"](inputs)))


@pytest.mark.parametrize("name", ["left", "right", "table"])
def test_parts_are_found_by_attribute(name, tmp_path):
    model = Branches()
    model(X)
    host = model.table["a"] if name == "table" else getattr(model, name)
    insert(model, host, MEmeL(late_start=0))
    model(X, training=True)
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")

    part = loaded.table["a"] if name == "table" else getattr(loaded, name)
    assert part.inserted_memel is next(iter(inserted(loaded).values()))
    assert same(statistics(loaded), statistics(model))


def test_the_file_names_the_stand_in_and_the_model(tmp_path):
    trained("functional").save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        config = archive.read("config.json").decode()
    assert "keras_memel>ModelWithInsertions" in config
    assert '"Functional"' in config


# The child process below runs this code and is killed in its third epoch.
TRAINING = """
    import os, signal, sys
    import keras, numpy as np
    from keras_memel import MEmeL
    from keras_memel.insertion.insert import insert, inserted

    class Kill(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 10:
                os.kill(os.getpid(), signal.SIGKILL)

    folder, kill = sys.argv[1], sys.argv[2] == "kill"
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)).astype("float32")
    y = rng.normal(size=(32, 1)).astype("float32")
    inputs = hidden = keras.Input((6,))
    for i in range(4):
        hidden = keras.layers.Dense(8, "tanh", name=f"block_{i}")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden))
    insert(model, "middle:2", MEmeL(late_start=3))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    callbacks = [keras.callbacks.BackupAndRestore(folder + "/backup")]
    if kill:
        callbacks.append(Kill())
    history = model.fit(
        x, y, batch_size=8, epochs=5, shuffle=False, verbose=0,
        callbacks=callbacks,
    )
    weights = [keras.ops.convert_to_numpy(w.value) for w in model.weights]
    np.savez(
        folder + "/end.npz", *weights,
        steps=[float(m.steps) for m in inserted(model).values()],
        epochs=len(history.epoch),
    )
"""


def run(folder, how):
    folder.mkdir(exist_ok=True)
    return processes.run(
        *("-c", textwrap.dedent(TRAINING), folder, how),
        check=how == "live",
        KERAS_BACKEND=BACKEND,
    )


@pytest.mark.once
def test_a_killed_fit_resumes_to_the_same_end(tmp_path):
    run(tmp_path / "whole", "live")
    killed = run(tmp_path / "killed", "kill")
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "end.npz").exists()
    run(tmp_path / "killed", "live")

    expected = np.load(tmp_path / "whole" / "end.npz")
    found = np.load(tmp_path / "killed" / "end.npz")
    assert expected["epochs"] == 5
    assert found["epochs"] == 3
    assert list(found["steps"]) == [20.0, 20.0]
    for key in set(expected) - {"epochs"}:
        np.testing.assert_array_equal(found[key], expected[key])


FILES = pathlib.Path(__file__).parent / "files"


def test_a_file_of_the_code_before_the_move_gives_the_same_numbers():
    """Written on JAX, when the stand-in was called `Inserted`."""
    # Compiled, it would ask PyTorch for the just-in-time compilation of JAX.
    model = keras.saving.load_model(
        FILES / "inserted_before_the_move.keras", compile=False
    )
    kept = np.load(FILES / "inserted_before_the_move.npz")

    assert list(inserted(model)) == ["first", "inner/block_1"]
    for path, memel in inserted(model).items():
        for weight in memel.weights:
            if f"{path}|{weight.name}" in kept:  # state may have been split
                np.testing.assert_array_equal(
                    ops.convert_to_numpy(weight.value),
                    kept[f"{path}|{weight.name}"],
                )
    np.testing.assert_allclose(
        model.predict(kept["inputs"], verbose=0), kept["outputs"], atol=1e-5
    )


@pytest.mark.parametrize("around", [False, True])
def test_save_model_keeps_the_layers(around, tmp_path):
    model = inner = trained("functional")
    if around:
        model = keras.Sequential([keras.Input((8,)), inner])
    keras.saving.save_model(model, tmp_path / "m.keras")
    model.save(tmp_path / "folder", zipped=False)
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert same(statistics(loaded), statistics(inner))
    assert (
        (tmp_path / "folder" / "config.json")
        .read_text()
        .count("ModelWithInsertions")
    )


def test_saving_of_plain_models_stays_as_it_is(tmp_path):
    functional().save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive:
        assert b"keras_memel" not in archive.read("config.json")


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_orbax_checkpoints_keep_the_layers(tmp_path):
    pytest.importorskip("orbax.checkpoint")
    model = trained("functional")
    for weights_only in (False, True):
        callback = keras.callbacks.OrbaxCheckpoint(
            str(tmp_path / f"{weights_only}"), save_weights_only=weights_only
        )
        model.fit(X, Y, verbose=0, callbacks=[callback])
    loaded = keras.saving.load_model(str(tmp_path / "False"))

    assert list(inserted(loaded)) == list(inserted(model))
    assert steps(loaded) == [step - 1 for step in steps(model)]
    weights = functional()
    insert(weights, ["first", "total"], MEmeL(late_start=1))
    weights.load_weights(str(tmp_path / "True"))
    assert same(statistics(weights), statistics(model))


def test_swapped_averages_leave_the_statistics(tmp_path):
    model = insert(functional(), "first", MEmeL(late_start=1))
    model.compile(keras.optimizers.SGD(0.1, use_ema=True), "mse")
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
    ]
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    loaded = keras.saving.load_model(tmp_path / "2.keras")
    assert steps(model) == steps(loaded) == [4.0]
    assert same(statistics(loaded), statistics(model))
