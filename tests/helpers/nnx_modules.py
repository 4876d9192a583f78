"""Run a MEmeL in Flax NNX in a separate process, with KERAS_NNX_ENABLED."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from steps import state

from keras_memel import MEmeL
from keras_memel import RandomK
from keras_memel import Rate

X = np.random.default_rng(0).normal(1.0, 2.0, (5, 64, 8)).astype("float32")
step = nnx.jit(lambda layer, x: layer(x, training=True))


def built(*arguments, **settings):
    layer = MEmeL(*arguments, axis=-1, late_start=0, **settings)
    layer.build((None, 8))
    return layer


def same(one, two):
    for name, value in state(one).items():
        np.testing.assert_array_equal(value, state(two)[name], err_msg=name)


def a_compiled_step_is_an_eager_one():
    compiled, eager = built(Rate(0.1)), built(Rate(0.1))
    for x in X:
        np.testing.assert_allclose(
            step(compiled, x), eager(x, training=True), rtol=1e-6
        )
    for name, value in state(eager).items():
        np.testing.assert_allclose(state(compiled)[name], value, rtol=1e-5)
    assert state(eager)["steps"] == len(X)


def every_step_draws_anew():
    for selection in ("random", RandomK(3)):
        layer = built(selection)
        step(layer, X[0])  # without a history, nothing is selected
        first, second = step(layer, X[1]), step(layer, X[1])
        changed = np.asarray(first != X[1]), np.asarray(second != X[1])
        assert all(mask.any() for mask in changed)
        assert (changed[0] != changed[1]).any()


def inference_changes_nothing():
    layer = built("random")
    step(layer, X[0])
    before = state(layer)
    out = nnx.jit(lambda layer, x: layer(x, training=False))(layer, X[1])
    np.testing.assert_array_equal(out, X[1])
    for name, value in state(layer).items():
        np.testing.assert_array_equal(value, before[name])


def split_and_merge_keep_the_state():
    layer = built("random")
    step(layer, X[0])
    graph, found = nnx.split(layer)
    copy = nnx.merge(graph, nnx.clone(found))
    same(layer, copy)
    # Both continue with the same random numbers, but share no state.
    np.testing.assert_array_equal(step(layer, X[1]), step(copy, X[1]))
    step(copy, X[2])
    assert state(copy)["steps"] == state(layer)["steps"] + 1


class Network(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(8, 6, rngs=rngs)
        self.memel = MEmeL(axis=-1, late_start=1)
        self.memel.build((None, 6))
        self.last = nnx.Linear(6, 1, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.relu(self.memel(self.first(x), training=True)))


def an_optimizer_trains_around_it():
    network = Network(nnx.Rngs(0))
    optimizer = nnx.Optimizer(network, optax.sgd(0.01), wrt=nnx.Param)

    @nnx.jit
    def train(network, optimizer, x):
        def loss(network):
            return jnp.mean(jnp.square(network(x) - x[:, :1]))

        value, gradient = nnx.value_and_grad(loss)(network)
        optimizer.update(network, gradient)
        return value

    losses = [float(train(network, optimizer, x)) for x in [*X] * 4]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert state(network.memel)["steps"] == len(losses)
    parameters = nnx.state(network, nnx.Param)
    assert "memel" not in parameters


if __name__ == "__main__":
    a_compiled_step_is_an_eager_one()
    every_step_draws_anew()
    inference_changes_nothing()
    split_and_merge_keep_the_state()
    an_optimizer_trains_around_it()
