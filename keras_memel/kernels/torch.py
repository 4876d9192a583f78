"""Kernels of PyTorch. In eager mode, each operation is a pass over memory.

A kernel of several operations processes the values block by block. All
operations but the first then find a block in the cache, and no large temporary
tensor is allocated. `torch.compile` fuses the reference operations itself.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from keras_memel.kernels import reference
from keras_memel.kernels.reference import after
from keras_memel.kernels.reference import choose
from keras_memel.kernels.reference import conv
from keras_memel.kernels.reference import fused
from keras_memel.kernels.reference import scan
from keras_memel.utils.types import Tensor

__all__ = [
    "after",
    "as_float32",
    "at_least",
    "by_sample",
    "choose",
    "conv",
    "copy",
    "count",
    "fused",
    "isfinite",
    "kth_largest",
    "replace",
    "reshape",
    "scan",
    "score",
    "sums",
    "where",
]


# Number of values in a block. Its temporary tensors fit into the cache of a
# core, and the blocks are so few that the overhead of the calls is small.
BLOCK_SIZE = 400_000

# On the statistics of neurons, the operations of Keras need five times as long,
# because each of them checks and converts its arguments.
where = torch.where
isfinite = torch.isfinite
reshape = torch.reshape


def at_least(x: Tensor, low: float) -> Tensor:
    """Replace `reference.at_least` on PyTorch."""
    return torch.clamp(x, min=low)


def copy(weight: Any) -> Tensor:
    """Replace `reference.copy` on PyTorch."""
    return weight.value.detach().clone()


def as_float32(x: Any) -> Tensor:
    """Replace `reference.as_float32` on PyTorch."""
    return (
        x.to(torch.float32) if torch.is_tensor(x) else reference.as_float32(x)
    )


def sums(
    values: Tensor,
    shift: Tensor,
    axes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Replace `reference.sums` on PyTorch."""
    if torch.compiler.is_compiling() or 0 not in axes or not len(values):
        return reference.sums(values, shift, axes, mask)
    first = second = None
    for part, kept in blocks(values, mask):
        # This is a new tensor, which may be changed in place.
        deviation = torch.sub(part, shift).to(torch.float32)
        if kept is not None:
            # Keep all bits of a number, or none. With one flag per row,
            # `masked_fill_` is ten times slower. A product would keep NaN.
            bits = kept.to(torch.int32).neg_()
            deviation.view(torch.int32).bitwise_and_(bits)
        found = deviation.sum(axes, keepdim=True)
        first = found if first is None else first + found
        found = deviation.mul_(deviation).sum(axes, keepdim=True)
        second = found if second is None else second + found
    return first, second


def score(
    values: Tensor, mean: Tensor, scale: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Replace `reference.score` on PyTorch."""
    if torch.compiler.is_compiling():
        return reference.score(values, mean, scale, valid)
    phi = torch.sub(values, mean).to(torch.float32)
    phi.mul_(phi).mul_(scale)
    if valid is not None:
        # For one flag per row, a sum is much faster than `masked_fill_`.
        phi.add_(torch.where(valid, 0.0, math.nan))
    return phi.nan_to_num_(-1.0, -1.0, -1.0)


def by_sample(
    select: Callable[[Tensor, Tensor | None], Tensor],
    values: Tensor,
    valid: Tensor | None,
) -> Tensor:
    """Replace `reference.by_sample` on PyTorch."""
    if torch.compiler.is_compiling() or not len(values):
        return select(values, valid)
    found = [select(*block) for block in blocks(values, valid)]
    return found[0] if len(found) == 1 else torch.cat(found)


def blocks(
    values: Tensor, mask: Tensor | None
) -> list[tuple[Tensor, Tensor | None]]:
    """Split a batch into blocks of samples.

    On an accelerator there is one block, because each launch of an operation
    takes time.
    """
    samples = len(values)
    if values.device.type == "cpu":
        samples = max(1, BLOCK_SIZE // max(1, math.prod(values.shape[1:])))
    if len(values) <= samples:
        return [(values, mask)]
    parts = values.split(samples)
    if mask is None:
        return [(part, None) for part in parts]
    mask = mask.expand(len(values), *mask.shape[1:])
    return list(zip(parts, mask.split(samples), strict=True))


def count(mask: Tensor) -> Tensor:
    """Replace `reference.count` on PyTorch."""
    # A sum of booleans is three times slower. `ops.count_nonzero` warns.
    return torch.count_nonzero(mask).to(torch.float32)


def kth_largest(score: Tensor, k: int) -> Tensor:
    """Replace `reference.kth_largest` on PyTorch."""
    # `max` and `min` of Keras break the graph of `torch.compile`.
    flat = score.flatten(1)
    if k == 1:
        kth = flat.amax(1)
    else:
        if rows := reference.block_rows(flat.shape[1], k):
            flat = candidates(flat, k, rows)
        kth = flat.topk(k, sorted=False).values.amin(1)
    return kth.reshape((-1,) + (1,) * (score.ndim - 1))


def candidates(flat: Tensor, k: int, rows: int) -> Tensor:
    """Replace `reference.candidates` on PyTorch."""
    columns = flat.shape[1] // rows
    whole = rows * columns
    block = flat[:, :whole].reshape(len(flat), rows, columns)
    chosen = block.amax(1).topk(k, sorted=False).indices
    found = block.gather(2, chosen.unsqueeze(1).expand(-1, rows, -1))
    return torch.cat([found.flatten(1), flat[:, whole:]], 1)


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """Replace `reference.replace` on PyTorch."""
    if torch.compiler.is_compiling():
        # A compiled `autograd.Function` has a wrong second gradient, and the
        # compiler fuses the formula anyway.
        return reference.replace(values, mask, mean, delta)
    return _Replace.apply(values, mask, mean, delta)


class _Replace(torch.autograd.Function):
    # The backward pass of the plain formula needs seven passes, this one two.

    # Supports `torch.func` and `torch.vmap`.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        values: Tensor, mask: Tensor, mean: Tensor, delta: float
    ) -> Tensor:
        return torch.where(mask, mean, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        _, mask, _, delta = inputs
        ctx.save_for_backward(mask)
        ctx.delta = delta

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        if not ctx.delta:
            return torch.where(mask, 0.0, gradient), None, None, None
        parts = blocks(gradient, mask)
        # A gradient of the gradient needs the formula itself.
        if torch.is_grad_enabled() or len(parts) == 1:
            reverse = gradient * -ctx.delta
            return torch.where(mask, reverse, gradient), None, None, None
        result = torch.empty_like(gradient)
        start = 0
        for part, chosen in parts:
            end = start + len(part)
            reverse = part * -ctx.delta
            torch.where(chosen, reverse, part, out=result[start:end])
            start = end
        return result, None, None, None
