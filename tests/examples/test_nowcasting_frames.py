"""The nowcasting example: frames of HKO-7, and what is wrong with them."""

import datetime
import zlib

import numpy as np
import pytest
from radar_frames import DAYS
from radar_frames import SIZE
from radar_frames import break_pixels
from radar_frames import frame
from radar_frames import write_frame
from scripts import example

pytest.importorskip("PIL")

hko7 = example("paper.nowcasting.hko7")

pytestmark = pytest.mark.once


def parts(folder, **arguments):
    return hko7.parts(folder, 2, 2, size=SIZE, **arguments)


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
    # A masked pixel is 0 in the inputs and NaN in the truth.
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
    frame(radar).unlink()
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
