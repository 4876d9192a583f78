"""Random sequences of what users do with inserted layers, and what must hold.

    KERAS_BACKEND=jax python tests/helpers/insertion_sequences.py SECONDS [SEED]

Each sequence takes a small architecture and ten operations. After each, the
statistics must be finite, count the steps and samples that were trained on, and
inference must be that of the plain model. The number of a sequence is its
seed; a failure prints it with the operations, and repeats from it. The last
lines count the sequences, and how often each operation and architecture ran.
"""

import collections
import copy
import gc
import pathlib
import pickle
import sys
import tempfile
import time
import warnings

import keras
import models
import numpy as np
from keras import ops

from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import analyze
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import save
from keras_memel import strip

X, Y = models.X, models.Y
BATCH = 8
BATCHES = len(X) // BATCH


def _predicted(model):
    """Inference without a compiled function, which takes longest to make."""
    return np.array(ops.convert_to_numpy(model(X, training=False)))


def _residual():
    x = inputs = keras.Input((8,))
    for i in range(3):
        y = keras.layers.Dense(8, "relu", name=f"block_{i}")(x)
        x = keras.layers.Add(name=f"sum_{i}")([x, y])
    return keras.Model(inputs, keras.layers.Dense(2)(x))


def _blocks_of_layers():
    blocks = [
        keras.Sequential(
            [
                keras.Input((8,)),
                keras.layers.Dense(8, "tanh", name="dense"),
                keras.layers.LayerNormalization(name="norm"),
            ],
            name=f"block_{i}",
        )
        for i in range(2)
    ]
    return keras.Sequential(
        [keras.Input((8,)), *blocks, keras.layers.Dense(2, name="head")]
    )


