"""Read the radar frames of HKO-7, and convert their pixels to rain.

The Hong Kong Observatory provides HKO-7 for research. It consists of

    FOLDER/radarPNG/2015/05/23/RAD150523000000.png       gray, 480 x 480
    FOLDER/radarPNG_mask/2015/05/23/RAD150523000000.mask zlib, 480 x 480 bytes
    FOLDER/hko7_rainy_train_days.txt                     20090101, 0.4

with one frame every 6 minutes. A name may contain the whole year
(20150523000000.png). The frames may be in FOLDER, and a mask next to its
frame. A byte of a mask is 1 for valid pixels; invalid are the corners outside
of the radar's range, and noise according to the observatory. Each line of
hko7_rainy_*_days.txt is a day and its rain in millimeters. Without these files,
the last days are held out.

Faults of a frame that its size and its length reveal raise an error before the
training, all others when the frame is read. A broken frame is never replaced.

Reference: X. Shi et al. (2017), Deep Learning for Precipitation Nowcasting: A
Benchmark and a New Model (arXiv 1706.03458), and the code they published.
"""

import datetime
import itertools
import re
import zlib

import numpy as np

from examples.paper.nowcasting import windows

MINUTES = 6
SIZE = (480, 480)
SPLITS = {"train": "train", "validation": "valid", "test": "test"}

# Z = a R^b, with Z in mm^6/m^3 and R in mm/h, as the observatory fits it.
A, B = 58.53, 1.56
# A pixel of 0 is -10 dBZ, one of 255 is 60 dBZ.
LOWEST, RANGE = -10.0, 70.0


def pixel_to_dbz(pixel):
    """Convert pixels in [0, 1] (a byte divided by 255) to dBZ."""
    return RANGE * np.asarray(pixel, "float64") + LOWEST


def dbz_to_pixel(dbz):
    """Convert dBZ to pixels, clipped to [0, 1]."""
    return np.clip((np.asarray(dbz, "float64") - LOWEST) / RANGE, 0, 1)


def dbz_to_byte(dbz):
    """Convert dBZ to stored pixels: 255 (dBZ + 10) / 70, rounded half up."""
    return np.floor(255 * dbz_to_pixel(dbz) + 0.5).astype("uint8")


def dbz_to_rate(dbz):
    """Convert dBZ to mm/h: R = (10^(dBZ / 10) / a)^(1 / b)."""
    return (10 ** (np.asarray(dbz, "float64") / 10) / A) ** (1 / B)


def rate_to_dbz(rate):
    """Convert mm/h to dBZ = 10 log10(a R^b); no rain is -inf."""
    with np.errstate(divide="ignore"):
        return 10 * np.log10(A) + 10 * B * np.log10(np.asarray(rate, "float64"))


def pixel_to_rate(pixel):
    return dbz_to_rate(pixel_to_dbz(pixel))


def rate_to_pixel(rate):
    return dbz_to_pixel(rate_to_dbz(rate))


def frames(folder):
    """Return all frames of a folder: time -> path, in chronological order."""
    root = folder / "radarPNG" if (folder / "radarPNG").is_dir() else folder
    found = {}
    for path in sorted(root.glob("[0-9]*/[0-9]*/[0-9]*/*.png")):
        time = _time(path)
        day = tuple(int(part.name) for part in reversed(path.parents[:3]))
        if time is None or (time.year, time.month, time.day) != day:
            raise SystemExit(
                "A frame of HKO-7 must be YYYY/MM/DD/RADyymmddHHMMSS.png or "
                "YYYY/MM/DD/YYYYMMDDHHMMSS.png, in the folder of its day. "
                f"Received: {path}"
            )
        if time in found:
            raise SystemExit(
                f"Two frames of one time. Received: {found[time]} and {path}"
            )
        found[time] = path
    if not found:
        raise SystemExit(
            f"There are no frames in {root}. HKO-7 is a folder of years, "
            "months and days, such as 2015/05/23/RAD150523000000.png; the Hong "
            "Kong Observatory lends it for research "
            "(https://github.com/sxjscience/HKO-7)."
        )
    return dict(sorted(found.items()))


