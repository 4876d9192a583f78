"""The Keras layer inside a PyTorch module, which tells it nothing.

Keras layers do not look at `module.training`, and know nothing of PyTorch's
activation checkpointing. `TorchMEmeL` does both; here the Keras layer says so.
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
    """Warn of a layer that is inert, raise for one that is run again.

    Args:
        layer: A layer, at the start of its `call`.
        training: Of its call.

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
                "the backward pass, and a Keras layer would count the step "
                "twice, or draw anew. Use `keras_memel.TorchMEmeL`, or insert "
                "the layer with `keras_memel.insert`. "
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
            "module, and does nothing: Keras layers do not follow "
            "`module.train()`. Use `keras_memel.TorchMEmeL`, insert the layer "
            "with `keras_memel.insert`, or pass `training=self.training`.",
            stacklevel=3,
        )


def _in_module() -> bool:
    """Whether a PyTorch module is running that is no Keras layer."""
    code = torch.nn.Module._call_impl.__code__
    frame: Any = sys._getframe(2)
    while frame is not None:
        # Keras calls its layers by the same method.
        if frame.f_code is code and not isinstance(
            frame.f_locals["self"], keras.Layer
        ):
            return True
        frame = frame.f_back
    return False
