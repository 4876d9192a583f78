"""What each kernel computes, in operations that every backend has."""

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
    """`max(x, low)`."""
    return ops.maximum(x, low)


def as_float32(x: Any) -> Tensor:
    """`x` as a float32 tensor: itself if it is one."""
    # Eagerly, `ops.cast` costs as much as an operation when it does nothing.
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
    """Sum and sum of squares of `values - shift` over `axes`, "keepdims".

    Where `mask` is false a value does not count. No gradient is taken.
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
    """`sums` as they are written."""
    return (
        ops.sum(deviation, axis=axes, keepdims=True),
        ops.sum(deviation * deviation, axis=axes, keepdims=True),
    )


def sums_of_rows(
    deviation: Tensor,
    axes: tuple[int, ...],
    reduce: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """`sums` over leading axes by a `reduce` of the rows of a matrix.

    The usual case, neurons last. XLA reduces the first axis of a matrix
    several times faster than two of three axes.
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
    """`(values - mean)^2 * scale`, or -1 where it is not finite or `valid`."""
    phi = ops.square(as_float32(values) - mean) * scale
    # One comparison finds what has no score: neurons without history (their
    # scale is NaN) and values that are not finite.
    scored = phi < math.inf
    if valid is not None:
        scored = ops.logical_and(scored, valid)
    return ops.where(scored, phi, -1.0)


def after(x: Tensor, values: Tensor) -> Tensor:
    """`x`, which is not computed before `values` are there.

    Where what has an effect may run although its inputs fail.
    """
    del values
    return x


def by_sample(
    select: Callable[[Tensor, Tensor | None], Tensor],
    values: Tensor,
    valid: Tensor | None,
) -> Tensor:
    """`select(values, valid)`, which treats each sample by itself."""
    return select(values, valid)


def choose(
    selection: Any,
    score: Callable[[Tensor], Tensor],
    values: Tensor,
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The scores of `values`, and which of them `selection` selects."""
    scores = score(values)
    return scores, selection(scores, **arguments)


def count(mask: Tensor) -> Tensor:
    """Number of true values, a float32 scalar."""
    return ops.sum(ops.cast(mask, "float32"))


def kth_largest(score: Tensor, k: int) -> Tensor:
    """The k-th largest value of each sample, `(batch, 1, ..., 1)`."""
    batch, *shape = ops.shape(score)
    axes = tuple(range(1, len(shape) + 1))
    if k == 1:  # no sort; `initial` lets a batch be empty
        return ops.max(score, axis=axes, keepdims=True, initial=-math.inf)
    flat = ops.reshape(score, (batch, math.prod(shape)))
    if flat.shape[0] != 0 and (rows := block_rows(flat.shape[1], k)):
        flat = candidates(flat, k, rows)
    # The least of the k, not the last: XLA makes of a slice of `top_k` a sort
    # of everything, a hundred times slower.
    kth = ops.min(ops.top_k(flat, k)[0], axis=-1, initial=math.inf)
    return ops.reshape(kth, (batch,) + (1,) * len(shape))


# Below, the calls of `candidates` cost more than they save.
FEW_VALUES = 4096


def block_rows(size: int | None, k: int) -> int:
    """Rows of the blocks that `candidates` makes; 0 if it would not pay."""
    # sqrt(size k) columns, and as many candidates in k of them.
    rows = round(math.sqrt(size / k)) if isinstance(size, int) else 0
    return rows if rows >= 8 and (size or 0) >= FEW_VALUES else 0


def candidates(flat: Tensor, k: int, rows: int) -> Tensor:
    """Some values of each sample, its `k` largest among them.

    Exact: of a matrix of `rows` rows, those in the `k` columns with the
    largest maxima. A value that is larger than the k-th largest makes its
    column one of these, since fewer than `k` columns hold such a value.
    """
    batch, size = ops.shape(flat)[0], flat.shape[1]
    columns = size // rows
    whole = rows * columns
    block = ops.reshape(flat[:, :whole], (batch, rows, columns))
    _, chosen = ops.top_k(ops.max(block, axis=1), k)
    found = ops.take_along_axis(block, ops.expand_dims(chosen, 1), axis=2)
    found = ops.reshape(found, (batch, rows * k))
    if whole == size:
        return found
    return ops.concatenate([found, flat[:, whole:]], axis=1)


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """`mean` where `mask`, with the gradient `-delta g`; else `values`, `g`.

    What is kept for the backward pass is the mask: one byte a value.
    """
    mean = ops.stop_gradient(mean)
    if delta:
        mean = mean - delta * (values - ops.stop_gradient(values))
    return ops.where(mask, mean, values)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, its passes over them fused where that pays.

    It must be pure, and return tensors.
    """
    return function


def scan(
    step: Callable[[Any, Any], Any],
    carry: Any,
    inputs: Any,
    backwards: bool = False,
    collect: bool = True,
) -> tuple[Any, Any]:
    """A step for each entry of `inputs`, one after the other.

    Args:
        step: From `carry` and the entries of one time step to the new `carry`,
            of the same structure, shapes and dtypes. It must not assign to
            variables.
        carry: A tuple of tensors.
        inputs: A tuple of tensors `(time, ...)`, of one time step at least.
        backwards: Whether to begin with the last.
        collect: Whether the first of `carry` is kept from every step.

    Returns:
        The last `carry`; and its firsts, `(time, ...)`, in the order of the
        steps, or `None`.
    """
    length = inputs[0].shape[0]
    found = []
    for t in reversed(range(length)) if backwards else range(length):
        carry = step(carry, tuple(part[t] for part in inputs))
        if collect:
            found.append(carry[0])
    return carry, ops.stack(found) if collect else None


conv = ops.conv