def _time(path):
    digits = re.fullmatch(r"(?:RAD(\d{12})|(\d{14}))", path.stem)
    try:
        if digits is None:
            return None
        stamp = "20" + digits[1] if digits[1] else digits[2]
        return datetime.datetime.strptime(stamp, "%Y%m%d%H%M%S")
    except ValueError:
        return None


def days_of(folder, days):
    """Return the days of each part: a dict of split -> set of days.

    As the release lists them, or, if it has no lists, in the order of time:
    70 % to train, 10 % to validate, 20 % to test.
    """
    lists = {
        split: folder / f"hko7_rainy_{name}_days.txt"
        for split, name in SPLITS.items()
    }
    if not any(path.is_file() for path in lists.values()):
        days = sorted(days)
        last = len(days) - round(0.2 * len(days))
        first = last - max(1, round(0.1 * len(days)))
        cut = {
            "train": days[:first],
            "validation": days[first:last],
            "test": days[last:],
        }
        return {split: set(part) for split, part in cut.items()}
    return {split: _listed(path, days) for split, path in lists.items()}


def _listed(path, days):
    if not path.is_file():
        raise SystemExit(f"A split is missing: there is no {path}")
    listed = set()
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            stamp = line.split(",")[0].strip()
            day = datetime.datetime.strptime(stamp, "%Y%m%d").date()
        except ValueError:
            raise SystemExit(
                f"{path}, row {number}: expected a day as YYYYMMDD, a comma "
                f"and millimeters. Received: {line!r}"
            ) from None
        if day not in days:
            raise SystemExit(
                f"{path}, row {number}: there are no frames of {day}"
            )
        listed.add(day)
    return listed


def starts_of(times, length, stride=1, gaps="raise"):
    """Return the starts of the windows of `length` frames within one day.

    Args:
        times: Times of the frames there are, in order.
        length: Frames of a window, 6 minutes apart.
        stride: Frames from the start of one window to that of the next.
        gaps: What to do where frames are missing between others of a day:
            `"raise"`, or `"skip"` the windows that would need them.

    Returns:
        Times of the first frames, and the number of windows skipped.
    """
    if gaps not in ("raise", "skip"):
        raise ValueError(
            f"`gaps` must be 'raise' or 'skip'. Received: gaps={gaps!r}"
        )
    step = datetime.timedelta(minutes=MINUTES)
    there, by_day = set(times), {}
    for time in times:
        by_day.setdefault(time.date(), []).append(time)
    starts, skipped = [], 0
    for day in by_day.values():
        for before, after in itertools.pairwise(day):
            if after - before != step and gaps == "raise":
                raise SystemExit(
                    f"A gap in the radar sequence: {before + step} is missing, "
                    f"the frame after {before} is that of {after}. Pass "
                    "--gaps skip to leave out the windows that would need it."
                )
        number = int((day[-1] - day[0]) / step) + 1
        for first in range(0, number - length + 1, stride):
            start = day[0] + first * step
            if all(start + i * step in there for i in range(length)):
                starts.append(start)
            else:
                skipped += 1
    return starts, skipped


def check(path, size=SIZE):
    """Check the first and the last bytes of a PNG, without decoding it."""
    with open(path, "rb") as file:
        head = file.read(33)
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 12))
        tail = file.read()
    if head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise SystemExit(f"Not a PNG: {path}")
    width, height = (int.from_bytes(head[i : i + 4], "big") for i in (16, 20))
    if (height, width) != tuple(size):
        raise SystemExit(
            f"A frame must have {size[0]} x {size[1]} pixels. "
            f"Received: {height} x {width} in {path}"
        )
    if tail[4:8] != b"IEND":
        raise SystemExit(f"A PNG that is cut off: {path}")


def read(path, size=SIZE):
    """Read the pixels of a frame in [0, 1], `(height, width)`."""
    from PIL import Image

    check(path, size)
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in ("L", "P", "RGB", "RGBA", "1"):
                raise ValueError(f"its mode is {image.mode}")
            pixels = np.asarray(image.convert("L"), "float32")
    except Exception as error:
        raise SystemExit(
            f"A frame that cannot be read: {path} ({error})"
        ) from error
    return pixels / 255


