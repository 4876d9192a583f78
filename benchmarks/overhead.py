"""Measure the cost of a training step with MEmeL and with Keras' layers.

    KERAS_BACKEND=jax python benchmarks/overhead.py [--json FILE]

Two settings: each layer alone on `(32, 128, 768)`, forward and backward; and
after both blocks of a small transformer (256 wide, 1024 in the feed-forward
part) that `fit` trains. Rounds go through all layers in turn, so that a slow
moment of the machine falls on each of them alike; of the rounds the median is
taken, and the same with no layer at all is subtracted. Memory, on
`(128, 128, 768)`, is the largest resident size of a process that does nothing
else, or on JAX what the compiler plans, again less that without a layer.

TensorFlow is timed as `fit` runs it on the machine at hand: without XLA where
there is no accelerator. `--xla` compiles with it.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_memel import MEmeL
from keras_memel import TopK

LAYERS = {
    "none": None,
    "BatchNormalization()": lambda: layers.BatchNormalization(),
    "Dropout(0.1)": lambda: layers.Dropout(0.1),
    "MEmeL()": lambda: MEmeL(late_start=0),
    "MEmeL('rate', axis=-1)": lambda: MEmeL("rate", axis=-1, late_start=0),
    "MEmeL('threshold', axis=-1)": lambda: MEmeL(
        "threshold", axis=-1, late_start=0
    ),
    "MEmeL(TopK(100))": lambda: MEmeL(TopK(100), late_start=0),
}


class Nothing(layers.Layer):
    """Replace a layer without computation."""

    def call(self, inputs, training=None):
        return inputs


ALONE = (32, 128, 768)
BIG = (128, 128, 768)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--xla", action="store_true", help="TensorFlow only")
    parser.add_argument("--only", choices=("alone", "transformer"))
    parser.add_argument("--memory-of", choices=LAYERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        print(peak_memory(args.memory_of, args.xla))
        return

    rows = []
    if args.only != "transformer":
        steps = {
            name: alone(make, ALONE, args.xla) for name, make in LAYERS.items()
        }
        memory = {name: measure_memory(name, args.xla) for name in LAYERS}
        rows += table("layer alone", ALONE, steps, args.rounds, memory)
    if args.only != "alone":
        steps = {name: transformer(name, args.xla) for name in LAYERS}
        rows += table("transformer", (16, 128, 256), steps, args.rounds, {})
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def table(setting, shape, steps, rounds, memory):
    """Print and return one row per layer."""
    times = interleave(steps, rounds)
    base = statistics.median(times["none"])
    extra = {n: statistics.median(t) - base for n, t in times.items()}
    backend = keras.backend.backend()
    print(f"\n{setting} {shape}, {backend}: {1e3 * base:.1f} ms without")
    print(
        f"{'':29}{'extra ms':>9}{'extra %':>9}{'/ BN':>7}{'/ Dropout':>10}"
        f"{'extra MB':>10}"
    )
    rows = []
    for name in list(LAYERS)[1:]:
        row = {
            "backend": backend,
            "setting": setting,
            "layer": name,
            "shape": list(shape),
            "base_ms": round(1e3 * base, 3),
            "extra_ms": round(1e3 * extra[name], 3),
            "extra_percent": round(100 * extra[name] / base, 2),
            "ratio_to_batchnorm": round(
                extra[name] / extra["BatchNormalization()"], 3
            ),
            "ratio_to_dropout": round(extra[name] / extra["Dropout(0.1)"], 3),
            "peak_mb": memory[name] - memory["none"] if memory else None,
            "rounds": rounds,
            "versions": {
                package: version(package) for package in ("keras", backend)
            },
        }
        rows.append(row)
        peak = "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        print(
            f"{name:29}{row['extra_ms']:9.2f}{row['extra_percent']:9.1f}"
            f"{row['ratio_to_batchnorm']:7.2f}{row['ratio_to_dropout']:10.2f}"
            f"{peak:>10}"
        )
    return rows


def interleave(steps, rounds):
    """Return the seconds of each round, by step; a step may return its own."""
    for step in steps.values():  # trace and warm up
        for _ in range(3):
            step()
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            seconds = step()
            times[name].append(seconds or time.perf_counter() - start)
    return times


def alone(make, shape, xla=False):
    """Return a step of one layer: outputs, gradient of the inputs, new state.

    `make` makes the layer; `None` means no layer.
    """
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor(rng.normal(size=shape).astype("float32"))
    r = ops.convert_to_tensor(rng.normal(size=shape).astype("float32"))
    layer = make() if make else Nothing()
    layer.build(shape)
    return {"jax": alone_jax, "tensorflow": alone_tf, "torch": alone_torch}[
        keras.backend.backend()
    ](layer, x, r, xla)


def alone_jax(layer, x, r, xla):
    import jax

    def loss(x, trainable, state):
        y, state = layer.stateless_call(trainable, state, x, training=True)
        return (y * r).sum(), state

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    trainable = [v.value for v in layer.trainable_variables]
    state = [v.value for v in layer.non_trainable_variables]

    def step():
        nonlocal state
        gradients, state = gradient(x, trainable, state)
        jax.block_until_ready((gradients, state))

    step.compiled = lambda: gradient.lower(x, trainable, state).compile()
    return step


def alone_tf(layer, x, r, xla):
    import tensorflow as tf

    @tf.function(jit_compile=xla)
    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x, training=True) * r)
        return tape.gradient(loss, [x, *layer.trainable_variables])

    def step():
        gradient()[0].numpy()  # waits for it

    return step


def alone_torch(layer, x, r, xla):
    x.requires_grad_()

    def step():
        x.grad = None
        for v in layer.trainable_variables:
            v.value.grad = None
        (layer(x, training=True) * r).sum().backward()

    return step


def transformer(name, xla=False, steps=4):
    """Return steps of `fit` on two blocks, with the layer after each."""
    inputs = keras.Input((128, 256))
    x = inputs
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 64)(y, y)
        y = layers.LayerNormalization()(x)
        x = x + layers.Dense(256)(layers.Dense(1024, "gelu")(y))
        if LAYERS[name]:
            x = LAYERS[name]()(x)
    outputs = layers.Dense(2)(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", jit_compile=True if xla else "auto")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16 * steps, 128, 256)).astype("float32")
    y = rng.normal(size=(16 * steps, 2)).astype("float32")

    def step():  # per step of `fit`, start and end of an epoch included
        start = time.perf_counter()
        model.fit(x, y, batch_size=16, verbose=0, shuffle=False)
        return (time.perf_counter() - start) / steps

    return step


def peak_memory(name, xla):
    step = alone(LAYERS[name], BIG, xla)
    if keras.backend.backend() == "jax":  # the compiler knows
        memory = step.compiled().memory_analysis()
        return (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
        ) / 2**20
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_memory(name, xla):
    command = [sys.executable, __file__, "--memory-of", name]
    out = subprocess.run(
        command + ["--xla"] * xla,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ,
    ).stdout
    return float(out.split()[-1])


if __name__ == "__main__":
    main()
