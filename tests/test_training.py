"""The layer wherever a network trains: fit, own loops, models, policies.

Most models here begin with the layer, so that what it must have seen is the
data, and the oracle tells what its statistics must be.
"""

import inspect
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from loops import batches_of
from loops import train
from loops import weights
from oracle import Oracle
from steps import BACKEND
from steps import state
from steps import step

from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import TopK

WIDTH, BATCH = 6, 4
# Keras's ways to run a training step.
MODES = {
    "default": {},
    "eager": {"run_eagerly": True},
    "not_compiled": {"jit_compile": False},
    "compiled": {"jit_compile": True},
}
if BACKEND != "torch":  # Keras has no such thing there
    MODES["two_steps_at_once"] = {"steps_per_execution": 2}


@pytest.fixture
def data(rng):
    x = rng.normal(1.0, 2.0, (16, WIDTH)).astype("float32")
    return x, x[:, :2] + 1


def watch(**settings):
    """A layer that begins to inhibit in the second step."""
    return MEmeL(Rate(0.2), **{"axis": -1, "late_start": 1, **settings})


def oracle(batches, masks=None, **settings):
    """What `watch(**settings)` must know after these batches."""
    expected = Oracle(
        ("rate", 0.2, 0.1), **{"axis": -1, "late_start": 1, **settings}
    )
    for i, x in enumerate(batches):
        expected.step(x, np.zeros_like(x), masks[i] if masks else None)
    return expected


def assert_state(layer, expected):
    now = state(layer)
    for name, value in (
        ("moving_mean", expected.mean),
        ("moving_variance", expected.variance),
        ("count", expected.count),
        ("steps", expected.steps),
        ("inhibited_rate", expected.inhibited_rate),
        ("skipped_updates", expected.skipped_updates),
        ("threshold", expected.threshold),
    ):
        np.testing.assert_allclose(
            now[name], value, rtol=1e-5, atol=1e-6, err_msg=name
        )


def assert_same_state(layer, other):
    ours, theirs = state(layer), state(other)
    assert ours.keys() == theirs.keys()
    assert ours["steps"] > 0
    for name, value in ours.items():
        np.testing.assert_array_equal(theirs[name], value, err_msg=name)


def scalar(weight):
    return float(ops.convert_to_numpy(weight.value))


def sequential(layer, width=WIDTH):
    return keras.Sequential([keras.Input((width,)), layer, layers.Dense(2)])


def functional(layer):
    inputs = keras.Input((WIDTH,))
    return keras.Model(inputs, layers.Dense(2)(layer(inputs)))


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.dense = layer, layers.Dense(2)

    def build(self, shape):
        self.layer.build(shape)
        self.dense.build(shape)
        self.built = True

    def call(self, inputs, training=None):
        return self.dense(self.layer(inputs, training=training))