def mask_of(path):
    """Return the mask file of a frame: next to it or in radarPNG_mask."""
    beside = path.with_suffix(".mask")
    day = path.parents[2].parent
    apart = day.with_name(day.name + "_mask") / beside.relative_to(day)
    for candidate in (apart, beside):
        if candidate.is_file():
            return candidate
    raise SystemExit(
        f"A frame without its mask: {path} (looked for {apart} and {beside}). "
        "Pass --no-masks if all pixels count."
    )


def read_mask(path, size=SIZE):
    """Read booleans `(height, width)`: true for valid pixels."""
    try:
        data = zlib.decompress(path.read_bytes())
    except (OSError, zlib.error) as error:
        raise SystemExit(
            f"A mask that cannot be read: {path} ({error})"
        ) from error
    values = np.frombuffer(data, "uint8")
    if values.size != size[0] * size[1] or values.max(initial=0) > 1:
        raise SystemExit(
            f"A mask must have {size[0]} x {size[1]} bytes of 0 or 1. "
            f"Received: {values.size} up to {values.max(initial=0)} in {path}"
        )
    return values.reshape(size).astype(bool)


def shrink(pixels, factor):
    """Return means of blocks over valid pixels; NaN for blocks without any."""
    if factor == 1:
        return pixels
    height, width = (side // factor for side in pixels.shape)
    blocks = pixels[: height * factor, : width * factor].reshape(
        height, factor, width, factor
    )
    valid = np.isfinite(blocks)
    number = valid.sum((1, 3))
    total = np.where(valid, blocks, 0).sum((1, 3))
    with np.errstate(invalid="ignore"):
        return np.where(number > 0, total / number, np.nan).astype("float32")


class Sequences(windows.Windows):
    """Read radar sequences from their files on demand.

    Args:
        name: What they are of, for messages.
        paths: A dict of time -> path, see `frames`.
        starts: Times of the first frames, see `starts_of`.
        frames_in: Number of frames to see.
        frames_out: Number of frames to forecast.
        size: Height and width of the frames on disk.
        shrink: Factor to make them smaller by.
        masks: Whether to read the masks.
    """

    minutes = MINUTES

    def __init__(
        self,
        name,
        paths,
        starts,
        frames_in,
        frames_out,
        size=SIZE,
        shrink=1,
        masks=True,
    ):
        super().__init__(name, starts, frames_in, frames_out)
        self.paths, self.size = paths, tuple(size)
        self.factor, self.masks = shrink, masks
        for time in sorted({t for start in starts for t in self.when(start)}):
            check(paths[time], self.size)
            if masks:
                mask_of(paths[time])

    def when(self, start):
        step = datetime.timedelta(minutes=MINUTES)
        return [
            start + i * step for i in range(self.frames_in + self.frames_out)
        ]

    def sequence(self, start):
        return np.stack([self.frame(time) for time in self.when(start)])

    def frame(self, time):
        pixels = read(self.paths[time], self.size)
        if self.masks:
            counts = read_mask(mask_of(self.paths[time]), self.size)
            pixels = np.where(counts, pixels, np.float32(np.nan))
        return shrink(pixels, self.factor)


def parts(
    folder,
    frames_in=10,
    frames_out=10,
    stride=1,
    gaps="raise",
    size=SIZE,
    shrink=1,
    masks=True,
):
    """Return the `Sequences` of each part, as a dict.

    Windows to train on begin at every frame, the others each as many frames
    after the one before as `stride` says.
    """
    if not folder.is_dir():
        raise SystemExit(f"There is no folder at --data {folder}")
    paths = frames(folder)
    days = days_of(folder, {time.date() for time in paths})
    twice = {
        day
        for one, other in itertools.combinations(days.values(), 2)
        for day in one & other
    }
    if twice:
        raise SystemExit(
            f"A day of two splits: {min(twice)}, in the lists of {folder}"
        )
    made = {}
    for part, chosen in days.items():
        times = [time for time in paths if time.date() in chosen]
        starts, skipped = starts_of(
            times,
            frames_in + frames_out,
            1 if part == "train" else stride,
            gaps,
        )
        if skipped:
            print(
                f"{part}: {skipped} windows left out for missing frames, "
                f"{len(starts)} kept"
            )
        made[part] = Sequences(
            f"{part} of {folder} ({len(times)} frames of {len(chosen)} days)",
            paths,
            starts,
            frames_in,
            frames_out,
            size,
            shrink,
            masks,
        )
    return made
