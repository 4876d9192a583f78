"""Detect a Keras layer that a PyTorch module uses wrongly.

Keras layers follow neither `module.training` nor the activation checkpointing
of PyTorch. `TorchMEmeL` follows both. The Keras layer therefore checks its
calls and recommends `TorchMEmeL`.
"""

import sys
import warnings
import weakref
from typing import Any

import keras

if keras.backend.backend() == "torch":
    import torch

_warned: weakref.WeakSet[Any] = weakref.WeakSet()


def check(layer: Any, training: bool | None) -> None:
    """Warn if a layer has no effect, and raise if it is run again.

    Args:
        layer: A layer, at the start of its `call`.
        training: Argument of the call.

    Raises:
        RuntimeError: If activation checkpointing runs the layer again.
    """
    if keras.backend.backend() != "torch" or torch.compiler.is_compiling():
        return
    learning = bool(training) and layer.trainable
    draws = layer.at_inference and layer.selection.random
    if training or draws:
        again = torch._C._current_graph_task_id() != -1
        if again and (learning or draws):
            raise RuntimeError(
                "Activation checkpointing runs its part of the model again in "
                "the backward pass, where a Keras layer would count the step "
                "twice or draw other values. Use `keras_memel.TorchMEmeL`, or "
                "insert the layer with `keras_memel.insert`. "
                f"Received: {layer.name!r}, called in the backward pass"
            )
    elif (
        training is None
        and layer.training  # of `torch.nn.Module`
        and layer.trainable
        and layer not in _warned
        and _in_module()
    ):
        _warned.add(layer)
        warnings.warn(
            f"Layer {layer.name!r} is called without `training` in a PyTorch "
            "module and has no effect: Keras layers do not follow "
            "`module.train()`. Use `keras_memel.TorchMEmeL`, insert the layer "
            "with `keras_memel.insert`, or pass `training=self.training`.",
            stacklevel=3,
        )


def _in_module() -> bool:
    """Return whether the call comes from a module that is not a Keras layer."""
    code = torch.nn.Module._call_impl.__code__
    frame: Any = sys._getframe(2)
    while frame is not None:
        # Keras calls its layers through the same method.
        if frame.f_code is code and not isinstance(
            frame.f_locals["self"], keras.Layer
        ):
            return True
        frame = frame.f_back
    return False
