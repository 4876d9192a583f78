"""Rematerialization, under which a layer that keeps state cannot work.

`keras.RematScope` and `keras.remat` run what they wrap a second time in the
backward pass. The layer would find other statistics there than the first time:
eagerly without a sign, and in a graph with an error that does not name the
cause.

The check is part of the call. When the layer is built, the batch size is not
known, which decides in the mode "larger_than", and the layers around it may
not exist yet.
"""

from typing import Any

from keras_memel.utils import keras_internals

keras_internals.note_rematerialization()


def refuse(layer: Any) -> None:
    """Raise if the call of `layer` is part of what Keras will run again."""
    function = keras_internals.rematerialized_function()
    if function is None:
        return
    # Keras wraps the call of a layer, or its activation.
    outer = getattr(function, "__self__", function)
    where = "as an activation"
    if outer is not layer:
        name = getattr(outer, "name", getattr(outer, "__name__", None))
        where = f"inside {name!r} ({type(outer).__name__})"
    raise ValueError(
        "MEmeL cannot work where a layer or function is rematerialized, which "
        "runs twice in a step. Make that layer outside of `keras.RematScope`, "
        f"or put MEmeL after it. Received: {layer.name!r} {where}"
    )
