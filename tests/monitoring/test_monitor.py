"""MonosemanticityMonitor: logs that others see, and warnings with a cure."""

import csv
import math
import time
import warnings
from unittest import mock

import keras
import numpy as np
import pytest
from keras import ops

from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import Rate
from keras_memel import TopK
from keras_memel import insert
from keras_memel import inserted
from keras_memel.monitoring import diagnostics
from keras_memel.monitoring import monitor as monitoring

BACKEND = keras.config.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = RNG.normal(size=(64, 2)).astype("float32")


def model():
    made = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="hidden"),
            MEmeL(Rate(0.1), axis=-1, late_start=1, name="memel"),
            keras.layers.Dense(2),
        ]
    )
    made.compile(keras.optimizers.SGD(0.01), "mse")
    return made


def fit(made, monitor, x=X, y=Y, others=(), **kwargs):
    arguments = {"epochs": 2, "batch_size": 16, "verbose": 0, **kwargs}
    arguments["callbacks"] = [monitor, *others]
    # A separate test covers the warning about time, which a small network on a
    # busy machine can trigger.
    with mock.patch.object(monitoring, "_MOST_OVERHEAD", math.inf):
        return made.fit(x, y, **arguments).history


def number(weight):
    return float(ops.convert_to_numpy(weight.value))


@pytest.mark.quick
def test_logs_are_the_state_of_the_layer_and_reach_other_callbacks(tmp_path):
    made = model()
    path = tmp_path / "log.csv"
    history = fit(
        made,
        MonosemanticityMonitor(x=X),
        others=[keras.callbacks.CSVLogger(path)],
    )
    layer = made.get_layer("memel")
    assert history["memel/inhibited_rate"][-1] == number(layer.inhibited_rate)
    assert history["memel/threshold"][-1] == number(layer.threshold)
    assert history["memel/target_rate"] == [0.1, 0.1]
    kernel, bias, mean, variance = (
        ops.convert_to_numpy(w.value).astype("float64")
        for w in (
            *made.get_layer("hidden").weights,
            layer.moving_mean,
            layer.moving_variance,
        )
    )
    phi = (X @ kernel + bias - mean) ** 2 / (variance + 0.01 * variance.mean())
    for q in (50, 99):
        np.testing.assert_allclose(
            history[f"memel/ms_{q}"][-1], np.quantile(phi, q / 100), rtol=1e-4
        )
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[1]["memel/ms_99"]) == history["memel/ms_99"][1]


def test_every_n_steps():
    seen = []
    spy = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(
            logs.get("memel/threshold")
        )
    )
    fit(model(), MonosemanticityMonitor(every=2), others=[spy], epochs=1)
    assert seen[0] is None
    assert seen[1] == seen[2] != seen[3]


@pytest.mark.skipif(BACKEND == "torch", reason="has no steps_per_execution")
def test_every_n_steps_of_several_at_once():
    made = model()
    made.compile("sgd", "mse", steps_per_execution=2)
    read = []
    monitor = MonosemanticityMonitor(every=4)
    look = monitor._read

    def reads():
        read.append(monitor._step)
        look()

    monitor._read = reads
    fit(made, monitor, batch_size=8)
    assert read == [4, 8, 12, 16]


@pytest.mark.parametrize("as_activation", [False, True])
def test_a_layer_that_is_not_built_before_the_first_step(as_activation):
    layers = [keras.layers.Dense(4), MEmeL("rate")]
    if as_activation:
        layers = [keras.layers.Dense(4, activation=MEmeL("rate"))]
    made = keras.Sequential([*layers, keras.layers.Dense(2)])
    made.compile("sgd", "mse")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(made, MonosemanticityMonitor())
    assert any(name.endswith("/inhibited_rate") for name in history)


