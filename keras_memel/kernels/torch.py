"""PyTorch's ways: eager, so each operation is a pass over memory.

What needs several operations goes over the values block by block, so that
all but the first find them in the cache and no large tensor is allocated on
the way. When `torch.compile` traces, it fuses the plain operations itself.
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


# Values in a block: its temporaries fit the cache of a core, and there are
# so few blocks that the calls do not matter.
BLOCK_SIZE = 400_000

# On a neuron's statistics Keras' own operations take five times as long as
# the work: each of them looks its arguments over and converts them.
where = torch.where
isfinite = torch.isfinite
reshape = torch.reshape


def at_least(x: Tensor, low: float) -> Tensor:
    """As `reference.at_least`."""
    return torch.clamp(x, min=low)


def copy(weight: Any) -> Tensor:
    """As `reference.copy`."""
    return weight.value.detach().clone()


def as_float32(x: Any) -> Tensor:
    """As `reference.as_float32`."""
    return (
        x.to(torch.float32) if torch.is_tensor(x) else reference.as_float32(x)
    )


def sums(
    values: Tensor,
    shift: Tensor,
    axes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `reference.sums`."""
    if torch.compiler.is_compiling() or 0 not in axes or not len(values):
        return reference.sums(values, shift, axes, mask)
    first = second = None
    for part, kept in blocks(values, mask):
        # A new tensor, that may be written to.
        deviation = torch.sub(part, shift).to(torch.float32)
        if kept is not None:
            # All bits of a number, or none. `masked_fill_` takes ten times as
            # long for one flag per row, and a product would keep NaN.
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
    """As `reference.score`."""
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
    """As `reference.by_sample`."""
    if torch.compiler.is_compiling() or not len(values):
        return select(values, valid)
    found = [select(*block) for block in blocks(values, valid)]
    return found[0] if len(found) == 1 else torch.cat(found)


def blocks(
    values: Tensor, mask: Tensor | None
) -> list[tuple[Tensor, Tensor | None]]:
    """Samples of a batch, as many at a time as make a block.

    On an accelerator one block: each launch of an operation costs time there.
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
    """As `reference.count`."""
    # A sum of booleans takes three times as long; `ops.count_nonzero` warns.
    return torch.count_nonzero(mask).to(torch.float32)


def kth_largest(score: Tensor, k: int) -> Tensor:
    """As `reference.kth_largest`."""
    # Keras' `max` and `min` break the graph of `torch.compile`.
    flat = score.flatten(1)
    if k == 1:
        kth = flat.amax(1)
    else:
        if rows := reference.block_rows(flat.shape[1], k):
            flat = candidates(flat, k, rows)
        kth = flat.topk(k, sorted=False).values.amin(1)
    return kth.reshape((-1,) + (1,) * (score.ndim - 1))


def candidates(flat: Tensor, k: int, rows: int) -> Tensor:
    """As `reference.candidates`."""
    columns = flat.shape[1] // rows
    whole = rows * columns
    block = flat[:, :whole].reshape(len(flat), rows, columns)
    chosen = block.amax(1).topk(k, sorted=False).indices
    found = block.gather(2, chosen.unsqueeze(1).expand(-1, rows, -1))
    return torch.cat([found.flatten(1), flat[:, whole:]], 1)


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """As `reference.replace`."""
    if torch.compiler.is_compiling():
        # A compiled `autograd.Function` has a wrong second gradient, and the
        # compiler fuses the formula anyway.
        return reference.replace(values, mask, mean, delta)
    return _Replace.apply(values, mask, mean, delta)


class _Replace(torch.autograd.Function):
    # Of the formula, autograd makes seven passes backward; here are two.

    # `torch.func` and `torch.vmap` go through it.
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
        # The formula itself where a gradient of the gradient is wanted.
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
