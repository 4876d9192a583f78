"""The nowcasting example: runs, from data to scores, in small."""

import keras
import numpy as np
import pytest
from radar_frames import break_pixels
from radar_frames import frame
from scripts import EXAMPLES
from scripts import example
from small_networks import FLAT

import keras_memel
import keras_memel.paper

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

longrun = example("paper.common.longrun")
networks = example("paper.nowcasting.model")
train = example("paper.nowcasting.train")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("quick_compilation")]

RADAR = ["--radar-size", "8", "16", "--size", "8", "16"]


@pytest.fixture
def tiny(monkeypatch, tmp_path, drawn_by_numpy):
    """`train.main` with what is small enough for a test."""
    monkeypatch.setitem(networks.NETWORKS, "flat", FLAT)

    def main(*arguments, out="out"):
        folder = f"--out={tmp_path / out}"
        return train.main(["--batch=15", "--network=flat", folder, *arguments])

    return main


def test_an_epoch_on_real_rain_beats_persistence_on_held_out_hours(
    tiny, tmp_path, capsys
):
    gif = tmp_path / "rain.gif"
    found = tiny(
        "--small",
        "--epochs=1",
        "--stride=12",
        "--rate=0.01",
        "--arms=MEmeL",
        f"--gif={gif}",
    )["MEmeL"]
    assert found["b_mse"] < found["persistence_b_mse"]
    assert found["pretrained_b_mse"] < found["persistence_b_mse"]
    assert 0 < found["validation"] < 1
    assert found["b_mse"] != found["pretrained_b_mse"]
    printed = capsys.readouterr().out
    row = next(x for x in printed.splitlines() if x.startswith("MEmeL  "))
    assert float(row.split()[1]) == pytest.approx(found["b_mse"], abs=0.01)
    (log,) = (tmp_path / "out").glob("nowcasting_MEmeL_seed0/pretrain/log.csv")
    names = log.read_text().splitlines()[0].split(",")
    assert sum(name.endswith("/inhibited_rate") for name in names) == 2
    from PIL import Image

    with Image.open(gif) as movie:
        assert movie.n_frames == 4
    assert gif.stat().st_size < 500_000


@pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="test_longrun.py does so on every backend; this compiles much",
)
def test_a_killed_run_goes_on_to_the_same_numbers(tiny, monkeypatch):
    arguments = ["--data=digits", "--epochs=2", "--steps=6", "--arms=MEmeL"]
    arguments += ["--finetune-epochs=0", "--save-every=2"]
    arguments += ["--size", "24", "24"]
    expected = tiny(*arguments, out="whole")
    step = longrun.Checkpoint.on_train_batch_end

    def killed(self, batch, logs=None):
        step(self, batch, logs)
        if self.epoch == 1 and batch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(longrun.Checkpoint, "on_train_batch_end", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny(*arguments)
    assert tiny(*arguments) == expected
    with pytest.raises(SystemExit, match=r"another run, with rate=0.002"):
        tiny(*arguments, "--rate=1")


def test_radar_frames_are_trained_on_in_mixed_precision(radar, tiny):
    found = tiny(
        f"--data={radar}",
        *RADAR,
        "--batch=3",
        "--steps=2",
        "--epochs=1",
        "--finetune-epochs=0",
        "--arms=original",
        "--precision=mixed_float16",
    )["original"]
    assert 0 < found["b_mse"] < np.inf
    assert found["b_mse"] == found["pretrained_b_mse"]
    # The frames after the last one seen are 6 and 12 brighter, and of less
    # than 2 mm/h.
    errors = [(6 / 255) ** 2, (12 / 255) ** 2]
    expected = np.mean(errors) * (8 * 16 - 1)
    assert found["persistence_b_mse"] == pytest.approx(expected, rel=1e-5)


def test_training_ends_at_a_frame_that_cannot_be_read(radar, tiny):
    path = frame(radar)
    break_pixels(path)
    arguments = [f"--data={radar}", *RADAR, "--batch=9"]
    with pytest.raises(SystemExit, match=rf"cannot be read: .*{path.name}"):
        tiny(*arguments, "--epochs=1", "--arms=original")


def test_a_dry_run_needs_no_data_and_prints_the_plan(tiny, capsys):
    assert tiny("--dry-run", "--steps=1000") is None
    printed = capsys.readouterr().out
    assert "random: windows of 2 + 2 frames of 16 x 16" in printed
    assert "1,000 an epoch, 22 epochs: 22,000" in printed
    with pytest.raises(SystemExit, match=r"noise, for --dry-run only"):
        tiny("--data=random")


def test_missing_data_are_named_with_both_ways():
    with pytest.raises(SystemExit, match=r"--data FOLDER.*--small"):
        train.main([])
    with pytest.raises(SystemExit, match=r"10 steps of pretraining"):
        train.main(["--small", "--epochs=2", "--steps=5", "--arms=MEmeL"])
    with pytest.raises(SystemExit, match=r"divided by a whole number"):
        train.main([f"--data={EXAMPLES}", "--radar-size", "180", "480"])


def test_the_folders_of_arms_tell_them_apart():
    names = [train.label(arm) for arm in keras_memel.paper.arms.values()]
    assert names == ["original", "naive_a", "naive_b", "MEmeL"]
    tuning = ["--small", "--arms", "MEmeL-Tune", "--k=5", "--delta=5"]
    (arm,) = train.arms(train.parse(tuning)).values()
    assert repr(arm) == repr(keras_memel.paper.tuned(5, 5.0))
    with pytest.raises(SystemExit, match=r"needs --k and --delta"):
        train.parse(tuning[:-1])
    with pytest.raises(SystemExit, match=r"they need MEmeL-Tune.*--k 5"):
        train.parse(["--small", "--k=5"])
    tuned = {train.label(keras_memel.paper.tuned(k, 5)) for k in (1, 5, 10)}
    assert len(tuned) == 3
