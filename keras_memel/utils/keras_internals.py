"""Collect the private names of Keras that the package uses.

Each name has a test in `tests/utils/test_keras_internals.py` that defines its
expected behavior. If a new version of Keras changes a name, its test fails.
"""

import contextlib
import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src import backend
from keras.src.backend import get_keras_mask
from keras.src.backend import standardize_data_format
from keras.src.backend.common import global_state
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell
from keras.src.saving import saving_lib
from keras.src.utils.argument_validation import standardize_padding
from keras.src.utils.argument_validation import standardize_tuple
from keras.src.utils.tracking import DotNotTrackScope

__all__ = [
    "DotNotTrackScope",
    "DropoutRNNCell",
    "KerasSaveable",
    "get_keras_mask",
    "get_stateless_scope",
    "global_state",
    "in_symbolic_scope",
    "model_as_json",
    "name_scopes_kept",
    "note_rematerialization",
    "rematerialized_function",
    "standardize_data_format",
    "standardize_padding",
    "standardize_tuple",
    "wrap_model_serialization",
]

# Base class of all objects that Keras saves: `Layer`, `Loss`, `Metric`, ...
KerasSaveable: Any = keras.Operation.__base__

_REMATERIALIZED = "keras_memel_rematerialized"


@contextlib.contextmanager
def name_scopes_kept() -> Iterator[None]:
    """Restore the stack of name scopes, even after an error.

    TensorFlow refuses a scope such as "block[0]" in a graph. Keras has already
    added the scope to its stack, and would use it in the names of all later
    variables.
    """
    stack = global_state.get_global_attribute("name_scope_stack")
    depth = len(stack or ())
    try:
        yield
    finally:
        stack = global_state.get_global_attribute("name_scope_stack")
        if stack is not None:
            del stack[depth:]


def training_of_call() -> Any:
    """Return `training` of the running call of a layer, even if inherited."""
    call = global_state.get_global_attribute("current_call_ctx")
    return None if call is None else call.get_value("training")


def rematerialized_function() -> Any:
    """Return the innermost running function that Keras will run again.

    Returns `None` if no such function is running.
    """
    return global_state.get_global_attribute(_REMATERIALIZED)


def note_rematerialization() -> None:
    """Make Keras note, per thread, which rematerialized function is running.

    Layers in a `keras.RematScope` and `keras.remat` call the wrapped function
    of each backend, in every mode.
    """
    rematerialize = backend.core.remat

    @functools.wraps(rematerialize)
    def remat(function: Callable[..., Any]) -> Any:
        def noting(*args: Any, **kwargs: Any) -> Any:
            outer = rematerialized_function()
            global_state.set_global_attribute(_REMATERIALIZED, function)
            try:
                return function(*args, **kwargs)
            finally:
                global_state.set_global_attribute(_REMATERIALIZED, outer)

        return rematerialize(noting)

    backend.core.remat = remat


def model_as_json(model: Any) -> str:
    """Return the config that Keras stores in the file of a whole model."""
    text, _ = saving_lib._serialize_model_as_json(model)
    return str(text)


def wrap_model_serialization(stand_in: Callable[[Any], Any]) -> None:
    """Make Keras store the config of `stand_in(model)` in files of models.

    Every function that writes a whole model calls the wrapped one.
    """
    serialize = saving_lib._serialize_model_as_json

    @functools.wraps(serialize)
    def wrapper(model: Any) -> Any:
        return serialize(stand_in(model))

    saving_lib._serialize_model_as_json = wrapper
