"""Measure the cost of MEmeL by values, neurons, k and replicas.

    KERAS_BACKEND=jax python benchmarks/scaling.py [--json FILE] [--only PART]

Parts: `values` and `neurons`, the layer alone, forward and backward, minus the
same without a layer; `k`, the selections compared; `bert`, a training step of
a transformer of BERT-base's shape with the layer after its middle four blocks;
`replicas`, the message of `torch.distributed` over processes on this machine
(PyTorch only). The variants are measured in interleaved rounds, and the results
are medians. Each time is compared with that of a copy of the same values,
measured in the same rounds: the speed of memory.
"""

import argparse
import functools
import json
import math
import statistics
import time
from pathlib import Path

import keras
import numpy as np
import overhead
from keras import layers
from scipy.stats import linregress

import keras_memel
from keras_memel import MEmeL
from keras_memel import Rate
from keras_memel import TopK

BACKEND = keras.backend.backend()
VALUES = (10**4, 10**5, 10**6, 10**7, 10**8)
NEURONS = (8, 64, 768, 8192, 65536)
KS = (1, 10, 100)
REPLICAS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", choices=PARTS, nargs="*")
    args = parser.parse_args()
    rows = []
    for part in args.only or PARTS:
        rows += [
            {"backend": BACKEND, "part": part, **row}
            for row in PARTS[part](args.rounds)
        ]
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text("".join(json.dumps(row) + "\n" for row in rows))


def memel(selection):
    return MEmeL(selection, axis=-1, late_start=0)


