"""The receptive field of a layer is that of its architecture."""

import keras
import numpy as np
import pytest

from keras_memel import analyze
from keras_memel.analysis.receptive_field import window

pytestmark = pytest.mark.quick

L = keras.layers


def field(layers, shape, x=None, name="z"):
    model = keras.Sequential([keras.Input(shape), *layers])
    if x is None:
        x = np.random.default_rng(0).normal(size=(6, *shape))
        x = x.astype("float32")
    return analyze(model, x, layers=name, verbose=0)[name].field


# Size, stride and offset along one axis.
@pytest.mark.once
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([L.Conv1D(2, 9, name="z")], (9, 1, 0)),
        ([L.Conv1D(2, 4, strides=3, name="z")], (4, 3, 0)),
        ([L.Conv1D(2, 3, dilation_rate=2, name="z")], (5, 1, 0)),
        ([L.Conv1D(2, 5, padding="same", name="z")], (5, 1, -2)),
        ([L.Conv1D(2, 5, padding="causal", name="z")], (5, 1, -4)),
        (
            [L.Conv1D(2, 3), L.MaxPooling1D(2), L.Conv1D(2, 3, name="z")],
            (8, 2, 0),
        ),
    ],
)
def test_a_field_is_that_of_the_layers_below(layers, expected):
    found = field(layers, (40, 2))
    assert found.input == (40,)
    assert (found.size[0], found.stride[0], found.offset[0]) == expected


def test_weights_that_are_0_are_part_of_the_field():
    """A 9 x 9 convolution has a 9 x 9 field, even if only its center counts."""
    layer = L.Conv2D(1, 9, use_bias=False, name="z")
    model = keras.Sequential([keras.Input((32, 30, 1)), layer])
    kernel = np.zeros((9, 9, 1, 1))
    kernel[4, 4] = 1
    layer.set_weights([kernel])
    x = np.random.default_rng(0).normal(size=(10, 32, 30, 1))
    x[7, 23, 20] = 50
    found = analyze(model, x, verbose=0)["z"]
    assert found.field.input == (32, 30)
    assert found.examples.input[0, 0, 0] == 7
    at = np.unravel_index(found.examples.position[0, 0, 0], found.sizes)
    for axis, pixel in enumerate((23, 20)):
        start = found.field.offset[axis] + at[axis] * found.field.stride[axis]
        assert (start, found.field.size[axis]) == (pixel - 4, 9)


@pytest.mark.once
def test_where_there_is_no_window_there_is_no_field():
    assert field([L.Flatten(), L.Dense(3, name="z")], (8, 2)) is None
    attention = L.MultiHeadAttention(1, 2, name="z")
    a = keras.Input((8, 2))
    model = keras.Model(a, attention(a, a))
    x = np.random.default_rng(0).normal(size=(4, 8, 2))
    assert analyze(model, x, layers="z", verbose=0)["z"].field is None
    recurrent = [L.LSTM(3, return_sequences=True, name="z")]
    assert field(recurrent, (8, 2)) is None
    # Token ids cannot be replaced by NaN or noise.
    tokens = np.zeros((4, 8), "int32")
    assert field([L.Embedding(5, 3, name="z")], (8,), tokens) is None


@pytest.mark.once
@pytest.mark.parametrize("size", [1, 3, 16])
def test_the_search_ends_where_a_row_reaches_all_positions(size):
    calls = []

    class Counted(L.Layer):
        def call(self, x):
            calls.append(len(x))
            return x

    def batches(layer):
        calls.clear()
        a = keras.Input((8, 2))
        outputs = layer(Counted()(a))
        model = keras.Model(a, outputs)
        model.run_eagerly = True
        calls.clear()
        x = np.random.default_rng(0).normal(size=(48, 8, 2))
        found = analyze(model, x, layers="z", batch_size=size, verbose=0)
        return found["z"].field, len(calls) - 48 // size

    attention = L.MultiHeadAttention(1, 2, name="z")
    # The input as it is, and the first row of each of two axes replaced.
    few = -(-3 // size)
    assert batches(lambda x: attention(x, x)) == (None, few)
    recurrent = L.LSTM(3, return_sequences=True, name="z")
    assert batches(recurrent) == (None, few)
    # The search for a field uses three kinds of rows: noise, other noise and
    # NaN.
    window, number = batches(L.Conv1D(2, 3, padding="same", name="z"))
    assert window.size == (3,)
    assert number == -(-31 // size)


@pytest.mark.once
@pytest.mark.parametrize(
    "depends",
    [
        np.ones((6, 6), bool),
        np.tri(6, dtype=bool),
        np.eye(6, dtype=bool)[::-1],
        np.eye(6, dtype=bool)[[0, 1, 2, 5, 3, 4]],
        np.zeros((6, 6), bool),
        np.ones((6, 1), bool),
    ],
)
def test_what_is_not_a_window(depends):
    assert window(depends) is None
