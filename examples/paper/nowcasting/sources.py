"""Load --data of train.py: windows for training, validation and test."""

import pathlib

import numpy as np

from examples.paper.nowcasting import data
from examples.paper.nowcasting import hko7
from examples.paper.nowcasting import windows


def sources(options):
    """Return the `Windows` of each part, as a dict."""
    frames = options.frames
    if options.data == "random":
        return {part: Noise(*frames, options.size) for part in data.PARTS}
    if options.data == "digits":
        series = data.moving_digits(sum(frames), options.size, options.seed)
    elif options.data == "stage_iv":
        series = data.in_time(data.stage_iv())
    elif options.data.endswith(".npz"):
        path = pathlib.Path(options.data)
        series = data.in_time(
            data.from_npz(path, options.unit, options.minutes)
        )
    else:
        return hko7.parts(
            pathlib.Path(options.data),
            *frames,
            stride=options.stride,
            gaps=options.gaps,
            size=options.radar_size,
            shrink=_shrink(options),
            masks=not options.no_masks,
        )
    # Patches to train on overlap, those to score do not.
    strides = dict.fromkeys(data.PARTS, options.size)
    strides["train"] = (options.stride, options.stride)
    return {
        part: data.Patches(
            series[part], part, *frames, options.size, strides[part]
        )
        for part in data.PARTS
    }


def _shrink(options):
    factors = {a / b for a, b in zip(options.radar_size, options.size)}
    if len(factors) > 1 or not min(factors).is_integer():
        raise SystemExit(
            "--size must be --radar-size divided by a whole number. Received: "
            f"{options.size} and {tuple(options.radar_size)}"
        )
    return int(min(factors))


class Noise(windows.Windows):
    """Pixels drawn at random, of the true shapes: to try a network's size."""

    minutes, synthetic = 6, True

    def __init__(self, frames_in, frames_out, size):
        super().__init__("noise", range(100_000), frames_in, frames_out)
        self.shape = (frames_in + frames_out, *size)

    def sequence(self, start):
        random = np.random.default_rng(start)
        return random.random(self.shape, "float32")

    def when(self, start):
        return list(range(self.shape[0]))
