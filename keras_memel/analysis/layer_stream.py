"""Convert the values of one layer to rows, and the rows to a report."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from keras_memel.analysis import fms
from keras_memel.analysis.accumulate import Accumulator
from keras_memel.analysis.directions import Directions
from keras_memel.analysis.examples import Gatherer
from keras_memel.analysis.labelled_rows import Chosen
from keras_memel.analysis.labels import LabelSets
from keras_memel.analysis.monoscore import MonoScores
from keras_memel.analysis.pooled import state_of
from keras_memel.analysis.positions import fits_positions
from keras_memel.analysis.rank_statistics import Figures
from keras_memel.analysis.value_store import Spool
from keras_memel.core import axes
from keras_memel.core import scores
from keras_memel.insertion.paths import Site
from keras_memel.reports.examples import Field
from keras_memel.reports.layer_report import LayerReport
from keras_memel.utils.types import Array


class Stream:
    """Stream of the values of one layer.

    Args:
        site: Site of the layer.
        axis: As in `MEmeL`.
        top: Number of most extreme values to keep per neuron.
        budget: Maximum size of all values in bytes.
        memory: Maximum size of the values in memory in bytes.
        most: Maximum number of values to keep per neuron.
        directions: Directions that replace the neurons, or `None`.
        keep: Whether to keep activations of single inputs.
        pool: Number of values per neuron to keep for `Report.merge`, or
            `None`.
    """

    def __init__(
        self,
        site: Site,
        axis: Any,
        top: int,
        budget: int,
        memory: int,
        most: int,
        directions: Directions | None = None,
        keep: bool = False,
        pool: int | None = None,
    ):
        self.site, self.axis, self._top = site, axis, top
        self._directions = directions
        self.monoscores: MonoScores | None = None
        self._spool = partial(Spool, budget=budget, memory=memory, most=most)
        self.rows: Accumulator | None = None
        self.sizes: tuple[int, ...] = ()
        self.parts: tuple[int, ...] = ()  # `parts` of a merged report.
        self._keep, self._pool = keep, pool
        self.gatherer: Gatherer | None = None
        self.field: Field | None = None

    def positions(self, rank: int) -> tuple[int, ...]:
        """Return the axes that are neither batch nor neurons, for a rank."""
        neurons = axes.of_neurons(self.axis, rank)
        return tuple(a for a in range(1, rank) if a not in neurons)

    def add(
        self,
        call: dict[str, Array],
        start: int,
        labels: Array | None,
        n_labels: int | None,
        sets: LabelSets | None = None,
        units: Array | None = None,
        first: bool = True,
    ) -> Array | None:
        """Add the values of a batch.

        Args:
            call: `values`, `(batch, ...)`, and an optional `mask`.
            start: Number of the first input.
            labels: Codes of the labels of the batch, or `None`.
            n_labels: Number of known labels, or `None`.
            sets: Labels of each code; `None` if each code is one label.
            units: Unit vectors of the inputs or of their positions, or `None`.
            first: Whether this is the first call of the layer on these inputs.

        Returns:
            Whether each input is an example of some neuron so far; `None` if
            examples are not kept.
        """
        values, mask = call["values"], call.get("mask")
        rank = values.ndim
        if rank < 2:
            raise ValueError(
                "Argument `layers` must select layers whose output has a "
                "batch axis and at least one other axis. "
                f"Received: layer {self.site.path!r}, of shape {values.shape}"
            )
        neurons = axes.of_neurons(self.axis, rank)
        shape = tuple(values.shape[a] for a in neurons)
        others = (0, *self.positions(rank))
        sizes = tuple(values.shape[a] for a in others)
        self.sizes = tuple(map(max, sizes[1:], self.sizes or sizes[1:]))
        missing = None
        if mask is not None:
            wide = mask.reshape(mask.shape + (1,) * (rank - mask.ndim))
            wide = np.broadcast_to(wide, values.shape)
            missing = ~self._as_rows(wide, others + neurons, shape)
        rows = self._as_rows(values, others + neurons, shape)
        if self._directions is not None:
            rows, missing = self._directions.project(rows, missing)
            shape = rows.shape[1:]
        if self.rows is None:
            self.rows = Accumulator(shape, n_labels, self._top, self._spool)
        elif self.rows.shape != shape:
            raise ValueError(
                f"The shape of layer {self.site.path!r} changes between "
                f"batches, and axis={self.axis} uses it for the neurons. Pass "
                "`axis=-1` for one neuron per channel. "
                f"Received: neurons {self.rows.shape}, then {shape}"
            )
        if units is not None:
            if self.monoscores is None:
                self.monoscores = MonoScores(self.rows.neurons)
            path = self.site.path
            self.monoscores.add(rows, missing, units, start, path)
        places = math.prod(sizes[1:])
        entered = None
        if self._keep and first:
            entered = self._gather(rows, missing, start, sizes)
        numbers = np.arange(start, start + sizes[0])
        where = np.stack(
            [np.repeat(numbers, places), np.tile(np.arange(places), sizes[0])],
            axis=1,
        )
        if labels is not None:
            labels = self._spread(labels, sizes)
        if missing is not None:
            # A row that is padding only is removed.
            kept = ~missing.all(1)
            rows, missing, where = rows[kept], missing[kept], where[kept]
            labels = None if labels is None else labels[kept]
            if not missing.any():
                missing = None
        self.rows.sets = sets
        self.rows.add(rows, missing, where, labels)
        return entered

    def _gather(
        self,
        rows: Array,
        missing: Array | None,
        start: int,
        sizes: tuple[int, ...],
    ) -> Array:
        if self.gatherer is None:
            self.gatherer = Gatherer(rows.shape[1], (self._top + 1) // 2)
        shape = (sizes[0], math.prod(sizes[1:]), rows.shape[1])
        return self.gatherer.add(
            rows.reshape(shape),
            None if missing is None else missing.reshape(shape),
            start,
            sizes[1:],
        )

    @staticmethod
    def _as_rows(
        values: Array, order: tuple[int, ...], shape: tuple[int, ...]
    ) -> Array:
        return values.transpose(order).reshape(-1, math.prod(shape))

    def _spread(self, labels: Array, sizes: tuple[int, ...]) -> Array:
        fits_positions(labels.shape, sizes, self.site.path)
        wide = labels.reshape(labels.shape + (1,) * (len(sizes) - labels.ndim))
        return np.broadcast_to(wide, sizes).reshape(-1)

    def close_rows(self) -> int:
        """End the stream and return the number of neurons."""
        assert self.rows is not None
        self.rows.flush()
        return self.rows.neurons

    def close(self) -> None:
        """Delete the temporary files."""
        if self.rows is not None:
            self.rows.spool.close()

    def finish(
        self,
        epsilon: float,
        threshold: float,
        sets: LabelSets | None,
        removed: int | None = None,
    ) -> Iterator[int | LayerReport]:
        """Yield numbers of finished neurons, and finally the report.

        Args:
            epsilon: As in `analyze`.
            threshold: As in `analyze`.
            sets: Labels of each code, or `None`.
            removed: `fms` of `analyze`.
        """
        assert self.rows is not None
        rows = self.rows
        moments = rows.moments
        count = moments.count
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.where(count > 0, moments.mean, np.nan)
            variance = np.where(count > 1, moments.second / (count - 1), 0.0)
            spread = moments.second / count
            kurtosis = moments.fourth / count / spread**2 - 3
            magnitude = rows.absolute / count
        # The variance of a constant is 0, despite rounding errors.
        moved = (count > 0) & (rows.low < rows.high)
        variance = np.where(moved, variance, 0.0)
        kurtosis = np.where(moved, kurtosis, np.nan)
        scale = scores.phi_denominator(variance, epsilon, count > 0)

        by: dict[str, Any] = {}
        state = None
        if self._pool is not None:
            state = state_of(rows, sets, self._pool)
        chosen = None
        if rows.by_label is not None and sets is not None:
            by = rows.by_label.statistics(
                sets.order, mean, np.where(moved, scale, np.inf), rows.low
            )
            rows.by_label = None  # This frees memory for the next step.
            shown = by.pop("shown")
            chosen = Chosen(sets, by["label"], shown, self.parts)
            by |= {"labels": sets.names, "histogram_label": shown}
        figures = Figures(
            mean,
            scale,
            moved,
            threshold,
            chosen,
            (rows.low, rows.high),
            self._pool is not None,
        )
        yield from figures.take(rows.spool)
        if state is not None:
            state = state._replace(
                **dict(zip(("cell", "cell_count"), figures.cells()))
            )
            if self.monoscores is not None:
                state = state._replace(**self.monoscores.state())
        if removed is not None and sets is not None:
            by["label_fms"] = fms.of_labels(rows.spool, sets, removed)
        if self.monoscores is not None:
            by["monoscore"] = self.monoscores.scores(rows.low, rows.high)
        far, places = rows.farthest()
        # A constant neuron does not have extreme inputs.
        far[~moved], places[~moved] = np.nan, -1
        yield LayerReport(
            path=self.site.path,
            shape=rows.shape,
            sizes=self.sizes,
            directions=self._directions is not None,
            epsilon=epsilon,
            count=count.astype("int64"),
            nonfinite=rows.nonfinite,
            mean=mean,
            # Without values the variance is undefined.
            variance=np.where(count > 0, variance, np.nan),
            minimum=np.where(count > 0, rows.low, np.nan),
            maximum=np.where(count > 0, rows.high, np.nan),
            kurtosis=kurtosis,
            magnitude=np.where(count > 0, magnitude, np.nan),
            over_threshold=figures.over_threshold,
            ranked=figures.ranked,
            ms_curve=figures.ms_curve,
            histogram=figures.histogram,
            histogram_all=figures.histogram_all,
            bin_start=figures.bin_start,
            bin_width=figures.bin_width,
            zeros=figures.zeros,
            activity=figures.activity,
            examples=self.gatherer.finish(moved) if self.gatherer else None,
            field=self.field,
            state=state,
            top_input=places[..., 0],
            top_position=places[..., 1],
            top_value=far,
            top_ms=(far - mean[:, None]) ** 2 / scale[:, None],
            **by,
            **figures.by_label,
        )