class Twice(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[32 * index : 32 * (index + 1)], Y[:32]


def test_inputs_are_what_analyze_takes():
    logs = []
    for x in (X, Twice(), [(X[:32],), (X[32:],)]):
        keras.utils.set_random_seed(0)
        logs.append(fit(model(), MonosemanticityMonitor(x=x)))
    for other in logs[1:]:
        assert other["memel/ms_99"] == pytest.approx(logs[0]["memel/ms_99"])


def test_an_interrupted_training_leaves_no_trace():
    made = keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(5, 4, mask_zero=True),
            MEmeL(axis=-1, name="memel"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(2),
        ]
    )
    made.compile("sgd", "mse")

    def stop(epoch, logs):
        raise KeyboardInterrupt

    stopper = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    monitor = MonosemanticityMonitor()
    tokens = np.ones((64, 3), int)
    with pytest.raises(KeyboardInterrupt):
        fit(made, monitor, tokens, others=[stopper])
    fit(made, monitor, tokens)
    assert "call" not in vars(made.get_layer("memel"))


def test_inserted_layers_are_named_by_their_host():
    made = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, name="h")]
    )
    made.compile("sgd", "mse")
    insert(made, "h", MEmeL(TopK(1)))
    history = fit(made, MonosemanticityMonitor(), epochs=1)
    assert history["h/target_rate"] == [0.5]
    assert "h/threshold" not in history
    assert "call" not in vars(inserted(made)["h"])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="written by TensorFlow")
