"""longrun.py: what a killed run comes back to, logs, and the plan."""

import argparse
import csv
import signal
import sys
import time

import keras
import numpy as np
import processes
import pytest
from scripts import example

from keras_memel import MEmeL
from keras_memel import insert

pytestmark = pytest.mark.once

longrun = example("paper.common.longrun")


@pytest.fixture(scope="module", autouse=True)
def compiled_alike(quick_compilation):
    """Bits depend on how an operation was compiled, and JAX keeps what it
    compiled for the tests before: the processes here have none of that."""
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()


EPOCHS = 3


def parse(*arguments):
    parser = argparse.ArgumentParser()
    longrun.add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def noisy(x, y, rng):
    return x + 0.1 * rng.normal(size=x.shape).astype("float32"), y


def batches(seed=0, **arguments):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(70, 6)).astype("float32")
    arguments = {"transform": noisy, **arguments}
    return longrun.Batches(x, (x[:, 0] > 0) * 1, 16, seed, **arguments)


def compiled(steps):
    """Everything that has a memory: dropout, MEmeL, schedule, EMA."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(2),
        ]
    )
    insert(model, "hidden", MEmeL(selection="random", late_start=2))
    model.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(0.1, steps),
            use_ema=True,
            ema_momentum=0.9,
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def train(folder, *arguments, callbacks=(), settings=None):
    options = parse(*arguments)
    with longrun.devices(options):
        data = batches()
        model = compiled(EPOCHS * len(data))
        history = longrun.fit(
            model,
            data,
            options,
            folder,
            EPOCHS,
            validation_data=batches(shuffle=False, transform=None),
            callbacks=callbacks,
            settings=settings,
            verbose=0,
        )
    return model, history


class Kill(keras.callbacks.Callback):
    """Kill the process without any cleanup, as a lost machine does."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at, self.epoch = (epoch, batch), None

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            signal.raise_signal(signal.SIGKILL)


