"""The nowcasting example: the small data, of the package, a file or made up."""

import numpy as np
import pytest
from scripts import example

pytest.importorskip("sklearn")

data = example("paper.nowcasting.data")
hko7 = example("paper.nowcasting.hko7")

pytestmark = pytest.mark.once


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
    # Rates at 12 UTC on the 14th, the 18th hour in the file.
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


def test_fields_of_a_file_may_be_meters_and_have_holes(tmp_path):
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
