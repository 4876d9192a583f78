"""ConvGRU2D as a layer of Keras: what the others do and can, it does and can.

Its cell alone, states that stay, configs and files, policies and scopes.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.testing import TestCase
from recurrent_pairs import BATCH
from recurrent_pairs import COLUMNS
from recurrent_pairs import FILTERS
from recurrent_pairs import ROWS
from recurrent_pairs import SHAPE
from recurrent_pairs import TIME
from recurrent_pairs import build
from recurrent_pairs import numpy

from keras_memel import ConvGRU2D
from keras_memel import ConvGRU2DCell

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("reset_after", [False, True])
def test_frames_of_one_pixel_are_those_of_a_gru(reset_after, rng):
    layer, _ = build((2, 4, 1, 1, 3), kernel_size=1, reset_after=reset_after)
    gru = layers.GRU(FILTERS, reset_after=reset_after)
    x = rng.normal(size=(2, 4, 3)).astype("float32")
    gru.build(x.shape)
    gru.set_weights(
        [w.reshape(v.shape) for w, v in zip(layer.get_weights(), gru.weights)]
    )
    found = numpy(layer(x[:, :, None, None, :]))
    np.testing.assert_allclose(found[:, 0, 0], numpy(gru(x)), atol=1e-6)


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_what_keras_tests_of_its_own_layers():
    common = {
        "expected_num_trainable_weights": 3,
        "expected_num_non_trainable_weights": 0,
        "supports_masking": True,
    }
    case = TestCase()
    case.run_layer_test(
        ConvGRU2D,
        {"filters": 5, "kernel_size": 3, "padding": "same"},
        input_shape=(3, 2, 4, 4, 3),
        expected_output_shape=(3, 4, 4, 5),
        **common,
    )
    case.run_layer_test(
        ConvGRU2D,
        {
            "filters": 5,
            "kernel_size": 3,
            "recurrent_dropout": 0.5,
            "return_sequences": True,
            "data_format": "channels_first",
        },
        input_shape=(3, 2, 3, 8, 8),
        call_kwargs={"training": True},
        expected_output_shape=(3, 2, 5, 6, 6),
        **common,
    )


def test_arguments_are_those_of_conv_lstm_and_more():
    import inspect

    theirs = inspect.signature(layers.ConvLSTM2D).parameters
    ours = inspect.signature(ConvGRU2D).parameters
    assert set(theirs) - set(ours) == {"unit_forget_bias"}
    for name in set(theirs) & set(ours):
        assert ours[name].default == theirs[name].default, name


def test_a_stateful_layer_goes_on_where_it_stopped(rng):
    layer, oracle = build(stateful=True)
    inputs = keras.Input(batch_shape=SHAPE)
    model = keras.Model(inputs, layer(inputs))
    x = rng.normal(size=(2 * BATCH, *SHAPE[1:])).astype("float32")
    # Keras' own layers forget on JAX.
    found = model.predict(x, batch_size=BATCH, verbose=0)
    first = oracle.forward(x[:BATCH])[:, -1]
    second = oracle.forward(x[BATCH:], first)[:, -1]
    expected = np.concatenate([first, second])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(numpy(layer.states[0]), second, atol=1e-5)
    # Training too, from the state that is there.
    model.compile(keras.optimizers.SGD(0.0), "mse")
    loss = model.fit(x[:BATCH], first, shuffle=False, verbose=0).history[
        "loss"
    ][0]
    third = oracle.forward(x[:BATCH], second)[:, -1]
    assert loss == pytest.approx(np.square(third - first).mean(), rel=1e-4)
    np.testing.assert_allclose(numpy(layer.states[0]), third, atol=1e-5)
    layer.reset_state()
    np.testing.assert_allclose(numpy(layer(x[:BATCH])), first, atol=1e-5)


def test_states_are_no_weights_and_are_not_saved(tmp_path):
    layer, _ = build(stateful=True)
    layer(np.ones(SHAPE, "float32"))
    assert len(layer.weights) == 3
    model = keras.Sequential([keras.Input(batch_shape=SHAPE), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].stateful
    np.testing.assert_array_equal(numpy(loaded.layers[0].states[0]), 0.0)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_a_loop_over_the_cell_does_what_the_layer_does(data_format, rng):
    layer, _ = build(
        (BATCH, TIME, ROWS, COLUMNS, COLUMNS),
        data_format=data_format,
        kernel_size=2,
    )
    x = rng.normal(size=(BATCH, TIME, ROWS, COLUMNS, COLUMNS))
    x = x.astype("float32")
    cell = ConvGRU2DCell.from_config(layer.cell.get_config())
    cell.build((BATCH, ROWS, COLUMNS, COLUMNS))
    cell.set_weights(layer.get_weights())
    (state,) = cell.get_initial_state(BATCH)
    states = [state]
    for t in range(TIME):
        output, state = cell(x[:, t], state)
        listed, states = cell(x[:, t], states)
        assert output is state
        np.testing.assert_array_equal(numpy(listed), numpy(states[0]))
    np.testing.assert_allclose(numpy(state), numpy(layer(x)), atol=1e-6)
    np.testing.assert_allclose(numpy(states[0]), numpy(layer(x)), atol=1e-6)
    whole = layers.RNN(cell)(x)
    np.testing.assert_allclose(numpy(whole), numpy(layer(x)), atol=1e-6)


def test_the_cell_drops_the_same_until_it_is_told_otherwise():
    cell = ConvGRU2DCell(2, 1, dropout=0.5, recurrent_dropout=0.5, seed=1)
    cell.build((4, 8, 8, 3))
    x, state = np.ones((4, 8, 8, 3)), np.ones((4, 8, 8, 2))
    first, second = (numpy(cell(x, state, training=True)[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    cell.reset_dropout_mask()
    cell.reset_recurrent_dropout_mask()
    third = numpy(cell(x, state, training=True)[0])
    assert np.abs(third - first).max() > 0.01
    plain = numpy(cell(x, state)[0])
    assert np.abs(plain - first).max() > 0.01


@pytest.mark.parametrize("kind", ["dropout", "recurrent_dropout"])
def test_the_cell_drops_inputs_and_state_each_by_itself(kind):
    cell = ConvGRU2DCell(2, 1, seed=1, **{kind: 0.5})
    cell.build((4, 8, 8, 3))
    x, state = np.ones((4, 8, 8, 3)), np.ones((4, 8, 8, 2))
    dropped, plain = (
        numpy(cell(x, state, training=training)[0])
        for training in (True, False)
    )
    assert np.abs(plain - dropped).max() > 0.01
    np.testing.assert_array_equal(numpy(cell(x, state)[0]), plain)


OTHERS = {
    "filters": 2,
    "kernel_size": (2, 3),
    "recurrent_kernel_size": (3, 1),
    "strides": (1, 2),
    "padding": "same",
    "data_format": "channels_first",
    "activation": "relu",
    "recurrent_activation": "hard_sigmoid",
    "use_bias": False,
    "kernel_initializer": "ones",
    "recurrent_initializer": "zeros",
    "bias_initializer": "ones",
    "kernel_regularizer": "l1",
    "recurrent_regularizer": "l2",
    "bias_regularizer": "l1",
    "activity_regularizer": "l2",
    "kernel_constraint": "non_neg",
    "recurrent_constraint": "unit_norm",
    "bias_constraint": "max_norm",
    "dropout": 0.1,
    "recurrent_dropout": 0.2,
    "reset_after": False,
    "seed": 3,
    "return_sequences": True,
    "return_state": True,
    "go_backwards": True,
    "stateful": True,
    "unroll": True,
    "zero_output_for_mask": True,
}


def test_the_config_holds_every_argument():
    config = ConvGRU2D(**OTHERS, name="other").get_config()
    plain = ConvGRU2D(1, 1, name="plain").get_config()
    for name in OTHERS:
        assert config[name] != plain[name], name
    again = ConvGRU2D.from_config(config)
    assert again.get_config() == config
    assert again.recurrent_kernel_size == (3, 1)
    dilated = ConvGRU2D(1, 3, dilation_rate=2)
    again = ConvGRU2D.from_config(dilated.get_config())
    assert again.dilation_rate == (2, 2)


def test_a_saved_model_computes_the_same(tmp_path, rng):
    layer, _ = build(recurrent_kernel_size=2)
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = rng.normal(size=SHAPE).astype("float32")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))


def test_mixed_precision_keeps_weights_and_halves_values(rng):
    layer, oracle = build(dtype="mixed_float16", return_state=True)
    x = rng.normal(size=SHAPE).astype("float32")
    for found in layer(x):
        assert keras.backend.standardize_dtype(found.dtype) == "float16"
        expected = oracle.forward(x)[:, -1]
        np.testing.assert_allclose(numpy(found), expected, atol=1e-2)
    assert {w.dtype for w in layer.weights} == {"float32"}
    assert layer.cell.compute_dtype == "float16"


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_it_can_be_rematerialized(mode, rng):
    with keras.RematScope(mode=mode):
        layer, oracle = build()
    x = rng.normal(size=SHAPE).astype("float32")
    y = oracle.forward(x)[:, -1]
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    model.compile("sgd", "mse")
    assert model.train_on_batch(x, y + 1) == pytest.approx(1.0, abs=1e-4)
