"""What each private name of Keras must do: a new Keras that breaks it fails."""

import ast
import pathlib

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


def test_the_name_scopes_tell_which_layers_are_being_called():
    seen = []

    class Inner(keras.layers.Layer):
        def call(self, inputs):
            stack = keras_internals.global_state.get_global_attribute(
                "name_scope_stack"
            )
            seen.extend(scope.caller for scope in stack)
            return inputs

    inner = Inner()
    outer = keras.Sequential([keras.Input((2,)), inner])
    seen.clear()
    outer(np.zeros((1, 2)))
    assert seen[0] is outer
    assert seen[-1] is inner


def test_layers_made_in_a_remat_scope_know_its_mode():
    with keras.RematScope(mode="full"):
        layer = keras.layers.Dense(2)
    assert layer._remat_mode.mode == "full"
    assert getattr(dense(), "_remat_mode", None) is None


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
    assert isinstance(model._functional, keras.Model)


def test_a_graph_knows_its_nodes_and_operations():
    inputs = keras.Input((3,))
    layer = keras.layers.Dense(2)
    model = keras.Model(inputs, layer(inputs))
    nodes = [n for nodes in model._nodes_by_depth.values() for n in nodes]
    (node,) = [node for node in nodes if node.operation is layer]
    assert node.arguments.args[0].shape == (None, 3)
    assert layer in vars(model)["_operations"]


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
