"""The gradient of a gradient, in each of the ways that a backend has.

`second_order(function, x, r, how)` is `d/dx sum(r * d/dx sum(function(x)))`
as a NumPy array. `how` is "eager", "static" (compiled for the shape of `x`),
"unknown" (compiled for any size of its first axis) or, on TensorFlow, "xla".
"""

import keras
import numpy as np

BACKEND = keras.backend.backend()
HOW = ["eager", "static", "unknown"] + ["xla"] * (BACKEND == "tensorflow")


def second_order(function, x, r, how):
    way = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[BACKEND]
    found = way(function, x, r, how)
    return np.asarray(keras.ops.convert_to_numpy(found))


def _jax(function, x, r, how):
    import jax

    first = jax.grad(lambda x: function(x).sum())
    second = jax.grad(lambda x, r: (r * first(x)).sum())
    if how == "eager":
        return second(x, r)
    if how == "static":
        return jax.jit(second)(x, r)
    (size,) = jax.export.symbolic_shape("size")
    spec = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    return jax.export.export(jax.jit(second))(spec, spec).call(x, r)


def _tensorflow(function, x, r, how):
    import tensorflow as tf

    def second(x, r):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                total = tf.reduce_sum(function(x))
            product = tf.reduce_sum(r * inner.gradient(total, x))
        return outer.gradient(product, x)

    if how != "eager":
        size = None if how == "unknown" else len(x)
        spec = tf.TensorSpec((size, *x.shape[1:]), x.dtype)
        second = tf.function(
            second, input_signature=[spec, spec], jit_compile=how == "xla"
        )
    return second(tf.constant(x), tf.constant(r))


def _torch(function, x, r, how):
    import torch

    if how != "eager":
        # PyTorch has no second order through the code generator of
        # `torch.compile`; through its front end it has.
        function = torch.compile(
            function, backend="eager", dynamic=how == "unknown"
        )
    x = torch.tensor(x, requires_grad=True)
    (first,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad((torch.tensor(r) * first).sum(), x)
    return second
