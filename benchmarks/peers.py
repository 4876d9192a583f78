"""Compare MEmeL with BatchNormalization, Dropout and the limit of memory.

    KERAS_BACKEND=jax python benchmarks/peers.py [--rounds 30] [--json FILE]

Time a training step of one layer, forward and backward, on tokens, images and
vectors, minus that of the same step without a layer. All layers and a copy of
the same values take turns in each round; medians are compared. The limit is
2.125 copies: values read and written forward, the gradient and one byte of mask
read and one gradient written backward. The peer is the faster of
BatchNormalization and Dropout.
"""

import argparse
import importlib.metadata
import json
import pathlib
import statistics

import keras
import overhead
import scaling

from keras_memel import MEmeL
from keras_memel import TopK

SHAPES = {
    "tokens": (32, 128, 768),
    "images": (16, 56, 56, 128),
    "vectors": (64, 4096),
}
LAYERS = {
    "BatchNormalization()": lambda: keras.layers.BatchNormalization(),
    "Dropout(0.1)": lambda: keras.layers.Dropout(0.1),
    "MEmeL()": lambda: MEmeL(late_start=0),
    "rate": lambda: MEmeL("rate", axis=-1, late_start=0),
    "TopK(10)": lambda: MEmeL(TopK(10), axis=-1, late_start=0),
    "TopK(100)": lambda: MEmeL(TopK(100), axis=-1, late_start=0),
}
COPIES = 2.125


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=pathlib.Path, help="write the rows here")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    rows = []
    for name, shape in SHAPES.items():
        steps = {"none": overhead.alone(None, shape)}
        steps |= {n: overhead.alone(make, shape) for n, make in LAYERS.items()}
        steps["copy"] = scaling.copy_of(shape)
        times = overhead.interleave(steps, options.rounds)
        rows += ratios(name, shape, times)
    backend = keras.backend.backend()
    for row in rows:
        row |= {
            "backend": backend,
            "rounds": options.rounds,
            "versions": {
                package: importlib.metadata.version(package)
                for package in ("keras", backend)
            },
        }
        print(
            f"{row['inputs']:8}{row['layer']:22}{row['extra_ms']:8.2f} ms"
            f"{row['to_peer']:8.2f} peers{row['to_limit']:8.2f} limits"
            f"{row['to_rate']:8.2f} rates"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def ratios(inputs, shape, times):
    """Return a row per layer from the seconds of each round.

    times: dictionary of lists, with "none" and "copy" beside `LAYERS`.
    """
    middle = {
        name: statistics.median(seconds) for name, seconds in times.items()
    }
    extra = {name: middle[name] - middle["none"] for name in LAYERS}
    peer = min(extra["BatchNormalization()"], extra["Dropout(0.1)"])
    return [
        {
            "inputs": inputs,
            "shape": list(shape),
            "layer": name,
            "extra_ms": round(1e3 * seconds, 4),
            "to_peer": round(seconds / peer, 3),
            "to_limit": round(seconds / (COPIES * middle["copy"]), 3),
            "to_rate": round(seconds / extra["rate"], 3),
        }
        for name, seconds in extra.items()
    ]


if __name__ == "__main__":
    main()
