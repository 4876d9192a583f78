"""Readings of the monitor: undefined numbers, overhead, other callbacks."""

import time
import warnings

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import Random
from keras_memel import Rate
from keras_memel import analyze
from keras_memel import insert
from keras_memel import inserted
from keras_memel import readings
from keras_memel.monitoring import diagnostics

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype("float32")
Y = RNG.normal(size=(32, 2)).astype("float32")


def model(selection=None, between=(), **kwargs):
    made = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(8, name="hidden"),
            *between,
            MEmeL(selection or Rate(0.1), axis=-1, late_start=1, name="memel"),
            layers.Dense(2),
        ]
    )
    made.compile(keras.optimizers.SGD(0.01), "mse", **kwargs)
    return made


def fit(made, *callbacks, x=X, epochs=2, verbose=0):
    """Train; the history, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = made.fit(
            x,
            Y[: len(x)],
            batch_size=16,
            epochs=epochs,
            verbose=verbose,
            callbacks=list(callbacks),
        ).history
    messages = [
        str(one.message) for one in caught if one.category is UserWarning
    ]
    return history, messages


def weights(made):
    return [ops.convert_to_numpy(one) for one in made.variables]


def test_readings_are_what_the_monitor_logs():
    made = model()
    history, _ = fit(made, MonosemanticityMonitor())
    found = readings(made)
    assert set(found) == {
        "memel/inhibited_rate",
        "memel/target_rate",
        "memel/threshold",
    }
    assert found == {name: history[name][-1] for name in found}


def test_readings_name_inserted_layers_by_their_hosts():
    made = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="h")])
    insert(made, "h", MEmeL())
    assert readings(made)["h/target_rate"] == 0.5
    assert np.isnan(readings(made)["h/inhibited_rate"])


@pytest.mark.once
@pytest.mark.parametrize("what", [keras.Sequential, lambda: 7])
def test_readings_of_what_has_no_memel(what):
    with pytest.raises(ValueError, match="must contain a MEmeL"):
        readings(what())


def test_what_is_not_finite_is_nan_and_told():
    made = model()
    x = np.full((32, 4), np.nan, "float32")
    history, messages = fit(made, MonosemanticityMonitor(x=x), x=x)
    for name in ("inhibited_rate", "ms_50", "ms_99"):
        assert np.isnan(history[f"memel/{name}"]).all(), name
    told = [one for one in messages if "not finite" in one]
    assert len(told) == 1
    assert "Layer 'memel'" in told[0]
    rows = analyze(made, x, layers="hidden", verbose=0).to_dataframe()
    assert rows["variance"].isna().all()


def test_a_few_values_that_are_not_finite_leave_the_others():
    made = model()
    x = X.copy()
    x[3] = np.nan
    fit(made, x=X)
    monitors = [
        MonosemanticityMonitor(x=one) for one in (x, np.delete(X, 3, 0))
    ]
    scales = []
    for monitor in monitors:
        monitor.set_model(made)
        scales.append(monitor._scales(made, {"memel": made.get_layer("memel")}))
    np.testing.assert_allclose(
        np.sort(scales[0]["memel"]), np.sort(scales[1]["memel"]), rtol=1e-5
    )


def test_neurons_without_history_have_no_scale():
    made = model()
    fit(made, x=X)
    layer = made.get_layer("memel")
    snapshot = diagnostics.read(layer)
    call = {"values": RNG.normal(size=(5, 8))}
    snapshot.count[1:] = 0
    assert len(diagnostics.scales(layer, snapshot, call)) == 5
    snapshot.count[:] = 0
    assert np.isnan(diagnostics.scales(layer, snapshot, call)).all()


def padded(shortened):
    values = keras.Input((None, 4), name="values")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    padding = "valid" if shortened else "same"
    host = layers.Conv1D(2, 3, padding=padding, name="host")
    pooled = layers.GlobalAveragePooling1D()(host(values))
    made = keras.Model({"values": values, "padding_mask": mask}, pooled)
    insert(made, "host", MEmeL(axis=-1))
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize("shortened", [True, False])
def test_padding_whose_mask_fits_nowhere_is_told(shortened):
    x = {
        "values": np.ones((32, 5, 4), "float32"),
        "padding_mask": np.ones((32, 5), "int32"),
    }
    made = padded(shortened)
    for _ in range(2):  # The second fit does not trace the model again.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            made.fit(x, Y, verbose=0, callbacks=[MonosemanticityMonitor()])
        told = ["padding may" in str(one.message) for one in caught]
        assert sum(told) == shortened


def test_measuring_the_overhead_changes_no_training():
    made = []
    for measure in (False, True):
        keras.utils.set_random_seed(0)
        between = [layers.BatchNormalization(), layers.Dropout(0.5)]
        one = model(Random(0.2, seed=1), between)
        monitor = MonosemanticityMonitor(x=X, measure_overhead=measure)
        history, _ = fit(one, monitor)
        assert ("memel_overhead" in history) == measure
        made.append(one)
    assert np.isfinite(history["memel_overhead"]).all()
    for plain, measured in zip(*map(weights, made)):
        np.testing.assert_array_equal(plain, measured)
    memel = made[1].get_layer("memel")
    assert memel.trainable
    assert not memel.at_inference


class Slow(MEmeL):
    """Sleeps where it learns."""

    def call(self, inputs, mask=None, training=None):
        if training and self.trainable:
            time.sleep(0.05)
        return super().call(inputs, mask=mask, training=training)


@pytest.mark.once
@pytest.mark.parametrize("most", [0.1, 1.0])
def test_an_overhead_above_the_limit_is_told(most):
    made = keras.Sequential(
        [keras.Input((4,)), Slow(name="m"), layers.Dense(2)]
    )
    made.compile("sgd", "mse", run_eagerly=True)
    monitor = MonosemanticityMonitor(
        x=X, measure_overhead=True, max_overhead=most
    )
    history, messages = fit(made, monitor, epochs=1)
    assert 0.1 < history["memel_overhead"][0] < 1.0
    told = [one for one in messages if "of a training step" in one]
    assert len(told) == (most == 0.1)


def test_a_penalty_is_a_part_of_the_measured_step():
    made = keras.Sequential(
        [keras.Input((4,)), MEmeL(inhibition="penalty"), layers.Dense(2)]
    )
    made.compile("sgd", "mse")
    history, _ = fit(made, MonosemanticityMonitor(x=X, measure_overhead=True))
    assert np.isfinite(history["memel_overhead"]).all()


@pytest.mark.once
@pytest.mark.parametrize("shown", [True, False])
def test_numbers_can_be_kept_off_the_progress_bar(shown, capsys):
    made = model()
    seen = []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(set(logs))
    )
    for verbose in (1, 2):
        monitor = MonosemanticityMonitor(every=1, progress_bar=shown)
        history, _ = fit(made, monitor, spy, verbose=verbose)
        printed = capsys.readouterr().out
        assert "loss" in printed
        assert ("threshold" in printed) == shown
        assert "memel/threshold" in history
    assert all("memel/threshold" in names for names in seen)


@pytest.mark.once
def test_the_progress_bar_is_left_as_it_was(capsys):
    bar = keras.callbacks.ProgbarLogger()
    fit(model(), MonosemanticityMonitor(progress_bar=False), bar, verbose=2)
    capsys.readouterr()
    fit(model(), MonosemanticityMonitor(), bar, verbose=2)
    assert "threshold" in capsys.readouterr().out


@pytest.mark.once
def test_a_logger_before_the_monitor_is_told(tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    stopper = keras.callbacks.EarlyStopping("memel/threshold", mode="min")
    other = keras.callbacks.EarlyStopping("loss")
    monitor = MonosemanticityMonitor
    _, messages = fit(model(), logger, stopper, other, monitor(), epochs=1)
    told = [one for one in messages if "before the monitor" in one]
    assert len(told) == 1
    assert "CSVLogger, EarlyStopping." in told[0]
    _, messages = fit(model(), other, monitor(), logger, stopper, epochs=1)
    assert not any("before the monitor" in one for one in messages)


def test_a_loop_of_ones_own_has_no_other_callbacks():
    monitor = MonosemanticityMonitor(progress_bar=False)
    made = model()
    monitor.set_model(made)
    monitor.on_train_begin()
    logs = {}
    made.train_on_batch(X, Y)
    monitor.on_epoch_end(0, logs)
    monitor.on_train_end()
    assert logs == readings(made)
    assert inserted(made) == {}


def test_a_memel_within_a_recurrent_layer_is_read_by_its_path():
    memel = MEmeL(axis=-1, late_start=0, name="within")
    layer = ConvGRU2D(2, 3, memel=memel, name="recurrent")
    made = keras.Sequential([keras.Input((3, 4, 4, 1)), layer])
    made(RNG.normal(size=(2, 3, 4, 4, 1)), training=True)
    found = readings(made)
    assert list(found) == ["recurrent/within/inhibited_rate"]


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow", reason="takes no such names"
)
def test_the_scale_is_that_of_layers_whose_names_are_no_patterns():
    names = ["a[0]", "a0"]
    inputs = keras.Input((4,))
    first = MEmeL(axis=-1, late_start=1, name=names[0])(inputs)
    second = MEmeL(axis=-1, late_start=1, name=names[1])(10.0 * first)
    made = keras.Model(inputs, layers.Dense(2)(second))
    made.compile(keras.optimizers.SGD(0.01), "mse")
    history, _ = fit(made, MonosemanticityMonitor(x=X))
    quantiles = [
        {key.split("/")[1] for key in history if key.startswith(f"{name}/")}
        for name in names
    ]
    assert quantiles[0] == quantiles[1]
    assert any(key.startswith("q") or "ms" in key for key in quantiles[0])
