"""Layers that no model holds, whose state a step without side effects loses."""

from typing import Any

from keras_memel.utils.keras_internals import get_stateless_scope
from keras_memel.utils.keras_internals import in_symbolic_scope


def refuse(layer: Any) -> None:
    """Raise if what a training step writes into `layer` would be dropped.

    Keras passes the state of a model through its step on JAX, as
    `stateless_call` does everywhere. A layer that is only a part of a function,
    such as that of a `keras.layers.Lambda`, is not in that state: it would see
    every step as its first, and never act.
    """
    scope = get_stateless_scope()
    if scope is None or in_symbolic_scope():
        return
    # A scope of no variables at all is one that a caller reads afterwards.
    if scope.state_mapping and scope.get_current_value(layer.steps) is None:
        raise ValueError(
            "The statistics of a MEmeL would be lost: the model that is "
            "trained does not hold the layer. A `keras.layers.Lambda`, or a "
            "function, keeps no layers. Put it between the layers of the "
            "model, or make it an attribute of a layer of your own. "
            f"Received: {layer.name!r}, which is not among the variables of "
            "the step"
        )
