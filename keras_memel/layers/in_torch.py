"""The Keras layer inside a PyTorch module, which tells it nothing.

Keras layers do not look at `module.training`, and know nothing of PyTorch's
activation checkpointing. `TorchMEmeL` does both; here the Keras layer says so.
"""

import warnings
from typing import Any

import keras

Tensor = Any

if keras.backend.backend() == "torch":
    import torch

_warned: set[int] = set()


def check(layer: Any, inputs: Tensor, training: bool | None) -> None:
    """Warn of a layer that is inert, raise for one that is run again.

    Args:
        layer: A layer, at the start of its `call`.
        inputs: Of its call.
        training: Of its call.

    Raises:
        RuntimeError: If activation checkpointing runs the layer again.
    """
    if keras.backend.backend() != "torch" or torch.compiler.is_compiling():
        return
    if training:
        if layer.trainable and torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "Activation checkpointing runs its part of the model again in "
                "the backward pass, and a Keras layer would count the step "
                "twice. Use `keras_memel.TorchMEmeL`, or insert the layer with "
                "`keras_memel.insert`. "
                f"Received: {layer.name!r}, called in the backward pass"
            )
    elif (
        training is None
        and layer.training
        # Keras layers that are called by themselves are at inference. What
        # carries a gradient in comes from a module that is being trained.
        and torch.is_grad_enabled()
        and inputs.requires_grad
        and _is_called_alone(layer)
    ):
        _warn(layer)


def _is_called_alone(layer: Any) -> bool:
    return bool(layer._get_call_context().entry_layer is layer)


def _warn(layer: Any) -> None:
    if id(layer) in _warned:
        return
    _warned.add(id(layer))
    warnings.warn(
        f"Layer {layer.name!r} is called without `training`, and does nothing: "
        "Keras layers do not follow `module.train()`. In a PyTorch module use "
        "`keras_memel.TorchMEmeL`, insert the layer with `keras_memel.insert`, "
        "or pass `training=self.training`.",
        stacklevel=5,
    )
