"""ConvGRU2D against NumPy, step by step, and against Keras' conventions.

What it does with a MEmeL is tested in `test_recurrent_memel.py`.
"""

from functools import partial

import keras
import numpy as np
import pytest
from convgru_oracle import ConvGRU
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from keras import layers
from keras import ops
from keras.src.testing import TestCase
from loops import train
from steps import BACKEND
from steps import compiled_step
from steps import step

from keras_memel import ConvGRU2D
from keras_memel import ConvGRU2DCell

pytestmark = pytest.mark.usefixtures("quick_compilation")

BATCH, TIME, ROWS, COLUMNS, CHANNELS, FILTERS = 3, 4, 5, 6, 2, 3
SHAPE = (BATCH, TIME, ROWS, COLUMNS, CHANNELS)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
# What the oracle knows by the same names.
SHARED = (
    "strides",
    "padding",
    "dilation_rate",
    "activation",
    "recurrent_activation",
    "reset_after",
    "go_backwards",
)


def numpy(x):
    return ops.convert_to_numpy(x)


def build(shape=SHAPE, draw=0, **settings):
    """A layer, with weights that are not 0, and its oracle."""
    settings = {"filters": FILTERS, "kernel_size": 3, **settings}
    layer = ConvGRU2D(**settings)
    layer.build(shape)
    rng = np.random.default_rng(draw)
    weights = [rng.normal(0, 0.25, w.shape) for w in layer.trainable_weights]
    for weight, value in zip(layer.trainable_weights, weights, strict=True):
        weight.assign(value.astype("float32"))
    config = {k: v for k, v in settings.items() if k in SHARED}
    for name in ("strides", "dilation_rate"):
        if isinstance(config.get(name), int):
            config[name] = (config[name],) * 2
    values = [numpy(w.value) for w in layer.trainable_weights]
    return layer, ConvGRU(*values, **config)


