"""Find the receptive field of a layer by changing its input.

The search replaces one row of the input at a time. Each position of the output
whose values change depends on that row. The row is replaced by NaN, which also
propagates through weights that are 0, and by noise, because some operations
suppress NaN. The search does not make assumptions about the layers between.
A layer only gets a field if the positions that depend on a row form windows of
one size at one stride.

The search starts with the first row of each axis. If this row changes every
position of each layer, as with attention, no layer has a field, and the search
ends.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_memel.reports.examples import Field
from keras_memel.utils.conversion import as_numpy
from keras_memel.utils.types import Array

# Maximum number of replaced rows. With more inputs than this, their number is
# the maximum, so that the search is faster than the analysis.
_MOST = 400
# Fraction of the highest output that counts as a change. A smaller difference
# may be a rounding error from another order of sums.
_CHANGED = 1e-4
# Minimum share of the positions that must reach both ends of the window.
_WHOLE = 0.4
_NOISES = 2


class Search:
    """Search for the field of each layer, with batches after those of a stream.

    Args:
        streams: `Stream` of each layer.
        wanted: Whether to search at all.

    Attributes:
        active: Whether the batches of the search have begun.
    """

    def __init__(self, streams: list[Any], wanted: bool):
        self.active = False
        self._streams, self._wanted = streams, wanted
        self._one: Array | None = None
        self._before: list[Array | None] = [None for _ in streams]
        self._changed: list[list[Array]] = [[] for _ in streams]

    def along(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches, then equally large batches with changed rows."""
        first: Any = None
        size, seen = 0, 0
        for batch in batches:
            if first is None and self._wanted:
                first, size = batch, _length(batch)
            seen += size
            yield batch
        if first is not None:
            self._one = _input(first, size, seen)
        if self._one is None:
            return
        self.active = True
        # The first batches contain the unchanged input and the input with the
        # first row of each axis replaced.
        enough = -(-(1 + self._one.ndim) // size)
        for number, batch in enumerate(_batches(self._one, size), 1):
            yield batch
            if number == enough and self._is_ruled_out():
                self._changed = [[] for _ in self._streams]
                return

    def take(self, batch: list[list[dict[str, Array]]]) -> None:
        """Record which positions of each layer changed, in its first call."""
        assert self._one is not None
        for number, calls in enumerate(batch):
            if not calls:
                continue
            values = calls[0]["values"]
            positions = self._streams[number].positions(values.ndim)
            # The positions must match those of an image or of a series.
            if len(positions) != self._one.ndim - 1:
                continue
            base = self._before[number]
            if base is None:
                base = self._before[number] = values[:1].copy()
            with np.errstate(invalid="ignore"):
                finite = np.abs(np.where(np.isfinite(base), base, 0))
                limit = _CHANGED * finite.max(initial=0.0)
                changed = np.abs(values - base) > limit
            changed |= np.isnan(values) & ~np.isnan(base)
            axes = set(range(1, values.ndim)) - set(positions)
            self._changed[number].append(changed.any(tuple(axes)))

    def _is_ruled_out(self) -> bool:
        """Check whether the first rows show that no layer has a field."""
        assert self._one is not None
        number = self._one.ndim
        return all(
            not changed or _reaches_all(np.concatenate(changed)[1 : 1 + number])
            for changed in self._changed
        )

    def finish(self) -> None:
        """Set the field of each stream whose layer has one."""
        for stream, changed in zip(self._streams, self._changed):
            if changed and self._one is not None:
                stream.field = _fitted(np.concatenate(changed)[1:], self._one)


def _fitted(changed: Array, one: Array) -> Field | None:
    rows = sum(one.shape)
    noise = changed[:rows]
    for number in range(1, _NOISES):
        noise = noise | changed[number * rows : (number + 1) * rows]
    field = None
    if one.dtype.kind == "f":
        broken = changed[_NOISES * rows : (_NOISES + 1) * rows]
        field = _of_layer(noise | broken, one.shape)
    return field or _of_layer(noise, one.shape)


def _length(batch: Any) -> int:
    leaves = keras.tree.flatten(batch)
    return len(leaves[0]) if hasattr(leaves[0], "shape") else 0


def _input(batch: Any, size: int, seen: int) -> Array | None:
    """Return the input whose rows are replaced, or `None` if unsuitable."""
    if isinstance(batch, (list, tuple)) and len(batch) == 1:
        batch = batch[0]
    if isinstance(batch, (list, tuple, dict, str)) or size < 1:
        return None
    values = as_numpy(batch)
    if values.ndim not in (3, 4) or values.dtype.kind not in "fu":
        return None
    if not values.size:
        return None
    one: Array = values[0]
    rows = (_NOISES + (one.dtype.kind == "f")) * sum(one.shape)
    return one if rows <= max(_MOST, seen) else None


def _batches(one: Array, size: int) -> Iterator[Array]:
    """Yield the inputs of `_replaced` in batches of one size."""
    waiting: list[Array] = []
    for changed in _replaced(one):
        waiting.append(changed)
        if len(waiting) == size:
            yield np.stack(waiting)
            waiting = []
    if waiting:  # A batch of another size would be compiled again.
        waiting += [one] * (size - len(waiting))
        yield np.stack(waiting)


def _replaced(one: Array) -> Iterator[Array]:
    """Yield the input unchanged, and with each row of each axis replaced."""
    rng, nan = np.random.default_rng(0), one.dtype.kind == "f"
    others: list[Any] = []
    for _ in range(_NOISES):
        if nan:
            spread = float(np.nanstd(one)) or 1.0
            noise = rng.normal(np.nanmean(one), 3 * spread, one.shape)
        else:
            noise = rng.integers(0, np.iinfo(one.dtype).max, one.shape)
        others.append(noise.astype(one.dtype))
    yield one
    for other in (*others, *([np.nan] if nan else [])):
        for axis, row in _rows(one.shape):
            changed = one.copy()
            at = (slice(None),) * axis + (row,)
            changed[at] = other[at] if isinstance(other, np.ndarray) else other
            yield changed


def _rows(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return axis and number of each row, in the order of the search."""
    every = [(a, row) for a, size in enumerate(shape) for row in range(size)]
    return sorted(every, key=lambda one: one[1] > 0)


def _spatial_axes(spatial: int) -> tuple[range, range]:
    """Return the spatial axes for channels at the end and at the start."""
    return range(spatial), range(1, spatial + 1)


def _along(changed: Array, place: int) -> Array:
    """Return whether rows change any value at the positions along an axis."""
    others = tuple(a for a in range(1, changed.ndim) if a != place + 1)
    found: Array = changed.any(others)
    return found


def _reaches_all(changed: Array) -> bool:
    """Check whether the first row of an axis changes all positions along it.

    Then `window` cannot find a window there.

    Args:
        changed: Whether the first row of each axis changes a position, `(axes,
            *positions)`.
    """
    return all(
        any(_along(changed, place)[a].all() for place, a in enumerate(axes))
        for axes in _spatial_axes(changed.ndim - 1)
    )


def _of_layer(changed: Array, shape: tuple[int, ...]) -> Field | None:
    """Fit the field to the positions that each row changes.

    Args:
        changed: Whether a row changes a position, `(rows, *positions)`.
        shape: Shape of the input.
    """
    axis_of = np.array([axis for axis, _ in _rows(shape)])
    parts = [changed[axis_of == axis] for axis in range(len(shape))]
    spatial = changed.ndim - 1
    if spatial != len(shape) - 1:
        return None
    for axes in _spatial_axes(spatial):
        windows = [
            window(_along(parts[axis], place))
            for place, axis in enumerate(axes)
        ]
        fitted = [one for one in windows if one is not None]
        if len(fitted) == spatial:
            size, stride, offset = zip(*fitted)
            sizes = tuple(shape[axis] for axis in axes)
            return Field(sizes, size, stride, offset)
    return None


def window(depends: Array) -> tuple[int, int, int] | None:
    """Fit windows of one size at one stride.

    Args:
        depends: Whether a position depends on a row, `(rows, positions)`.

    Returns:
        Size, stride and offset: position `p` depends on the rows from `offset
        + p * stride` on, within the limits of the input. `None` if no such
        numbers exist, or if the rows do not determine them.

    Example:

    >>> window(np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], bool))
    (2, 2, 0)
    """
    rows, positions = depends.shape
    if positions < 2 or not depends.any(0).all():
        return None
    first = depends.argmax(0)
    stop = rows - depends[::-1].argmax(0)
    place = np.arange(positions)
    # Find the window ends that the border does not cut.
    begun, ended = first > 0, stop < rows
    if not (begun.any() and ended.any()) or max(begun.sum(), ended.sum()) < 2:
        return None
    ends, whole = (
        (first, begun) if begun.sum() >= ended.sum() else (stop, ended)
    )
    slope = np.polyfit(place[whole], ends[whole], 1)[0]
    stride = round(float(slope))
    if stride < 1:
        return None
    # A row may leave a position unchanged, for example if it is not the
    # maximum. The window therefore covers the reach of every position, and
    # most positions must reach all of it.
    offset = int((first - stride * place)[begun].min())
    end = int((stop - stride * place)[ended].max())
    expected = np.maximum(0, offset + stride * place)
    until = np.minimum(rows, end + stride * place)
    if (first < expected).any() or (stop > until).any():
        return None
    if ((first == expected) & (stop == until)).mean() < _WHOLE:
        return None
    return end - offset, stride, offset