def test_the_event_file_of_tensorboard_holds_all_of_it(tmp_path):
    pytest.importorskip("tensorboard")
    import tensorflow as tf

    history = fit(
        model(),
        MonosemanticityMonitor(x=X, histograms=tmp_path / "histograms"),
        others=[keras.callbacks.TensorBoard(tmp_path)],
    )
    scalars, tags = {}, set()
    for path in tmp_path.rglob("events*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                tags.add(value.tag)
                if value.HasField("tensor") and value.tensor.dtype == 1:
                    found = tf.make_ndarray(value.tensor)
                    if found.ndim == 0:
                        scalars.setdefault(value.tag, []).append(float(found))
    for name in ("inhibited_rate", "threshold", "ms_99"):
        np.testing.assert_allclose(
            scalars[f"epoch_memel/{name}"],
            history[f"memel/{name}"],
            rtol=1e-6,
        )
    assert {"memel/mean", "memel/variance", "memel/ms"} <= tags


def test_a_healthy_run_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = fit(model(), MonosemanticityMonitor(x=X), epochs=4)
    assert len(history["memel/ms_99"]) == 4


class Deaf(keras.layers.Layer):
    """Forgets to pass `training` on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memel = MEmeL(name="memel")

    def build(self, shape):
        self.memel.build(shape)

    def call(self, inputs):
        return self.memel(inputs, training=False)


def test_statistics_that_never_move():
    made = keras.Sequential([keras.Input((4,)), Deaf(name="deaf")])
    made.add(keras.layers.Dense(2))
    made.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="deaf/memel.*`training`") as caught:
        fit(made, MonosemanticityMonitor(), epochs=3)
    assert len([w for w in caught if "did not change" in str(w.message)]) == 1


class Forgetful(keras.layers.Layer):
    """Drops the mask."""

    def call(self, inputs):
        return inputs * 1.0


@pytest.mark.filterwarnings("ignore:Layer 'forgetful'.*destroy the mask")
@pytest.mark.parametrize("drops", [True, False])
def test_a_mask_that_never_came(drops):
    layers = [
        keras.Input((3,), dtype="int32"),
        keras.layers.Embedding(5, 4, mask_zero=True),
        *([Forgetful()] if drops else []),
        MEmeL(axis=-1),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(2),
    ]
    made = keras.Sequential(layers)
    made.compile("sgd", "mse")
    tokens = np.random.default_rng(0).integers(0, 5, (64, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        fit(made, MonosemanticityMonitor(), x=tokens, epochs=1)
    told = [w for w in caught if "padding is counted" in str(w.message)]
    assert len(told) == drops


def reading(**changes):
    normal = {
        "steps": 500.0,
        "inhibited_rate": 0.1,
        "threshold": 2.7,
        "skipped": 0.0,
        "count": np.full(4, 1000.0),
        "mean": np.zeros(4),
        "variance": np.ones(4),
        "replicas": (),
    }
    return diagnostics.WeightSnapshot(**{**normal, **changes})


@pytest.mark.parametrize(
    ("kind", "cure", "before", "now"),
    [
        ("rate", "`gain`", {"inhibited_rate": 0.9}, {"inhibited_rate": 0.8}),
        ("rate", "`gain`", {"inhibited_rate": 0.0}, {"inhibited_rate": 0.0}),
        ("collapse", "learning rate", {}, {"variance": np.full(4, 1e-6)}),
        ("jump", "clip", {}, {"mean": np.full(4, 20.0)}),
        ("jump", "clip", {}, {"variance": np.full(4, 200.0)}),
        (
            "replicas",
            "Synchronize",
            {},
            {"replicas": (np.ones(4), np.zeros(4))},
        ),
        (None, None, {"inhibited_rate": 0.9}, {}),
        (None, None, {}, {"mean": np.full(4, 2.0)}),
        (None, None, {}, {"replicas": (np.ones(4), np.ones(4))}),
    ],
)
def test_signs_in_the_weights(kind, cure, before, now):
    layer = MEmeL(Rate(0.1))
    first = reading(steps=0.0)
    told = dict(
        diagnostics.found(
            layer,
            first,
            reading(steps=400.0, **before),
            reading(**now),
        )
    )
    assert list(told) == ([kind] if kind else [])
    if kind:
        assert cure in told[kind]


def test_a_learning_rate_that_is_too_high_makes_statistics_jump():
    made = model()
    made.compile(keras.optimizers.SGD(0.01), "mse")
    monitor = MonosemanticityMonitor()
    fit(made, monitor, epochs=4)
    hidden = made.get_layer("hidden")
    jolt = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: (
            hidden.bias.assign(np.full(8, 1e3)) if epoch == 1 else None
        )
    )
    with pytest.warns(UserWarning, match="jumped"):
        fit(made, monitor, others=[jolt], x=X * 1.0)


def test_the_monitor_tells_when_it_is_slow():
    monitor = MonosemanticityMonitor()
    monitor.set_model(model())
    monitor.on_train_begin()
    monitor._start = time.perf_counter() - 100
    monitor._own = 0.9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor._check_overhead()
    monitor._own = 3.0
    with pytest.warns(UserWarning, match="3.0% of the training time.*`every`"):
        monitor._check_overhead()


def test_the_first_reading_and_its_epoch_are_not_counted():
    # The first reading and the first epoch include compilation.
    monitor = MonosemanticityMonitor()
    started = time.perf_counter()
    fit(model(), monitor, epochs=1)
    assert monitor._own == 0.0
    assert monitor._start > started
    fit(model(), monitor, epochs=2)
    assert monitor._own > 0.0


def test_bad_arguments():
    with pytest.raises(ValueError, match="every=0"):
        MonosemanticityMonitor(every=0)
    with pytest.raises(ValueError, match="quantiles=2"):
        MonosemanticityMonitor(quantiles=(2,))
    with pytest.raises(ValueError, match="quantiles=2"):
        MonosemanticityMonitor(quantiles=2)
    for x, message in (
        (iter([X]), "read several times"),
        (X[:0], "at least one input"),
    ):
        with pytest.raises(ValueError, match=message):
            MonosemanticityMonitor(x=x)
    with pytest.raises(ValueError, match="also pass `x`"):
        MonosemanticityMonitor(measure_overhead=True)
    for name in ("measure_overhead", "progress_bar"):
        with pytest.raises(ValueError, match=f"{name}=1"):
            MonosemanticityMonitor(**{name: 1})
    with pytest.raises(ValueError, match="max_overhead=-1"):
        MonosemanticityMonitor(max_overhead=-1)
    with pytest.raises(ValueError, match="must be arrays"):
        MonosemanticityMonitor(x=7)
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    plain.compile("sgd", "mse")
    with pytest.raises(ValueError, match="must contain a MEmeL"):
        fit(plain, MonosemanticityMonitor())
