"""examples/nowcasting: its metrics, its readers, its network and its runs."""

import dataclasses
import datetime
import importlib
import math
import pathlib
import sys
import zlib

import keras
import numpy as np
import pytest
from keras import ops

import keras_memel
import keras_memel.paper

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
sys.path.append(str(EXAMPLES))
longrun = importlib.import_module("longrun")
data, hko7, metrics, networks, train = (
    importlib.import_module(f"nowcasting.{name}")
    for name in ("data", "hko7", "metrics", "model", "train")
)

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("quick_compilation")]


# What a pixel means.


def test_conversions_are_those_that_are_published():
    assert hko7.pixel_to_dbz([0, 1]) == pytest.approx([-10, 60])
    # 255 * 10 / 70 + 0.5 = 36.9; 255 * 45 / 70 + 0.5 = 164.4.
    assert hko7.dbz_to_byte([-99, 0, 35, 99]).tolist() == [0, 36, 164, 255]
    # Z = 58.53 R^1.56, by hand.
    assert hko7.rate_to_dbz(1) == pytest.approx(17.674, abs=1e-3)
    assert hko7.rate_to_dbz(10) == pytest.approx(17.674 + 15.6, abs=1e-3)
    assert hko7.pixel_to_rate(0) == pytest.approx(0.0168, abs=1e-4)
    assert hko7.rate_to_pixel(0) == 0


def test_conversions_are_inverse_for_every_byte():
    pixels = np.arange(256) / 255
    bytes_ = hko7.dbz_to_byte(hko7.pixel_to_dbz(pixels))
    assert bytes_.tolist() == list(range(256))
    assert hko7.rate_to_pixel(hko7.pixel_to_rate(pixels)) == pytest.approx(
        pixels, abs=1e-12
    )


# B-MSE and B-MAE.

# mm/h, two frames of one window; by hand: weights 1, 2, 5, 30 and 1, 10, -, 2.
TRUTH = np.array(
    [[[[1.0, 2.0], [5.0, 30.0]], [[0.0, 29.9], [np.nan, 4.9]]]], "float32"
)
TOLD = np.array(
    [[[[3.0, 1.0], [5.0, 31.0]], [[1.0, 29.9], [9.0, 6.9]]]], "float32"
)
# 1 * 4 + 2 * 1 + 5 * 0 + 30 * 1 and 1 * 1 + 10 * 0 + 0 + 2 * 4; the same
# without squares: 1 * 2 + 2 * 1 + 30 * 1 and 1 * 1 + 2 * 2.
SQUARES, ABSOLUTES = (36 + 9) / 2, (34 + 5) / 2


@pytest.mark.parametrize("channel", [False, True])
def test_balanced_errors_equal_values_worked_by_hand(channel):
    truth, told = (a[..., None] if channel else a for a in (TRUTH, TOLD))
    for metric, expected in (
        (metrics.BMSE("mm/h"), SQUARES),
        (metrics.BMAE("mm/h"), ABSOLUTES),
        (metrics.BMAE("mm/h", per="pixel"), ABSOLUTES / 4),
    ):
        metric.update_state(truth, told)
        assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    for loss, expected in (
        (metrics.BalancedMSE("mm/h"), SQUARES),
        (metrics.BalancedMAE("mm/h"), ABSOLUTES),
        (metrics.BalancedMSE("mm/h", per="pixel"), SQUARES / 4),
        (metrics.BalancedLoss("mm/h"), 5e-5 * (SQUARES + ABSOLUTES)),
    ):
        assert float(loss(truth, told)) == pytest.approx(expected, rel=1e-5)


def test_a_sample_weight_of_zero_is_a_mask():
    counts = np.array([[[[0, 1], [1, 1]], [[1, 1], [1, 0]]]], "float32")
    # What is left: 2 + 30 and 1.
    metric = metrics.BMSE("mm/h")
    metric.update_state(TRUTH, TOLD, counts)
    loss = metrics.BalancedMSE("mm/h")(TRUTH, TOLD, counts)
    assert float(metric.result()) == pytest.approx((32 + 1) / 2, rel=1e-5)
    assert float(loss) == pytest.approx((32 + 1) / 2, rel=1e-5)


