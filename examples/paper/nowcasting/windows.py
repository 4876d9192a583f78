"""Windows of a sequence of maps: input frames and the frames that follow."""

import numpy as np

from examples.paper.common import longrun


class Windows:
    """Base class of the readers, which define `sequence` and `when`.

    Attributes:
        name: Name of the data, for messages.
        starts: Identifier of each window.
        frames_in, frames_out: Number of input frames and of forecasts.
        minutes: Minutes between frames.
        synthetic: Whether the frames are synthetic.
        south_first: Whether their first row is in the south.
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
        """Return all frames, `(frames, height, width)`, NaN without data."""
        raise NotImplementedError

    def when(self, start):
        """Return the times of all frames, or their indices."""
        raise NotImplementedError

    def place(self, start):
        """Return the picture of a window, and its row and column there."""
        return start, (0, 0)

    def read(self, numbers):
        """Return inputs and targets, `(windows, frames, height, width, 1)`.

        Pixels are in [0, 1]. Missing inputs are 0 and missing targets NaN,
        which the losses and metrics here leave out.
        """
        sequences = np.stack([self.sequence(self.starts[i]) for i in numbers])
        sequences = sequences[..., None]
        seen = sequences[:, : self.frames_in]
        return np.nan_to_num(seen, nan=0.0), sequences[:, self.frames_in :]

    def batches(self, batch, seed=0, shuffle=True, steps=None):
        """Return a `keras.utils.PyDataset`, shuffled or in order."""
        return Batches(self, batch, seed, shuffle, steps)


class Batches(longrun.Batches):
    """Batches of windows, read on demand.

    `steps`: maximum length of an epoch, sampled anew from all windows.
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
