"""Check the behavior of each private name of Keras that the package uses."""

import ast
import contextlib
import pathlib
import re

import keras
import numpy as np
import pytest

import keras_memel
from keras_memel.utils import keras_internals

PACKAGE = pathlib.Path(keras_memel.__file__).parent


def dense():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    return layer


@pytest.mark.once
def test_private_modules_are_imported_in_one_file_alone():
    for file in PACKAGE.rglob("*.py"):
        if file.name == "keras_internals.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("keras.src"), file
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                assert not any(n.startswith("keras.src") for n in names), file


def test_get_keras_mask_reads_the_mask_of_a_tensor():
    tokens = np.array([[1, 0]])
    embedded = keras.layers.Embedding(3, 2, mask_zero=True)(tokens)
    mask = keras_internals.get_keras_mask(embedded)
    assert keras.ops.convert_to_numpy(mask).tolist() == [[True, False]]
    assert keras_internals.get_keras_mask(keras.ops.ones(2)) is None


@pytest.mark.once
def test_standardize_functions_return_what_convolutions_take():
    assert keras_internals.standardize_data_format(None) in (
        "channels_first",
        "channels_last",
    )
    assert keras_internals.standardize_padding("SAME") == "same"
    assert keras_internals.standardize_tuple(3, 2, "kernel_size") == (3, 3)


def test_dropout_cells_make_a_mask_of_the_shape_of_a_step():
    assert {"get_dropout_mask", "get_recurrent_dropout_mask"} <= set(
        dir(keras_internals.DropoutRNNCell)
    )


def test_a_scope_with_a_name_that_tensorflow_refuses_leaves_no_trace():
    def stack():
        found = keras_internals.global_state.get_global_attribute(
            "name_scope_stack"
        )
        return list(found or ())

    before = stack()
    graph = contextlib.nullcontext()
    if keras.backend.backend() == "tensorflow":  # which refuses it in a graph
        import tensorflow as tf

        graph = tf.Graph().as_default()
    kept = keras_internals.name_scopes_kept()
    with graph, contextlib.suppress(ValueError), kept:
        keras.name_scope("block[0]").__enter__()
    assert stack() == before
    if keras.backend.backend() == "tensorflow":
        assert tf.Variable(1.0, name="later").name == "later:0"


def test_layers_made_in_a_remat_scope_know_its_mode():
    with keras.RematScope(mode="full"):
        layer = keras.layers.Dense(2)
    assert layer._remat_mode.mode == "full"
    assert getattr(dense(), "_remat_mode", None) is None


