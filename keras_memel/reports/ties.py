"""Find equal values among sorted values."""

from typing import NamedTuple

import numpy as np

from keras_memel.utils.types import Array


class Ties(NamedTuple):
    """Runs of equal values among sorted values.

    Attributes:
        first: Position of the first value of each run, and the end.
        run: Number of the run of each value, `(n,)`; `None` if no two values
            are equal.
    """

    first: Array
    run: Array | None

    def around(self, at: Array) -> tuple[Array, Array]:
        """Return start and end of the run around each of some positions."""
        if self.run is None:
            return at, at + 1
        # Counting runs is much faster than a binary search per position.
        run = self.run.take(at)
        return self.first.take(run), self.first.take(run + 1)


def ties(ordered: Array) -> Ties:
    """Find the runs of equal values among sorted values, `(n,)`.

    Example:

    >>> found = ties(np.array([1.0, 2.0, 2.0, 5.0]))
    >>> found.around(np.array([0, 2]))
    (array([0, 1]), array([1, 3]))
    """
    number = len(ordered)
    new = np.ones(number + 1, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:-1])
    if new.all():
        return Ties(np.arange(number + 1), None)
    return Ties(np.flatnonzero(new), np.cumsum(new[:-1]) - 1)
