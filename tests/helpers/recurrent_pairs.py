"""A ConvGRU2D beside its oracle: built alike, called alike, compared."""

from functools import partial

import numpy as np
from convgru_oracle import ConvGRU
from keras import ops
from steps import BACKEND
from steps import compiled_step
from steps import step

from keras_memel import ConvGRU2D

BATCH, TIME, ROWS, COLUMNS, CHANNELS, FILTERS = 3, 4, 5, 6, 2, 3
SHAPE = (BATCH, TIME, ROWS, COLUMNS, CHANNELS)
MASK = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]], bool)
# Arguments that the oracle has under the same names.
SHARED = (
    "strides",
    "padding",
    "dilation_rate",
    "activation",
    "recurrent_activation",
    "reset_after",
    "go_backwards",
)


def numpy(x):
    return ops.convert_to_numpy(x)


def build(shape=SHAPE, draw=0, **settings):
    """A layer, with weights that are not 0, and its oracle."""
    settings = {"filters": FILTERS, "kernel_size": 3, **settings}
    layer = ConvGRU2D(**settings)
    layer.build(shape)
    rng = np.random.default_rng(draw)
    weights = [rng.normal(0, 0.25, w.shape) for w in layer.trainable_weights]
    for weight, value in zip(layer.trainable_weights, weights, strict=True):
        weight.assign(value.astype("float32"))
    config = {k: v for k, v in settings.items() if k in SHARED}
    for name in ("strides", "dilation_rate"):
        if isinstance(config.get(name), int):
            config[name] = (config[name],) * 2
    values = [numpy(w.value) for w in layer.trainable_weights]
    return layer, ConvGRU(*values, **config)


def check(layer, oracle, shape=SHAPE, mask=None, seed=1, eager=False, **call):
    """One call of both: outputs and gradients by the inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=shape).astype("float32")
    first = layer.data_format == "channels_first"
    last_x = np.moveaxis(x, 2, -1) if first else x
    states = oracle.forward(last_x, mask=mask, **call)
    expected = states if layer.return_sequences else states[:, -1]
    r = rng.normal(size=expected.shape)
    dstates = np.zeros(states.shape)
    if layer.return_sequences:
        dstates[...] = r
    else:
        dstates[:, -1] = r
    dx, _, _ = oracle.backward(dstates, last_x.shape)
    if first:
        expected, r = np.moveaxis(expected, -1, -3), np.moveaxis(r, -1, -3)
        dx = np.moveaxis(dx, -1, 2)
    run = partial(step, layer)
    if BACKEND == "jax" and not eager:  # one compilation in place of many
        run = compiled_step(layer)
    y, gradient = run(x, r.astype("float32"), mask)
    assert y.shape == tuple(layer.compute_output_shape(x.shape))
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(gradient, dx, rtol=1e-4, atol=1e-5)