def _convolution():
    layers = [
        keras.layers.Reshape((8, 1)),
        keras.layers.Conv1D(4, 3, activation="relu", name="conv"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.GlobalAveragePooling1D(name="pool"),
        keras.layers.Dense(2, name="head"),
    ]
    return keras.Sequential([keras.Input((8,)), *layers])


def _recurrent():
    layers = [
        keras.layers.Reshape((4, 2)),
        keras.layers.SimpleRNN(4, return_sequences=True, name="rnn"),
        keras.layers.Dense(4, "relu", name="dense"),
        keras.layers.GRU(4, name="gru"),
        keras.layers.Dense(2, name="head"),
    ]
    return keras.Sequential([keras.Input((8,)), *layers])


def _shared():
    shared = keras.layers.Dense(8, "tanh", name="shared")
    inputs = keras.Input((8,))
    hidden = shared(shared(inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))


def _dropped():
    layers = [
        keras.layers.Dense(8, "gelu", name="wide"),
        keras.layers.Dropout(0.5, name="drop"),
        keras.layers.Dense(2, name="head"),
    ]
    return keras.Sequential([keras.Input((8,)), *layers])


ARCHITECTURES = {
    "sequential": models.sequential,
    "functional": models.functional,
    "subclassed": models.subclassed,
    "training_subclassed": lambda: models.subclassed(models.TrainingBlocks),
    "nested": models.nested,
    "residual": _residual,
    "blocks_of_layers": _blocks_of_layers,
    "convolution": _convolution,
    "recurrent": _recurrent,
    "shared": _shared,
    "dropped": _dropped,
}


class Sequence:
    """One model, and what is expected of it."""

    def __init__(self, seed, folder):
        self.rng = np.random.default_rng(seed)
        self.folder = pathlib.Path(folder)
        keras.utils.set_random_seed(seed)
        self.kind = str(self.rng.choice(list(ARCHITECTURES)))
        self.make = ARCHITECTURES[self.kind]
        # TensorFlow traces a graph for seconds: every other sequence has none.
        eager = models.BACKEND == "tensorflow" and self.rng.random() < 0.5
        self.eager = bool(eager)
        self.model = self.compile(self.make())
        self.expected = {}  # path -> steps
        self.quantized = self.adapted = False
        self.done = [self.kind + (", eager" if self.eager else "")]

    def compile(self, model):
        model.compile("sgd", "mse", run_eagerly=self.eager)
        return model

    # Operations; one that does not apply returns False.

    def insert(self):
        taken = inserted(self.model)
        free = [path for path in find(self.model) if path not in taken]
        if not free:
            return False
        number = int(self.rng.integers(1, 3))
        where = [str(path) for path in self.rng.permutation(free)[:number]]
        selections = ["top_k", Rate(0.1), Threshold(2.0)]
        layer = MEmeL(
            selection=selections[self.rng.integers(3)],
            inhibition=str(self.rng.choice(["reverse", "penalty"])),
            axis=-1,
            forget_steps=None,
            late_start=int(self.rng.integers(0, 3)),
        )
        self.same_inference(lambda: insert(self.model, where, layer))
        self.expected.update(dict.fromkeys(where, 0))
        return where

    def fit(self):
        callbacks = [MonosemanticityMonitor()] if self.expected else []
        self.model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=callbacks)
        self.trained(BATCHES)

    def fit_a_model_around(self):
        around = self.compile(keras.Sequential([keras.Input((8,)), self.model]))
        around.fit(X, Y, batch_size=BATCH, verbose=0)
        self.trained(BATCHES)
        self.compile(self.model)

    def evaluate(self):
        self.model.evaluate(X, Y, verbose=0)

    def predict(self):
        predicted = self.model.predict(X, batch_size=BATCH, verbose=0)
        np.testing.assert_allclose(
            predicted, _predicted(self.model), rtol=1e-4, atol=1e-5
        )

    def strip(self):
        self.same_inference(lambda: strip(self.model))
        self.expected = {}

    def strip_a_part(self):
        part = self.rng.choice(self.model.layers)
        self.same_inference(lambda: strip(part))
        below = {id(layer) for layer in part._flatten_layers()}
        for path in list(self.expected):
            (layer,) = [
                site.layer
                for site in models_sites(self.model)
                if site.path == path
            ]
            if id(layer) in below:
                del self.expected[path]
        return part.name

    def save_and_load(self):
        path = self.folder / "m.keras"
        save(self.model, path)
        self.becomes(lambda: keras.saving.load_model(path))

    def save_around_and_load(self):
        path = self.folder / "m.keras"
        keras.Sequential([keras.Input((8,)), self.model]).save(path)
        self.becomes(lambda: keras.saving.load_model(path).layers[0])

    def deepcopy(self):
        self.becomes(lambda: copy.deepcopy(self.model))

    def pickle(self):
        self.becomes(lambda: pickle.loads(pickle.dumps(self.model)))

    def weights(self):
        path = self.folder / "w.weights.h5"
        self.model.save_weights(path)
        before = models.numbers(self.model.weights)
        for weight in self.model.weights:
            if "float" in str(weight.dtype):
                weight.assign(ops.zeros_like(weight.value))
        self.model.load_weights(path)
        # Keras merges an adapter into the kernel when it writes weights.
        if not self.adapted:
            assert models.same(models.numbers(self.model.weights), before)

    def freeze(self):
        layer = self.rng.choice(self.model.layers)
        layer.trainable = not layer.trainable
        if not self.model.trainable_weights:  # JAX has no gradient to take
            layer.trainable = True
        self.compile(self.model)
        return layer.name

    def quantize(self):
        if self.quantized or self.adapted or "subclassed" in self.kind:
            # The config of such a model rebuilds its layers as they were.
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.model.quantize("int8")
        self.compile(self.model)
        self.quantized = True
        return True

    def adapt(self):
        if self.quantized or self.adapted or "subclassed" in self.kind:
            # The config of such a model rebuilds its layers as they were.
            return False
        dense = [
            layer
            for layer in self.model._flatten_layers()
            if type(layer) is keras.layers.Dense
        ]
        self.rng.choice(dense).enable_lora(2)
        self.compile(self.model)
        self.adapted = True
        return True

    def analyze(self):
        before = models.statistics(self.model)
        analyze(self.model, X, batch_size=BATCH, top=2, verbose=0)
        assert models.same(models.statistics(self.model), before)

    def summary(self):
        lines = []
        self.model.summary(print_fn=lines.append)

    # Checks after each operation

    def step(self):
        names = [
            *("insert", "insert", "fit", "fit", "fit_a_model_around"),
            *("evaluate", "predict", "strip", "strip_a_part", "save_and_load"),
            *("save_around_and_load", "deepcopy", "pickle", "weights"),
            *("freeze", "quantize", "adapt", "analyze", "summary"),
        ]
        name = str(self.rng.choice(names))
        self.done.append(name)
        self.done[-1] = (name, getattr(self, name)())
        self.check()

    def check(self):
        memels = inserted(self.model)
        assert set(memels) == set(self.expected), (memels, self.expected)
        for path, memel in memels.items():
            for value in models.numbers(memel.weights):
                assert np.isfinite(value).all(), path
            steps = float(memel.steps)
            assert steps == self.expected[path], (path, steps, self.expected)
            count = models.numbers([memel.count])[0]
            # Positions of a text or an image count as samples.
            assert (count % BATCH == 0).all(), (path, count)
            assert (count >= BATCH * steps).all(), (path, count)
            assert (count == 0).all() or steps, path

    def trained(self, batches):
        for path, memel in inserted(self.model).items():
            if memel.trainable:
                calls = 2 if path == "shared" else 1
                self.expected[path] += batches * calls

    def same_inference(self, change):
        before = _predicted(self.model)
        change()
        after = _predicted(self.model)
        assert np.array_equal(before, after), "inference is not the same"

    def becomes(self, make):
        before = _predicted(self.model)
        statistics = models.statistics(self.model)
        names = [memel.name for memel in inserted(self.model).values()]
        paths = list(inserted(self.model))
        trainable = [m.trainable for m in inserted(self.model).values()]
        self.model = self.compile(make())
        # A subclassed model makes its layers anew, with new default names.
        if "subclassed" not in self.kind:
            assert list(inserted(self.model)) == paths
        numbers = [self.expected[path] for path in paths]
        self.expected = dict(zip(inserted(self.model), numbers, strict=True))
        assert models.same(models.statistics(self.model), statistics)
        assert [m.name for m in inserted(self.model).values()] == names
        assert trainable == [m.trainable for m in inserted(self.model).values()]
        np.testing.assert_allclose(
            _predicted(self.model), before, rtol=1e-4, atol=1e-5
        )


