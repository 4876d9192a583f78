"""Rematerialization, under which a layer that keeps state cannot work.

`keras.RematScope` runs what it wraps a second time in the backward pass. There
the layer would find other statistics than the first time: eagerly without a
word, and in a graph with an error that does not say why.
"""

import math
from typing import Any

from keras_memel.utils.keras_internals import global_state
from keras_memel.utils.types import Tensor


def refuse_parent(layer: Any, inputs: Tensor, learning: bool) -> None:
    """Raise if a layer that is rematerialized calls this one in training."""
    # As an activation it is refused at inference too: JAX would keep what it
    # traced there, and train without the layer.
    scopes = global_state.get_global_attribute("name_scope_stack") or ()
    for scope in scopes:
        outer = scope.caller
        mode = getattr(outer, "_remat_mode", None)
        if mode is None or outer is layer:
            continue
        if "rematerialized_call" in vars(outer):  # switched off by `insert`
            continue
        if not learning and mode.mode != "activations":
            continue
        if _is_rematerialized(outer, mode, layer, inputs):
            raise ValueError(
                "MEmeL cannot work inside a layer that is rematerialized, "
                "which runs twice in a step. Make that layer outside of "
                "`keras.RematScope`, or put MEmeL after it. Received: "
                f"{layer.name!r} inside {outer.name!r} "
                f"({type(outer).__name__}), made in a RematScope of mode "
                f"{mode.mode!r}"
            )


def _is_rematerialized(
    outer: Any, mode: Any, inner: Any, inputs: Tensor
) -> bool:
    """Whether Keras runs `outer`, and `inner` inside it, a second time."""
    if mode.mode == "list_of_layers":
        return outer.name in mode.layer_names
    if mode.mode == "activations":
        # While it runs, its activation is a function that wraps the layer.
        activation = getattr(outer, "activation", None)
        cells = getattr(activation, "__closure__", None) or ()
        return getattr(activation, "__wrapped__", None) is inner or any(
            cell.cell_contents is inner for cell in cells
        )
    if mode.mode == "larger_than":
        # Keras measures the outputs of `outer`. Only a model tells them; of a
        # block, what flows inside it is taken to be as large.
        outputs = getattr(outer, "outputs", None) or [inputs]
        batch = inputs.shape[0] or 1
        size = sum(math.prod(d or batch for d in o.shape) for o in outputs)
        return bool(size > mode.output_size_threshold)
    return bool(mode.mode == "full")
