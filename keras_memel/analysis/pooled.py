"""Keep a sample of the values of a layer in a report, for merging."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_memel.analysis.accumulate import Accumulator
from keras_memel.reports.merge_state import MergeState
from keras_memel.utils.types import Array

# Number of values to read at once.
_READ = 1 << 20


class Pool:
    """Sample of a merged report, with the interface of `Spool`."""

    def __init__(self, state: MergeState):
        self._values = state.values
        self.neurons, self.rows = state.values.shape
        self.tags = state.tags if state.tags.shape[1] else None
        self.share = float(state.share[0])

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield each block `(neurons, rows)` with its first neuron."""
        width = max(1, _READ // max(self.rows, 1))
        for start in range(0, self.neurons, width):
            yield start, self._values[start : start + width]

    def close(self) -> None:
        """Return at once: unlike a `Spool`, a `Pool` has no file."""


def state_of(rows: Accumulator, sets: Any, most: int) -> MergeState:
    """Return the state of a stream for `Report.merge`.

    Args:
        rows: Accumulator at the end of the stream.
        sets: Labels of each code, or `None`.
        most: Maximum number of rows to keep.
    """
    spool = rows.spool
    share = min(1.0, most / max(spool.rows, 1))
    kept = np.sort(
        np.random.default_rng(0).permutation(spool.rows)[
            : round(share * spool.rows)
        ]
    )
    parts = [block[:, kept] for _, block in spool.blocks()]
    tags = np.zeros((len(kept), 0), "int64")
    if spool.tags is not None:
        tags = spool.tags[kept].astype("int64")
    moments = rows.moments
    label_moments = np.zeros((3, 2, 0, rows.neurons))
    start = member = np.zeros(1, "int64")
    if rows.by_label is not None and sets is not None:
        halves = rows.by_label.halves(sets.order, slice(None))
        shape = (len(sets.order), rows.neurons)
        label_moments = np.stack(
            [
                [np.broadcast_to(getattr(half, name), shape) for half in halves]
                for name in ("count", "mean", "second")
            ]
        )
        start, member = sets.start, sets.member
    return MergeState(
        moments=np.stack([*vars(moments).values()]),
        absolute=rows.absolute,
        far=rows.top,
        far_where=rows.top_row,
        label_moments=label_moments,
        set_start=start,
        set_member=member,
        values=np.concatenate(parts),
        tags=tags,
        share=np.array([spool.share * share]),
        most=np.array([most]),
    )