def fit(model, x, y, epochs=1, optimizer="sgd", callbacks=None, **settings):
    model.compile(optimizer, "mse", **settings)
    model.fit(
        x,
        y,
        batch_size=BATCH,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model


# Ways to run a step.


@pytest.mark.parametrize("mode", MODES)
def test_fit_counts_every_batch_once(mode, data, monkeypatch):
    if BACKEND == "torch":
        # Its graphs, without the generated C++: half a minute of compiling.
        import torch

        graphs = partial(torch.compile, backend="aot_eager")
        monkeypatch.setattr(torch, "compile", graphs)
    x, y = data
    layer = watch()
    fit(sequential(layer), x, y, epochs=2, **MODES[mode])
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    expected = oracle(batches * 2)
    assert expected.steps == 8
    assert 0 < expected.inhibited_rate < 1
    assert_state(layer, expected)


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
        model = keras.Sequential(
            [
                keras.Input((WIDTH,)),
                layers.Dense(5, "tanh"),
                layer,
                layers.Dense(2),
            ]
        )
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
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    assert_state(layer, oracle(batches))
    # Four batches of the eight after which the network takes a step.
    np.testing.assert_array_equal(
        before[-2], ops.convert_to_numpy(model.layers[-1].kernel.value)
    )


@pytest.mark.parametrize("build", [sequential, functional, Subclassed])
def test_every_kind_of_model(build, data):
    x, y = data
    layer = watch()
    fit(build(layer), x, y)
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    assert_state(layer, oracle(batches))


def test_a_nested_model(data):
    x, y = data
    layer = watch()
    fit(sequential(functional(layer)), x, y)
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    assert_state(layer, oracle(batches))


def test_a_layer_used_twice_counts_two_steps_and_pools_both(data):
    x, y = data
    layer = watch()
    first, second = keras.Input((WIDTH,)), keras.Input((WIDTH,))
    outputs = layers.Dense(2)(layers.Add()([layer(first), layer(second)]))
    model = keras.Model([first, second], outputs)
    fit(model, [x, 3 * x], y)
    calls = [c for b, _ in batches_of(x, y, BATCH) for c in (b, 3 * b)]
    assert len(calls) == 8
    assert_state(layer, oracle(calls))


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
    assert_state(layer, oracle(slices))


@pytest.mark.parametrize("selection", ["top_k", "rate", "random"])
def test_a_symbolic_call_counts_nothing(selection):
    # To find out shapes Keras calls layers on symbols, and in scans runs a
    # step more than the data has.
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


# The `training` flag.


def test_the_flag_has_no_default_that_could_leak():
    parameters = inspect.signature(MEmeL.call).parameters
    assert parameters["training"].default is None


def test_called_without_the_flag_it_is_inert(data):
    x, _ = data
    layer = watch()
    y = ops.convert_to_numpy(layer(x))
    np.testing.assert_array_equal(y, x)
    assert scalar(layer.steps) == 0


def test_it_leaks_no_flag_into_layers_after_it(data):
    x, _ = data
    model = keras.Sequential([watch(), layers.Dropout(0.9)])
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), x)


class Silent(Subclassed):
    """A model whose `call` does not take the flag."""

    def call(self, inputs):
        return self.dense(self.layer(inputs, training=True))


def test_a_flag_passed_explicitly_reaches_it_in_any_model(data):
    x, y = data
    layer = watch()
    fit(Silent(layer), x, y)
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    assert_state(layer, oracle(batches))


def test_evaluation_and_prediction_count_nothing(data):
    x, y = data
    layer = watch()
    model = fit(sequential(layer), x, y)
    before = state(layer)
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    model(x, training=False)
    after = state(layer)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("frozen", ["layer", "model"])
def test_what_is_not_trainable_is_frozen(frozen, data):
    x, y = data
    layer = watch(late_start=0)
    inner = functional(layer)
    model = sequential(inner)
    fit(model, x, y)
    before = state(layer)
    assert before["steps"] == 4
    (layer if frozen == "layer" else inner).trainable = False
    fit(model, x, y)
    after = state(layer)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    y = ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_array_equal(y, x)
    (layer if frozen == "layer" else inner).trainable = True
    fit(model, x, y[:, :2])
    assert scalar(layer.steps) == 8


def test_a_callback_reads_the_statistics_through_its_model(data):
    # In JAX's fit the weights live elsewhere while a batch runs; the model
    # of a callback brings them back.
    x, y = data
    seen = []

    class Read(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            layer = self.model.layers[0]
            seen.append((scalar(layer.steps), scalar(layer.inhibited_rate)))

    fit(sequential(watch()), x, y, epochs=3, callbacks=[Read()])
    assert [steps for steps, _ in seen] == [4, 8, 12]
    assert all(0 < rate < 1 for _, rate in seen)


def test_one_bad_batch_does_not_poison_the_statistics(data):
    x, y = data
    x[5, 2] = np.inf
    x[9, 3] = np.nan
    layer = watch(inhibition="observe")
    fit(sequential(layer), x, y)
    with np.errstate(invalid="ignore"):
        expected = oracle([x[i : i + BATCH] for i in range(0, 16, BATCH)])
    assert expected.skipped_updates == 2
    assert_state(layer, expected)


# As an activation.


def activation_model(layer):
    return keras.Sequential(
        [keras.Input((WIDTH,)), layers.Dense(5, activation=layer)]
    )


def test_as_an_activation_it_trains(data):
    x, _ = data
    layer = watch()
    model = activation_model(layer)
    fit(model, x, x[:, :5])
    assert scalar(layer.steps) == 4
    assert layer.moving_mean.shape == (5,)


def test_as_an_activation_its_state_is_saved_and_loaded(data, tmp_path):
    x, _ = data
    layer = watch()
    model = fit(activation_model(layer), x, x[:, :5])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    other = again.layers[0].activation
    # Of an unregistered class Keras would make its name, a string.
    assert isinstance(other, MEmeL)
    assert_same_state(layer, other)


def test_a_mask_can_be_given_where_keras_passes_none(rng):
    # A mask does not reach an activation, nor some backbones' insides.
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0]], bool)
    layer = watch()
    for _ in range(3):
        layer(x, mask=mask, training=True)
    assert_state(layer, oracle([x] * 3, [mask] * 3))


