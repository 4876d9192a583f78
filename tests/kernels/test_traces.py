"""On TensorFlow a layer is traced once for batches of all sizes."""

import keras
import numpy as np
import pytest

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import kernels

pytestmark = pytest.mark.skipif(
    keras.config.backend() != "tensorflow", reason="of TensorFlow"
)


@pytest.mark.parametrize("selection", ["rate", "top_k"])
def test_a_last_partial_batch_is_not_traced_again(selection, monkeypatch):
    traced = []
    fused = kernels.fused

    def counted(function):
        def counting(*arguments):
            traced.append(arguments[0].shape)
            return function(*arguments)

        return fused(counting)

    monkeypatch.setattr(kernels, "fused", counted)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, "relu", name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    insert(model, "hidden", MEmeL(selection, axis=-1, late_start=0))
    x = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
    # Batches of 32, and one of 4. Two functions: statistics and inhibition.
    model.fit(x, x[:, :1], batch_size=32, epochs=2, verbose=0)
    assert [tuple(shape) for shape in traced] == [(None, 4), (None, 4)]
    traced.clear()
    model.evaluate(x, x[:, :1], batch_size=32, verbose=0)
    model.predict(x, batch_size=32, verbose=0)
    assert not traced