def killed(folder, *arguments, at):
    """The same run in a process that is killed after a step."""
    done = processes.run(
        *(__file__, folder, *at, *arguments),
        check=False,
        timeout=300,
        # The fixture `quick_compilation` sets the same, and bits depend on it.
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def everything(model):
    return [longrun.read(v) for v in longrun.variables(model)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, *train(folder)


def assert_same(model, expected_model):
    # The moving average has taken the place of the weights on both sides.
    for one, other in zip(everything(model), everything(expected_model)):
        np.testing.assert_array_equal(one, other)


def test_a_killed_run_resumes_to_the_same_numbers(whole, tmp_path):
    _, expected_model, expected = whole
    killed(tmp_path, "--save-every=2", at=(1, 2))
    facts = str(np.load(tmp_path / "checkpoint.npz")["facts"])
    assert '"epoch": 1, "step": 2' in facts

    model, found = train(tmp_path, "--save-every=2")

    assert_same(model, expected_model)
    assert found == expected
    assert len(found["val_loss"]) == EPOCHS
    assert read_log(tmp_path) == read_log(whole[0])


class Stop(Kill):
    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


def test_a_stopped_run_resumes_from_the_last_epoch(whole, tmp_path):
    _, expected_model, expected = whole
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, callbacks=[Stop(2, 1)])
    # TensorBoard reads files in the order of their names: of the second, and
    # within one of a number by its digits, 10 before 9.
    time.sleep(1)

    model, found = train(tmp_path)

    assert_same(model, expected_model)
    assert found == expected
    assert events(tmp_path) == events(whole[0])


def read_log(folder):
    with (folder / "log.csv").open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def events(folder):
    """Scalars by epoch and name, the last of each."""
    from tensorboard.backend.event_processing import event_accumulator

    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {
        (event.step, tag): event.value
        for tag in found.Tags()["scalars"]
        for event in found.Scalars(tag)
    }


def test_logs_hold_the_history(whole):
    folder, _, history = whole
    rows = read_log(folder)
    assert [row.pop("epoch") for row in rows] == [1, 2, 3]
    assert {key: [row[key] for row in rows] for key in rows[0]} == history
    written = events(folder)
    assert len(written) == EPOCHS * len(history)
    for i, value in enumerate(history["val_loss"]):
        assert written[i + 1, "val_loss"] == pytest.approx(value)
    # MEmeLs are watched without being asked for.
    assert history["hidden/inhibited_rate"][-1] > 0


def test_the_folder_of_another_run_is_refused(whole):
    with pytest.raises(SystemExit, match=r"with epochs=None.*epochs=7"):
        train(whole[0], "--epochs=7")
    with pytest.raises(SystemExit, match=r"arm=None.*Received: arm=MEmeL"):
        train(whole[0], settings={"arm": "MEmeL"})


def test_a_finished_run_is_not_run_again(whole):
    folder, expected_model, expected = whole
    before = (folder / "checkpoint.npz").stat().st_mtime_ns
    model, found = train(folder)
    assert found == expected
    assert_same(model, expected_model)
    assert (folder / "checkpoint.npz").stat().st_mtime_ns == before


def test_batches_depend_on_seed_epoch_and_step_alone():
    def rows(data):
        return [data[i][0][:, 0] for i in range(len(data))]

    data, same, other = batches(), batches(), batches(seed=1)
    assert len(data) == 4
    backwards = [same[i][0] for i in (3, 2, 1, 0)][::-1]
    for i, expected in enumerate(backwards):
        np.testing.assert_array_equal(data[i][0], expected)
    first = np.concatenate(rows(data))
    assert not np.array_equal(first, np.concatenate(rows(other)))
    data.epoch = 1
    assert not np.array_equal(first, np.concatenate(rows(data)))
    # 70 samples: 64 of them, each once; and all of them to be tested on.
    plain = batches(transform=None)
    assert len(np.unique(np.concatenate(rows(plain)))) == 64
    ordered = batches(transform=None, shuffle=False)
    assert len(ordered) == 5
    np.testing.assert_array_equal(np.concatenate(rows(ordered)), plain.x[:, 0])


@pytest.mark.parametrize("batch", [0, 71])
def test_a_batch_that_there_are_no_samples_for_is_refused(batch):
    with pytest.raises(SystemExit, match=f"the 70 samples. Received: {batch}"):
        longrun.Batches(np.zeros((70, 1)), np.zeros(70), batch)


def test_what_a_transform_refuses_ends_the_run(tmp_path):
    def refuse(x, y, rng):
        raise SystemExit("Cannot read row 7 of a file")

    with pytest.raises(SystemExit, match="Cannot read row 7 of a file"):
        longrun.fit(
            compiled(4), batches(transform=refuse), parse(), tmp_path, 1
        )


def test_the_plan_counts_and_measures(capsys):
    model, calls = compiled(4), []
    found = longrun.plan(
        model, parse(), 500, 20, lambda: calls.append(1), {"arms": "two"}, 4
    )
    assert len(calls) == 4
    assert found["steps"] == 10_000
    hours = found["seconds"] * 10_000 / 3600 * 4
    assert found["hours"] == pytest.approx(hours)
    printed = capsys.readouterr().out
    assert "arms      two" in printed
    assert "500 an epoch, 20 epochs: 10,000" in printed
    # 6 x 8 + 8 and 8 x 2 + 2 weights, 5 x 8 statistics and gauges of MEmeL.
    assert f"{model.count_params():,} numbers" in printed


def test_all_devices_are_used_as_one(whole, tmp_path):
    # One CPU here; see `test_distributed.py` for more. On TensorFlow this is
    # a MirroredStrategy, whose variables are of another kind.
    _, history = train(tmp_path, "--devices=all")
    for name, expected in whole[2].items():
        np.testing.assert_allclose(history[name], expected, rtol=1e-4)


def test_precision_is_that_of_models_made_inside():
    with longrun.devices(parse("--precision=mixed_bfloat16")):
        layer = keras.layers.Dense(2)
        assert layer.compute_dtype == "bfloat16"
        assert longrun.number_of_devices() == 1
    assert keras.layers.Dense(2).compute_dtype == "float32"


if __name__ == "__main__":
    folder, epoch, batch, *arguments = sys.argv[1:]
    train(folder, *arguments, callbacks=[Kill(int(epoch), int(batch))])
