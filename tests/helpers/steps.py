"""A training step of one layer, written by hand for each backend.

`step(layer, x, r)` returns outputs and d(sum(y * r) + losses)/dx as NumPy
arrays, and leaves the layer's state advanced. Eagerly, and compiled. And what
is compared of that state.
"""

import keras
import numpy as np
from keras import ops

from keras_memel import Random
from keras_memel import RandomK

BACKEND = keras.backend.backend()


def step(layer, x, r, mask=None, training=True):
    return {"jax": _jax, "tensorflow": _tf, "torch": _torch}[BACKEND](
        layer, x, r, mask, training
    )


def compiled_step(layer):
    """Return `step`, compiled once: with jax.jit, tf.function without and with
    XLA, or the front end of torch.compile (its code generator needs a C++
    compiler).
    """
    return {
        "jax": _jax_jit,
        "tensorflow": _tf_function,
        "torch": _torch_compile,
    }[BACKEND](layer)


def fast_step(layer):
    """The quickest for many steps: tracing does not pay on PyTorch."""
    if BACKEND == "torch":
        return lambda x, r, mask=None: step(layer, x, r, mask)
    return compiled_step(layer)


def state(layer):
    """Every weight by its name, as NumPy arrays."""
    return {
        w.path.split("/")[-1]: ops.convert_to_numpy(w.value)
        for w in layer.weights
    }


def assert_state(layer, expected, but=()):
    """Bit by bit, as `state` gave it at another time or of another layer."""
    now = state(layer)
    assert now.keys() == expected.keys()
    for name in now.keys() - set(but):
        np.testing.assert_array_equal(now[name], expected[name], err_msg=name)


def assert_statistics(layer, oracle):
    """Check the statistics against an `oracle.Oracle` with the same batches."""
    now = state(layer)
    names = ["mean", "variance", "count", "steps"]
    names += ["inhibited_rate", "skipped_updates"]
    names += ["threshold"] * (oracle.selection[0] == "rate")
    for name in names:
        ours = f"moving_{name}" if name in ("mean", "variance") else name
        np.testing.assert_allclose(
            now[ours],
            getattr(oracle, name),
            rtol=1e-5,
            atol=1e-6,
            err_msg=name,
        )


def _as_numpy(*tensors):
    return tuple(ops.convert_to_numpy(t) for t in tensors)


def _call(layer, x, mask, training):
    kwargs = {} if mask is None else {"mask": ops.convert_to_tensor(mask)}
    return layer(x, training=training, **kwargs)


def _jax_function(layer, training):
    import jax

    def loss(x, trainable, non_trainable, r, mask):
        kwargs = {} if mask is None else {"mask": mask}
        y, non_trainable, losses = layer.stateless_call(
            trainable,
            non_trainable,
            x,
            training=training,
            return_losses=True,
            **kwargs,
        )
        return (y * r).sum() + sum(losses), (y, non_trainable)

    return jax.grad(loss, has_aux=True)


def _jax_apply(function, layer, x, r, mask):
    if not layer.built:
        layer.build(np.shape(x))
    x = ops.convert_to_tensor(x)
    r = ops.convert_to_tensor(r, dtype=x.dtype)
    mask = None if mask is None else ops.convert_to_tensor(mask)
    gradient, (y, new) = function(
        x,
        [v.value for v in layer.trainable_variables],
        [v.value for v in layer.non_trainable_variables],
        r,
        mask,
    )
    for variable, value in zip(layer.non_trainable_variables, new, strict=True):
        variable.assign(value)
    return _as_numpy(y, gradient)


def _jax(layer, x, r, mask, training):
    return _jax_apply(_jax_function(layer, training), layer, x, r, mask)


def _jax_jit(layer):
    import jax

    function = jax.jit(_jax_function(layer, True))
    return lambda x, r, mask=None: _jax_apply(function, layer, x, r, mask)


def _tf_body(layer, training):
    import tensorflow as tf

    def body(x, r, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = _call(layer, x, mask, training)
            loss = tf.reduce_sum(y * r)
            if layer.losses:
                loss += tf.add_n(layer.losses)
        return y, tape.gradient(loss, x)

    return body


def _tf(layer, x, r, mask, training):
    x = ops.convert_to_tensor(x)
    r = ops.convert_to_tensor(r, dtype=x.dtype)
    return _as_numpy(*_tf_body(layer, training)(x, r, mask))


def _tf_function(layer, jit_compile=False):
    import tensorflow as tf

    function = tf.function(_tf_body(layer, True), jit_compile=jit_compile)

    def call(x, r, mask=None):
        if not layer.built:
            layer.build(np.shape(x))
        x = ops.convert_to_tensor(x)
        mask = None if mask is None else tf.constant(mask)
        return _as_numpy(*function(x, tf.cast(r, x.dtype), mask))

    return call


def _torch(layer, x, r, mask, training, call=None):
    x = ops.convert_to_tensor(x).detach().clone().requires_grad_()
    r = ops.convert_to_tensor(r, dtype=keras.backend.standardize_dtype(x.dtype))
    y = (call or _call)(layer, x, mask, training)
    ((y * r).sum() + sum(layer.losses)).backward()
    return _as_numpy(y, x.grad)


def _torch_compile(layer):
    import torch

    # Without a reset, the ninth layer would run without a graph.
    torch.compiler.reset()
    # Keras draws outside of graphs.
    whole = not isinstance(layer.selection, (Random, RandomK))
    compiled = torch.compile(_call, backend="aot_eager", fullgraph=whole)

    def call(layer, x, mask, training):
        if not layer.built:  # weights that are made break the graph
            layer.build(x.shape)
        mask = None if mask is None else ops.convert_to_tensor(mask)
        return compiled(layer, x, mask, training)

    return lambda x, r, mask=None: _torch(layer, x, r, mask, True, call)
