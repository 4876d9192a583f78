"""MEmeL on many devices with TensorFlow.

    python examples/distributed/tensorflow_replicas.py

`tf.distribute.MirroredStrategy` keeps a copy of the model on each GPU; without
GPUs this machine plays two devices. In each training step the copies of MEmeL
add up what they saw, so that all hold the statistics of the whole batch.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--dry-run", action="store_true", help="print the plan, and stop"
)
if parser.parse_args().dry_run:
    print("devices   all GPUs, or two devices on the CPU")
    print("sizes     1,797 digits, 5 epochs, batches of 64, seed 0")
    print("files     none")
    raise SystemExit

import keras
import sklearn.datasets
import tensorflow as tf

from keras_memel import MEmeL

kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
if kind == "CPU":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * 2,
    )
devices = [device.name for device in tf.config.list_logical_devices(kind)]
strategy = tf.distribute.MirroredStrategy(devices)

keras.utils.set_random_seed(0)
images, labels = sklearn.datasets.load_digits(return_X_y=True)
images = images.astype("float32") / 16

with strategy.scope():  # models are made, and compiled, inside
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
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
history = model.fit(images, labels, batch_size=64, epochs=5, verbose=0)

print(f"{len(devices)} devices: {', '.join(devices)}")
print(f"accuracy {history.history['accuracy'][-1]:.3f}")
print(f"{float(memel.inhibited_rate):.2%} of the last batch inhibited")
print(f"samples seen by each neuron: {int(memel.count.numpy().min()):,}")
copies = strategy.experimental_local_results(memel.threshold.value)
for device, copy in zip(devices, copies):
    print(f"{device}: threshold {float(copy):.6f}")
