"""PyTorch's ways: eager, so each operation is a pass over memory."""

from typing import Any

import torch

Tensor = Any


def count(mask: Tensor) -> Tensor:
    """As `plain.count`."""
    # A sum of booleans takes three times as long; `ops.count_nonzero` warns.
    return torch.count_nonzero(mask).to(torch.float32)


def kth_largest(score: Tensor, k: int) -> Tensor:
    """As `plain.kth_largest`."""
    # Keras' `max` and `min` break the graph of `torch.compile`.
    flat = score.flatten(1)
    kth = flat.amax(1) if k == 1 else flat.topk(k).values[:, -1]
    return kth.reshape((-1,) + (1,) * (score.ndim - 1))


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """As `plain.replace`."""
    return _Replace.apply(values, mask, mean, delta)


class _Replace(torch.autograd.Function):
    # Of the formula, autograd makes seven passes backward; here are two.

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, mask: Tensor, mean: Tensor, delta: float
    ) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.delta = delta
        return torch.where(mask, mean, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        reverse = gradient * -ctx.delta if ctx.delta else 0.0
        return torch.where(mask, reverse, gradient), None, None, None
