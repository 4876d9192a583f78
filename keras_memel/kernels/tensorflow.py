"""Kernels of TensorFlow. They need fewer passes: each allocates a tensor.

Times are for (32, 128, 768) float32 values on two cores.
"""

import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from keras_memel.kernels import reference
from keras_memel.kernels.reference import as_float32
from keras_memel.kernels.reference import at_least
from keras_memel.kernels.reference import by_sample
from keras_memel.kernels.reference import choose
from keras_memel.kernels.reference import copy
from keras_memel.kernels.reference import isfinite
from keras_memel.kernels.reference import kth_largest
from keras_memel.kernels.reference import reshape
from keras_memel.kernels.reference import score
from keras_memel.kernels.reference import where
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


FEW_ROWS = 16
compiling: ContextVar[bool] = ContextVar("compiling", default=False)


def sums(
    values: Tensor,
    shift: Tensor,
    axes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Replace `reference.sums` on TensorFlow."""
    if not (compiling.get() and on_cpu() and axes == tuple(range(len(axes)))):
        return reference.sums(values, shift, axes, mask)
    deviation = reference.as_float32(values) - shift
    if mask is not None:
        deviation = tf.where(mask, deviation, 0.0)
    factor = known_factor(values.shape[: len(axes)])
    return reference.sums_of_rows(
        deviation, axes, lambda rows: _sum_rows(rows, rows * rows, factor)
    )


def _sum_rows(
    first: Tensor, second: Tensor, factor: int
) -> tuple[Tensor, Tensor]:
    # As in `jax.py`, reduce a pair over a few rows at a time. Time decreases
    # from 2.6 to 1.0 ms. The number of rows may be unknown when the graph is
    # created. Only its known `factor` is then reduced like this, and XLA sums
    # the rest.
    @tf.custom_gradient
    def apply(first: Tensor, second: Tensor) -> Any:
        shape = tf.shape(first)

        # TensorFlow does not define a gradient of this reduction, but requires
        # one for every operation in a gradient of a gradient.
        def backward(*gradients: Tensor) -> tuple[Tensor, ...]:
            return tuple(tf.broadcast_to(g, shape) for g in gradients)

        return _reduce_rows(first, second, factor), backward

    found: tuple[Tensor, Tensor] = apply(first, second)
    return found


def _reduce_rows(
    first: Tensor, second: Tensor, factor: int
) -> tuple[Tensor, Tensor]:
    while (few := _largest_divisor(factor, FEW_ROWS)) > 1:
        factor //= few
        shape = (-1, few, first.shape[-1])
        first, second = xla.variadic_reduce(
            [tf.reshape(first, shape), tf.reshape(second, shape)],
            [tf.zeros(()), tf.zeros(())],
            [1],
            _add_pairs.get_concrete_function(),
        )
    return tf.reduce_sum(first, 0), tf.reduce_sum(second, 0)


@tf.function(autograph=False, input_signature=[tf.TensorSpec(())] * 4)
def _add_pairs(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Any:
    return a + c, b + d


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)


def known_factor(shape: Any) -> int:
    """Return the product of the known sizes, or 1 if it is 0."""
    return math.prod(size for size in shape if size is not None) or 1


def count(mask: Tensor) -> Tensor:
    """Replace `reference.count` on TensorFlow."""
    if not (compiling.get() and on_cpu() and mask.shape[-1]):
        return reference.count(mask)
    # This needs half the time of a sum of bytes, and a quarter of a float sum.
    ones = tf.reshape(tf.cast(mask, "float32"), (-1, mask.shape[-1]))
    first, _ = _sum_rows(ones, ones + ones, known_factor(mask.shape[:-1]))
    return tf.reduce_sum(first)


def on_cpu() -> bool:
    """Return whether to use the kernels that are faster on a CPU."""
    kinds = {device.device_type for device in tf.config.list_logical_devices()}
    return kinds == {"CPU"}


def after(x: Tensor, values: Tensor) -> Tensor:
    """Replace `reference.after` on TensorFlow."""
    # At the end of data of unknown length, a step runs until it requests the
    # next batch. Assignments that do not depend on the batch would take place.
    if tf.executing_eagerly():
        return x
    with tf.control_dependencies([values]):
        return tf.identity(x)


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """Replace `reference.replace` on TensorFlow."""
    # The gradient of `tf.where` stores the shapes of both branches and sums the
    # gradient over the broadcast axes of the mean, which is not needed here.
    mean = tf.stop_gradient(mean)

    @tf.custom_gradient
    def apply(values: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def backward(gradient: Tensor) -> Tensor:
            reverse = gradient * -delta if delta else tf.zeros_like(mean)
            return tf.where(mask, reverse, gradient)

        return tf.where(mask, mean, values), backward

    return apply(values)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace `reference.fused` on TensorFlow."""

    # `fit` runs without XLA on a CPU, where each operation would allocate and
    # fill a tensor. XLA compiles this part of the graph instead. Eager
    # execution is not compiled, so that it can be debugged.
    def trace(*args: Any) -> Any:
        token = compiling.set(True)
        try:
            return function(*args)
        finally:
            compiling.reset(token)

    compiled = tf.function(trace, jit_compile=True, autograph=False)

    def call(*args: Any) -> Any:
        return function(*args) if tf.executing_eagerly() else compiled(*args)

    return call


def scan(
    step: Callable[[Any, Any], Any],
    carry: Any,
    inputs: Any,
    backwards: bool = False,
    collect: bool = True,
) -> tuple[Any, Any]:
    """Replace `reference.scan` on TensorFlow."""
    length = inputs[0].shape[0] or tf.shape(inputs[0])[0]
    arrays = [
        tf.TensorArray(
            part.dtype, length, element_shape=part.shape[1:]
        ).unstack(part)
        for part in inputs
    ]
    found = tf.TensorArray(
        carry[0].dtype,
        length if collect else 0,
        element_shape=carry[0].shape,
    )

    def body(i: Tensor, found: Any, *carry: Any) -> tuple[Any, ...]:
        t = length - 1 - i if backwards else i
        carry = step(carry, tuple(array.read(t) for array in arrays))
        if collect:
            found = found.write(i, carry[0])
        return i + 1, found, *carry

    _, found, *last = tf.while_loop(
        lambda i, *_: i < length,
        body,
        (tf.constant(0), found, *carry),
        maximum_iterations=length,
        swap_memory=True,
    )
    return tuple(last), found.stack() if collect else None


def conv(inputs: Tensor, kernel: Tensor, **settings: Any) -> Tensor:
    """Replace `reference.conv` on TensorFlow."""
    # TensorFlow does not support channels-first convolutions on a CPU.
    if settings.get("data_format") != "channels_first" or not on_cpu():
        return reference.conv(inputs, kernel, **settings)
    settings["data_format"] = "channels_last"
    last = reference.conv(
        tf.transpose(inputs, (0, 2, 3, 1)), kernel, **settings
    )
    return tf.transpose(last, (0, 3, 1, 2))
