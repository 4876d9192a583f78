"""Reference kernels, in operations that every backend supports."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

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


where = ops.where
isfinite = ops.isfinite
reshape = ops.reshape
copy = ops.copy


def at_least(x: Tensor, low: float) -> Tensor:
    """Compute `max(x, low)`."""
    return ops.maximum(x, low)


def as_float32(x: Any) -> Tensor:
    """Convert `x` to a float32 tensor. Return `x` itself if it is one."""
    # In eager mode, an `ops.cast` without effect costs as much as an operation.
    if (
        ops.is_tensor(x)
        and keras.backend.standardize_dtype(x.dtype) == "float32"
    ):
        return x
    return ops.cast(x, "float32")


def sums(
    values: Tensor,
    shift: Tensor,
    axes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum `values - shift` and its square over `axes`, with "keepdims".

    Values whose `mask` is false do not count. No gradient is needed.
    """
    deviation = as_float32(values) - shift
    if mask is not None:
        deviation = ops.where(mask, deviation, 0.0)
    if axes == tuple(range(len(axes))):
        return sums_of_rows(deviation, axes, _sums_of_rows)
    return sums_of_axes(deviation, axes)


def sums_of_axes(
    deviation: Tensor, axes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Compute `sums` with one reduction per result."""
    return (
        ops.sum(deviation, axis=axes, keepdims=True),
        ops.sum(deviation * deviation, axis=axes, keepdims=True),
    )


def sums_of_rows(
    deviation: Tensor,
    axes: tuple[int, ...],
    reduce: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Compute `sums` over leading axes with a `reduce` of the rows of a matrix.

    This is the usual case, in which the last axis indexes the neurons. XLA
    reduces the first axis of a matrix several times faster than two of three
    axes.
    """
    kept = tuple(deviation.shape)[len(axes) :]
    matrix = ops.reshape(deviation, (-1, math.prod(kept)))
    shape = (1,) * len(axes) + kept
    first, second = reduce(matrix)
    return ops.reshape(first, shape), ops.reshape(second, shape)


def _sums_of_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return ops.sum(matrix, axis=0), ops.sum(matrix * matrix, axis=0)


def score(
    values: Tensor, mean: Tensor, scale: Tensor, valid: Tensor | None = None
) -> Tensor:
    """Compute `(values - mean)^2 * scale`.

    The score is -1 where this is not finite, or `valid` is false.
    """
    phi = ops.square(as_float32(values) - mean) * scale
    # One comparison finds all values without a score: those of neurons without
    # history, whose scale is NaN, and those that are not finite.
    scored = phi < math.inf
    if valid is not None:
        scored = ops.logical_and(scored, valid)
    return ops.where(scored, phi, -1.0)


def after(x: Tensor, values: Tensor) -> Tensor:
    """Return `x`, but not before `values` are computed.

    Some backends may otherwise run an operation with side effects although the
    computation of the inputs fails.
    """
    del values
    return x


def by_sample(
    select: Callable[[Tensor, Tensor | None], Tensor],
    values: Tensor,
    valid: Tensor | None,
) -> Tensor:
    """Call `select(values, valid)`, which treats each sample separately."""
    return select(values, valid)


def choose(
    selection: Any,
    score: Callable[[Tensor], Tensor],
    values: Tensor,
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Compute the scores of `values`, and a mask of the selected values."""
    scores = score(values)
    return scores, selection(scores, **arguments)


def count(mask: Tensor) -> Tensor:
    """Count the true values, as a float32 scalar."""
    return ops.sum(ops.cast(mask, "float32"))


def kth_largest(score: Tensor, k: int) -> Tensor:
    """Return the k-th largest value of each sample, `(batch, 1, ..., 1)`."""
    batch, *shape = ops.shape(score)
    axes = tuple(range(1, len(shape) + 1))
    if k == 1:  # no sort; `initial` lets a batch be empty
        return ops.max(score, axis=axes, keepdims=True, initial=-math.inf)
    flat = ops.reshape(score, (batch, math.prod(shape)))
    if flat.shape[0] != 0 and (rows := block_rows(flat.shape[1], k)):
        flat = candidates(flat, k, rows)
    # Take the minimum of the k values, not the last one. XLA converts a slice
    # of `top_k` to a full sort, which is a hundred times slower.
    kth = ops.min(ops.top_k(flat, k)[0], axis=-1, initial=math.inf)
    return ops.reshape(kth, (batch,) + (1,) * len(shape))


# Below this number of values, `candidates` costs more than it saves.
FEW_VALUES = 4096


def block_rows(size: int | None, k: int) -> int:
    """Return the `rows` for `candidates`, or 0 if it saves no time."""
    # About sqrt(size k) blocks, and as many candidates in k of them. A power
    # of two divides most sizes.
    if not isinstance(size, int) or size < FEW_VALUES or size < 64 * k:
        return 0
    return 1 << round(math.log2(size / k) / 2)


def candidates(flat: Tensor, k: int, rows: int) -> Tensor:
    """Return some values of each sample, including its `k` largest.

    The values form blocks of `rows` neighbors. The candidates are those in
    the `k` blocks with the largest maxima. The result is exact: fewer than `k`
    blocks contain a value larger than the k-th largest, so all of these
    blocks are chosen.
    """
    batch, size = ops.shape(flat)[0], flat.shape[1]
    blocks = size // rows
    whole = rows * blocks
    block = ops.reshape(flat[:, :whole], (batch, blocks, rows))
    _, chosen = ops.top_k(ops.max(block, axis=2), k)
    found = ops.take_along_axis(block, ops.expand_dims(chosen, 2), axis=1)
    found = ops.reshape(found, (batch, rows * k))
    if whole == size:
        return found
    return ops.concatenate([found, flat[:, whole:]], axis=1)


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """Return `mean` with the gradient `-delta g` where `mask` is true.

    Other values and their gradient `g` are unchanged. The backward pass keeps
    only the mask: one byte per value.
    """
    mean = ops.stop_gradient(mean)
    if delta:
        mean = mean - delta * (values - ops.stop_gradient(values))
    return ops.where(mask, mean, values)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Fuse the passes of `function` over tensors where this is faster.

    The function must be pure, and return tensors.
    """
    return function


def scan(
    step: Callable[[Any, Any], Any],
    carry: Any,
    inputs: Any,
    backwards: bool = False,
    collect: bool = True,
) -> tuple[Any, Any]:
    """Run a step for each time step of `inputs`, one after the other.

    Args:
        step: Function from `carry` and the inputs of one time step to the new
            `carry`, of the same structure, shapes and dtypes. It must not
            assign to variables.
        carry: Tuple of tensors.
        inputs: Tuple of tensors `(time, ...)` with at least one time step.
        backwards: Whether to start with the last time step.
        collect: Whether to return the first tensor of `carry` of every step.

    Returns:
        The last `carry`, and the collected tensors `(time, ...)` in the order
        of the steps, or `None`.
    """
    length = inputs[0].shape[0]
    found = []
    for t in reversed(range(length)) if backwards else range(length):
        carry = step(carry, tuple(part[t] for part in inputs))
        if collect:
            found.append(carry[0])
    return carry, ops.stack(found) if collect else None


conv = ops.conv
