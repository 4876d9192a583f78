"""Measure the time of `analyze` vs. `predict`, and memory on a long stream.

    KERAS_BACKEND=jax python benchmarks/analyze.py [--inputs 1000000]

Two measurements, written to results/analyze_<backend>.json:

    throughput  of `analyze` over that of `predict`: one call of each on the
                same inputs, from the third batch to the end of the call. That
                leaves out what both compile, and counts the pass over the
                neurons. They take turns for some rounds, and the quickest of
                each are compared: on the clock, and in seconds of processors,
                which give no credit for work that overlaps. `sampled` is
                `analyze` with a tenth of the values put in order.
    memory      the growth of the peak resident memory of this process over a
                stream of a million inputs, which are made on the way

Throughput is that of two transformer blocks, looked at where each ends: what a
block computes for each of its values grows with its width, and what `analyze`
does with a value does not. So the ratio holds for any number of such blocks.

    bert    width 768, 12 heads, 128 tokens: a block of BERT-base
    small   width 192, 4 heads, 32 tokens: a hard case
"""

import argparse
import json
import os
import pathlib
import resource
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from keras_memel import analyze

STORE = pathlib.Path(__file__).parent / "results"
RNG = np.random.default_rng(0)
# Width, heads, tokens, sequences per batch, batches
SHAPES = {
    "bert": (768, 12, 128, 8, 12),
    "small": (192, 4, 32, 32, 32),
}
SKIPPED = 2


def network(width, heads, tokens):
    inputs = keras.Input((tokens, width))
    hidden = inputs
    for number in range(2):
        attention = keras.layers.MultiHeadAttention(heads, width // heads)
        hidden = keras.layers.Add()([hidden, attention(hidden, hidden)])
        wide = keras.layers.Dense(4 * width, "gelu")
        back = keras.layers.Dense(width)
        hidden = keras.layers.LayerNormalization(name=f"block_{number}")(
            keras.layers.Add()([hidden, back(wide(hidden))])
        )
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(inputs, keras.layers.Dense(2)(pooled))


def clocks():
    return np.array([time.perf_counter(), time.process_time()])


def seconds(function, x, labels, batch):
    """Return wall and processor time, from the third batch to the end."""
    began = []

    def stream():
        for i in range(0, len(x), batch):
            began.append(clocks())
            yield x[i : i + batch], labels[i : i + batch]

    function(stream())
    return clocks() - began[SKIPPED]


def throughput(shape, rounds):
    width, heads, tokens, batch, batches = SHAPES[shape]
    model = network(width, heads, tokens)
    x = RNG.normal(size=(batch * batches, tokens, width)).astype("float32")
    labels = RNG.integers(0, 10, len(x))

    def look(stream, sample=None):
        analyze(
            model,
            stream,
            "targets",
            "block_*",
            sample=sample,
            label_names=range(10),
            verbose=0,
        )

    def sampled(stream):
        look(stream, len(x) * tokens // 10)

    def predict(stream):
        model.predict(stream, steps=batches, verbose=0)

    took = [
        [seconds(call, x, labels, batch) for call in (predict, look, sampled)]
        for _ in range(rounds)
    ]
    # Use the fastest round of each: other load only adds time.
    plain, *ours = np.min(took, axis=0)
    (clock, processors), (sampled_clock, _) = plain / ours
    predicted, looked, sampled_few = np.transpose(took)[0].round(2).tolist()
    return {
        "ratio": float(clock),
        "processors": float(processors),
        "sampled_ratio": float(sampled_clock),
        "predict_seconds": predicted,
        "analyze_seconds": looked,
        "sampled_seconds": sampled_few,
        "width": width,
        "tokens": tokens * batch * (batches - SKIPPED),
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
            label_names=range(10),
            verbose=0,
        )

    look(10 * batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    look(inputs)
    took = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "inputs": inputs,
        "neurons": 64,
        "growth_mb": (after - before) / 1024,
        "process_mb": after / 1024,
        "seconds": took,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    # Measure memory first, because its peak never falls.
    found = {"memory": memory(options.inputs)}
    print(found)
    for shape in SHAPES:
        found[shape] = throughput(shape, options.rounds)
        print(shape, found[shape], flush=True)
    found["keras"] = keras.__version__
    found["processors"] = len(os.sched_getaffinity(0))
    name = f"analyze_{keras.config.backend()}.json"
    (STORE / name).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
