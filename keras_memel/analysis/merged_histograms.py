"""Add the histograms of two reports exactly.

Each bin of both is within one bin of all values (`reports/bins.py`). Counts
are added as cells: one for each neuron, label and bin that has values.
"""

import dataclasses

import numpy as np

from keras_memel.core import scores
from keras_memel.reports import bins
from keras_memel.reports.bins import BINS
from keras_memel.reports.examples import Unlabelled
from keras_memel.reports.layer_report import LayerReport
from keras_memel.utils.types import Array


def merged_histograms(
    first: LayerReport, second: LayerReport, found: LayerReport
) -> LayerReport:
    """Return a merged layer with the counts of both in its histograms.

    Args:
        first: Layer of the first report.
        second: The same layer of the second report.
        found: Merged layer without its histograms.
    """
    start, width = bins.grid(found.minimum, found.maximum)
    moved = [_places(one, start, width) for one in (first, second)]
    parts = [
        _moved(one.histogram_all, places)
        for one, places in zip((first, second), moved)
    ]
    histogram = np.sum(parts, axis=0).astype("int32")
    new = {
        "bin_start": start,
        "bin_width": width,
        "histogram_all": histogram,
        "histogram": histogram[:, None],
        "zeros": np.sum([first.zeros, second.zeros], axis=0),
    }
    if found.labels:
        new |= _of_labels(first, second, found, moved)
        new["unlabelled"] = _unlabelled(first, second, found, moved)
    return dataclasses.replace(found, **new)


def _places(layer: LayerReport, start: Array, width: Array) -> Array:
    assert layer.bin_start is not None
    assert layer.bin_width is not None
    return bins.places(layer.bin_start, layer.bin_width, start, width)


def _moved(counts: Array, places: Array) -> Array:
    """Move counts `(neurons, BINS)` to the bins of another grid."""
    found = np.zeros(counts.shape, "int64")
    np.add.at(found, (np.arange(len(counts))[:, None], places), counts)
    return found


def _of_labels(
    first: LayerReport,
    second: LayerReport,
    found: LayerReport,
    moved: list[Array],
) -> dict[str, Array]:
    """Add the counts of labels: shown labels as rows, others in the state."""
    assert found.histogram_label is not None
    assert found.state is not None
    names, neurons = len(found.labels), len(found)
    cells = [
        _cells(one, places, found.labels)
        for one, places in zip((first, second), moved)
    ]
    keys, counts = (np.concatenate(part) for part in zip(*cells))
    keys, where = np.unique(keys, return_inverse=True)
    # The counts are integers below 2^53, so that float64 adds them exactly.
    counts = np.bincount(where, counts, len(keys)).astype("int64")
    rest, at = np.divmod(keys, BINS + 1)
    row, label = np.divmod(rest, names)
    slot = np.full((neurons, names), -1, "int32")
    shown = found.histogram_label
    np.put_along_axis(slot, shown, np.arange(shown.shape[1], dtype="int32"), 1)
    slot_of = slot[row, label]
    own = slot_of >= 0
    histogram = np.zeros((*shown.shape, BINS + 1), "int64")
    histogram[row[own], slot_of[own], at[own]] = counts[own]
    state = found.state._replace(cell=keys[~own], cell_count=counts[~own])
    return {
        "histogram": histogram[..., :BINS].astype("int32"),
        "label_zeros": histogram[..., BINS],
        "state": state,
    }


def _cells(
    layer: LayerReport, places: Array, labels: tuple[str, ...]
) -> tuple[Array, Array]:
    """Return all counts of a layer in the bins and labels of the merged one."""
    assert layer.histogram_label is not None
    assert layer.state is not None
    number = np.array([labels.index(name) for name in layer.labels], "int64")
    own = np.concatenate(
        [layer.histogram, np.asarray(layer.label_zeros)[..., None]], axis=2
    )
    row, slot, at = np.nonzero(own)
    label = layer.histogram_label[row, slot]
    counts = own[row, slot, at]
    rest, at_more = np.divmod(layer.state.cell, BINS + 1)
    row_more, label_more = np.divmod(rest, len(number))
    row = np.concatenate([row, row_more])
    label = number[np.concatenate([label, label_more])]
    at = np.concatenate([at, at_more])
    inside = np.append(places, np.full((len(places), 1), BINS), axis=1)
    key = (row * len(labels) + label) * (BINS + 1) + inside[row, at]
    return key, np.concatenate([counts, layer.state.cell_count])


def _unlabelled(
    first: LayerReport,
    second: LayerReport,
    found: LayerReport,
    moved: list[Array],
) -> Unlabelled | None:
    """Merge the values without a label; `None` if all values have labels."""
    parts = [
        (layer, layer.unlabelled, places)
        for layer, places in zip((first, second), moved)
        if layer.unlabelled is not None
    ]
    if not parts:
        return None
    count = np.sum([rest.count for _, rest, _ in parts], axis=0)
    total = square = np.zeros(len(found))
    for layer, rest, _ in parts:
        mean = np.nan_to_num(rest.mean)
        total = total + rest.count * mean
        # The mean square of a part follows from its mean phi.
        seen = layer.count > 0
        scale = scores.phi_denominator(
            np.nan_to_num(layer.variance), layer.epsilon, seen
        )
        with np.errstate(invalid="ignore"):
            square_of = rest.ms * scale + (2 * mean - layer.mean) * layer.mean
        # For a constant, phi is undefined.
        square_of = np.where(np.isfinite(square_of), square_of, mean**2)
        square = square + rest.count * square_of
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        scale = scores.phi_denominator(
            np.nan_to_num(found.variance), found.epsilon, found.count > 0
        )
        ms = square / count - (2 * mean - found.mean) * found.mean
        ms = np.maximum(ms, 0.0) / scale
    return Unlabelled(
        count=count,
        zeros=np.sum([rest.zeros for _, rest, _ in parts], axis=0),
        mean=mean,
        ms=ms,
        histogram=np.sum(
            [_moved(rest.histogram, places) for _, rest, places in parts],
            axis=0,
        ).astype("int32"),
    )
