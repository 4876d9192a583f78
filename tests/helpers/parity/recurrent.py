"""Makes `recurrent_<backend>.keras` for `test_recurrent_memel_training.py`.

A ConvGRU2D with a MEmeL, after three training steps on <backend>. To make them
again, from the root of the repository, in an environment for each backend:

    KERAS_BACKEND=jax        python tests/helpers/parity/recurrent.py
    KERAS_BACKEND=tensorflow python tests/helpers/parity/recurrent.py
    KERAS_BACKEND=torch      python tests/helpers/parity/recurrent.py
"""

import sys
from pathlib import Path

import keras
import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parent), str(HERE)]

from make import BACKENDS  # noqa: E402, F401
from make import compress  # noqa: E402
from steps import step  # noqa: E402

from keras_memel import ConvGRU2D  # noqa: E402
from keras_memel import MEmeL  # noqa: E402
from keras_memel import Rate  # noqa: E402

SHAPE = (2, 3, 4, 4, 1)
FILTERS, STEPS = 2, 3


def file(backend):
    return HERE / f"recurrent_{backend}.keras"


def network():
    layer = ConvGRU2D(
        FILTERS,
        3,
        padding="same",
        return_sequences=True,
        memel=MEmeL(Rate(0.3), axis=-1, late_start=1, name="memel"),
        name="conv_gru2d",
    )
    model = keras.Sequential([keras.Input(SHAPE[1:]), layer], name="network")
    rng = np.random.default_rng(0)
    for weight in layer.trainable_weights:
        weight.assign(rng.normal(0, 0.4, weight.shape).astype("float32"))
    return model


def data():
    """Frames and cotangents of `STEPS` training steps, and of one more."""
    rng = np.random.default_rng(1)
    x = rng.standard_t(4, size=(STEPS + 1, *SHAPE)).astype("float32")
    r = rng.normal(size=(STEPS + 1, *SHAPE[:-1], FILTERS)).astype("float32")
    return list(zip(x, r, strict=True))


if __name__ == "__main__":
    model = network()
    for x, r in data()[:STEPS]:
        step(model, x, r)
    path = file(keras.backend.backend())
    model.save(path)
    compress(path)
