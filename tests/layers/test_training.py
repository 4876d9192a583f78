"""The layer wherever a network trains: `fit`, own loops, kinds of models.

Most models here begin with the layer, so that what it must have seen is the
data, and the oracle tells what its statistics must be: `watched.py`.
"""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from loops import batches_of
from loops import train
from loops import weights
from steps import BACKEND
from steps import assert_statistics
from steps import state
from steps import step
from watched import BATCH
from watched import WIDTH
from watched import Subclassed
from watched import activation_model
from watched import between
from watched import fit
from watched import functional
from watched import oracle_of
from watched import scalar
from watched import seen
from watched import sequential
from watched import watch

from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Threshold
from keras_memel import TopK

# Keras's ways to run a training step.
MODES = {
    "default": {},
    "eager": {"run_eagerly": True},
    "not_compiled": {"jit_compile": False},
    "compiled": {"jit_compile": True},
}
if BACKEND != "torch":  # Keras has no such thing there
    MODES["two_steps_at_once"] = {"steps_per_execution": 2}


@pytest.mark.parametrize("mode", MODES)
def test_fit_counts_every_batch_once(mode, data, monkeypatch):
    if BACKEND == "torch":
        # Its graphs, without the generated C++: half a minute of compiling.
        import torch

        graphs = partial(torch.compile, backend="eager")
        monkeypatch.setattr(torch, "compile", graphs)
    x, y = data
    layer = watch()
    fit(sequential(layer), x, y, epochs=2, **MODES[mode])
    expected = oracle_of(seen(x) * 2)
    assert expected.steps == 8
    assert 0 < expected.inhibited_rate < 1
    assert_statistics(layer, expected)


@pytest.mark.parametrize(
    ("selection", "inhibition"),
    [(TopK(2), "reverse"), (Random(0.3, seed=1), LogPenalty(0.1))],
)
def test_a_loop_written_by_hand_does_what_fit_does(selection, inhibition, data):
    x, y = data
    trained = []
    for by_hand in (True, False):
        keras.utils.set_random_seed(1)
        layer = MEmeL(selection, inhibition, late_start=1)
        model = between(layer)
        if by_hand:
            before = weights(model)
            optimizer = keras.optimizers.SGD(0.1)
            train(model, optimizer, batches_of(x, y, BATCH))
        else:
            fit(model, x, y, optimizer=keras.optimizers.SGD(0.1))
        assert scalar(layer.steps) == 4
        assert scalar(layer.inhibited_rate) > 0
        trained.append(weights(model))
    for ours, theirs in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.abs(trained[0][0] - before[0]).max() > 1e-3


def test_gradient_accumulation_counts_every_batch(data):
    x, y = data
    layer = watch()
    model = sequential(layer)
    before = weights(model)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=8)
    fit(model, x, y, optimizer=optimizer)
    assert_statistics(layer, oracle_of(seen(x)))
    # Four batches of the eight after which the network takes a step.
    np.testing.assert_array_equal(
        before[-2], ops.convert_to_numpy(model.layers[-1].kernel.value)
    )


@pytest.mark.parametrize("build", [sequential, functional, Subclassed])
def test_every_kind_of_model(build, data):
    x, y = data
    layer = watch()
    fit(build(layer), x, y)
    assert_statistics(layer, oracle_of(seen(x)))


def test_a_nested_model(data):
    x, y = data
    layer = watch()
    fit(sequential(functional(layer)), x, y)
    assert_statistics(layer, oracle_of(seen(x)))


def test_a_layer_used_twice_counts_two_steps_and_pools_both(data):
    x, y = data
    layer = watch()
    first, second = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    outputs = layers.Dense(2)(layers.Add()([layer(first), layer(second)]))
    model = keras.Model([first, second], outputs)
    fit(model, [x, 3 * x], y)
    calls = [c for b in seen(x) for c in (b, 3 * b)]
    assert len(calls) == 8
    assert_statistics(layer, oracle_of(calls))


