"""Two replicas of a MirroredStrategy: python tensorflow_replicas.py FOLDER."""

import os
import pathlib
import sys

# Its convolutions of an empty batch have the shape of their input.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import scenario
import tensorflow as tf

import keras_memel

# Each is compiled for every size of a part on each replica, so not all.
LAYERS = {
    name: scenario.LAYERS[name] for name in ("top_1", "rate_current", "penalty")
}
LAYERS |= scenario.SCANS
CPU = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    CPU, [tf.config.LogicalDeviceConfiguration()] * 2
)
# A thread that waits for a compiler must not keep the other replica waiting.
tf.config.threading.set_inter_op_parallelism_threads(8)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def local(value):
    return [np.asarray(v) for v in STRATEGY.experimental_local_results(value)]


def split(array, step):
    return STRATEGY.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            scenario.shared(array, step, context.replica_id_in_sync_group)
        )
    )


def step_function(layer):
    """Outputs and the gradients of the mean of the replicas' losses."""

    def replica(x, r, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=True)
            loss = 2 * tf.reduce_sum(y * r) + sum(layer.losses)
        return y, tape.gradient(loss, x) / 2

    @tf.function(reduce_retracing=True)
    def step(x, r, mask):
        return STRATEGY.run(replica, (x, r, mask))

    return step


def run_layer(make):
    with STRATEGY.scope():
        layer = make()
        layer.build((None, scenario.TIME, scenario.WIDTH))
    x, r, mask = scenario.values()
    step = step_function(layer)
    outputs = []
    for i in range(scenario.STEPS):
        y, g = step(*(split(array, i) for array in (x, r, mask)))
        outputs.append((np.concatenate(local(y)), np.concatenate(local(g))))
    return layer, outputs


def copies(layer):
    return [
        scenario.state(layer.weights, lambda value, k=k: local(value)[k])
        for k in (0, 1)
    ]


def main(folder):
    replicas = ({}, {})
    for name, make in LAYERS.items():
        layer, outputs = run_layer(make)
        for k, found in enumerate(copies(layer)):
            replicas[k][name] = found
        y, g = zip(*outputs)
        replicas[0][name] |= {"y": np.stack(y), "g": np.stack(g)}
    with STRATEGY.scope():
        layer = scenario.far_layer()
        layer.build((None, scenario.WIDTH))
    far = STRATEGY.experimental_distribute_values_from_function(
        lambda context: tf.constant(
            np.split(scenario.far_values(), 2)[context.replica_id_in_sync_group]
        )
    )

    @tf.function(autograph=False)
    def first_step(x):
        return STRATEGY.run(layer, (x,), {"training": True})

    first_step(far)
    for k, found in enumerate(copies(layer)):
        replicas[k]["far"] = found
    with STRATEGY.scope():
        model = scenario.model()
    x, y = scenario.training_data()
    x, y = (
        a.reshape(scenario.STEPS, scenario.BATCH, *a.shape[1:]) for a in (x, y)
    )

    def parts():
        for step in range(scenario.STEPS):
            for k in (0, 1):
                yield tuple(scenario.shared(a, step, k) for a in (x, y))

    spec = tuple(tf.TensorSpec((None, *a.shape[2:])) for a in (x, y))
    data = STRATEGY.distribute_datasets_from_function(
        lambda _: tf.data.Dataset.from_generator(parts, output_signature=spec)
    )
    model.fit(data, steps_per_epoch=scenario.STEPS, shuffle=False, verbose=0)
    for k, found in enumerate(copies(model)):
        replicas[k]["fit"] = found
    report = keras_memel.analyze(model, x[0], layers="dense", verbose=0)
    layer = report.layers["dense"]
    for replica in replicas:
        replica["analyze"] = {
            name: getattr(layer, name) for name in scenario.REPORTED
        }
    for k in (0, 1):
        scenario.save(folder / f"rank_{k}.npz", replicas[k])


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
