"""A critic with a gradient penalty trains through a MEmeL."""

import keras
import numpy as np
import pytest
from keras import ops
from second_order import BACKEND
from second_order import HOW
from second_order import second_order
from steps import step

from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import ReverseDeactivation

LAYERS = {
    "top_1": lambda: MEmeL("top_k", ReverseDeactivation(3.0), late_start=1),
    "current": lambda: MEmeL(
        "rate", "naive_b", axis=-1, late_start=1, score_with="current"
    ),
    "observe": lambda: MEmeL(inhibition="observe", axis=-1),
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", LAYERS)
def test_the_second_gradient_is_the_rule_applied_twice(name, how, rng):
    layer = LAYERS[name]()
    x, r = rng.standard_t(3, size=(2, 16, 8, 4)).astype("float32")
    for _ in range(2):
        step(layer, x, r)
    before = [ops.copy(w.value) for w in layer.weights]

    def squared(x):
        if BACKEND != "jax":
            return ops.square(layer(x, training=True))
        y, _ = layer.stateless_call([], before, x, training=True)
        return ops.square(y)

    found = second_order(squared, x, r, how)
    for weight, value in zip(layer.weights, before):
        weight.assign(value)
    # The first gradient is `2 y s`, where `s` is 1 or, if selected, -delta:
    # that of the layer itself, of which a test exists.
    _, slope = step(layer, x, np.ones_like(x))
    np.testing.assert_allclose(found, 2 * slope**2 * r, rtol=1e-5, atol=1e-6)


class Critic(keras.Model):
    """Trained on its gradient penalty alone, with Keras' own `fit`."""

    def __init__(self, layer):
        super().__init__()
        self.first = keras.layers.Dense(6, use_bias=False)
        self.layer = layer
        self.last = keras.layers.Dense(1)

    def call(self, x, training=None):
        hidden = self.layer(self.first(x), training=training)
        return self.last(ops.tanh(hidden))

    def penalty(self, gradient):
        slope = ops.sqrt(ops.sum(ops.square(gradient), axis=1) + 1e-12)
        return ops.mean(ops.square(slope - 1.0))


def train(critic, x, how):
    """Three steps of gradient descent; the loss before each."""
    critic(x[:1])
    return {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[BACKEND](
        critic, x, how
    )


def _jax(critic, x, how):
    import jax

    def loss(trainable, state, x):
        def out(x):
            y, new = critic.stateless_call(trainable, state, x, training=True)
            return y.sum(), new

        gradient, new = jax.grad(out, has_aux=True)(x)
        return critic.penalty(gradient), new

    step = jax.value_and_grad(loss, has_aux=True)
    step = step if how == "eager" else jax.jit(step)
    trainable = [v.value for v in critic.trainable_variables]
    state = [v.value for v in critic.non_trainable_variables]
    losses = []
    for _ in range(3):
        (value, state), gradients = step(trainable, state, x)
        trainable = [v - 0.5 * g for v, g in zip(trainable, gradients)]
        losses.append(float(value))
    return losses


def _tensorflow(critic, x, how):
    import tensorflow as tf

    def step(x):
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = critic(x, training=True)
            loss = critic.penalty(inner.gradient(y, x))
        weights = [v.value for v in critic.trainable_variables]
        gradients = outer.gradient(loss, weights, unconnected_gradients="zero")
        for weight, gradient in zip(weights, gradients):
            weight.assign_sub(0.5 * gradient)
        return loss

    if how != "eager":
        size = None if how == "unknown" else len(x)
        spec = tf.TensorSpec((size, *x.shape[1:]), x.dtype)
        step = tf.function(
            step, input_signature=[spec], jit_compile=how == "xla"
        )
    return [float(step(tf.constant(x))) for _ in range(3)]


def _torch(critic, x, how):
    import torch

    weights = [v.value for v in critic.trainable_variables]
    call = critic
    if how != "eager":
        call = torch.compile(critic, backend="eager", dynamic=how == "unknown")
    losses = []
    for _ in range(3):
        inputs = torch.tensor(x, requires_grad=True)
        y = call(inputs, training=True)
        (slope,) = torch.autograd.grad(y.sum(), inputs, create_graph=True)
        loss = critic.penalty(slope)
        gradients = torch.autograd.grad(
            loss, weights, allow_unused=True, materialize_grads=True
        )
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients):
                weight -= 0.5 * gradient
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("how", HOW)
def test_a_critic_with_a_gradient_penalty_trains(how, rng):
    x = rng.normal(size=(16, 4)).astype("float32")

    def losses(make, how):
        keras.utils.set_random_seed(0)
        return train(Critic(make()), x, how)

    found = losses(lambda: MEmeL(late_start=0), how)
    assert found[-1] < found[0]
    # Within the first step no neuron has a history.
    plain = losses(lambda: keras.layers.Activation("linear"), "eager")
    assert found[0] == pytest.approx(plain[0], rel=1e-5)
    assert found[2] != pytest.approx(plain[2], rel=1e-5)
    if how != "eager":
        eager = losses(lambda: MEmeL(late_start=0), "eager")
        np.testing.assert_allclose(found, eager, rtol=1e-4)


def test_a_scan_has_a_second_gradient(rng):
    # `naive_a`, whose gradient is that of what it computes.
    layer = ConvGRU2D(
        2,
        1,
        kernel_initializer="ones",
        memel=MEmeL("rate", "naive_a", axis=-1, late_start=1),
    )
    x, r = rng.normal(size=(2, 6, 3, 2, 2, 1)).astype("float32")
    g = np.ones((6, 2, 2, 2), "float32")
    for _ in range(2):
        step(layer, x, g)
    before = [ops.copy(w.value) for w in layer.non_trainable_variables]
    trainable = [ops.copy(w.value) for w in layer.trainable_variables]

    def cubed(x):
        if BACKEND != "jax":
            return layer(x, training=True) ** 3
        y, _ = layer.stateless_call(trainable, before, x, training=True)
        return y**3

    def first(x):
        for weight, value in zip(layer.non_trainable_variables, before):
            weight.assign(value)
        return step(Cubed(layer), x, g)[1]

    how = "eager" if BACKEND == "torch" else "static"
    found = second_order(cubed, x, r, how)
    change = np.float32(1e-2) * r
    expected = (first(x + change) - first(x - change)) / 2e-2
    assert np.abs(expected).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)


class Cubed(keras.layers.Layer):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.built = True

    def call(self, x, training=None):
        return self.layer(x, training=training) ** 3
