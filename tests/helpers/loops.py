"""A training loop of a whole model, written by hand for each backend.

`train(model, optimizer, batches)` minimizes the mean square error, plus what
the layers add to the loss, and leaves weights and states advanced.
"""

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def train(model, optimizer, batches):
    optimizer.build(model.trainable_variables)
    loop = {"jax": _jax, "tensorflow": _tf, "torch": _torch}[BACKEND]
    loop(model, optimizer, batches)


def _jax(model, optimizer, batches):
    import jax

    def loss(trainable, non_trainable, x, y):
        found, non_trainable, losses = model.stateless_call(
            trainable, non_trainable, x, training=True, return_losses=True
        )
        return ops.mean(ops.square(found - y)) + sum(losses), non_trainable

    @jax.jit
    def step(trainable, non_trainable, slots, x, y):
        gradients, non_trainable = jax.grad(loss, has_aux=True)(
            trainable, non_trainable, x, y
        )
        trainable, slots = optimizer.stateless_apply(
            slots, gradients, trainable
        )
        return trainable, non_trainable, slots

    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        optimizer.variables,
    )
    values = [[v.value for v in group] for group in variables]
    for x, y in batches:
        values = step(*values, x, y)
    for group, new in zip(variables, values, strict=True):
        for variable, value in zip(group, new, strict=True):
            variable.assign(value)


def _tf(model, optimizer, batches):
    import tensorflow as tf

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            found = model(x, training=True)
            loss = tf.reduce_mean(tf.square(found - y))
            if model.losses:
                loss += tf.add_n(model.losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    for x, y in batches:
        step(tf.constant(x), tf.constant(y))


def _torch(model, optimizer, batches):
    import torch

    for x, y in batches:
        model.zero_grad()
        found = model(torch.as_tensor(x), training=True)
        loss = (found - torch.as_tensor(y)).square().mean() + sum(model.losses)
        loss.backward()
        with torch.no_grad():
            optimizer.apply(
                [v.value.grad for v in model.trainable_weights],
                model.trainable_weights,
            )


def batches_of(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def weights(model):
    return [np.array(w) for w in model.get_weights()]