# Masks.


class Probe(layers.Layer):
    """Keeps the mask that reaches it."""

    supports_masking = True

    def call(self, inputs, mask=None):
        self.seen = None if mask is None else ops.convert_to_numpy(mask)
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_mask_of_an_embedding_reaches_it_and_goes_on(rng):
    tokens = np.array([[3, 1, 2, 0, 0], [4, 0, 0, 0, 0]], "int32")
    layer, probe = watch(), Probe()
    inputs = keras.Input((5,), dtype="int32")
    embedding = layers.Embedding(5, 3, mask_zero=True)
    outputs = probe(layer(embedding(inputs)))
    model = keras.Model(inputs, outputs)
    for _ in range(3):
        model(tokens, training=True)
    np.testing.assert_array_equal(probe.seen, tokens != 0)
    x = ops.convert_to_numpy(embedding(tokens))
    assert_state(layer, oracle([x] * 3, [tokens != 0] * 3))


def test_padding_does_not_count_in_fit(rng):
    x = rng.normal(size=(8, 5, 3)).astype("float32")
    for i, length in enumerate([5, 4, 3, 2, 1, 5, 3, 0]):
        x[i, length:] = 0.0
    layer = watch()
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Masking(),
            layer,
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    fit(model, x, x[:, 0, :2])
    mask = (x != 0).any(axis=-1)
    expected = oracle([x[:4], x[4:]], [mask[:4], mask[4:]])
    assert set(expected.count) == {23}
    assert_state(layer, expected)


def test_a_batch_of_padding_changes_no_statistics(rng):
    x = rng.normal(size=(2, 5, 3)).astype("float32")
    layer = watch()
    layer(x, training=True)
    before = state(layer)
    y = layer(x + 100, mask=np.zeros((2, 5), bool), training=True)
    np.testing.assert_array_equal(ops.convert_to_numpy(y), x + 100)
    after = state(layer)
    assert after.pop("steps") == before.pop("steps") + 1
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


# Policies.


@pytest.mark.parametrize(
    ("policy", "compute"),
    [
        ("mixed_float16", "float16"),
        ("mixed_bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        pytest.param(
            "float64",
            "float64",
            marks=pytest.mark.skipif(
                BACKEND == "jax", reason="JAX has none unless told to"
            ),
        ),
    ],
)
def test_statistics_are_float32_whatever_the_policy(policy, compute, rng):
    layer = watch(dtype=policy, forget_steps=None)
    layer.build((None, 2))
    # 2048 + 1 = 2048 in float16.
    for rows in (2048, 1):
        x = rng.normal(3.0, size=(rows, 2)).astype("float32")
        y = layer(x, training=True)
        assert keras.backend.standardize_dtype(y.dtype) == compute
    assert {w.dtype for w in layer.weights} == {"float32"}
    now = state(layer)
    assert {value.dtype for value in now.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(now["count"], 2049)
    np.testing.assert_allclose(now["moving_mean"], 3.0, atol=0.1)


@pytest.mark.parametrize("k", [1, 3])
def test_each_sample_has_its_values_selected_in_low_precision(k, rng):
    # XLA may compute what is before the layer twice, and round it once.
    layer = MEmeL(TopK(k), late_start=1, dtype="mixed_bfloat16")
    before = keras.layers.Dense(16, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((8,)), before, layer])
    model.compile("sgd", "mse")
    x = rng.normal(size=(96, 8)).astype("float32")
    model.fit(x, np.zeros((96, 16)), 32, verbose=0)
    # More where values tie.
    assert 16 * float(layer.inhibited_rate) >= k - 1e-5


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("training", [True, False])
def test_a_stateless_call_has_the_compute_dtype(policy, training, rng):
    # Keras casts in `__call__`, but not there.
    x = rng.normal(size=(4, 3)).astype("float32")
    layer = MEmeL(late_start=0, dtype=policy)
    layer.build(x.shape)
    y, new = layer.stateless_call(
        [],
        [v.value for v in layer.non_trainable_variables],
        ops.convert_to_tensor(x),
        training=training,
    )
    dtype = keras.backend.standardize_dtype(y.dtype)
    assert dtype == policy.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(v.dtype) for v in new} == {
        "float32"
    }


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_in_fit(policy, data):
    x, y = data
    x = np.asarray(ops.convert_to_numpy(ops.cast(x, "bfloat16")), "float32")
    layer = watch(dtype=policy)
    model = keras.Sequential(
        [keras.Input((WIDTH,)), layer, layers.Dense(2, dtype=policy)]
    )
    fit(model, x, y)
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    expected = oracle(batches)
    now = state(layer)
    # bfloat16 inputs are the same number in both; float16 rounds a little.
    np.testing.assert_allclose(now["moving_mean"], expected.mean, rtol=1e-3)
    np.testing.assert_allclose(
        now["moving_variance"], expected.variance, rtol=1e-3
    )
    assert now["steps"] == 4


