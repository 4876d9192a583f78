"""Rematerialization: Keras runs a layer again in the backward pass.

The layer itself opts out. In a parent that runs twice it refuses to work.
"""

import keras
import numpy as np
import pytest
from keras import layers
from loops import weights
from steps import BACKEND
from steps import assert_statistics
from watched import WIDTH
from watched import activation_model
from watched import between
from watched import fit
from watched import oracle_of
from watched import scalar
from watched import seen
from watched import sequential
from watched import watch

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import TopK


def remat_scope(mode):
    settings = {
        "larger_than": {"output_size_threshold": 1},
        "list_of_layers": {"layer_names": ["target"]},
    }
    return keras.RematScope(mode=mode, **settings.get(mode, {}))


REMAT = ["full", "activations", "larger_than", "list_of_layers"]


@pytest.mark.parametrize("mode", REMAT)
def test_a_layer_made_in_a_remat_scope_runs_once(mode, data):
    x, y = data
    trained = []
    for scope in (remat_scope(None), remat_scope(mode)):
        keras.utils.set_random_seed(1)
        with scope:
            layer = MEmeL(TopK(2), late_start=1, name="target")
        model = between(layer)
        fit(model, x, y, optimizer=keras.optimizers.SGD(0.1))
        assert scalar(layer.steps) == 4
        trained.append(weights(model))
    for ours, theirs in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class Block(layers.Layer):
    """A parent, with something after the layer."""

    def __init__(self, layer, settings=None, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.dense = layer, layers.Dense(WIDTH, "tanh")
        self.settings = {"training": True} if settings is None else settings

    def build(self, shape):
        self.layer.build(shape)
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(self.layer(inputs, **self.settings))

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("settings", [{"training": True}, {}])
@pytest.mark.parametrize("mode", ["full", "larger_than", "list_of_layers"])
def test_inside_a_layer_that_runs_twice_it_refuses(
    mode, settings, eagerly, data
):
    # PyTorch, and TensorFlow eagerly, would count each step twice and give
    # gradients of other values than were inhibited, without a word.
    x, y = data
    layer = watch()
    with remat_scope(mode):
        block = Block(layer, settings, name="target")
    model = sequential(block)
    with pytest.raises(ValueError, match="a rematerialized layer") as e:
        fit(model, x, y, run_eagerly=eagerly)
    assert f"'{layer.name}' inside 'target' (Block)" in str(e.value)


@pytest.mark.parametrize("whole", [False, True])
def test_as_an_activation_that_runs_twice_it_refuses(whole, data):
    x, _ = data
    layer = watch()
    with remat_scope("activations"):
        model = activation_model(layer)
    if whole:  # the activation is a model that holds the layer
        layer = keras.Sequential([layers.Activation("tanh"), watch()])
        with remat_scope("activations"):
            model = activation_model(layer)
    # Keras itself cannot do it on PyTorch.
    reason = "cannot assign" if BACKEND == "torch" else "a rematerialized layer"
    if BACKEND != "torch":
        # At inference the layer is the identity, and JAX must not reuse this
        # trace in training.
        model.predict(x, verbose=0)
    with pytest.raises((ValueError, RuntimeError), match=reason):
        fit(model, x, x[:, :5])


def test_the_outputs_of_a_parent_decide_whether_it_runs_twice(data):
    # The values that reach the layer are few, and the parent's outputs many.
    x, y = data

    class Wide(Block):
        def __init__(self, layer):
            super().__init__(layer)
            self.dense = layers.Dense(200)

        def compute_output_shape(self, shape):
            return shape[0], 200

    with keras.RematScope("larger_than", output_size_threshold=100):
        model = sequential(Wide(watch()))
    with pytest.raises(ValueError, match=r"a rematerialized layer.*\(Wide\)"):
        fit(model, x, y)


def test_a_layer_from_before_its_parent_refuses_too(data):
    # The layer is built before its parent exists, like a layer from a file.
    x, y = data
    layer = watch()
    layer.build((None, WIDTH))
    layer(x)

    class Around(Block):
        def build(self, shape):
            self.dense.build(shape)

    with remat_scope("full"):
        parent = Around(layer)
    model = sequential(parent)
    with pytest.raises(ValueError, match="a rematerialized layer"):
        fit(model, x, y)


def test_a_draw_at_inference_is_refused_where_it_would_run_twice(data):
    x, y = data
    settings = {"at_inference": True, "axis": -1, "trainable": False}
    for selection, refused in ((Random(0.5), True), ("threshold", False)):
        layer = MEmeL(selection, **settings)
        with remat_scope("full"):
            block = Block(layer, name="target")
        model = sequential(block)
        # TensorFlow rematerializes no Dense with arguments in a graph.
        if refused:
            with pytest.raises(ValueError, match="a rematerialized layer"):
                fit(model, x, y, run_eagerly=True)
        else:  # The result does not depend on any state that changes.
            fit(model, x, y, run_eagerly=True)


def test_within_a_rematerialized_function_it_refuses(data):
    x, y = data

    class Twice(Block):
        def call(self, inputs):
            return self.dense(keras.remat(self.apply_layer)(inputs))

        def apply_layer(self, inputs):
            return self.layer(inputs, training=True)

    model = sequential(Twice(watch(), name="twice"))
    with pytest.raises(ValueError, match=r"rematerialized.*inside 'twice'"):
        fit(model, x, y)


@pytest.mark.parametrize(
    "scope",
    [
        {"mode": "activations"},
        {"mode": "larger_than", "output_size_threshold": 1000},
        {"mode": "list_of_layers", "layer_names": ["another"]},
    ],
    ids=lambda scope: scope["mode"],
)
def test_a_parent_in_a_scope_that_spares_it_runs_once(scope, data):
    x, y = data
    layer = watch()
    with keras.RematScope(**scope):
        block = Block(layer, name="target")
        model = sequential(block)
    fit(model, x, y)
    assert_statistics(layer, oracle_of(seen(x)))
