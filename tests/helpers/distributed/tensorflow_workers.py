"""A worker of two, of a MultiWorkerMirroredStrategy on the loopback address:

python tensorflow_workers.py FOLDER RANK PORT PORT
"""

import json
import os
import pathlib
import sys

os.environ["TF_CONFIG"] = json.dumps(
    {
        "cluster": {"worker": [f"127.0.0.1:{port}" for port in sys.argv[3:]]},
        "task": {"type": "worker", "index": int(sys.argv[2])},
    }
)
# Its convolutions of an empty batch have the shape of their input.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import scenario
import tensorflow as tf

RANK = int(sys.argv[2])
STRATEGY = tf.distribute.MultiWorkerMirroredStrategy()


def run_layer(make):
    """Outputs and gradients of this worker's part of each step."""
    with STRATEGY.scope():
        layer = make()
        layer.build((None, scenario.TIME, scenario.WIDTH))

    def replica(x, r, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask, training=True)
            loss = 2 * tf.reduce_sum(y * r) + sum(layer.losses)
        return y, tape.gradient(loss, x) / 2

    @tf.function(reduce_retracing=True)
    def step(x, r, mask):
        return STRATEGY.run(replica, (x, r, mask))

    outputs = []
    for number in range(scenario.WORKER_STEPS):
        x, r, mask = (
            tf.constant(scenario.shared(array, number, RANK))
            for array in scenario.values()
        )
        outputs.append([found.numpy() for found in step(x, r, mask)])
    y, g = zip(*outputs)
    return {
        **scenario.state(layer.weights, lambda value: np.asarray(value)),
        "y": np.concatenate(y),
        "g": np.concatenate(g),
    }


def main(folder):
    # The `fit` of Keras takes no batch of such a strategy, with any layer.
    results = {"penalty": run_layer(scenario.LAYERS["penalty"])}
    scenario.save(folder / f"rank_{RANK}.npz", results)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
