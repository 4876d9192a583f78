"""Collect the activations of neurons on single inputs, in one pass."""

import math
from collections import deque
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_memel.analysis.sources import as_numpy
from keras_memel.analysis.sources import is_text
from keras_memel.reports.examples import Examples
from keras_memel.reports.halves import scrambled
from keras_memel.utils.types import Array

# Number of inputs of the sample.
SAMPLE = 8
# Size of the activations of one layer in bytes, above which fewer inputs are
# kept.
_MEMORY = 1 << 28


class Gatherer:
    """Collection of inputs with the highest and lowest values of each neuron.

    Args:
        neurons: Number of neurons.
        most: Number of inputs to keep per neuron and side.
    """

    def __init__(self, neurons: int, most: int = 4):
        self._neurons, self._most = neurons, most
        self._sizes: tuple[int, ...] = ()
        self._top: int | None = None
        self._number = 0

    def _begin(self, sizes: tuple[int, ...]) -> None:
        self._sizes, places = sizes, math.prod(sizes)
        one = 4 * self._neurons * places
        few = one * (2 * self._most + SAMPLE) > _MEMORY
        self._top, self._number = (1, 2) if few else (self._most, SAMPLE)
        shape = (2, self._neurons, self._top)
        # The key is the highest value, or minus the lowest.
        self._key = np.full(shape, -np.inf, "float32")
        self._input = np.full(shape, -1)
        self._values = np.full((*shape, places), np.nan, "float32")
        self._order = np.zeros(0, "uint64")
        self._sample = np.zeros(0, "int64")
        self._sampled = np.zeros((0, self._neurons, places), "float32")

    def add(
        self,
        values: Array,
        missing: Array | None,
        start: int,
        sizes: tuple[int, ...],
    ) -> Array:
        """Add a batch.

        Args:
            values: Values, float32, `(batch, positions, neurons)`.
            missing: Whether a mask excludes each value, same shape, or `None`.
            start: Number of the first input.
            sizes: Sizes of the axes of the positions.

        Returns:
            Whether each input is kept for some neuron so far, `(batch,)`.
        """
        if self._top is None:
            self._begin(sizes)
        values, missing = self._aligned(values, missing, sizes)
        high, low = values.max(1), values.min(1)
        if missing is not None or not np.isfinite([high, low]).all():
            bad = ~np.isfinite(values)
            values = np.where(bad, np.float32(np.inf), values)
            if missing is not None:
                values[missing] = np.nan
                bad |= missing
            high = np.where(bad, np.float32(-np.inf), values).max(1)
            low = np.where(bad, np.float32(np.inf), values).min(1)
        entered = np.zeros(len(values), bool)
        for side, key in enumerate((high.T, -low.T)):
            self._extremes(side, key, values, start, entered)
        self._draw(values, start, entered)
        return entered

    def _aligned(
        self, values: Array, missing: Array | None, sizes: tuple[int, ...]
    ) -> tuple[Array, Array | None]:
        """Embed values in the common grid of all batches so far."""
        if sizes == self._sizes:
            return values, missing
        grown = tuple(map(max, sizes, self._sizes))
        if grown != self._sizes:
            self._values = _embedded(self._values, self._sizes, grown)
            self._sampled = _embedded(self._sampled, self._sizes, grown)
            self._sizes = grown
        wide = _embedded(values.swapaxes(1, 2), sizes, grown).swapaxes(1, 2)
        absent = np.isnan(wide) if missing is None else None
        if missing is not None:
            as_number = missing.astype("float32").swapaxes(1, 2)
            absent = _embedded(as_number, sizes, grown).swapaxes(1, 2) != 0
        elif np.isnan(values).any():  # The layer itself returned NaN.
            inside = np.zeros(values.shape, "float32").swapaxes(1, 2)
            absent = np.isnan(_embedded(inside, sizes, grown)).swapaxes(1, 2)
        return wide, absent

    def _extremes(
        self, side: int, key: Array, values: Array, start: int, entered: Array
    ) -> None:
        old, top = self._key[side], self._key.shape[-1]
        # After some batches, few neurons have a new extreme.
        (new,) = np.nonzero((key > old[:, -1:]).any(1))
        if not len(new):
            return
        both = np.concatenate([old[new], key[new]], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :top]
        fresh = order >= top
        fresh &= np.take_along_axis(both, order, 1) > -np.inf
        kept = np.minimum(order, top - 1)
        rows, slots = np.nonzero(fresh)
        inputs = order[rows, slots] - top
        found = np.take_along_axis(self._values[side][new], kept[..., None], 1)
        found[rows, slots] = values[inputs, :, new[rows]]
        numbers = np.take_along_axis(self._input[side][new], kept, 1)
        numbers[rows, slots] = start + inputs
        self._values[side][new], self._input[side][new] = found, numbers
        old[new] = np.take_along_axis(both, order, 1)
        entered[inputs] = True

    def _draw(self, values: Array, start: int, entered: Array) -> None:
        numbers = np.arange(start, start + len(values))
        order = np.concatenate([self._order, scrambled(numbers)])
        kept = np.argsort(order, kind="stable")[: self._number]
        new = kept[kept >= len(self._order)] - len(self._order)
        if not len(new):
            return
        entered[new] = True
        every = np.concatenate([self._sampled, values[new].swapaxes(1, 2)])
        at = np.full(len(order), -1)
        at[: len(self._order)] = np.arange(len(self._order))
        at[len(self._order) + new] = len(self._order) + np.arange(len(new))
        self._sampled = every[at[kept]]
        self._sample = np.concatenate([self._sample, numbers])[kept]
        self._order = order[kept]

    def used(self) -> set[int]:
        """Return the numbers of the inputs that are kept."""
        if self._top is None:
            return set()
        return {*np.unique(self._input).tolist(), *self._sample.tolist()} - {-1}

    def finish(self, moved: Array) -> Examples:
        """Return the collected examples.

        Args:
            moved: Whether the values of a neuron differ. A constant neuron
                does not have extreme inputs.
        """
        assert self._top is not None
        values = self._values.swapaxes(0, 1)  # (neurons, 2, top, positions)
        sampled = self._sampled.swapaxes(0, 1)
        numbers = self._input.swapaxes(0, 1).copy()
        found = self._key.swapaxes(0, 1) * np.float32([1, -1])[:, None]
        numbers[~moved], found[~moved] = -1, np.nan
        found[~np.isfinite(found)] = np.nan
        position = np.stack(
            [_highest(values[:, 0])[0], _highest(-values[:, 1])[0]], axis=1
        )
        sampled_at, sampled_value = _highest(sampled)
        both = (
            values.reshape(len(values), -1),
            sampled.reshape(len(values), -1),
        )
        every = np.abs(np.concatenate(both, axis=1))
        most = np.where(np.isfinite(every), every, 0).max(1, initial=0.0)
        share = np.where(most > 0, most, 1)
        return Examples(
            input=numbers,
            position=position,
            value=found,
            activation=_shares(values, share, self._sizes),
            most=most,
            sample=self._sample,
            sample_order=self._order,
            sample_position=sampled_at,
            sample_value=sampled_value,
            sample_activation=_shares(sampled, share, self._sizes),
        )