def models_sites(model):
    from keras_memel.insertion import paths

    return paths.walk(model)


def run(seed, length=10):
    """One sequence; a failure names its seed and operations."""
    with tempfile.TemporaryDirectory() as folder:
        sequence = Sequence(seed, folder)
        try:
            for _ in range(length):
                sequence.step()
        except Exception as error:
            error.add_note(f"seed {seed}: {sequence.done}")
            raise
    return sequence.done


if __name__ == "__main__":
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    warnings.simplefilter("ignore")
    if models.BACKEND == "jax":  # much is compiled, and little computed
        import jax

        jax.config.update("jax_disable_most_optimizations", True)
    gc.collect()
    gc.freeze()  # Keras collects garbage for each layer that it quantizes
    start, number, failures = time.monotonic(), 0, 0
    kinds, operations = collections.Counter(), collections.Counter()
    while time.monotonic() - start < seconds:
        try:
            kind, *done = run(seed + number)
            kinds[kind] += 1
            operations.update(name for name, out in done if out is not False)
        except Exception as error:
            failures += 1
            print(f"{type(error).__name__}: {str(error)[:600]}")
            print(*error.__notes__[-1:], flush=True)
        number += 1
        keras.backend.clear_session()
    print(f"seeds {seed} to {seed + number - 1}: {failures} failures")
    print(f"{number} sequences:", dict(kinds))
    print(f"{operations.total()} operations:", dict(operations))
    sys.exit(bool(failures))
