"""Refuse layers that the trained model does not track.

A training step without side effects, as on JAX, would lose their state.
"""

from typing import Any

from keras_memel.utils.keras_internals import get_stateless_scope
from keras_memel.utils.keras_internals import in_symbolic_scope


def refuse(layer: Any) -> None:
    """Raise if a training step would lose the state of `layer`.

    On JAX, Keras passes the state of a model through its step; `stateless_call`
    does so on every backend. This state does not include a layer that is used
    only in a function, such as that of a `keras.layers.Lambda`. Every step
    would be the first one of such a layer, so it would never inhibit.
    """
    scope = get_stateless_scope()
    if scope is None or in_symbolic_scope():
        return
    # A scope without variables is one whose updates the caller reads later.
    if scope.state_mapping and scope.get_current_value(layer.steps) is None:
        raise ValueError(
            "The statistics of a MEmeL would be lost: the trained model does "
            "not track the layer. A `keras.layers.Lambda` or a function does "
            "not track layers. Add the MEmeL to the layers of the model, or "
            "make it an attribute of a custom layer. "
            f"Received: {layer.name!r}, which is not among the variables of "
            "the step"
        )
