"""What `analyze` costs: time beside `predict`, and memory on a long stream.

    KERAS_BACKEND=jax python benchmarks/analyze.py [--inputs 1000000]

Two measurements, written to results/analyze_<backend>.json:

    throughput  of `analyze` over that of `predict` on the same inputs, two
                transformer blocks, for each input more, in rounds in which
                both take turns; the pass over the neurons is counted in
    memory      the growth of the peak resident memory of this process over a
                stream of a million inputs, which are made on the way
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_memel import analyze

STORE = pathlib.Path(__file__).parent / "results"
RNG = np.random.default_rng(0)


def network(width):
    inputs = keras.Input((32, width))
    hidden = inputs
    for number in range(2):
        attention = keras.layers.MultiHeadAttention(4, width // 4)
        hidden = keras.layers.Add()([hidden, attention(hidden, hidden)])
        wide = keras.layers.Dense(4 * width, "gelu", name=f"wide_{number}")
        back = keras.layers.Dense(width, name=f"back_{number}")
        hidden = keras.layers.Add()([hidden, back(wide(hidden))])
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def throughput(rounds=3, short=64, long=320):
    """The ratio for one more input: without what compilation takes."""
    model = network(192)
    x = RNG.normal(size=(long, 32, 192)).astype("float32")
    labels = RNG.integers(0, 10, long)

    def look(number):
        analyze(model, x[:number], labels[:number], ["back_*"], verbose=0)

    def predict(number):
        model.predict(x[:number], verbose=0)

    def more(function):
        return -seconds(lambda: function(short)) + seconds(
            lambda: function(long)
        )

    predict(short)
    ratios = [more(predict) / more(look) for _ in range(rounds)]
    return {
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "tokens": long * 32,
        "neurons": 384,
    }


def memory(inputs, width=32, batch=1000):
    model = keras.Sequential(
        [keras.Input((width,)), keras.layers.Dense(64, "relu", name="hidden")]
    )

    def stream(number):
        rng = np.random.default_rng(0)
        for _ in range(number // batch):
            labels = rng.integers(0, 10, batch)
            values = rng.normal(size=(batch, width)).astype("float32")
            values[:, :10] += 3 * np.eye(10, dtype="float32")[labels]
            yield values, labels

    def look(number):
        return analyze(
            model,
            stream(number),
            "targets",
            feature_names=range(10),
            verbose=0,
        )

    look(10 * batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = seconds(lambda: look(inputs))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "inputs": inputs,
        "neurons": 64,
        "growth_mb": (after - before) / 1024,
        "process_mb": after / 1024,
        "seconds": took,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    options = parser.parse_args()
    found = {
        "memory": memory(options.inputs),
        "throughput": throughput(),
        "keras": keras.__version__,
    }
    text = json.dumps(found, indent=1)
    print(text)
    name = f"analyze_{keras.config.backend()}.json"
    (STORE / name).write_text(text + "\n")
