"""Windows of a sequence of maps: what was seen, and what came next."""

import numpy as np

from examples.paper.common import longrun


class Windows:
    """What the readers share; a reader gives `sequence` and `when`.

    Attributes:
        name: What the windows are of, for messages.
        starts: What tells the windows apart, one for each.
        frames_in, frames_out: Number of frames to see and to forecast.
        minutes: From frame to frame.
        synthetic: Whether the frames are made up.
        south_first: Whether their first row lies in the south.
    """

    minutes, synthetic, south_first = 60.0, False, False

    def __init__(self, name, starts, frames_in, frames_out):
        if not starts:
            raise SystemExit(f"An empty split: there are no windows in {name}")
        self.name, self.starts = name, starts
        self.frames_in, self.frames_out = frames_in, frames_out

    def __len__(self):
        return len(self.starts)

    def sequence(self, start):
        """All frames, `(frames, height, width)`, NaN where there is no data."""
        raise NotImplementedError

    def when(self, start):
        """Times of all frames, or their numbers."""
        raise NotImplementedError

    def place(self, start):
        """Which picture a window is part of, and row and column in it."""
        return start, (0, 0)

    def read(self, numbers):
        """Inputs and targets, `(windows, frames, height, width, 1)`.

        Pixels in [0, 1]. Where there are no data the inputs are 0 and the
        targets NaN, which the losses and metrics here leave out.
        """
        sequences = np.stack([self.sequence(self.starts[i]) for i in numbers])
        sequences = sequences[..., None]
        seen = sequences[:, : self.frames_in]
        return np.nan_to_num(seen, nan=0.0), sequences[:, self.frames_in :]

    def batches(self, batch, seed=0, shuffle=True, steps=None):
        """A `keras.utils.PyDataset`: shuffled, or all windows in order."""
        return Batches(self, batch, seed, shuffle, steps)


class Batches(longrun.Batches):
    """Batches of windows, read when they are needed.

    `steps`: an epoch has no more of them, drawn anew from all windows.
    """

    def __init__(self, windows, batch, seed=0, shuffle=True, steps=None):
        numbers = np.arange(len(windows))
        super().__init__(
            numbers,
            numbers,
            batch,
            seed,
            transform=lambda rows, _, rng: windows.read(rows),
            shuffle=shuffle,
        )
        self.steps = steps

    def __len__(self):
        number = super().__len__()
        if self.steps is None:
            return number
        return min(number, self.steps - self.first)
