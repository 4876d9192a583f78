"""Padding in training: masks of Keras reach the layer, and go on from it.

How a mask that has come is used, `test_oracle.py` tests.
"""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from steps import assert_statistics
from watched import fit
from watched import oracle_of
from watched import seen
from watched import watch


@pytest.mark.parametrize("dtype", ["bool", "int32"])
def test_a_mask_can_be_given_where_keras_passes_none(dtype, rng):
    # A mask does not reach an activation, nor some backbones' insides.
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    layer = watch()
    for _ in range(3):
        layer(x, mask=mask.astype(dtype), training=True)
    assert_statistics(layer, oracle_of([x] * 3, [mask] * 3))


class Probe(layers.Layer):
    """Keeps the mask that reaches it."""

    supports_masking = True

    def call(self, inputs, mask=None):
        self.seen = None if mask is None else ops.convert_to_numpy(mask)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_mask_of_an_embedding_reaches_it_and_goes_on(rng):
    tokens = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]], "int32")
    layer, probe = watch(), Probe()
    inputs = keras.Input((5,), dtype="int32")
    embedding = layers.Embedding(5, 3, mask_zero=True)
    outputs = probe(layer(embedding(inputs)))
    model = keras.Model(inputs, outputs)
    for _ in range(3):
        model(tokens, training=True)
    np.testing.assert_array_equal(probe.seen, tokens != 0)
    x = ops.convert_to_numpy(embedding(tokens))
    assert_statistics(layer, oracle_of([x] * 3, [tokens != 0] * 3))


def test_padding_does_not_count_in_fit(rng):
    x = rng.normal(size=(8, 5, 3)).astype("float32")
    for i, length in enumerate([5, 4, 3, 2, 1, 5, 3, 0]):
        x[i, length:] = 0.0
    layer = watch()
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Masking(),
            layer,
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    fit(model, x, x[:, 0, :2])
    mask = (x != 0).any(axis=-1)
    expected = oracle_of(seen(x), seen(mask))
    assert set(expected.count) == {23}
    assert_statistics(layer, expected)