def test_two_calls_before_one_backward_pass_keep_their_gradients(data):
    x, _ = data

    class Twice(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.once = MEmeL(Threshold(0.5), LogPenalty(1.0), -1, late_start=1)

        def build(self, shape):
            self.once.build(shape)

        def call(self, inputs, training=None):
            return self.once(inputs, training=training) + self.once(
                2 * inputs, training=training
            )

    twice = Twice()
    twice.build(x.shape)
    _, gradient = step(twice, x, np.zeros_like(x))
    # The first call has no history; the second is scored with the first's.
    mean, variance = x.mean(axis=0), x.var(axis=0, ddof=1)
    deviation = 2 * x - mean
    chosen = deviation**2 / (variance + 0.01 * variance.mean()) >= 0.5
    expected = np.where(
        chosen, 4 * deviation / (deviation**2 + 1e-6) / chosen.sum(), 0.0
    )
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_may_hold_the_mean_that_the_step_then_updates(data):
    # PyTorch updates in place what the backward pass may still need.
    class Multiply(Inhibition):
        def __call__(self, values, mask, mean):
            return ops.where(mask, values * mean, values)

    x, _ = data
    layer = MEmeL(TopK(2), Multiply(), late_start=1)
    step(layer, x, np.ones_like(x))
    mean = state(layer)["moving_mean"]
    y, gradient = step(layer, x, np.ones_like(x))
    expected = np.where(y != x, mean, 1.0)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)
    assert np.count_nonzero(y != x) == 2 * len(x)


def test_time_distributed_updates_once_a_time_step(rng):
    x = rng.normal(size=(8, 3, WIDTH)).astype("float32")
    layer = watch()
    model = keras.Sequential(
        [
            keras.Input((3, WIDTH)),
            layers.TimeDistributed(layer),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    fit(model, x, x[:, 0, :2])
    slices = [x[i : i + BATCH, t] for i in (0, BATCH) for t in range(3)]
    assert_statistics(layer, oracle_of(slices))


@pytest.mark.parametrize("selection", ["top_k", "rate", "random"])
def test_a_symbolic_call_counts_nothing(selection):
    # Keras calls layers on symbols to infer shapes, and runs one additional
    # step in scans.
    class Parent(layers.Layer):
        # It does not say its output shape: Keras runs its `call` for it.
        ran = False

        def call(self, inputs):
            self.ran = True
            return layer(inputs, training=True)

    layer, parent = MEmeL(selection), Parent()
    layer.build((None, WIDTH))
    outputs = parent(layer(keras.Input((WIDTH,)), training=True))
    assert parent.ran
    assert outputs.shape == (None, WIDTH)
    assert scalar(layer.steps) == 0
    assert not state(layer)["count"].any()


def test_a_callback_reads_the_statistics_through_its_model(data):
    # On JAX, `fit` keeps the weights outside of the model while a batch runs.
    # Access to the model of a callback writes them back.
    x, y = data
    seen = []

    class Read(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layer = self.model.layers[0]
            seen.append((scalar(layer.steps), scalar(layer.inhibited_rate)))

    fit(sequential(watch()), x, y, epochs=3, callbacks=[Read()])
    assert [steps for steps, _ in seen] == [4, 8, 12]
    assert all(0 < rate < 1 for _, rate in seen)


def test_as_an_activation_it_trains(data):
    x, _ = data
    layer = watch()
    model = activation_model(layer)
    fit(model, x, x[:, :5])
    assert scalar(layer.steps) == 4
    assert layer.moving_mean.shape == (5,)


def test_one_bad_batch_does_not_poison_the_statistics(data):
    x, y = data
    x[5, 2] = np.inf
    x[9, 3] = np.nan
    layer = watch(inhibition="observe")
    fit(sequential(layer), x, y)
    with np.errstate(invalid="ignore"):
        expected = oracle_of(seen(x))
    assert expected.skipped_updates == 2
    assert_statistics(layer, expected)


def test_channels_first_images(rng):
    x = rng.normal(size=(8, 3, 5, 4)).astype("float32")
    scale = np.array([1.0, 2.0, 4.0], "float32").reshape(1, 3, 1, 1)
    x = x * scale + scale
    previous = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        layer = watch(axis=1)
        model = keras.Sequential(
            [
                keras.Input((3, 5, 4)),
                layer,
                layers.GlobalAveragePooling2D(),
                layers.Dense(2),
            ]
        )
        fit(model, x, x[:, :2, 0, 0])
    finally:
        keras.config.set_image_data_format(previous)
    assert layer.moving_mean.shape == (3,)
    assert_statistics(layer, oracle_of(seen(x), axis=1))
    np.testing.assert_allclose(
        state(layer)["moving_variance"] ** 0.5, scale.ravel(), rtol=0.2
    )
