"""Small data sets for nowcasting, and their split into windows.

    stage_iv       23 hourly fields over the Carolinas under hurricane Florence,
                   13 and 14 September 2018, in examples/data
    FILE.npz       `precipitation`, (time, height, width), in millimeters or
                   meters per hour; NaN for missing data. Optional are `unit`
                   (mm or m), `minutes` between fields, and `start` (ISO 8601).
                   ERA5 uses meters
    digits         SYNTHETIC: moving handwritten digits of scikit-learn, as in
                   Moving MNIST

The split is by time: the first fields are for training, the next ones for
validation, the last ones for the test. A window belongs to one of these parts,
so no field, and no hour, is in two of them. Patches of one field overlap within
a part. For digits, each part has separate sequences and pictures.

Values in mm/h become pixels of HKO-7 by its relation of reflectivity and rain
rate (`hko7.rate_to_pixel`): a logarithmic scale, on which the papers measure
their errors.
"""

import dataclasses
import datetime
import pathlib

import numpy as np

from examples.paper.nowcasting import hko7
from examples.paper.nowcasting import windows

STAGE_IV = pathlib.Path(__file__).parents[2] / "data" / "stage_iv.npz"
PARTS = ("train", "validation", "test")


@dataclasses.dataclass
class Series:
    """Gap-free fields: `pixels`, `(sequences, time, height, width)`."""

    name: str
    pixels: np.ndarray
    minutes: float
    start: datetime.datetime | None = None
    synthetic: bool = False
    # Whether the first row is in the south.
    south_first: bool = False


def stage_iv():
    series = from_npz(STAGE_IV)
    series.name = "Stage IV"
    # The hour that ends at 19 UTC is the first.
    series.start = datetime.datetime(2018, 9, 13, 19)
    series.south_first = True
    return series


def from_npz(path, unit=None, minutes=None):
    """Read the fields of a file; `None`: its values, or hourly millimeters."""
    if not path.is_file():
        raise SystemExit(f"There is no file at --data {path}")
    try:
        with np.load(path) as file:
            content = {key: file[key] for key in file.files}
    except Exception as error:
        raise SystemExit(
            f"A file that cannot be read: {path} ({error})"
        ) from error
    if "precipitation" not in content:
        raise SystemExit(
            "--data FILE.npz must have `precipitation`. "
            f"Received: {sorted(content)} in {path}"
        )
    rates = np.asarray(content["precipitation"], "float64")
    if rates.size and np.isnan(rates).all():
        raise SystemExit(f"`precipitation` is NaN everywhere in {path}")
    if rates.ndim != 3 or not np.isfinite(rates).any():
        raise SystemExit(
            "`precipitation` must be numbers of (time, height, width). "
            f"Received: shape {rates.shape} in {path}"
        )
    for number, field in enumerate(rates):
        if np.isinf(field).any() or (field < 0).any():
            raise SystemExit(
                f"{path}, field {number}: precipitation below 0, or infinite"
            )
        if not np.isfinite(field).any():
            raise SystemExit(f"{path}, field {number}: all of it is missing")
    minutes = float(minutes or content.get("minutes", 60))
    unit = unit or str(content.get("unit", "mm"))
    if unit not in ("mm", "m"):
        raise SystemExit(f"--unit must be mm or m. Received: {unit}")
    if unit == "mm" and np.nanmax(rates) < 0.5:
        raise SystemExit(
            f"Less than half a millimeter anywhere in {path}: are these "
            "meters? Then pass --unit m. "
            f"Received: at most {np.nanmax(rates):g}"
        )
    rates = rates * (1000 if unit == "m" else 1)
    start = str(content.get("start", ""))
    return Series(
        name=path.stem,
        pixels=hko7.rate_to_pixel(rates).astype("float32")[None],
        minutes=minutes,
        start=datetime.datetime.fromisoformat(start) if start else None,
    )