def test_frames_are_averaged_over_batches_of_any_size():
    metric = metrics.BMSE("mm/h")
    metric.update_state(TRUTH, TOLD)
    zeros = np.zeros((3, 2, 2, 2), "float32")
    metric.update_state(zeros, zeros)
    assert float(metric.result()) == pytest.approx((36 + 9) / 8, rel=1e-5)


def test_errors_of_pixels_have_the_weights_of_their_rates(rng):
    rates = np.exp(rng.normal(1, 2, (2, 3, 4, 5)))
    rates[0, 0, 0] = [2, 5, 10, 30, 0]
    truth = hko7.rate_to_pixel(rates).astype("float32")
    told = rng.random(truth.shape, "float32")
    weights = np.select(
        [rates < 2, rates < 5, rates < 10, rates < 30], [1, 2, 5, 10], 30
    )
    by_frame = (weights * (truth - told) ** 2).sum((2, 3))
    metric = metrics.BMSE()
    metric.update_state(truth, told)
    assert float(metric.result()) == pytest.approx(by_frame.mean(), rel=1e-5)


def test_what_is_not_known_gives_no_gradient():
    truth = ops.convert_to_tensor(TRUTH.reshape(1, 2, 4, 1))
    model = keras.Sequential(
        [keras.Input((2, 4, 1)), keras.layers.Dense(1, use_bias=False)]
    )
    kernel = model.layers[0].kernel
    kernel.assign([[1.0]])
    model.compile(keras.optimizers.SGD(1.0), metrics.BalancedMSE("mm/h"))
    model.train_on_batch(TOLD.reshape(1, 2, 4, 1), truth)
    # 2 w (q - p) q summed over the seven that are known, and two frames.
    step = (2 * 3 - 2 * 1 + 30 * 31 + 1 + 2 * 2 * 6.9) * 2 / 2
    assert ops.convert_to_numpy(kernel) == pytest.approx(1 - step, rel=1e-5)


# CSI and HSS.


@pytest.mark.parametrize("rate", metrics.RATES)
def test_csi_and_hss_are_those_of_scikit_learn(rate, rng):
    from sklearn import metrics as sklearn

    csi, hss = metrics.CSI(rate), metrics.HSS(rate)
    seen, told = [], []
    # Batches that differ: a mean of their ratios would be another number.
    for number, mean in ((3, 2.5), (1, -1.0)):
        rates = np.exp(rng.normal(mean, 1.5, (2, number, 2, 8, 8)))
        truth, forecast = hko7.rate_to_pixel(rates).astype("float32")
        holes = rng.random(truth.shape) < 0.1
        counts = (rng.random(truth.shape) > 0.1).astype("float32")
        keep = ~holes & (counts > 0)
        seen.append((rates[0] >= rate)[keep])
        told.append((rates[1] >= rate)[keep])
        truth[holes] = np.nan
        for metric in (csi, hss):
            metric.update_state(truth, forecast, counts)
    seen, told = np.concatenate(seen), np.concatenate(told)
    (negatives, alarms), (misses, hits) = sklearn.confusion_matrix(seen, told)
    assert [float(n) for n in csi.counts()] == [hits, misses, alarms, negatives]
    assert float(csi.result()) == pytest.approx(
        sklearn.jaccard_score(seen, told), abs=1e-6
    )
    assert float(hss.result()) == pytest.approx(
        sklearn.cohen_kappa_score(seen, told), abs=1e-6
    )


def test_scores_that_are_not_defined_are_nan_until_reset():
    dry = np.zeros((1, 1, 2, 2), "float32")
    csi, hss = metrics.CSI(0.5, "mm/h"), metrics.HSS(0.5, "mm/h")
    for metric in (csi, hss):
        metric.update_state(dry, dry)
        assert math.isnan(float(metric.result()))
        metric.update_state(dry, dry + 1)
        assert float(metric.result()) == 0
        metric.reset_state()
        metric.update_state(dry + 1, dry + 1)
    assert float(csi.result()) == 1


def test_counts_go_beyond_what_float32_can_count():
    metric = metrics.CSI(0.5, "mm/h")
    wet = np.ones((1, 1, 3, 1), "float32")
    metric.high.assign([2000, 0, 0, 0])
    metric.low.assign([metrics.BASE - 2, 0, 0, 0])
    metric.update_state(wet, wet)
    assert int(metric.high[0]) == 2001
    assert int(metric.low[0]) == 1


