"""Files as those of HKO-7: small frames of radar, and their masks."""

import datetime
import zlib

import numpy as np

SIZE = (8, 16)
DAYS = ("2015-05-23", "2015-05-24", "2015-05-25", "2015-05-26", "2015-05-27")


def write_frame(folder, time, pixels):
    from PIL import Image

    path = folder / f"radarPNG/{time:%Y/%m/%d}/RAD{time:%y%m%d%H%M%S}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    mask = folder / "radarPNG_mask" / f"{time:%Y/%m/%d}"
    mask.mkdir(parents=True, exist_ok=True)
    counts = np.ones(SIZE, bool)
    counts[0, 0] = False
    (mask / f"{path.stem}.mask").write_bytes(zlib.compress(counts.tobytes()))


def write_days(folder):
    """Five days of six frames; a frame has the number of its minute."""
    for day in DAYS:
        for minute in range(0, 36, 6):
            time = datetime.datetime.fromisoformat(f"{day}T10:{minute:02d}")
            write_frame(folder, time, np.full(SIZE, minute + 40, "uint8"))


def frame(folder):
    """One of the second day."""
    return folder / "radarPNG/2015/05/24/RAD150524101200.png"


def break_pixels(path):
    """Some bytes in the middle, so that the file looks whole."""
    broken = bytearray(path.read_bytes())
    place = broken.index(b"IDAT") + 6
    broken[place : place + 4] = b"\x00\xff\x00\xff"
    path.write_bytes(broken)