def digits(pictures, sequences, frames, size, seed, number=2):
    """Make synthetic sequences of digits that bounce off the edges of a frame.

    Args:
        pictures: Which of the 1,797 pictures of scikit-learn to draw from.
        sequences: How many to make.
        frames: Their length.
        size: Height and width of a frame, at least 20.
        seed: Of all that is drawn.
        number: Digits of a frame.
    """
    from sklearn.datasets import load_digits

    if min(size) < 20:
        raise SystemExit(
            "Digits of 16 points need room to fly: at least 20 x 20. "
            f"Received: {tuple(size)}"
        )
    drawn = load_digits().images[pictures] / 16
    random = np.random.default_rng(seed)
    side = 16
    room = np.array(size) - side
    pixels = np.zeros((sequences, frames, *size), "float32")
    for sequence in pixels:
        for _ in range(number):
            picture = drawn[random.integers(len(drawn))]
            picture = picture.repeat(2, 0).repeat(2, 1)
            place = random.uniform(0, room)
            speed = random.uniform(1, 3) * _direction(random)
            for frame in sequence:
                row, column = np.round(place).astype(int)
                part = frame[row : row + side, column : column + side]
                np.maximum(part, picture, out=part)
                place += speed
                out = (place < 0) | (place > room)
                speed = np.where(out, -speed, speed)
                place = np.clip(place, 0, room)
    return pixels


def _direction(random):
    angle = random.uniform(0, 2 * np.pi)
    return np.array([np.sin(angle), np.cos(angle)])


def moving_digits(frames, size, seed, sequences=(256, 32, 32)):
    """Return a series for each part, with separate pictures."""
    pictures = np.random.default_rng(0).permutation(1797)
    cut = np.split(pictures, [1200, 1500])
    return {
        part: Series(
            "digits (synthetic)",
            digits(cut[i], sequences[i], frames, size, [seed, i]),
            minutes=1,
            synthetic=True,
        )
        for i, part in enumerate(PARTS)
    }


def in_time(series):
    """Split the fields: half for training, a quarter each for the others."""
    number = series.pixels.shape[1]
    quarter = round(number / 4)
    cuts = [0, number - 2 * quarter, number - quarter, number]
    parts = {}
    for part, first, last in zip(PARTS, cuts, cuts[1:]):
        start = series.start
        if start is not None:
            start += first * datetime.timedelta(minutes=series.minutes)
        parts[part] = dataclasses.replace(
            series, pixels=series.pixels[:, first:last], start=start
        )
    return parts


def corners(length, patch, stride):
    """Return the starts of the patches within a length."""
    if patch > length:
        raise SystemExit(
            f"A patch of {patch} points does not fit a field of {length}"
        )
    return range(0, length - patch + 1, stride)


class Patches(windows.Windows):
    """Iterate over the patches of a series.

    Args:
        series: A `Series`.
        part: Name of the part, for messages.
        frames_in: Number of frames to see.
        frames_out: Number of frames to forecast.
        patch: Height and width of the patches.
        stride: Points from one patch to the next, down and across.
    """

    def __init__(self, series, part, frames_in, frames_out, patch, stride):
        number, time, height, width = series.pixels.shape
        length = frames_in + frames_out
        super().__init__(
            f"{part} of {series.name} ({time} fields, a window needs "
            f"{frames_in} + {frames_out})",
            [
                (sequence, first, row, column)
                for sequence in range(number)
                for first in range(time - length + 1)
                for row in corners(height, patch[0], stride[0])
                for column in corners(width, patch[1], stride[1])
            ],
            frames_in,
            frames_out,
        )
        self.series, self.patch, self.length = series, tuple(patch), length
        self.minutes, self.synthetic = series.minutes, series.synthetic
        self.south_first = series.south_first

    def sequence(self, start):
        number, first, row, column = start
        height, width = self.patch
        return self.series.pixels[
            number,
            first : first + self.length,
            row : row + height,
            column : column + width,
        ]

    def place(self, start):
        return start[:2], start[2:]

    def when(self, start):
        numbers = range(start[1], start[1] + self.length)
        if self.series.start is None:
            return list(numbers)
        step = datetime.timedelta(minutes=self.series.minutes)
        return [self.series.start + i * step for i in numbers]
