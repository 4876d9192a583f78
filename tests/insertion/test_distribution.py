"""Insertion into models that are trained on several devices.

Each test runs in a separate process: devices are set before the first
tensor.
"""

import textwrap

import processes
import pytest
from models import BACKEND

# Two devices, one model with layers that are inserted outside of the scope;
# the same without either, where it is known to learn the same.
TRAINING = {
    "jax": """
        import keras, numpy as np, sys
        from keras_memel import MEmeL, insert
        from models import X, Y, numbers, sequential

        def train(distribution):
            keras.distribution.set_distribution(distribution)
            keras.utils.set_random_seed(0)
            model = insert(sequential(), "middle:3", MEmeL(late_start=1))
            model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
            return numbers(model.weights)

        devices = keras.distribution.list_devices("cpu")
        assert len(devices) == 2, devices
        two = keras.distribution.DataParallel(devices=devices)
        for a, b in zip(train(two), train(None), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        print("as on one device")
    """,
    "tensorflow": """
        import numpy as np, tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        from keras_memel import MEmeL, insert, inserted, strip
        from models import X, Y, sequential, steps

        strategy = tf.distribute.MirroredStrategy(
            ["CPU:0", "CPU:1"],
            cross_device_ops=tf.distribute.ReductionToOneDevice(),
        )
        with strategy.scope():
            model = sequential()
        before = model.get_weights()
        insert(model, "middle:3", MEmeL(axis=-1, late_start=1))
        for memel in inserted(model).values():
            assert len(memel.moving_mean.value.values) == 2, "not mirrored"
        model.fit(X, Y, batch_size=8, verbose=0)
        assert steps(model) == [2.0] * 3, steps(model)
        outputs = model.predict(X, verbose=0)
        assert np.array_equal(strip(model).predict(X, verbose=0), outputs)
        assert not np.allclose(model.get_weights()[0], before[0])
        print("as on one device")
    """,
}


@pytest.mark.skipif(
    BACKEND not in TRAINING, reason="Keras distributes on JAX and TensorFlow"
)
def test_a_model_on_two_devices_fits_with_inserted_layers():
    done = processes.run(
        *("-c", textwrap.dedent(TRAINING[BACKEND])),
        timeout=300,
        KERAS_BACKEND=BACKEND,
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    assert "as on one device" in done.stdout
