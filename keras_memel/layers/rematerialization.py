"""Refuse rematerialization, under which a layer with state cannot work.

`keras.RematScope` and `keras.remat` run the wrapped function a second time in
the backward pass. The statistics of the layer have changed by then. In eager
mode the results are silently wrong, and in a graph the error does not name the
cause.

The check is part of the call. When the layer is built, the layers around it may
not exist yet, and the batch size, which the mode "larger_than" depends on, is
not known.
"""

from typing import Any

from keras_memel.utils import keras_internals

keras_internals.note_rematerialization()


def refuse(layer: Any) -> None:
    """Raise if Keras will run the call of `layer` again."""
    function = keras_internals.rematerialized_function()
    if function is None:
        return
    # Keras wraps either the call of a layer or its activation.
    outer = getattr(function, "__self__", function)
    where = "as an activation"
    if outer is not layer:
        name = getattr(outer, "name", getattr(outer, "__name__", None))
        where = f"inside {name!r} ({type(outer).__name__})"
    raise ValueError(
        "MEmeL cannot work inside a rematerialized layer or function, which "
        "runs twice per step. Create that layer outside of `keras.RematScope`, "
        f"or use MEmeL after it. Received: {layer.name!r} {where}"
    )
