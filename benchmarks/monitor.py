"""Measure the time that MonosemanticityMonitor adds to training.

    KERAS_BACKEND=jax python benchmarks/monitor.py [--rounds 8]

A small transformer with a MEmeL after both blocks is trained for an epoch,
alternately with and without the monitor. results/monitor_<backend>.json
contains medians over rounds:

    own      seconds in the monitor's hooks, in % of the epoch
    added    additional seconds of the epoch with the monitor, in % of the one
             without, as wall and processor time: the time of the hooks, and
             the waits that they cause. The interval is that of the median
             (95 %, by order statistics).

The monitor reads once per epoch, so its cost does not depend on the length of
the epoch. The 100 steps here are few.
"""

import argparse
import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from scipy import stats

from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor

STORE = pathlib.Path(__file__).parent / "results"
RNG = np.random.default_rng(0)
BATCH, LENGTH, WIDTH, STEPS = 8, 64, 128, 100


def network():
    inputs = keras.Input((LENGTH, WIDTH))
    hidden = inputs
    for _ in range(2):
        attention = keras.layers.MultiHeadAttention(4, WIDTH // 4)
        hidden = keras.layers.Add()([hidden, attention(hidden, hidden)])
        wide = keras.layers.Dense(4 * WIDTH, "gelu")(hidden)
        hidden = keras.layers.Add()([hidden, keras.layers.Dense(WIDTH)(wide)])
        hidden = MEmeL()(hidden)
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2)(pooled))
    model.compile(
        keras.optimizers.Adam(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


class Timed(MonosemanticityMonitor):
    """The monitor, with a watch on all of its hooks."""

    def __init__(self):
        super().__init__()
        self.own = 0.0
        for name in ("on_train_begin", "on_epoch_end", "on_train_end"):
            setattr(self, name, self._timed(getattr(self, name)))

    def _timed(self, hook):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            hook(*args, **kwargs)
            self.own += time.perf_counter() - start

        return timed


def clocks():
    return np.array([time.perf_counter(), time.process_time()])


def interval(values):
    """Return an interval that contains the median with at least 95 %."""
    ordered = np.sort(values)
    cut = int(stats.binom.ppf(0.025, len(ordered), 0.5))
    cut = max(cut - 1, 0)
    return [float(ordered[cut]), float(ordered[-1 - cut])]


def run(rounds):
    model = network()
    x = RNG.normal(size=(BATCH * STEPS, LENGTH, WIDTH)).astype("float32")
    y = RNG.integers(0, 2, len(x))

    def epoch(callbacks):
        start = clocks()
        model.fit(x, y, batch_size=BATCH, callbacks=callbacks, verbose=0)
        return clocks() - start

    epoch([])
    own, added, seconds = [], [], []
    for number in range(rounds):
        monitor, took = Timed(), {}
        # Either goes first as often.
        for watched in (number % 2, 1 - number % 2):
            took[watched] = epoch([monitor] if watched else [])
        own.append(100 * monitor.own / took[1][0])
        added.append(100 * (took[1] - took[0]) / took[0])
        seconds.append(took[0][0])
    clock, processors = np.transpose(added)
    return {
        "own_percent": float(np.median(own)),
        "added_percent": float(np.median(clock)),
        "added_interval": interval(clock),
        "added_processors_percent": float(np.median(processors)),
        "added_processors_interval": interval(processors),
        "step_ms": 1e3 * float(np.median(seconds)) / STEPS,
        "steps": STEPS,
        "rounds": rounds,
        "keras": keras.__version__,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=8)
    text = json.dumps(run(parser.parse_args().rounds), indent=1)
    print(text)
    name = f"monitor_{keras.config.backend()}.json"
    (STORE / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
