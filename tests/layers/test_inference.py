"""At inference the layer is not there, unless it is asked to be."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from steps import BACKEND
from steps import assert_state
from steps import state
from steps import step

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import TopK

SHAPE = (4, 6)
SELECTIONS = ["top_k", "rate", "threshold", Random(0.5, seed=0)]
# Values that arithmetic would not give back bit by bit.
STRANGE = np.array(
    [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4028235e38], "float32"
)


def assert_same_bits(y, x):
    y = ops.convert_to_numpy(y)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.view("uint32"), x.view("uint32"))


def experienced(rng, **settings):
    """A layer with a history, past its late start."""
    layer = MEmeL(**{"late_start": 1, **settings})
    for _ in range(3):
        step(layer, *rng.normal(size=(2, *SHAPE)).astype("float32"))
    assert float(ops.convert_to_numpy(layer.steps.value)) == 3
    return layer


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("training", [False, None])
def test_inference_returns_its_input_itself(selection, training, rng):
    layer = experienced(rng, selection=selection)
    before = state(layer)
    x = np.broadcast_to(STRANGE, SHAPE).copy()
    tensor = ops.convert_to_tensor(x)
    y = layer(tensor, training=training)
    assert y is tensor
    assert_same_bits(y, x)
    assert_state(layer, before)


def test_a_frozen_layer_returns_its_input_itself(rng):
    layer = experienced(rng)
    layer.trainable = False
    x = 100 * rng.normal(size=SHAPE).astype("float32")
    tensor = ops.convert_to_tensor(x)
    y = layer(tensor, training=True)
    assert y is tensor
    assert_same_bits(y, x)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("inhibition", ["reverse", LogPenalty(1.0)])
def test_before_the_late_start_all_bits_pass(selection, inhibition, rng):
    layer = MEmeL(selection, inhibition, late_start=3)
    for t in range(3):
        x = (10.0**t * rng.normal(size=SHAPE)).astype("float32")
        x[1] = STRANGE
        r = rng.normal(size=SHAPE).astype("float32")
        y, gradient = step(layer, x, r)
        assert_same_bits(y, x)
        assert_same_bits(gradient, r)
        assert state(layer)["inhibited_rate"] == 0
    y, _ = step(layer, 100 * np.ones(SHAPE, "float32"), r)
    if inhibition == "reverse":
        assert np.any(y != 100)  # the fourth step inhibits


@pytest.mark.parametrize("selection", SELECTIONS)
def test_values_that_are_not_finite_pass(selection, rng):
    layer = experienced(rng, selection=selection)
    x = np.broadcast_to(STRANGE, SHAPE).copy()
    y, _ = step(layer, x, np.ones_like(x))
    assert_same_bits(y[:, :3].copy(), x[:, :3].copy())


# The compiled graph of a network, with the layer and without.


def network(*extra):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, "relu"),
            *extra,
            layers.Dense(2, "softmax"),
        ]
    )


def operations(model):
    """Return the operations of a compiled forward pass of the model."""
    return {"jax": _jax, "tensorflow": _tf, "torch": _torch}[BACKEND](model)


def _jax(model):
    import jax

    def forward(trainable, non_trainable, x):
        return model.stateless_call(
            trainable, non_trainable, x, training=False
        )[0]

    return (
        jax.jit(forward)
        .lower(
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            np.ones(SHAPE, "float32"),
        )
        .as_text()
        .splitlines()
    )


def _tf(model):
    import tensorflow as tf

    function = tf.function(lambda x: model(x, training=False))
    graph = function.get_concrete_function(tf.ones(SHAPE)).graph
    return [o.type for o in graph.get_operations() if o.type != "Identity"]


def _torch(model):
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(lambda x: model(x, training=False))(torch.ones(SHAPE))
    return [(node.op, str(node.target)) for node in traced.graph.nodes]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_compiled_network_is_the_same_without_it(selection):
    plain = operations(network())
    assert len(plain) > 5
    layer = MEmeL(selection, late_start=0)
    assert operations(network(layer)) == plain
    # Check that this comparison detects the layer:
    asked = operations(network(MEmeL(late_start=0, at_inference=True)))
    assert len(asked) > len(plain)


def test_a_network_predicts_the_same_without_it(rng):
    x = rng.normal(size=(32, 6)).astype("float32")
    plain, watched = network(), network(MEmeL(late_start=0))
    for ours, theirs in zip(plain.get_weights(), watched.trainable_variables):
        theirs.assign(np.array(ours))  # JAX may delete what it is given
    assert_same_bits(watched.predict(x, verbose=0), plain.predict(x, verbose=0))


# Inhibition at inference, when asked for.


def expected_at_inference(layer, x, selected):
    mean = state(layer)["moving_mean"]
    return np.where(selected, np.broadcast_to(mean, x.shape), x)


def scores(layer, x):
    now = state(layer)
    variance = now["moving_variance"].astype("float64")
    denominator = variance + layer.epsilon * variance.mean()
    return (x - now["moving_mean"].astype("float64")) ** 2 / denominator


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("selection", [TopK(2), Threshold(2.0), Rate(0.2)])
def test_at_inference_it_inhibits_with_the_statistics_as_they_are(
    selection, trainable, axis, rng
):
    layer = experienced(rng, selection=selection, axis=axis, at_inference=True)
    layer.trainable = trainable
    before = state(layer)
    x = rng.normal(size=SHAPE).astype("float32")
    phi = scores(layer, x)
    if isinstance(selection, TopK):
        selected = phi >= np.sort(phi, axis=1)[:, -2:-1]
    else:
        selected = phi >= before.get("threshold", 2.0)
    expected = expected_at_inference(layer, x, selected)
    # Frozen, it behaves in training as at inference.
    for training in (False, None) if trainable else (False, True):
        y = ops.convert_to_numpy(layer(x, training=training))
        np.testing.assert_array_equal(y, expected)
        assert np.any(y != x)
        assert np.any(y == x)
    assert_state(layer, before)


def test_at_inference_without_a_history_nothing_is_inhibited(rng):
    x = rng.normal(size=SHAPE).astype("float32")
    layer = MEmeL(late_start=0, at_inference=True)
    assert_same_bits(layer(x), x)
    # The layer does not inhibit in the late start either.
    layer = experienced(rng, late_start=10, at_inference=True)
    assert_same_bits(layer(x), x)


def test_predict_inhibits_at_inference_and_counts_nothing(rng):
    layer = experienced(rng, at_inference=True)
    before = state(layer)
    model = keras.Sequential([keras.Input((6,)), layer])
    x = rng.normal(size=SHAPE).astype("float32")
    phi = scores(layer, x)
    selected = phi == phi.max(axis=1, keepdims=True)
    y = model.predict(x, verbose=0)
    np.testing.assert_array_equal(y, expected_at_inference(layer, x, selected))
    assert_state(layer, before)


def test_at_inference_a_masked_position_is_not_inhibited(rng):
    layer = experienced(rng, selection=TopK(6), at_inference=True)
    x = rng.normal(size=SHAPE).astype("float32")
    mask = np.array([True, False, True, False])
    y = ops.convert_to_numpy(layer(x, mask=mask))
    np.testing.assert_array_equal(y[~mask], x[~mask])
    assert np.all(y[mask] != x[mask])


def test_at_inference_a_penalty_adds_no_loss(rng):
    layer = experienced(rng, inhibition=LogPenalty(1.0), at_inference=True)
    x = 10 * rng.normal(size=SHAPE).astype("float32")
    assert_same_bits(layer(x, training=False), x)
    assert not layer.losses


def test_shapes_stay_before_it_is_called():
    layer = MEmeL(axis=-1)
    assert layer.compute_output_shape((None, 5, 4)) == (None, 5, 4)
    spec = layer.compute_output_spec(keras.KerasTensor((2, 5, 4)))
    assert (spec.shape, spec.dtype) == ((2, 5, 4), "float32")


# Keras's own checks of a layer. They train a model that is nothing but the
# layer, on a generator that they say to shuffle.


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed:UserWarning")
@pytest.mark.filterwarnings("ignore:The model does not have any trainable")
@pytest.mark.parametrize(
    ("settings", "shape", "extra_weights", "seeds"),
    [
        ({}, (3, 4), 0, 0),
        ({"selection": "rate", "axis": -1}, (3, 5, 4), 1, 0),
        ({"selection": "random", "late_start": 0}, (3, 4), 1, 1),
        ({"inhibition": "penalty", "axis": 1}, (2, 3, 4, 4), 0, 0),
        ({"at_inference": True, "late_start": 0}, (3, 4), 0, 0),
    ],
    ids=["default", "rate", "random", "penalty", "at_inference"],
)
def test_passes_the_layer_test_of_keras(settings, shape, extra_weights, seeds):
    testing = pytest.importorskip("keras.src.testing")
    testing.TestCase().run_layer_test(
        MEmeL,
        init_kwargs=settings,
        input_shape=shape,
        expected_output_shape=shape,
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=8
        + (extra_weights if not seeds else 0),
        expected_num_seed_generators=seeds,
        expected_num_losses=0,
        supports_masking=True,
    )