# Saving.


def trained_model(x, y):
    model = keras.Sequential(
        [
            keras.Input((WIDTH,)),
            MEmeL(TopK(2), late_start=1, forget_steps=None),
            watch(),
            MEmeL(Random(0.3, seed=3), "observe", score_with="current"),
            layers.Dense(2),
        ]
    )
    return fit(model, x, y)


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(1)
    x = rng.normal(1.0, 2.0, (16, WIDTH)).astype("float32")
    y = x[:, :2]
    return trained_model(x, y), x, y


def test_a_saved_model_has_the_same_state_and_resumes(trained, tmp_path):
    model, x, y = trained
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert ours.get_config() == theirs.get_config()
    for i in range(3):
        assert_same_state(model.layers[i], again.layers[i])
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), again.predict(x, verbose=0)
    )
    fit(again, x, y)
    assert scalar(again.layers[1].steps) == 8
    assert np.all(state(again.layers[1])["count"] == 32)


def test_saved_weights_hold_the_state(trained, tmp_path):
    model, _, _ = trained
    model.save_weights(tmp_path / "model.weights.h5")
    again = keras.models.clone_model(model)
    assert scalar(again.layers[0].steps) == 0
    again.load_weights(tmp_path / "model.weights.h5")
    for i in range(3):
        assert_same_state(model.layers[i], again.layers[i])


def test_a_clone_has_the_arguments_and_a_fresh_state(trained):
    model, _, _ = trained
    again = keras.models.clone_model(model)
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert ours is not theirs
        assert ours.get_config() == theirs.get_config()
    assert not state(again.layers[1])["moving_mean"].any()
    again.set_weights(model.get_weights())
    assert_same_state(model.layers[1], again.layers[1])


def test_a_model_comes_back_from_its_config(trained):
    model, _, _ = trained
    again = keras.Sequential.from_config(model.get_config())
    for ours, theirs in zip(model.layers, again.layers, strict=True):
        assert ours.get_config() == theirs.get_config()


def test_checkpoints_hold_the_state_of_their_epoch(data, tmp_path):
    x, y = data
    path = tmp_path / "{epoch}.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(str(path))
    model = fit(sequential(watch()), x, y, epochs=2, callbacks=[checkpoint])
    first = keras.saving.load_model(tmp_path / "1.keras").layers[0]
    second = keras.saving.load_model(tmp_path / "2.keras").layers[0]
    assert scalar(first.steps) == 4
    assert_same_state(model.layers[0], second)


def test_an_interrupted_run_resumes_from_its_backup(data, tmp_path):
    x, y = data

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))

    with pytest.raises(KeyboardInterrupt):
        fit(
            sequential(watch()),
            x,
            y,
            epochs=3,
            callbacks=[backup(), Interrupt()],
        )
    model = sequential(watch())
    fit(model, x, y, epochs=3, callbacks=[backup()])
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    assert_state(model.layers[0], oracle(batches * 3))


