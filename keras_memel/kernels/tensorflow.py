"""TensorFlow's ways: fewer passes, each of which allocates a tensor."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

Tensor = Any

BLOCK = (128, 768)  # as in `jax.py`


def count(mask: Tensor) -> Tensor:
    """As `plain.count`."""
    # Adds bytes where the size is known, as it is when XLA compiles.
    flat = tf.reshape(mask, (-1,))
    blocks = (flat.shape[0] or 0) // math.prod(BLOCK)
    whole = blocks * math.prod(BLOCK)
    rest = tf.reduce_sum(tf.cast(flat[whole:], "float32"))
    if not blocks:
        return rest
    ones = tf.reshape(tf.cast(flat[:whole], "uint8"), (blocks, *BLOCK))
    return rest + tf.reduce_sum(tf.cast(tf.reduce_sum(ones, 1), "float32"))


def replace(values: Tensor, mask: Tensor, mean: Tensor, delta: float) -> Tensor:
    """As `plain.replace`."""
    # The gradient of `tf.where` keeps the shapes of both branches and sums
    # over those that were broadcast, which would be thrown away here.
    mean = tf.stop_gradient(mean)

    @tf.custom_gradient
    def apply(values: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        def backward(gradient: Tensor) -> Tensor:
            reverse = gradient * -delta if delta else tf.zeros_like(mean)
            return tf.where(mask, reverse, gradient)

        return tf.where(mask, mean, values), backward

    return apply(values)


def fused(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `plain.fused`."""
    # `fit` runs on a CPU without XLA, and would allocate and fill a tensor
    # for each operation; so this part of the graph is given to XLA. Eager
    # execution is left as it is: it is for looking inside.
    compiled = tf.function(function, jit_compile=True, autograph=False)

    def call(*args: Any) -> Any:
        return function(*args) if tf.executing_eagerly() else compiled(*args)

    return call
