"""Compute MonoScore: the similarity of the inputs that a neuron responds to.

    a_n = (z_n - min z) / (max z - min z)
    MonoScore = sum_(n < m) a_n a_m cos(e_n, e_m) / sum_(n < m) a_n a_m

with `z_n` the activation on input `n` and `e_n` an embedding of this input.
Both sums follow from sums over single inputs, with `p_n = e_n / |e_n|`:

    2 sum_(n < m) a_n a_m cos(e_n, e_m) = |sum_n a_n p_n|^2 - sum_n a_n^2

The lowest and the highest activation need not be known in advance, because `a`
is linear in `z`. One pass is therefore enough, and the memory is one embedding
per neuron.

References:
    [Pach et al. 2025] Sparse Autoencoders Learn Monosemantic Features in
        Vision-Language Models (arXiv 2504.02821): the score.
    [Nasiri-Sarvi et al. 2026] MonoLoss (arXiv 2602.12403): its linear form.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_memel.analysis.sources import Source
from keras_memel.analysis.sources import as_numpy
from keras_memel.reports.merge_state import MergeState
from keras_memel.utils.types import Array

# Number of vectors to check at once.
_CHECKED = 1 << 12


class Embeddings:
    """Unit vectors of the inputs of a stream, checked batch by batch.

    Args:
        embeddings: As in `analyze`.
        source: Source of the inputs.
    """

    def __init__(self, embeddings: Any, source: Source):
        self._source = source
        self._function: Callable[[Any], Any] | None = None
        self._all: Array | None = None
        self._at = 0
        self._waiting: list[Array | None] = []
        if callable(embeddings):
            self._function = embeddings
        elif embeddings is not None:
            self._all = _array(embeddings)
            if source.size not in (None, len(self._all)):
                raise ValueError(
                    "Argument `embeddings` must have a vector for each of the "
                    f"{source.size} inputs. Received: {len(self._all)} vectors"
                )
            for start in range(0, len(self._all), _CHECKED):
                _units(self._all[start : start + _CHECKED])

    def check_positions(self, path: str, positions: int) -> None:
        """Raise if vectors per position do not fit the positions of a layer."""
        if self._all is not None and self._all.ndim == 3:
            _fits_positions(self._all.shape[1], positions, path)

    def along(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches unchanged, and store the vectors of each."""
        for inputs in batches:
            size = self._source.seen - self._at
            found = None
            if self._function is not None:
                found = _array(self._function(inputs))
            elif self._all is not None:
                found = self._all[self._at : self._at + size]
            if found is not None:
                if len(found) != size:
                    raise ValueError(
                        "Argument `embeddings` must have a vector for each "
                        f"input. Received: {len(found)} vectors for a batch "
                        f"of {size} inputs"
                    )
                found = _units(found)
            self._waiting.append(found)
            self._at += size
            yield inputs

    def take(self) -> Array | None:
        """Return the unit vectors of the next batch of `along`, or `None`."""
        return self._waiting.pop(0)

    def finish(self) -> None:
        """Raise if there are more vectors than inputs."""
        if self._all is not None and self._at < len(self._all):
            raise ValueError(
                "Argument `embeddings` must have a vector for each input. "
                f"Received: {len(self._all)} vectors for {self._at} inputs"
            )


def _fits_positions(number: int, positions: int, path: str) -> None:
    if number != positions:
        raise ValueError(
            "Argument `embeddings` must have one vector per input, or one per "
            f"position of the layer. Received: vectors for {number} "
            f"positions, for layer {path!r} with {positions}"
        )


def _array(given: Any) -> Array:
    if isinstance(given, (list, tuple)):
        try:
            given = np.asarray(given)
        except ValueError:  # The vectors have different lengths.
            given = np.asarray(given, dtype=object)
    elif keras.ops.is_tensor(given):
        given = keras.ops.convert_to_numpy(given)
    found = np.asarray(as_numpy(given))
    if found.ndim not in (2, 3) or found.dtype.kind not in "fiu":
        raise ValueError(
            "Argument `embeddings` must contain one vector per input, (n, "
            "dimensions), or per position, (n, length, dimensions). "
            f"Received: an array of shape {found.shape}, dtype {found.dtype}"
        )
    return found