def check(layer, oracle, shape=SHAPE, mask=None, seed=1, eager=False, **call):
    """One call of both: outputs and gradients by the inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype("float32")
    first = layer.data_format == "channels_first"
    last_x = np.moveaxis(x, 2, -1) if first else x
    states = oracle.forward(last_x, mask=mask, **call)
    expected = states if layer.return_sequences else states[:, -1]
    r = rng.normal(size=expected.shape)
    dstates = np.zeros(states.shape)
    if layer.return_sequences:
        dstates[...] = r
    else:
        dstates[:, -1] = r
    dx, _, _ = oracle.backward(dstates, last_x.shape)
    if first:
        expected, r = np.moveaxis(expected, -1, -3), np.moveaxis(r, -1, -3)
        dx = np.moveaxis(dx, -1, 2)
    run = partial(step, layer)
    if BACKEND == "jax" and not eager:  # one compilation in place of many
        run = compiled_step(layer)
    y, gradient = run(x, r.astype("float32"), mask)
    assert y.shape == tuple(layer.compute_output_shape(x.shape))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, dx, rtol=1e-4, atol=1e-5)


# Each argument somewhere, and few compilations.
ARGUMENTS = {
    "defaults": {},
    "sequences, same, kernels": {
        "return_sequences": True,
        "padding": "same",
        "kernel_size": (4, 3),
        "recurrent_kernel_size": (1, 5),
    },
    "strides, reset before": {
        "strides": 2,
        "reset_after": False,
        "recurrent_kernel_size": 2,
    },
    "strides, same, activations, backwards": {
        "strides": (2, 3),
        "padding": "same",
        "activation": "leaky_relu",
        "recurrent_activation": "tanh",
        "go_backwards": True,
        "return_sequences": True,
    },
    "dilation, reset before, no bias": {
        "dilation_rate": 2,
        "reset_after": False,
        "use_bias": False,
    },
    "dilation, same, no bias, unrolled": {
        "dilation_rate": (1, 2),
        "padding": "same",
        "use_bias": False,
        "unroll": True,
    },
    "unrolled backwards": {
        "unroll": True,
        "go_backwards": True,
        "return_sequences": True,
    },
    "channels first, strides": {
        "data_format": "channels_first",
        "strides": (2, 1),
        "return_sequences": True,
    },
    "channels first, reset before, same": {
        "data_format": "channels_first",
        "reset_after": False,
        "padding": "same",
    },
}


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_every_argument(arguments):
    settings = ARGUMENTS[arguments]
    shape = SHAPE
    if settings.get("data_format") == "channels_first":
        shape = (BATCH, TIME, CHANNELS, ROWS, COLUMNS)
    check(*build(shape, **settings), shape)


@pytest.mark.parametrize("changed", [False, True])
def test_masked_steps_keep_the_state(changed):
    settings = {"return_sequences": True, "go_backwards": changed}
    check(*build(unroll=changed, **settings), mask=MASK)


@examples(max_examples=2 if BACKEND == "jax" else 12)
@given(
    shape=st.sampled_from([(1, 1, 3, 3, 1), (2, 3, 4, 3, 2), (3, 2, 7, 4, 1)]),
    kernel_size=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    recurrent_kernel_size=st.sampled_from([None, 1, (2, 3), 5]),
    strides=st.integers(1, 3),
    padding=st.sampled_from(["valid", "same"]),
    reset_after=st.booleans(),
    go_backwards=st.booleans(),
    masked=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_random_shapes(shape, masked, seed, **settings):
    mask = None
    if masked:
        mask = np.random.default_rng(seed).random(shape[:2]) < 0.6
    layer, oracle = build(shape, seed, return_sequences=True, **settings)
    check(layer, oracle, shape, mask, seed)


def test_eager_equals_compiled():
    check(*build(), mask=MASK, eager=True)


# Against layers of Keras.


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


# Calls.


def test_states_go_in_and_out(rng):
    layer, oracle = build(return_state=True, return_sequences=True)
    x = rng.normal(size=SHAPE).astype("float32")
    first = rng.normal(size=(BATCH, 3, 4, FILTERS)).astype("float32")
    expected = oracle.forward(x, first)
    for passed in (first, [first]):
        outputs, state = layer(x, initial_state=passed)
        np.testing.assert_allclose(numpy(outputs), expected, atol=1e-5)
        np.testing.assert_allclose(numpy(state), expected[:, -1], atol=1e-5)
    # Half of the frames, and the other half from where it stood.
    _, state = layer(x[:, :2])
    _, state = layer(x[:, 2:], initial_state=state)
    expected = oracle.forward(x)[:, -1]
    np.testing.assert_allclose(numpy(state), expected, atol=1e-5)


def test_a_mask_arrives_beside_an_initial_state(rng):
    layer, oracle = build(return_state=True, return_sequences=True)
    x = rng.normal(size=SHAPE).astype("float32")
    x[~MASK] = 0.0
    first = rng.normal(size=(BATCH, 3, 4, FILTERS)).astype("float32")
    masked = layers.Masking()(x)
    outputs, _ = layer(masked, initial_state=first)
    expected = oracle.forward(x, first, MASK)
    np.testing.assert_allclose(numpy(outputs), expected, atol=1e-5)
    np.testing.assert_array_equal(numpy(outputs._keras_mask), MASK)


def test_what_is_masked_may_be_anything():
    layer, _ = build()
    x = np.ones(SHAPE, "float32")
    gradients = []
    for missing in (0.0, np.nan):
        x[~MASK] = missing
        _, gradient = step(layer, x, np.ones((BATCH, 3, 4, FILTERS)), MASK)
        gradients.append(gradient)
    np.testing.assert_array_equal(*gradients)
    np.testing.assert_array_equal(gradients[0][~MASK], 0.0)
    assert np.abs(gradients[0][MASK]).min(axis=(1, 2, 3)).max() >= 0
    assert np.isfinite(gradients[0]).all()


def test_masked_outputs_can_be_zero_and_masks_turn_with_the_frames(rng):
    layer, oracle = build(
        return_sequences=True, go_backwards=True, zero_output_for_mask=True
    )
    x = rng.normal(size=SHAPE).astype("float32")
    turned = MASK[:, ::-1]
    expected = np.where(
        turned[..., None, None, None], oracle.forward(x, mask=MASK), 0.0
    )
    found = numpy(layer(x, mask=MASK))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    kept = layer.compute_mask(x, ops.convert_to_tensor(MASK))
    np.testing.assert_array_equal(numpy(kept), turned)
    layer.return_sequences, layer.return_state = False, True
    assert layer.compute_mask(x, MASK) == [None, None]


@pytest.mark.parametrize("reset_after", [False, True])
def test_dropout_is_the_same_at_all_steps_and_differs_by_gate(reset_after):
    layer, oracle = build(
        dropout=0.4, recurrent_dropout=0.3, reset_after=reset_after, seed=7
    )
    # As the layer draws them, gate after gate.
    seed = keras.random.SeedGenerator(7)
    dropped = [
        [
            numpy(keras.random.dropout(ops.ones(shape), rate, seed=seed))
            for _ in range(3)
        ]
        for shape, rate in (
            ((BATCH, ROWS, COLUMNS, CHANNELS), 0.4),
            ((BATCH, 3, 4, FILTERS), 0.3),
        )
    ]
    check(layer, oracle, dropped=dropped)
    x = np.ones(SHAPE, "float32")
    at_inference = numpy(layer(x))
    np.testing.assert_allclose(
        at_inference, oracle.forward(x)[:, -1], atol=1e-5
    )
    # Inference draws nothing.
    np.testing.assert_array_equal(
        numpy(layer.cell.seed_generator.state), numpy(seed.state)
    )


def test_gradients_of_the_weights_and_their_penalties(rng):
    layer, oracle = build(
        kernel_regularizer=keras.regularizers.L2(0.5),
        bias_constraint="non_neg",
    )
    x = rng.normal(size=SHAPE).astype("float32")
    y = rng.normal(size=(BATCH, 3, 4, FILTERS)).astype("float32")
    states = oracle.forward(x)
    dstates = np.zeros(states.shape)
    dstates[:, -1] = 2 * (states[:, -1] - y) / y.size
    _, _, gradients = oracle.backward(dstates, x.shape)
    before = [numpy(w.value).copy() for w in layer.trainable_weights]
    gradients[0] += 2 * 0.5 * before[0]
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer])
    train(model, keras.optimizers.SGD(0.1), [(x, y)])
    for i, gradient in enumerate(gradients):
        expected = before[i] - 0.1 * gradient
        if i == 2:
            expected = np.maximum(expected, 0.0)
        found = numpy(layer.trainable_weights[i].value)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_number_of_frames_may_vary(rng):
    layer, oracle = build((None, None, *SHAPE[2:]), return_sequences=True)
    inputs = keras.Input((None, *SHAPE[2:]))
    outputs = layer(inputs)
    assert outputs.shape == (None, None, 3, 4, FILTERS)
    model = keras.Model(inputs, outputs)
    for batch, time in ((2, 3), (1, 5)):
        x = rng.normal(size=(batch, time, *SHAPE[2:])).astype("float32")
        found = model.predict(x, verbose=0)
        np.testing.assert_allclose(found, oracle.forward(x), atol=1e-5)


# A stateful layer.


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


# The cell.


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


# Files, policies, scopes.

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


# What is refused.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 0}, "`filters` must be at least 1"),
        ({"kernel_size": 0}, "`kernel_size`"),
        ({"recurrent_kernel_size": (1, 2, 3)}, "`recurrent_kernel_size`"),
        ({"strides": 0}, "`strides`"),
        ({"strides": 2, "dilation_rate": 3}, "not compatible with"),
        ({"padding": "causal"}, "`padding`"),
        ({"data_format": "channels"}, "data_format"),
        ({"dropout": 1}, "`dropout` must be at least 0 and below 1"),
        ({"recurrent_dropout": -0.1}, "`recurrent_dropout` must be"),
        ({"reset_after": 1}, "`reset_after` must be a bool"),
        ({"use_bias": None}, "`use_bias` must be a bool"),
    ],
)
def test_wrong_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvGRU2D(**{"filters": 1, "kernel_size": 1, **settings})


@pytest.mark.parametrize(
    "shape", [(2, 3, None, 4, 1), (2, 3, 4, 4, None), (2, 3, 2, 4, 1)]
)
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"of a known size|negative|output"):
        ConvGRU2D(2, 3).build(shape)


def test_wrong_calls_are_refused():
    layer, _ = build()
    x = np.ones(SHAPE, "float32")
    with pytest.raises(ValueError, match=r"one state of shape \(3, 3, 4, 3\)"):
        layer(x, initial_state=np.ones((BATCH, 5, 6, FILTERS)))
    with pytest.raises(ValueError, match="one state of shape"):
        layer(x, initial_state=[np.ones((BATCH, 3, 4, FILTERS))] * 2)
    with pytest.raises(ValueError, match="leading dimensions of `sequences`"):
        layer(x, mask=np.ones((BATCH, TIME + 1)))
    with pytest.raises(ValueError, match="at least one time step"):
        layer(x[:, :0])
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(x[:, :, 1:])
    with pytest.raises(ValueError, match="batch size must be static"):
        build((None, *SHAPE[1:]), stateful=True)
    layer, _ = build(stateful=True)
    with pytest.raises(ValueError, match="built with, 3"):
        layer(x[:2])
    layer = ConvGRU2D(1, 1, unroll=True)
    if BACKEND == "tensorflow":  # others know the length of what they run on
        import tensorflow as tf

        call = tf.function(
            layer, input_signature=[tf.TensorSpec((1, None, 2, 2, 1))]
        )
        with pytest.raises(ValueError, match="known number of them"):
            call(x[:1, :, :2, :2, :1])
