"""The few operations for which each backend has a faster way of its own.

Everything else in the library is written once, in `keras.ops`. What is here
has a plain form too, and the tests hold each backend's way to it. Which way
is faster was measured with `benchmarks/overhead.py`; the reasons stand beside
the code.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any

if keras.backend.backend() == "jax":
    import jax
elif keras.backend.backend() == "tensorflow":
    import tensorflow as tf
elif keras.backend.backend() == "torch":
    import torch


def sums(deviation: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Sum and sum of squares of `deviation` over `axes`, "keepdims".

    No gradient is taken through them.
    """
    if axes != tuple(range(len(axes))):
        return (
            ops.sum(deviation, axis=axes, keepdims=True),
            ops.sum(deviation * deviation, axis=axes, keepdims=True),
        )
    # Neurons last, the usual case: as a matrix, one row a sample. XLA reduces
    # the first axis of a matrix several times faster than two of three axes.
    kept = tuple(deviation.shape)[len(axes) :]
    matrix = ops.reshape(deviation, (-1, math.prod(kept)))
    reduce = _sum_rows_jax if keras.backend.backend() == "jax" else _sum_rows
    first, second = reduce(matrix)
    shape = (1,) * len(axes) + kept
    return ops.reshape(first, shape), ops.reshape(second, shape)


def _sum_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return ops.sum(matrix, axis=0), ops.sum(matrix * matrix, axis=0)


def _sum_rows_jax(matrix: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = matrix.shape
    # On a CPU, XLA walks down one column after the other. With wide rows each
    # step is a cache miss: 67 ms for (32, 98304). A reduction of the pair
    # goes along the rows instead (1 ms), as long as they are few.
    block = 32
    wide = columns >= 16384 or rows <= block
    if jax.default_backend() != "cpu" or not wide or not rows:
        return _sum_rows(matrix)
    zero = matrix.dtype.type(0)
    first = second = zero
    for start in range(0, rows, block):
        part = matrix[start : start + block]
        a, b = jax.lax.reduce(
            (part, part * part),
            (zero, zero),
            lambda x, y: (x[0] + y[0], x[1] + y[1]),
            (0,),
        )
        first, second = first + a, second + b
    return first, second


def count(mask: Tensor) -> Tensor:
    """Number of true values, a float32 scalar."""
    if keras.backend.backend() == "torch":
        # `ops.count_nonzero` warns; a sum of booleans takes three times as
        # long.
        return torch.count_nonzero(mask).to(torch.float32)
    flat = ops.reshape(mask, (-1,))
    whole = 0 if None in mask.shape else math.prod(mask.shape) // _BLOCK
    number = ops.sum(ops.cast(flat[whole * _BLOCK :], "float32"))
    if whole:
        blocks = ops.reshape(flat[: whole * _BLOCK], (whole, 128, 768))
        number = number + ops.sum(ops.cast(_sum_bytes(blocks), "float32"))
    return number


# XLA adds bytes four times as fast as floats, and 128 ones fit into one. 768,
# since with a power of two all rows would share one set of the cache.
_BLOCK = 128 * 768


def _sum_bytes(blocks: Tensor) -> Tensor:
    if keras.backend.backend() == "jax":
        return ops.cast(blocks, "uint8").sum(axis=1, dtype="uint8")
    if keras.backend.backend() == "tensorflow":
        return tf.reduce_sum(ops.cast(blocks, "uint8"), axis=1)
    return ops.sum(ops.cast(blocks, "float32"), axis=1)


def kth_largest(score: Tensor, k: int) -> Tensor:
    """The k-th largest value of each sample, `(batch, 1, ..., 1)`."""
    batch, *shape = ops.shape(score)
    flat = ops.reshape(score, (batch, math.prod(shape)))
    if keras.backend.backend() == "torch":
        # Keras' `max` and `min` break the graph of `torch.compile`.
        kth = flat.amax(1) if k == 1 else flat.topk(k).values[:, -1]
    elif k == 1:
        # No sort. `initial` lets a batch be empty.
        kth = ops.max(flat, axis=-1, initial=float("-inf"))
    else:
        # The least of the k, not the last: XLA makes of a slice of `top_k` a
        # sort of everything, a hundred times slower.
        kth = ops.min(ops.top_k(flat, k)[0], axis=-1, initial=float("inf"))
    return ops.reshape(kth, (batch,) + (1,) * len(shape))


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """`mean` where `mask`, with the gradient `-delta g`; else `values`, `g`.

    What is kept for the backward pass is the mask: one byte a value.
    """
    backend = keras.backend.backend()
    if backend == "torch":
        replaced: Tensor = _TorchReplace.apply(values, mask, mean, delta)
        return replaced
    if backend == "tensorflow":
        return _tf_replace(values, mask, mean, delta)
    return replace_reference(values, mask, mean, delta)


def replace_reference(
    values: Tensor, mask: Tensor, mean: Tensor, delta: float
) -> Tensor:
    """`replace` in plain operations: the formula itself."""
    mean = ops.stop_gradient(mean)
    if delta:
        mean = mean - delta * (values - ops.stop_gradient(values))
    return ops.where(mask, mean, values)


if keras.backend.backend() == "torch":

    class _TorchReplace(torch.autograd.Function):
        # The formula makes autograd run seven passes backward; this, two.

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


def _tf_replace(
    values: Tensor, mask: Tensor, mean: Tensor, delta: float
) -> Tensor:
    # The gradient of `tf.where` keeps the shapes of both branches and sums
    # over those that were broadcast, which is thrown away here.
    mean = tf.stop_gradient(mean)

    @tf.custom_gradient
    def apply(values: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def backward(gradient: Tensor) -> Tensor:
            reverse = gradient * -delta if delta else tf.zeros_like(mean)
            return tf.where(mask, reverse, gradient)

        return tf.where(mask, mean, values), backward

    return apply(values)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of tensors, its passes over them fused where that pays.

    It must be pure, and return tensors. JAX fuses in any case. PyTorch does
    with `torch.compile`, which is the user's to choose. TensorFlow runs `fit`
    on a CPU without XLA, and would allocate and fill a tensor for each
    operation; so this part of the graph is given to XLA. Eager execution is
    left as it is: it is for looking inside.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def call(*args: Any) -> Any:
        return function(*args) if tf.executing_eagerly() else compiled(*args)

    return call