# Names and axes.


def test_default_names_are_memel_and_its_numbers():
    # Of the class name Keras would make "m_eme_l".
    keras.backend.clear_session()
    names = [MEmeL().name for _ in range(3)] + [MEmeL(name="mine").name]
    assert names == ["memel", "memel_1", "memel_2", "mine"]
    layer = MEmeL.from_config(MEmeL(name="mine").get_config())
    assert layer.name == "mine"


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
    assert_state(layer, oracle([x[:4], x[4:]], axis=1))
    np.testing.assert_allclose(
        state(layer)["moving_variance"] ** 0.5, scale.ravel(), rtol=0.2
    )


# Rematerialization: Keras runs a layer a second time in the backward pass.


def remat_scope(mode):
    settings = {
        "larger_than": {"output_size_threshold": 1},
        "list_of_layers": {"layer_names": ["target"]},
    }
    return keras.RematScope(mode=mode, **settings.get(mode, {}))


REMAT = ["full", "activations", "larger_than", "list_of_layers"]


@pytest.mark.parametrize("mode", REMAT)
def test_a_layer_made_in_a_remat_scope_runs_once(mode, data):
    x, y = data
    trained = []
    for scope in (remat_scope(None), remat_scope(mode)):
        keras.utils.set_random_seed(1)
        with scope:
            layer = MEmeL(TopK(2), late_start=1, name="target")
        # Something before it, or no gradient would pass through.
        model = keras.Sequential(
            [
                keras.Input((WIDTH,)),
                layers.Dense(5, "tanh"),
                layer,
                layers.Dense(2),
            ]
        )
        fit(model, x, y, optimizer=keras.optimizers.SGD(0.1))
        assert scalar(layer.steps) == 4
        trained.append(weights(model))
    for ours, theirs in zip(*trained, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


class Block(layers.Layer):
    """A parent, with something after the layer."""

    def __init__(self, layer, settings=None, **kwargs):
        super().__init__(**kwargs)
        self.layer, self.dense = layer, layers.Dense(WIDTH, "tanh")
        self.settings = {"training": True} if settings is None else settings

    def build(self, shape):
        self.layer.build(shape)
        self.dense.build(shape)

    def call(self, inputs):
        return self.dense(self.layer(inputs, **self.settings))

    def compute_output_shape(self, shape):
        return shape


@pytest.mark.parametrize("eagerly", [True, False])
@pytest.mark.parametrize("settings", [{"training": True}, {}])
@pytest.mark.parametrize("mode", ["full", "larger_than", "list_of_layers"])
def test_inside_a_layer_that_runs_twice_it_refuses(
    mode, settings, eagerly, data
):
    # PyTorch, and TensorFlow eagerly, would count each step twice and give
    # gradients of other values than were inhibited, without a word.
    x, y = data
    layer = watch()
    with remat_scope(mode):
        block = Block(layer, settings, name="target")
    model = sequential(block)
    with pytest.raises(ValueError, match="layer that is rematerialized") as e:
        fit(model, x, y, run_eagerly=eagerly)
    assert f"'{layer.name}' inside 'target' (Block)" in str(e.value)
    assert f"RematScope of mode '{mode}'" in str(e.value)


def test_as_an_activation_that_runs_twice_it_refuses(data):
    x, _ = data
    with remat_scope("activations"):
        model = activation_model(watch())
    # Keras itself cannot do it on PyTorch.
    reason = "cannot assign" if BACKEND == "torch" else "is rematerialized"
    with pytest.raises((ValueError, RuntimeError), match=reason):
        fit(model, x, x[:, :5])


@pytest.mark.parametrize(
    "scope",
    [
        {"mode": "activations"},
        {"mode": "larger_than", "output_size_threshold": 1000},
        {"mode": "list_of_layers", "layer_names": ["another"]},
    ],
    ids=lambda scope: scope["mode"],
)
def test_a_parent_in_a_scope_that_spares_it_runs_once(scope, data):
    x, y = data
    layer = watch()
    with keras.RematScope(**scope):
        block = Block(layer, name="target")
        model = sequential(block)
    fit(model, x, y)
    batches = [x for x, _ in batches_of(x, y, BATCH)]
    assert_state(layer, oracle(batches))
