"""MEmeL on many devices with JAX.

    python examples/distributed/jax_devices.py

`keras.distribution` spreads each batch over all devices; without GPUs or TPUs
this machine plays four. Nothing else changes: the program that JAX compiles
is one for all devices, and its statistics are those of the whole batch.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=4")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--dry-run", action="store_true", help="print the plan, and stop"
)
if parser.parse_args().dry_run:
    print("devices   JAX devices, or four on the CPU")
    print("sizes     1,797 digits, 5 epochs, batches of 64, seed 0")
    print("files     none")
    raise SystemExit

import keras
import numpy as np
import sklearn.datasets

from keras_memel import MEmeL

keras.utils.set_random_seed(0)
devices = keras.distribution.list_devices()
keras.distribution.set_distribution(
    keras.distribution.DataParallel(devices=devices)
)
images, labels = sklearn.datasets.load_digits(return_X_y=True)
# Every device gets as many samples as any other.
images, labels = images[:1792].astype("float32") / 16, labels[:1792]

memel = MEmeL("rate", axis=-1)
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(256),
        memel,
        keras.layers.ReLU(),
        keras.layers.Dense(10, "softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
history = model.fit(images, labels, batch_size=64, epochs=5, verbose=0)

print(f"{len(devices)} devices: {', '.join(devices)}")
print(f"accuracy {history.history['accuracy'][-1]:.3f}")
print(f"{float(memel.inhibited_rate):.2%} of the last batch inhibited")
print(f"samples seen by each neuron: {int(np.min(memel.count)):,}")
for shard in memel.threshold.value.addressable_shards:
    print(f"{shard.device}: threshold {float(shard.data):.6f}")