class Noting(keras.layers.Layer):
    """A layer that notes in which rematerialized function it is called."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, inputs):
        self.seen.append(keras_internals.rematerialized_function())
        return 2.0 * inputs


class Told(keras.layers.Layer):
    """A layer that does not take `training`, in another one."""

    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner

    def call(self, inputs):
        self.told = keras_internals.training_of_call()
        return inputs if self.inner is None else self.inner(inputs)


@pytest.mark.parametrize("training", [True, False, None])
def test_what_a_call_is_told_of_training_is_known_while_it_runs(training):
    inner = Told()
    outer = Told(inner)
    outer(keras.ops.ones((1, 2)), training=training)
    assert outer.told is inner.told is training
    assert keras_internals.training_of_call() is None


def test_what_is_rematerialized_is_known_while_it_runs():
    with keras.RematScope(mode="full"):
        layer = Noting()
    layer(keras.ops.ones((1, 2)))
    assert layer.seen[-1].__self__ is layer
    assert keras_internals.rematerialized_function() is None
    keras.remat(layer.call)(keras.ops.ones((1, 2)))
    assert layer.seen[-1] == layer.call
    layer.call(keras.ops.ones((1, 2)))
    assert layer.seen[-1] is None


def test_nothing_is_rematerialized_after_an_error():
    def fail(x):
        raise KeyError("as a user's layer may")

    with pytest.raises(KeyError):
        keras.remat(fail)(keras.ops.ones(2))
    assert keras_internals.rematerialized_function() is None


def test_rematerialized_layers_still_have_their_gradient(rng):
    with keras.RematScope(mode="full"):
        layer = Noting()
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    x = rng.normal(size=(4, 3)).astype("float32")
    kernel, bias = (np.array(w) for w in model.get_weights())
    model.train_on_batch(x, np.zeros((4, 2)))
    expected = kernel - 0.1 * x.T @ (2 * (2 * (x @ kernel + bias)) / 8 * 2)
    np.testing.assert_allclose(model.get_weights()[0], expected, atol=1e-5)


def test_scopes_say_which_variables_are_passed_through_a_step():
    layer, other = dense(), dense()
    assert keras_internals.get_stateless_scope() is None
    pairs = [(layer.kernel, keras.ops.ones((3, 2)))]
    with keras.StatelessScope(state_mapping=pairs):
        scope = keras_internals.get_stateless_scope()
        assert scope.state_mapping
        assert scope.get_current_value(layer.kernel) is not None
        assert scope.get_current_value(other.kernel) is None
    assert not keras_internals.in_symbolic_scope()


def test_the_tracker_locks_and_unlocks_and_untracks():
    layer, part = dense(), dense()
    assert layer._tracker.locked
    layer._tracker.unlock()
    layer.part = part
    layer._lock_state()
    assert layer._tracker.locked
    assert part in layer._flatten_layers(include_self=False)
    layer._tracker.untrack(part)
    assert part not in layer._flatten_layers()


def test_layers_list_their_parts_and_their_own_variables():
    part = dense()
    model = keras.Sequential([keras.Input((3,)), part])
    assert model._flatten_layers()[0] is model
    assert part in model._flatten_layers(include_self=False, recursive=False)
    assert part in vars(model)["_layers"]
    assert len(part._trainable_variables) == 2
    assert part._non_trainable_variables == []
    assert isinstance(model._functional, keras.Model)


def test_a_symbol_knows_the_operation_that_made_it():
    inputs = keras.Input((3,))
    layer = dense()
    made = [inputs._keras_history.operation]
    made.append(layer(inputs)._keras_history.operation)
    assert isinstance(made[0], keras.layers.InputLayer)
    assert made[1] is layer


def test_a_graph_knows_its_nodes_and_operations():
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(2)
    model = keras.Model(inputs, layer(inputs))
    nodes = [n for nodes in model._nodes_by_depth.values() for n in nodes]
    (node,) = [node for node in nodes if node.operation is layer]
    assert node.arguments.args[0].shape == (None, 3)
    assert layer in vars(model)["_operations"]


def test_a_graph_keeps_the_structure_of_its_inputs():
    inputs = {"a": keras.Input((3,), name="a")}
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs["a"]))
    assert list(model._inputs_struct) == ["a"]


@pytest.mark.once
def test_a_stateful_rnn_knows_the_batch_size_that_it_was_built_with():
    layer = keras.layers.GRU(2, stateful=True)
    layer.build((4, 5, 3))
    assert int(layer._expected_batch_size) == 4
    assert keras.layers.GRU(2)._expected_batch_size is None


@pytest.mark.once
def test_each_private_name_that_the_package_reads_is_tested_here():
    """Private attributes of Keras' layers, models and cells, by their names."""
    sequential = keras.Sequential([keras.Input((3,)), dense()])
    inputs = keras.Input((3, 2))
    functional = keras.Model(inputs, keras.layers.GRU(2)(inputs))
    of_keras = {
        name
        for one in (sequential, functional, functional.layers[-1], inputs)
        for name in dir(one)
        if re.match("_[a-z]", name)
    }
    # Names of PyTorch modules, and a suffix of keys.
    of_keras -= {"_modules", "_call_impl", "_shape"}
    read, own = set(), set()
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name == "native":  # private names of PyTorch
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                known = read if isinstance(node.ctx, ast.Load) else own
                known.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                read.add(node.value)
    tested = pathlib.Path(__file__).read_text()
    missing = {
        name
        for name in (read - own) & of_keras
        if not re.search(rf"\b{name}\b", tested)
    }
    assert not missing


def test_every_way_to_write_a_model_takes_its_config_from_one_function():
    model = keras.Sequential([keras.Input((3,)), dense()])
    text = keras_internals.model_as_json(model)
    assert keras.models.model_from_json(text).count_params() == 8
    serialize = keras_internals.saving_lib._serialize_model_as_json
    assert serialize.__wrapped__.__name__ == "_serialize_model_as_json"
    assert model._obj_type() == "Sequential"
    assert issubclass(keras.Layer, keras_internals.KerasSaveable)


def test_torch_layers_list_the_variables_of_their_parts_again():
    model = keras.Sequential([keras.Input((3,)), dense()])
    if keras.config.backend() == "torch":
        model._track_variables()
        assert len(model._torch_params) == 2
    else:
        assert not hasattr(model, "_torch_params")


def test_a_variable_may_be_an_attribute_that_is_not_tracked():
    layer = dense()
    with keras_internals.DotNotTrackScope():
        layer.other = keras.Variable([1.0])
    assert len(layer.weights) == 2
