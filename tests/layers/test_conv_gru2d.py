"""ConvGRU2D against NumPy, step by step: outputs, states and gradients.

Other tests cover ConvGRU2D with a MEmeL.
"""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from keras import layers
from keras import ops
from loops import train
from recurrent_pairs import BATCH
from recurrent_pairs import CHANNELS
from recurrent_pairs import COLUMNS
from recurrent_pairs import FILTERS
from recurrent_pairs import MASK
from recurrent_pairs import ROWS
from recurrent_pairs import SHAPE
from recurrent_pairs import TIME
from recurrent_pairs import build
from recurrent_pairs import check
from recurrent_pairs import numpy
from steps import BACKEND
from steps import step

pytestmark = pytest.mark.usefixtures("quick_compilation")


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


def test_a_step_counts_if_any_value_of_it_does(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    layer, _ = build()
    expected = numpy(layer(x, mask=MASK))
    whole = np.zeros(SHAPE, "int32")
    whole[:, :, 1, 2, 0] = MASK
    for mask in (whole, MASK.astype("int32")):
        np.testing.assert_array_equal(numpy(layer(x, mask=mask)), expected)
    assert np.abs(numpy(layer(x)) - expected).max() > 0.01


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
    assert np.abs(gradients[0][MASK]).max() > 0
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
    # The layer draws the masks in this order, gate by gate.
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
