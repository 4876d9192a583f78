"""Inputs that are refused by name, and layers that no model holds."""

import keras
import numpy as np
import pytest
from keras import layers
from steps import BACKEND
from steps import state

from keras_memel import ConvGRU2D
from keras_memel import MEmeL


def odd_inputs():
    """One of each kind that the backend has, by the word for it."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.random.normal((6, 4))
        yield "ragged", tf.RaggedTensor.from_row_lengths(x, [2, 1, 3])
        yield "sparse", tf.sparse.from_dense(tf.eye(4))
        yield "sparse", tf.IndexedSlices(x, tf.range(6), tf.constant([9, 4]))
    elif BACKEND == "jax":
        from jax.experimental import sparse

        yield "sparse", sparse.BCOO.fromdense(np.eye(4, dtype="float32"))
        yield "sparse", sparse.BCSR.fromdense(np.eye(4, dtype="float32"))
    else:
        import torch

        yield "sparse", torch.eye(4).to_sparse()
        yield "sparse", torch.eye(4).to_sparse_csr()
        parts = [torch.ones(2, 4), torch.ones(3, 4)]
        yield "ragged", torch.nested.nested_tensor(parts, layout=torch.jagged)
    if BACKEND != "torch":
        yield "sparse", keras.Input((4,), sparse=True)
    if BACKEND == "tensorflow":
        yield "ragged", keras.Input((None, 4), ragged=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("training", [True, False])
def test_ragged_and_sparse_inputs_are_refused_by_name(training):
    refused = 0
    for kind, inputs in odd_inputs():
        with pytest.raises(ValueError, match=f"Received: a {kind} tensor"):
            MEmeL(axis=-1)(inputs, training=training)
        refused += 1
    assert refused >= 3


@pytest.mark.filterwarnings("ignore")
def test_sparse_sequences_are_refused_by_name():
    for _, inputs in odd_inputs():
        with pytest.raises(ValueError, match="`sequences` must be a dense"):
            ConvGRU2D(1, 1).call(inputs)


def test_within_a_lambda_a_layer_acts_or_is_refused():
    layer = MEmeL(axis=-1)
    layer.build((None, 4))
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4),
            # With `Lambda(layer)`, Keras would find the variables.
            layers.Lambda(lambda x: layer(x)),
        ]
    )
    model.compile("sgd", "mse")
    x = np.ones((8, 4), "float32")
    model.predict(x, verbose=0)
    if BACKEND == "jax":
        with pytest.raises(ValueError, match="does not track the layer"):
            model.fit(x, x, verbose=0)
        assert state(layer)["steps"] == 0
    else:
        model.fit(x, x, batch_size=4, verbose=0)
        assert state(layer)["steps"] == 2


def test_within_a_scan_that_no_model_holds_too():
    scan = ConvGRU2D(1, 1, memel=MEmeL())
    scan.build((None, 2, 2, 2, 1))
    model = keras.Sequential(
        [
            keras.Input((2, 2, 2, 1)),
            layers.Dense(1),
            layers.Lambda(lambda x: scan(x)),
        ]
    )
    x = np.ones((2, 2, 2, 2, 1), "float32")
    trainable = [v.value for v in model.trainable_variables]
    model.stateless_call(trainable, [], x, training=False)
    with pytest.raises(ValueError, match="does not track the layer"):
        model.stateless_call(trainable, [], x, training=True)


def test_a_scope_that_is_read_by_its_caller_is_no_loss():
    layer = MEmeL(axis=-1)
    layer.build((None, 4))
    with keras.StatelessScope() as scope:
        layer(np.ones((8, 4), "float32"), training=True)
    assert float(scope.get_current_value(layer.steps)) == 1
    assert state(layer)["steps"] == 0


def test_a_symbolic_call_in_training_is_no_loss():
    block = keras.Sequential([layers.Dense(4), MEmeL(axis=-1)])
    outputs = block(keras.Input((4,)), training=True)
    assert tuple(outputs.shape) == (None, 4)


def test_a_product_with_a_number_is_dense():
    """Keras takes the symbol of one for sparse."""
    inputs = keras.Input((4,))
    hidden = MEmeL(late_start=0)(2.0 * inputs)
    model = keras.Model(inputs, 2.0 * hidden)
    x = np.ones((2, 4), "float32")
    found = keras.ops.convert_to_numpy(model(x, training=True))
    np.testing.assert_array_equal(found, 4.0 * x)