def _highest(values: Array) -> tuple[Array, Array]:
    """Return index and value of the highest finite value on the last axis."""
    known = np.where(np.isfinite(values), values, np.float32(-np.inf))
    at = known.argmax(-1)
    value = np.take_along_axis(known, at[..., None], -1)[..., 0]
    return at, np.where(np.isfinite(value), value, np.nan)


def _shares(values: Array, most: Array, sizes: tuple[int, ...]) -> Array:
    wide = most.reshape(-1, *[1] * (values.ndim - 1))
    return (values / wide).astype("float16").reshape(*values.shape[:-1], *sizes)


def _embedded(
    values: Array, sizes: tuple[int, ...], grown: tuple[int, ...]
) -> Array:
    """Embed values in a larger grid of positions, the last axis, with NaN."""
    lead = values.shape[:-1]
    wide = np.full((*lead, *grown), np.nan, "float32")
    inside = tuple(slice(size) for size in sizes)
    wide[(..., *inside)] = values.reshape(*lead, *sizes)
    return wide.reshape(*lead, math.prod(grown))


class Inputs:
    """Inputs of a stream that are examples of some neuron.

    Args:
        wanted: Whether to keep inputs.
    """

    def __init__(self, wanted: bool):
        self.wanted = wanted
        self._waiting: deque[Any] = deque()
        self._kept: dict[int, Any] = {}
        self._most = 1 << 8

    def along(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, and store them until `take`."""
        for batch in batches:
            self._waiting.append(batch if self.wanted else None)
            yield batch

    def take(self) -> Any:
        """Return the inputs of the next batch of `along`."""
        return self._waiting.popleft()

    def add(
        self, batch: Any, start: int, entered: Array, gatherers: list[Gatherer]
    ) -> None:
        """Keep the new examples, and sometimes drop the former ones.

        Args:
            batch: Inputs.
            start: Number of the first input.
            entered: Whether each input is an example so far.
            gatherers: Gatherers of all layers.
        """
        for row in np.flatnonzero(entered).tolist():
            self._kept[start + row] = _one(batch, row)
        if len(self._kept) > self._most:
            self.finish(gatherers)
            self._most = 2 * len(self._kept) + (1 << 8)

    def finish(self, gatherers: list[Gatherer]) -> dict[int, Any] | None:
        """Return the inputs that are examples, by number."""
        if not self.wanted:
            return None
        used: set[int] = set().union(*(one.used() for one in gatherers))
        self._kept = {n: self._kept[n] for n in sorted(used & set(self._kept))}
        return self._kept


def _one(batch: Any, row: int) -> Any:
    if is_text(batch):
        return batch[row]
    found = keras.tree.map_structure(
        lambda leaf: np.array(as_numpy(leaf[row])), batch
    )
    # The page shows a single array, so lists of one are unpacked.
    while isinstance(found, (list, tuple)) and len(found) == 1:
        found = found[0]
    return found


def check_keep(keep: Any) -> None:
    """Raise unless `keep` is valid for `analyze`."""
    if keep not in (None, "activations", "inputs"):
        raise ValueError(
            "Argument `keep` must be 'activations', 'inputs' or None. "
            f"Received: keep={keep!r}"
        )
