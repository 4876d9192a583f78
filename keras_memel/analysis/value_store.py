"""Store the values of a stream, to read them neuron by neuron later."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_memel.utils.types import Array

# Maximum number of rows to sort; above it a random sample of them is used. Each
# row needs about 100 bytes of memory while one neuron is read.
MOST_ROWS = 1 << 22
# Number of values to read at once.
_READ = 1 << 20


class Spool:
    """Store of values in the order of the stream, in memory and then on disk.

    When the rows exceed their budget, a random half of them is dropped, and
    each later row is kept with half the probability. The kept rows are
    therefore always a uniform sample of all rows.

    Args:
        neurons: Number of values per row.
        budget: Maximum size of all values in bytes.
        memory: Maximum size of the values in memory in bytes.
        most: Maximum number of rows to keep.
    """

    def __init__(
        self, neurons: int, budget: int, memory: int, most: int = MOST_ROWS
    ):
        self.neurons = neurons
        self.most = max(1, min(most, budget // (4 * neurons)))
        self.rows = 0
        self.share = 1.0
        self._memory = memory
        self._random = np.random.default_rng(0)
        self._kept: list[Array] = []
        self._file: Any = None
        self._sizes: list[int] = []  # numbers of rows per block on disk
        self._tags: list[Array] = []

    def append(self, values: Array, tags: Array | None) -> None:
        """Add values and the tags of their rows.

        The array of values is not copied, so do not change it afterwards.

        Args:
            values: Values, float32, `(neurons, rows)`.
            tags: Tags, `(rows, ...)`, or `None`.
        """
        if self.share < 1:
            values, tags = self._part(self.share, values, tags)
        self._write(values, tags)
        while self.rows > self.most:
            self._halve()

    def _part(
        self, share: float, values: Array, tags: Array | None
    ) -> tuple[Array, Array | None]:
        kept = self._random.random(values.shape[1]) < share
        return values[:, kept], None if tags is None else tags[kept]

    def _write(self, values: Array, tags: Array | None) -> None:
        rows = values.shape[1]
        if not rows:
            return
        if self._file or 4 * self.neurons * (self.rows + rows) > self._memory:
            if not self._file:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close`
            self._file.write(np.ascontiguousarray(values).data)
            self._sizes.append(rows)
        else:
            self._kept.append(values)
        if tags is not None:
            self._tags.append(tags)
        self.rows += rows

    def _halve(self) -> None:
        old, tags = list(self._kept), self._tags
        file, sizes = self._file, self._sizes
        self._kept, self._file, self._sizes = [], None, []
        self._tags, self.rows, self.share = [], 0, self.share / 2
        at = 0
        for number in range(len(old) + len(sizes)):
            if number < len(old):
                block, old[number] = old[number], None
            else:
                size = sizes[number - len(old)]
                block = self._read(file, at, self.neurons, size)
                at += 4 * self.neurons * size
            tag = tags[number] if tags else None
            self._write(*self._part(0.5, block, tag))
        if file:
            file.close()

    @staticmethod
    def _read(file: Any, at: int, neurons: int, size: int) -> Array:
        file.seek(at)
        read = file.read(4 * neurons * size)
        return np.frombuffer(read, "float32").reshape(neurons, size)

    @property
    def tags(self) -> Array | None:
        """Tags of the kept rows."""
        return np.concatenate(self._tags) if self._tags else None

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield each block `(neurons, rows)` with its first neuron."""
        width = max(1, _READ // max(self.rows, 1))
        for start in range(0, self.neurons, width):
            stop = min(start + width, self.neurons)
            parts = [np.empty((stop - start, 0), "float32")]
            parts += [block[start:stop] for block in self._kept]
            at = 0
            for size in self._sizes:
                begin = at + 4 * start * size
                parts.append(self._read(self._file, begin, stop - start, size))
                at += 4 * self.neurons * size
            yield start, np.concatenate(parts, axis=1)

    def sample(self, number: int) -> tuple[Array, Array | None]:
        """Draw a uniform sample of the kept rows.

        Args:
            number: Maximum number of rows.

        Returns:
            Values, `(rows, neurons)`, and tags, in the order of the stream.
        """
        chosen = np.arange(self.rows)
        if number < self.rows:
            rng = np.random.default_rng(1)
            chosen = np.sort(rng.choice(self.rows, number, replace=False))
        found = np.empty((len(chosen), self.neurons), "float32")
        for start, block in self.blocks():
            found[:, start : start + len(block)] = block[:, chosen].T
        tags = self.tags
        return found, None if tags is None else tags[chosen]

    def close(self) -> None:
        """Release the values and delete the temporary file."""
        self._kept = []
        if self._file:
            self._file.close()