def test_losses_and_metrics_come_back_from_their_configs():
    loss = metrics.BalancedLoss("mm/h", per="pixel")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    for metric in metrics.scores("mm/h"):
        again = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert again.get_config() == metric.get_config()
    names = [metric.name for metric in metrics.scores()]
    assert names[:4] == ["b_mse", "b_mae", "csi_0.5", "csi_2"]
    assert len(set(names)) == 12


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.BMSE("furlongs"),
        lambda: metrics.BalancedMAE(per="fortnight"),
        lambda: metrics.CSI(0.5, unit="furlongs"),
    ],
)
def test_a_wrong_argument_is_named(make):
    with pytest.raises(ValueError, match=r"must be .*Received: "):
        make()


# Frames of HKO-7.

SIZE = (8, 16)
DAYS = ("2015-05-23", "2015-05-24", "2015-05-25", "2015-05-26", "2015-05-27")


def write_frame(folder, time, pixels, style="RAD%y%m%d%H%M%S"):
    from PIL import Image

    path = folder / f"radarPNG/{time:%Y/%m/%d}/{time.strftime(style)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    mask = path.parents[4] / "radarPNG_mask" / f"{time:%Y/%m/%d}"
    mask.mkdir(parents=True, exist_ok=True)
    counts = np.ones(SIZE, bool)
    counts[0, 0] = False
    (mask / f"{path.stem}.mask").write_bytes(zlib.compress(counts.tobytes()))
    return path


@pytest.fixture
def radar(tmp_path):
    """Five days of six frames; a frame has the number of its minute."""
    for day in DAYS:
        for minute in range(0, 36, 6):
            time = datetime.datetime.fromisoformat(f"{day}T10:{minute:02d}")
            write_frame(tmp_path, time, np.full(SIZE, minute + 40, "uint8"))
    return tmp_path


def parts(folder, **arguments):
    return hko7.parts(folder, 2, 2, size=SIZE, **arguments)


def frame(folder, minute=12, day="2015/05/24"):
    stamp = "RAD" + day.replace("/", "")[2:]
    return folder / f"radarPNG/{day}/{stamp}10{minute:02d}00.png"


def break_pixels(path):
    """Some bytes in the middle, so that the file looks whole."""
    broken = bytearray(path.read_bytes())
    place = broken.index(b"IDAT") + 6
    broken[place : place + 4] = b"\x00\xff\x00\xff"
    path.write_bytes(broken)


def test_windows_of_radar_frames_lie_in_one_day_and_one_split(radar):
    found = parts(radar)
    # Three windows of four frames in each day of six.
    assert {k: len(v) for k, v in found.items()} == {
        "train": 9,
        "validation": 3,
        "test": 3,
    }
    times = [
        {time for start in part.starts for time in part.when(start)}
        for part in found.values()
    ]
    assert sum(map(len, times)) == len(set.union(*times)) == 30
    seen, truth = found["train"].read([1, 3])
    assert seen.shape == truth.shape == (2, 2, *SIZE, 1)
    expected = np.array([[46, 52], [40, 46]]) / 255
    assert seen[:, :, 1, 1, 0] == pytest.approx(expected)
    # A masked pixel: 0 to look at, and nothing to be measured by.
    assert not seen[:, :, 0, 0].any()
    assert np.isnan(truth[:, :, 0, 0]).all()
    assert np.isfinite(truth).sum() == 2 * 2 * (8 * 16 - 1)


def test_frames_may_have_long_names_and_masks_beside_them(radar):
    for old in radar.rglob("RAD*"):
        if old.suffix == ".png":
            old.rename(old.with_name(f"20{old.stem[3:]}.png"))
        else:
            day = (
                radar
                / "radarPNG"
                / old.parent.relative_to(radar / "radarPNG_mask")
            )
            old.rename(day / f"20{old.stem[3:]}.mask")
    _, truth = parts(radar / "radarPNG")["train"].read([0])
    assert np.isnan(truth[0, 0, 0, 0])