def values(rounds):
    """Extra time against the number of values, 768 neurons."""
    shapes = [(max(1, n // 768), 768) for n in VALUES]
    rows = [time_rate(shape, rounds) for shape in shapes]
    large = [row for row in rows if row["values"] > 10**5]
    print(f"slope of log time on log values: {slope(large, 'values'):.3f}\n")
    return rows


def neurons(rounds):
    """Extra time against the number of neurons, 1e7 values."""
    shapes = [(10**7 // n, n) for n in NEURONS]
    rows = [time_rate(shape, rounds) for shape in shapes]
    print(f"slope of log time on log neurons: {slope(rows, 'neurons'):.3f}\n")
    return rows


def time_rate(shape, rounds):
    size = math.prod(shape)
    steps = {
        "none": overhead.alone(None, shape),
        "rate": overhead.alone(lambda: memel("rate"), shape),
        "batchnorm": overhead.alone(layers.BatchNormalization, shape),
        "copy": copy_of(shape),
    }
    rounds = max(5, min(20 * rounds, round(rounds * 1e7 / size)))
    times = medians(steps, rounds)
    row = {
        "values": size,
        "neurons": shape[-1],
        "rounds": rounds,
        "extra_ms": 1e3 * (times["rate"] - times["none"]),
        "batchnorm_ms": 1e3 * (times["batchnorm"] - times["none"]),
        "copy_ms": 1e3 * times["copy"],
    }
    row["ns_per_value"] = 1e6 * row["extra_ms"] / size
    row["copies"] = row["extra_ms"] / row["copy_ms"]
    show(row)
    return row


def k(rounds):
    """Extra time of the k highest of a sample against that of a rate."""
    selections = {f"TopK({k})": TopK(k) for k in KS} | {"Rate": Rate()}
    steps = {"none": overhead.alone(None, overhead.ALONE)}
    for name, selection in selections.items():
        make = functools.partial(memel, selection)
        steps[name] = overhead.alone(make, overhead.ALONE)
    times = medians(steps, 2 * rounds)
    rows = []
    for name in selections:
        extra = times[name] - times["none"]
        rows.append(
            {
                "selection": name,
                "values": math.prod(overhead.ALONE),
                "extra_ms": 1e3 * extra,
                "ratio_to_rate": extra / (times["Rate"] - times["none"]),
            }
        )
        show(rows[-1])
    return rows


def bert(rounds):
    """A training step of BERT-base's shape, batch 2, 128 tokens."""
    arms = {
        "none": None,
        "MEmeL('rate', axis=-1)": memel("rate"),
        "MEmeL()": MEmeL(late_start=0),
    }
    steps = {name: bert_step(layer) for name, layer in arms.items()}
    times = overhead.interleave(steps, rounds)
    base = statistics.median(times["none"])
    rows = []
    for name in list(arms)[1:]:
        # Round by round: the machine's moods fall out of the difference.
        pairs = zip(times[name], times["none"], strict=True)
        percent = [100 * (a / b - 1) for a, b in pairs]
        low, middle, high = np.quantile(percent, [0.25, 0.5, 0.75])
        rows.append(
            {
                "layer": name,
                "step_ms": 1e3 * base,
                "extra_percent": middle,
                "quartiles": [low, high],
                "rounds": rounds,
            }
        )
        show(rows[-1])
    return rows


def bert_step(layer, batch=2, length=128, width=768, blocks=12):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((length, width))
    x = inputs
    for number in range(blocks):
        x = Block(width, name=f"block_{number}")(x)
    outputs = layers.Dense(2)(x[:, 0])
    model = keras.Model(inputs, outputs)
    if layer:
        middle = [f"block_{n}" for n in range(blocks // 2 - 2, blocks // 2 + 2)]
        keras_memel.insert(model, middle, layer)
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, length, width)).astype("float32")
    y = rng.normal(size=(batch, 2)).astype("float32")

    def step():
        model.train_on_batch(x, y)

    return step


class Block(layers.Layer):
    """A block of a transformer, as in BERT."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(12, width // 12)
        self.wide = layers.Dense(4 * width, "gelu")
        self.narrow = layers.Dense(width)
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def build(self, shape):
        self.attention.build(shape, shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 4 * shape[-1]))
        for norm in self.norms:
            norm.build(shape)

    def call(self, x):
        x = self.norms[0](x + self.attention(x, x))
        return self.norms[1](x + self.narrow(self.wide(x)))


def replicas(rounds):
    """Measure the time of the sum over processes alone."""
    if BACKEND != "torch":
        return []
    import torch.multiprocessing

    rows = []
    for world in REPLICAS:
        for size in (768, 98304):
            queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
            torch.multiprocessing.spawn(
                measure_message, (world, size, rounds, queue), nprocs=world
            )
            rows.append(
                {
                    "replicas": world,
                    "neurons": size,
                    "bytes": 8 * (3 * size + 1) if world > 1 else 0,
                    "ms": 1e3 * queue.get(),
                }
            )
            show(rows[-1])
    return rows


def measure_message(rank, world, size, rounds, queue):
    import torch

    from keras_memel import Moments
    from keras_memel import sync

    torch.set_num_threads(1)
    store = torch.distributed.TCPStore("127.0.0.1", 29517, world, rank == 0)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=world
    )
    moments = Moments(*(torch.ones(1, size) for _ in range(3)))
    times = []
    for _ in range(10 * rounds):
        torch.distributed.barrier()
        start = time.perf_counter()
        sync.merge(moments, torch.tensor(1.0))
        times.append(time.perf_counter() - start)
    if rank == 0:
        queue.put(statistics.median(times))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def copy_of(shape):
    """A step that copies as many values."""
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    if BACKEND == "jax":
        import jax

        x = jax.numpy.asarray(x)
        copy = jax.jit(lambda x: x + 1.0)
        return lambda: void(copy(x).block_until_ready)
    if BACKEND == "torch":
        import torch

        x = torch.from_numpy(x)
        return lambda: void(x.clone)
    import tensorflow as tf

    x = tf.constant(x)
    copy = tf.function(lambda x: x + 1.0)
    return lambda: void(lambda: copy(x)[0, 0].numpy())


def void(function):
    """Calls it, and returns nothing that `interleave` takes for seconds."""
    function()


def medians(steps, rounds):
    times = overhead.interleave(steps, rounds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def slope(rows, key):
    x = [math.log(row[key]) for row in rows]
    return linregress(x, [math.log(row["extra_ms"]) for row in rows]).slope


def show(row):
    print(
        "  ".join(
            f"{name} {value:.4g}"
            if isinstance(value, float)
            else f"{name} {value}"
            for name, value in row.items()
        ),
        flush=True,
    )


PARTS = {
    "values": values,
    "neurons": neurons,
    "k": k,
    "bert": bert,
    "replicas": replicas,
}

if __name__ == "__main__":
    main()
