"""Layers, values and a model for one device and for many.

50 steps of 8 samples. Two replicas share them as `PARTS` says, four devices
have two each. Some steps leave a replica without a sample, or with masked
ones only; in two, one replica sees a value that is not finite.
"""

import keras
import numpy as np

from keras_memel import ConvGRU2D
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import TopK

STEPS, BATCH, TIME, WIDTH = 50, 8, 4, 6
# Worker processes run fewer steps, because they wait for each other in each.
WORKER_STEPS = 8
PARTS = [{2: (8, 0), 6: (0, 8)}.get(step % 7, (4, 4)) for step in range(STEPS)]

LAYERS = {
    "top_1": lambda: MEmeL(late_start=3),
    "top_3_current": lambda: MEmeL(
        TopK(3), axis=-1, late_start=3, score_with="current"
    ),
    "rate_current": lambda: MEmeL(
        Rate(0.1), forget_steps=None, late_start=3, score_with="current"
    ),
    "threshold": lambda: MEmeL(Threshold(4.0), late_start=3),
    "penalty": lambda: MEmeL(Rate(0.1), LogPenalty(0.1), axis=-1, late_start=3),
}
# Its selection depends on the shape of the local values, but its statistics do
# not.
BLIND = {"random": lambda: MEmeL(Random(0.1, seed=1), axis=-1, late_start=3)}


class Scan(keras.layers.Layer):
    """A MEmeL inside a scan, of the same values as frames of 2 x 3 pixels."""

    def __init__(self):
        super().__init__()
        self.scan = ConvGRU2D(
            1,
            1,
            kernel_initializer="ones",
            recurrent_initializer="ones",
            return_sequences=True,
            memel=MEmeL(Rate(0.1), late_start=3),
        )
        # Only the weights of the MEmeL change.
        self.scan.cell.trainable = False
        self.supports_masking = True

    def build(self, shape):
        self.scan.build((None, shape[1], 2, 3, 1))

    def call(self, x, mask=None, training=None):
        frames = keras.ops.reshape(x, (-1, TIME, 2, 3, 1))
        states = self.scan(frames, mask=mask, training=training)
        return keras.ops.reshape(states, (-1, TIME, WIDTH))


SCANS = {"scan": Scan}
# Each replica of these layers keeps statistics of its part only.
ALONE = {name: LAYERS[name] for name in ("rate_current", "penalty")} | SCANS


def values():
    """Inputs, cotangents and masks, `(steps, batch, ...)`."""
    rng = np.random.default_rng(0)
    shape = (STEPS, BATCH, TIME, WIDTH)
    # Heavy tails, means from -20 to 20 deviations, a drift.
    x = rng.standard_t(4, shape) + np.linspace(-20, 20, WIDTH)
    x += 0.1 * np.arange(STEPS)[:, None, None, None]
    mask = np.arange(TIME) < rng.integers(1, TIME + 1, (STEPS, BATCH, 1))
    mask[3::7, : BATCH // 2] = False
    mask[5::7, BATCH // 2 :] = False
    mask[[20, 33]] = True
    x[20, 1, 0, 2] = np.nan
    x[33, 6, 1, 1] = np.inf
    r = rng.normal(size=shape)
    return x.astype("float32"), r.astype("float32"), mask


def shared(array, step, replica):
    """The part of a step that one of two replicas has."""
    first, _ = PARTS[step]
    return array[step, :first] if replica == 0 else array[step, first:]


def far_values():
    """A first step of values with mean 1e4 and deviation 1, in halves whose
    means differ."""
    rng = np.random.default_rng(1)
    x = rng.normal(1e4, 1.0, (64, WIDTH))
    x[32:] += 1.0
    return x.astype("float32")


def far_layer():
    return MEmeL("rate", axis=-1, late_start=0)


def training_data():
    """Inputs, zero where masked, and targets: `(steps * batch, ...)`."""
    x, y, mask = values()
    x = np.where(mask[..., None] & np.isfinite(x), x / 10, 0)
    shape = (STEPS * BATCH, TIME)
    return x.astype("float32").reshape(*shape, -1), y[..., :2].reshape(
        *shape, 2
    )


def model(loss_weight=1.0):
    """Compiled; the loss is the weighted sum over all samples."""
    keras.utils.set_random_seed(0)
    found = keras.Sequential(
        [
            keras.Input((TIME, WIDTH)),
            keras.layers.Masking(),
            keras.layers.Dense(6, name="dense"),
            MEmeL(TopK(2), late_start=3, name="memel"),
            keras.layers.Dense(6, "tanh", name="dense_1"),
            MEmeL(
                Rate(0.1),
                LogPenalty(0.01),
                axis=-1,
                late_start=3,
                score_with="current",
                name="memel_1",
            ),
            keras.layers.Dense(2, name="dense_2"),
        ]
    )
    found.compile(
        keras.optimizers.SGD(1e-3),
        keras.losses.MeanSquaredError(reduction="sum"),
        loss_weights=[loss_weight],
        jit_compile=keras.backend.backend() == "jax",
    )
    return found


def state(weights, read=keras.ops.convert_to_numpy):
    """Every weight by its name."""
    return {
        "/".join(weight.path.split("/")[-2:]): read(weight.value)
        for weight in weights
    }


# Attributes of the report of `analyze` to compare.
REPORTED = ("count", "mean", "variance", "top_input")


def save(file, results):
    """`results[a][b]` as the array `a:b`."""
    np.savez(
        file,
        **{
            f"{a}:{b}": array
            for a, arrays in results.items()
            for b, array in arrays.items()
        },
    )


def load(file):
    results = {}
    with np.load(file) as arrays:
        for name in arrays:
            a, b = name.split(":")
            results.setdefault(a, {})[b] = arrays[name]
    return results