def test_the_lists_of_the_release_make_the_splits(radar):
    for name, day in zip(("train", "valid", "test"), DAYS[2:]):
        path = radar / f"hko7_rainy_{name}_days.txt"
        path.write_text(day.replace("-", "") + ", 14.9\n\n")
    starts = {k: v.starts[0].day for k, v in parts(radar).items()}
    assert starts == {"train": 25, "validation": 26, "test": 27}
    path.write_text("20150523, 3\n20150530, 1\n")
    with pytest.raises(SystemExit, match=r"test_days.txt, row 2: there are no"):
        parts(radar)
    path.write_text("20150523, 3\nMay 24\n")
    with pytest.raises(SystemExit, match=r"row 2: expected .*'May 24'"):
        parts(radar)
    path.write_text("20150525, 3\n")
    with pytest.raises(SystemExit, match=r"two splits: 2015-05-25"):
        parts(radar)
    path.write_text("")
    with pytest.raises(SystemExit, match=r"empty split: .* test of"):
        parts(radar)
    path.unlink()
    with pytest.raises(SystemExit, match=r"no .*hko7_rainy_test_days.txt"):
        parts(radar)


def test_a_gap_is_named_or_its_windows_are_left_out(radar, capsys):
    frame(radar, 12).unlink()
    with pytest.raises(SystemExit, match=r"2015-05-24 10:12:00 is missing"):
        parts(radar)
    found = parts(radar, gaps="skip")
    assert "train: 3 windows left out" in capsys.readouterr().out
    assert len(found["train"]) == 6
    with pytest.raises(ValueError, match="Received: gaps='mend'"):
        parts(radar, gaps="mend")


def test_a_frame_that_is_not_whole_is_named_before_training(radar):
    path = frame(radar)
    whole = path.read_bytes()
    for content, message in (
        (whole[:-5], "cut off"),
        (b"", "Not a PNG"),
        (b"GIF89a" + whole, "Not a PNG"),
    ):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match=rf"{message}.*{path.name}"):
            parts(radar)
    time = datetime.datetime(2015, 5, 24, 10, 12)
    write_frame(radar, time, np.zeros((6, 9), "uint8"))
    with pytest.raises(SystemExit, match=rf"6 x 9 in .*{path.name}"):
        parts(radar)


def test_a_frame_that_cannot_be_decoded_is_named_when_it_is_read(radar):
    path = frame(radar)
    break_pixels(path)
    train = parts(radar)["train"]
    train.read([0])
    with pytest.raises(SystemExit, match=rf"cannot be read: .*{path.name}"):
        train.read([3])


def test_a_mask_that_is_missing_or_broken_is_named(radar):
    path = next(radar.rglob(f"{frame(radar).stem}.mask"))
    path.write_bytes(zlib.compress(bytes(7)))
    with pytest.raises(SystemExit, match=rf"7 up to 0 in .*{path.name}"):
        parts(radar)["train"].read([3])
    path.write_bytes(b"nothing")
    with pytest.raises(SystemExit, match=rf"cannot be read: .*{path.name}"):
        parts(radar)["train"].read([3])
    path.unlink()
    with pytest.raises(SystemExit, match=rf"without its mask: .*{path.stem}"):
        parts(radar)
    seen, _ = parts(radar, masks=False)["train"].read([3])
    assert seen.min() > 0


def test_a_frame_in_the_wrong_place_is_named(radar):
    frame(radar).rename(frame(radar).with_name("RAD150525101200.png"))
    with pytest.raises(SystemExit, match=r"05/24/RAD150525101200.png"):
        parts(radar)
    with pytest.raises(SystemExit, match=r"no frames in .*radarPNG_mask"):
        parts(radar / "radarPNG_mask")
    with pytest.raises(SystemExit, match=r"no folder at --data .*nowhere"):
        parts(radar / "nowhere")


def test_frames_shrink_to_means_of_what_counts():
    pixels = np.array([[1, 3, np.nan, np.nan], [np.nan, 5, np.nan, np.nan]])
    small = hko7.shrink(pixels, 2)
    assert small[0, 0] == 3
    assert np.isnan(small[0, 1])


# Small data.


def test_no_hour_of_stage_iv_is_in_two_parts():
    series = data.in_time(data.stage_iv())
    shape = (56, 40)
    found = {
        part: data.Patches(series[part], part, 3, 2, shape, shape)
        for part in data.PARTS
    }
    times = [
        {time for start in part.starts for time in part.when(start)}
        for part in found.values()
    ]
    assert sum(map(len, times)) == len(set.union(*times)) == 23
    assert max(times[0]) < min(times[1]) <= max(times[1]) < min(times[2])
    # What the file holds at 12 UTC on the 14th, the 18th of its hours.
    with np.load(data.STAGE_IV) as file:
        rates = file["precipitation"][17, 56:112, :40]
    seen, _ = found["test"].read([2])
    assert found["test"].when(found["test"].starts[2])[0].hour == 12
    assert hko7.pixel_to_rate(seen[0, 0, ..., 0]) == pytest.approx(
        np.maximum(rates, hko7.pixel_to_rate(0)), rel=1e-4
    )