def _units(embeddings: Array) -> Array:
    """Scale vectors to length 1, float64."""
    wide = embeddings.astype("float64")
    length = np.linalg.norm(wide, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or not length.all():
        raise ValueError(
            "Argument `embeddings` must contain finite vectors that differ "
            "from 0: the cosine similarity of others is undefined. Received: "
            "a vector of length "
            f"{length[~np.isfinite(length) | (length == 0)][0]}"
        )
    return np.asarray(wide / length)


class MonoScores:
    """Sums from which the MonoScore of the neurons of a layer is computed.

    With several values per input, the pairs consist of values of different
    inputs, because values of one input share its embedding. With embeddings of
    positions, each value has its own embedding.

    Args:
        neurons: Number of neurons.
    """

    def __init__(self, neurons: int):
        self._neurons = neurons
        self._base: Array | None = None
        self._start = -1
        self._waiting: tuple[Array, Array, Array] | None = None
        # Sums over units, with s the sum of the values of a unit and m their
        # number: s p, m p, s, m, s^2, s m, m^2.
        self._sums: list[Any] = [0.0] * 7

    def add(
        self,
        rows: Array,
        missing: Array | None,
        units: Array,
        start: int,
        path: str,
    ) -> None:
        """Add the values of a call of the layer.

        Args:
            rows: Values, float32, `(inputs * positions, neurons)`.
            missing: Whether a mask excludes each value, same shape, or `None`.
            units: Unit vectors, `(inputs, dimensions)` or `(inputs, positions,
                dimensions)`.
            start: Number of the first input.
            path: Path of the layer, for messages.
        """
        size, positions = len(units), len(rows) // max(len(units), 1)
        if units.ndim == 3:
            _fits_positions(units.shape[1], positions, path)
            units = units.reshape(-1, units.shape[-1])
            size, positions = len(units), 1
        valid = np.isfinite(rows)
        if missing is not None:
            valid &= ~missing
        if self._base is None:
            # Subtracting about the lowest value reduces cancellation.
            low = np.where(valid, rows, np.inf).min(0, initial=np.inf)
            # A float64 base makes all sums float64.
            self._base = np.where(np.isfinite(low), low.astype("float64"), 0.0)
        with np.errstate(invalid="ignore"):
            shifted = np.where(valid, rows - self._base, 0.0)
        sums = shifted.reshape(size, positions, -1).sum(1)
        counts = np.full((size, 1), float(positions))
        if not valid.all():
            counts = valid.reshape(size, positions, -1).sum(1, dtype="float64")
        waits = self._waiting
        if waits is not None and (
            self._start != start or len(waits[0]) != len(sums)
        ):
            self.flush()
            waits = None
        if waits is not None:  # The layer is called several times.
            sums, counts = sums + waits[0], counts + waits[1]
        self._start, self._waiting = start, (sums, counts, units)

    def flush(self) -> None:
        """Add the waiting values to the sums."""
        if self._waiting is None:
            return
        (s, m, p), self._waiting = self._waiting, None
        new = [s.T @ p, m.T @ p]
        new += [part.sum(0) for part in (s, m, s * s, s * m, m * m)]
        self._sums = [old + more for old, more in zip(self._sums, new)]

    def state(self) -> dict[str, Array]:
        """Return the sums by the names of their fields in `MergeState`.

        All sums are those of values minus `mono_base`.
        """
        self.flush()
        base = self._base
        if base is None:
            base = np.zeros(self._neurons)
        sp, mp, *others = self._sums
        vectors = np.broadcast_arrays(np.atleast_2d(sp), np.atleast_2d(mp))
        every = [np.broadcast_to(one, (self._neurons,)) for one in others]
        return {
            "mono_base": base,
            "mono_vectors": np.stack(vectors),
            "mono_sums": np.stack(every),
        }

    @classmethod
    def of(cls, state: MergeState) -> "MonoScores":
        """Return the sums of a `MergeState` with embeddings."""
        assert state.mono_base is not None
        assert state.mono_vectors is not None
        assert state.mono_sums is not None
        made = cls(len(state.mono_base))
        made._base = state.mono_base
        made._sums = [*state.mono_vectors, *state.mono_sums]
        return made

    def merge(self, other: "MonoScores") -> "MonoScores":
        """Return the sums over the inputs of both, which must differ."""
        made = MonoScores(self._neurons)
        for one in (self, other):
            one.flush()
        if self._base is None or other._base is None:
            known = other if self._base is None else self
            made._base, made._sums = known._base, known._sums
            return made
        made._base = np.minimum(self._base, other._base)
        both = [one._shifted(made._base) for one in (self, other)]
        made._sums = [a + b for a, b in zip(*both)]
        return made

    def _shifted(self, base: Array) -> list[Any]:
        """Convert the sums to those of values minus another base."""
        sp, mp, s, m, ss, sm, mm = self._sums
        by = self._base - base
        return [
            sp + by[:, None] * mp,
            mp,
            s + by * m,
            m,
            ss + 2 * by * sm + by**2 * mm,
            sm + by * mm,
            mm,
        ]

    def scores(self, low: Array, high: Array) -> Array:
        """Compute the MonoScore per neuron, NaN if it responds to one input.

        Args:
            low: Lowest value of each neuron, `(neurons,)`.
            high: Highest value of each neuron, `(neurons,)`.
        """
        self.flush()
        if self._base is None:
            return np.full(self._neurons, np.nan)
        sp, mp, s, m, ss, sm, mm = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            low = low - self._base
            extent = high - self._base - low
            vector = (sp - low[:, None] * mp) / extent[:, None]
            total = (s - low * m) / extent
            squares = (ss - 2 * low * sm + low**2 * mm) / extent**2
            pairs = total**2 - squares
            found = ((vector**2).sum(1) - squares) / pairs
        known = (extent > 0) & (pairs > 1e-9 * total**2)
        return np.where(known, found, np.nan)
