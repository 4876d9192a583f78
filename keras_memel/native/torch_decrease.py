"""Run the experiment of `decrease_ratio` on a PyTorch module."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from keras_memel.native import torch_analysis
from keras_memel.native import torch_paths
from keras_memel.native.torch_memel import TorchMEmeL
from keras_memel.utils.types import Array


class TorchSubject:
    """Module that takes training steps and can be restored afterwards.

    Args:
        model: A module without insertions.
        step: Function that runs one training step, given a batch `(x, y)` of
            tensors.
        optimizer: Optimizer that `step` uses, or `None` if it is stateless.
    """

    capture = torch_analysis
    anchor = "."

    def __init__(
        self,
        model: nn.Module,
        step: Callable[[Any, Any], Any],
        optimizer: Any,
    ):
        self.model = torch_paths.unwrap(model)
        self._step = step
        self._optimizer = optimizer
        tensors = [*self.model.parameters(), *self.model.buffers()]
        self._kept = [(each, each.detach().clone()) for each in tensors]
        self._gradients = [
            (each, None if each.grad is None else each.grad.clone())
            for each in self.model.parameters()
        ]
        self._modes = [(each, each.training) for each in self.model.modules()]
        if optimizer is not None:
            self._state = copy.deepcopy(optimizer.state_dict())

    @torch.no_grad()
    def restore(self) -> None:
        """Restore weights, gradients, modes and the optimizer."""
        for tensor, value in self._kept:
            tensor.copy_(value)
        for parameter, gradient in self._gradients:
            parameter.grad = None if gradient is None else gradient.clone()
        for module, training in self._modes:
            module.training = training
        if self._optimizer is not None:
            # `load_state_dict` does not copy the tensors, which later steps
            # overwrite.
            self._optimizer.load_state_dict(copy.deepcopy(self._state))

    def train(self, x: Any, y: Any) -> None:
        """Take one step."""
        self.model.train()
        self._step(*torch_analysis.to_tensors((x, y), self.model))

    @torch.no_grad()
    def learn(self, memel: TorchMEmeL, values: Array, mask: Any) -> None:
        """Update only the statistics of a MEmeL with values."""
        memel.train()
        tensors = torch_analysis.to_tensors(values, self.model)
        memel(tensors, None if mask is None else torch.as_tensor(mask))

    def state(self, memels: list[TorchMEmeL]) -> list[Any]:
        """Return a copy of the present statistics."""
        return [
            (buffer, buffer.clone())
            for memel in memels
            for buffer in memel.buffers()
        ]

    def put_back(self, state: list[Any]) -> None:
        """Restore the statistics that `state` returned."""
        for buffer, value in state:
            buffer.copy_(value)

    def statistics(self, memel: TorchMEmeL) -> tuple[Array, Array, Array]:
        """Return count, mean and variance per neuron, broadcastable to values.

        The arrays are copies, because the next step overwrites the buffers.
        """
        named = memel.count, memel.moving_mean, memel.moving_variance
        count, mean, variance = (
            each.clone().cpu().numpy().reshape(memel._keepdims)
            for each in named
        )
        return count, mean, variance
