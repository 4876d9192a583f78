"""Values set aside while they stream by, to be read back neuron by neuron."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_memel.utils.types import Array

# Rows that are put in order at once; with more, a random part of them stands
# for all. Each takes about 100 bytes of memory while one neuron is read.
MOST_ROWS = 1 << 22
# Values that are read back at once.
_READ = 1 << 20


class Spool:
    """Values that are kept as they come, in memory and then on disk.

    Once the rows exceed their budget, a random half of them is dropped, and
    from then on each new row is kept with half the probability: what remains
    is at any time a uniform sample of all.

    Args:
        neurons: Values in a row.
        budget: Bytes that the values may take in all.
        memory: Bytes of them that stay in memory.
        most: Rows to keep at most.
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
        self._sizes: list[int] = []  # Rows of each block on disk
        self._tags: list[Array] = []

    def append(self, values: Array, tags: Array | None) -> None:
        """Adds float32 `(neurons, rows)` and what belongs to each row.

        Args:
            values: The values.
            tags: `(rows, ...)`, or `None`.

        The array is kept as it is: it must not be written to again.
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
        """The tags of each row that is left."""
        return np.concatenate(self._tags) if self._tags else None

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """The number of the first neuron, and values `(neurons, rows)`."""
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
        """A uniform sample of the rows that are left, `(rows, neurons)`.

        Args:
            number: Rows at most.

        Returns:
            Values and tags, in the order of the stream.
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
        """Lets go of the values, and deletes what is on disk."""
        self._kept = []
        if self._file:
            self._file.close()