def save(path, fields, **others):
    np.savez(path, precipitation=fields, **others)
    return path


def test_fields_of_a_file_may_be_metres_and_have_holes(tmp_path):
    fields = np.full((4, 2, 2), 0.002)
    fields[1, 0, 0] = np.nan
    path = save(tmp_path / "rain.npz", fields, minutes=30)
    with pytest.raises(SystemExit, match=r"pass --unit m.*at most 0.002"):
        data.from_npz(path)
    series = data.from_npz(path, "m")
    assert hko7.pixel_to_rate(series.pixels[0, 0]) == pytest.approx(2, rel=1e-5)
    assert series.minutes == 30
    assert data.from_npz(path, "m", 420).minutes == 420
    seen, _ = data.Patches(series, "all", 2, 2, (2, 2), (2, 2)).read([0])
    assert seen[0, 1, 0, 0, 0] == 0
    later = data.Patches(series, "all", 1, 1, (2, 2), (2, 2)).read([0])[1]
    assert np.isnan(later[0, 0, 0, 0, 0])


def test_a_file_that_does_not_do_is_named(tmp_path):
    path = tmp_path / "rain.npz"
    with pytest.raises(SystemExit, match=r"no file at --data .*rain.npz"):
        data.from_npz(path)
    path.write_bytes(b"PK nothing")
    with pytest.raises(SystemExit, match=r"cannot be read: .*rain.npz"):
        data.from_npz(path)
    np.savez(path, snow=np.ones(3))
    with pytest.raises(SystemExit, match=r"precipitation.*\['snow'\]"):
        data.from_npz(path)
    fields = np.ones((3, 2, 2))
    fields[1, 1, 1] = -1
    with pytest.raises(SystemExit, match=r"rain.npz, field 1: .*below 0"):
        data.from_npz(save(path, fields))
    fields[1] = np.nan
    with pytest.raises(SystemExit, match=r"rain.npz, field 1: all of it"):
        data.from_npz(save(path, fields))
    series = data.from_npz(save(path, np.ones((3, 2, 2))))
    with pytest.raises(SystemExit, match=r"empty split: .*3 fields, a window"):
        data.Patches(series, "test", 2, 2, (2, 2), (2, 2))
    with pytest.raises(SystemExit, match="does not fit a field of 2"):
        data.Patches(series, "test", 1, 1, (4, 2), (2, 2))


def test_digits_fly_within_the_frame_and_are_called_synthetic():
    series = data.moving_digits(6, (24, 40), seed=0, sequences=(3, 1, 1))
    pixels = series["train"].pixels
    assert pixels.shape == (3, 6, 24, 40)
    assert all(part.synthetic for part in series.values())
    assert "synthetic" in series["test"].name
    assert 0 < pixels.max() <= 1
    moved = np.abs(np.diff(pixels, axis=1)).sum((2, 3))
    assert (moved > 0).all()
    with pytest.raises(SystemExit, match=r"room to fly.*\(16, 40\)"):
        data.moving_digits(6, (16, 40), seed=0)
    again = data.moving_digits(6, (24, 40), seed=0, sequences=(3, 1, 1))
    np.testing.assert_array_equal(pixels, again["train"].pixels)


# The network.

TINY = networks.Network(
    down=((2, 4, 2), (3, 4, 2), (4, 3, 2)),
    up=((4, 4, 2), (3, 4, 2), (2, 4, 2)),
    states=(3, 4, 5),
    recurrent=(3, 3, 3),
    size=(8, 16),
    frames=(2, 2),
)
SMALL = dataclasses.replace(TINY, size=(16, 16), residual=True)
# For runs: a third of what there is to compile.
FLAT = dataclasses.replace(
    SMALL, down=((3, 4, 2),), up=((3, 4, 2),), states=(4,), recurrent=(3,)
)


@pytest.fixture
def drawn_by_numpy(monkeypatch):
    """First weights: JAX compiles for seconds to draw them in many shapes."""

    def draw(self, shape, dtype=None):
        return np.random.uniform(-0.3, 0.3, shape)  # noqa: NPY002 - as seeded

    for kind in ("GlorotUniform", "Orthogonal"):
        monkeypatch.setattr(getattr(keras.initializers, kind), "__call__", draw)


def assert_equal(a, b):
    a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
    np.testing.assert_array_equal(a, b)


def convolution(kernel, channels, filters):
    return kernel * kernel * channels * filters + filters


def gru(channels, filters, recurrent):
    return 3 * filters * (9 * channels + recurrent**2 * filters + 2)


@pytest.mark.parametrize(
    ("name", "second", "head"),
    [("paper", 64, 0), ("shi", 192, convolution(3, 8, 8))],
)
def test_the_networks_of_the_papers_have_their_shapes_and_sizes(
    name, second, head, drawn_by_numpy
):
    network = networks.NETWORKS[name]
    model = networks.build(name)
    side = {"paper": 120, "shi": 480}[name]
    frames_in, frames_out = {"paper": (10, 10), "shi": (5, 20)}[name]
    assert model.input_shape == (None, frames_in, side, side, 1)
    assert model.output_shape == (None, frames_out, side, side, 1)
    states = [model.get_layer(f"encoder_{i}").output[1] for i in (1, 2, 3)]
    maps = [side // 5, side // 15, side // 30]
    assert [state.shape[1] for state in states] == maps
    assert network.states == (64, 192, 192)
    assert model.count_params() == sum(
        [
            convolution(7, 1, 8) + gru(8, 64, 5),
            convolution(5, 64, second) + gru(second, 192, 5),
            convolution(3, 192, 192) + gru(192, 192, 3),
            gru(1, 192, 3) + convolution(4, 192, 192),
            gru(192, 192, 5) + convolution(5, 192, 192),
            gru(192, 64, 5) + convolution(7, 64, 8),
            head + convolution(1, 8, 1),
        ]
    )


def test_each_frame_is_what_the_layer_makes_of_it(rng):
    layer = keras.layers.Conv2D(3, 3, 2)
    frames = rng.random((2, 3, 7, 5, 1), "float32")
    found = networks.EachFrame(layer)(frames)
    assert tuple(found.shape) == (2, 3, 3, 2, 3)
    assert ops.convert_to_numpy(found[1, 2]) == pytest.approx(
        ops.convert_to_numpy(layer(frames[1, 2:3])[0]), abs=1e-6
    )


def test_the_forecast_knows_of_all_frames_by_the_states_alone(
    rng, drawn_by_numpy
):
    model = networks.build(TINY)
    seen = rng.random((1, 2, 8, 16, 1), "float32")
    other = seen.copy()
    other[:, 0] = 0
    forecasts = model.predict_on_batch(np.concatenate([seen, other]))
    assert np.abs(forecasts[0] - forecasts[1]).max() > 1e-6
    # What comes in goes through the states: from zeros comes what is always
    # the same, and it still moves from frame to frame.
    bias = [w for w in model.trainable_variables if "bias" in w.path]
    for weight in bias:
        weight.assign(0.01 * rng.random(weight.shape, "float32"))
    told = model.predict_on_batch(np.zeros_like(seen))
    assert np.abs(told[0, 0] - told[0, 1]).max() > 1e-7


def test_the_small_network_begins_as_persistence(rng, drawn_by_numpy):
    seen = rng.random((2, 2, 16, 16, 1), "float32")
    model = networks.build(SMALL)
    np.testing.assert_array_equal(
        model.predict_on_batch(seen), train.persistence(seen, 2)
    )
    with pytest.raises(ValueError, match=r"multiples of 8.*\(16, 12\)"):
        networks.build(SMALL, size=(16, 12))


def test_arms_begin_alike_and_have_a_memel_in_each_gru(drawn_by_numpy):
    models = []
    for arm in (None, {"late_start": 3}):
        keras.utils.set_random_seed(1)
        models.append(networks.build(TINY, arm))
    plain, memel = models
    train.copy_weights(plain, memel)
    for a, b in zip(plain.trainable_variables, memel.trainable_variables):
        assert_equal(a, b)
    layers = memel._flatten_layers()
    assert sum(isinstance(layer, keras_memel.MEmeL) for layer in layers) == 6
    assert len(memel.weights) - len(plain.weights) == 6 * 6


# Runs.

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
    reason="tests/test_longrun.py does so on every backend; this compiles much",
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
