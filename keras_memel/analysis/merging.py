"""Merge two reports of one model: `Report.merge`.

Moments, extremes, histograms, means by label, MonoScore and examples are merged
exactly. Measures that need sorted values (quantiles, ROC, F1, ...) are computed
again from the samples of both reports. They are exact if the samples contain
all values.
"""

import dataclasses
import types
from typing import Any

import numpy as np

from keras_memel.analysis.accumulate import Accumulator
from keras_memel.analysis.central_moments import Central
from keras_memel.analysis.label_sums import LabelSums
from keras_memel.analysis.labels import LabelSets
from keras_memel.analysis.layer_stream import Stream
from keras_memel.analysis.merged_histograms import merged_histograms
from keras_memel.analysis.monoscore import MonoScores
from keras_memel.analysis.pooled import Pool
from keras_memel.reports import report as reports
from keras_memel.reports.corrected import corrected
from keras_memel.reports.examples import Examples
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.merge_state import MergeState
from keras_memel.reports.report import Report
from keras_memel.utils.types import Array


def merge(first: Report, second: Report) -> Report:
    """Implement `Report.merge`."""
    _check(first, second)
    names = list(first.labels)
    names += [name for name in second.labels if name not in names]
    parts = first.parts or (first.inputs,)
    parts += second.parts or (second.inputs,)
    layers = {
        path: _layer(layer, second.layers[path], first, names, parts)
        for path, layer in first.layers.items()
    }
    if names:
        layers = corrected(layers)
    kept = None
    if first.kept is not None and second.kept is not None:
        kept = _kept(first, second, layers)
    return Report(
        layers,
        first.inputs + second.inputs,
        first.threshold,
        tuple(names),
        kept=kept,
        parts=parts,
    )


def _check(first: Report, second: Report) -> None:
    if not isinstance(second, Report):
        raise ValueError(
            f"Argument `other` must be a Report. Received: other={second!r}"
        )

    def told(report: Report) -> dict[str, Any]:
        return {
            "layers": {p: one.shape for p, one in report.layers.items()},
            "threshold": report.threshold,
            "epsilon": [one.epsilon for one in report.layers.values()],
            "directions": [one.directions for one in report.layers.values()],
            "labels or none": bool(report.labels),
            "embeddings": [_dimensions(one) for one in report.layers.values()],
        }

    for what, own in told(first).items():
        if told(second)[what] != own:
            raise ValueError(
                f"Argument `other` must be a report with the same {what}. "
                f"Received: {own} and {told(second)[what]}"
            )
    for report in (first, second):
        if any(one.state is None for one in report.layers.values()):
            raise ValueError(
                "Reports to merge must contain a sample of values: pass "
                "`pool`, the number of values per neuron to keep, to "
                f"`analyze`. Received: {report!r}, without a sample"
            )


def _dimensions(layer: LayerReport) -> str:
    vectors = None if layer.state is None else layer.state.mono_vectors
    return "none" if vectors is None else f"of {vectors.shape[2]} dimensions"


def _layer(
    first: LayerReport,
    second: LayerReport,
    report: Report,
    names: list[str],
    parts: tuple[int, ...],
) -> LayerReport:
    assert first.state is not None
    assert second.state is not None
    shift = report.inputs
    state = _merged(
        _renamed(first.state, first.labels, names, 0),
        _renamed(second.state, second.labels, names, shift),
    )
    rows = Accumulator(first.shape, None, 1, lambda _: Pool(state))  # type: ignore[arg-type,return-value]
    rows.moments = Central(*state.moments)
    rows.absolute = state.absolute
    rows.nonfinite = first.nonfinite + second.nonfinite
    rows.low = np.fmin(first.minimum, second.minimum)
    rows.high = np.fmax(first.maximum, second.maximum)
    rows.top, rows.top_row = state.far, state.far_where
    sets = None
    if names:
        every = np.arange(len(names))
        sets = LabelSets(state.set_start, state.set_member, tuple(names), every)
        rows.by_label = LabelSums(rows.neurons, 0)
        mixed = state.label_moments.swapaxes(1, 2)
        rows.by_label.moments = Central(
            *mixed.reshape(3, 2 * len(names), rows.neurons)
        )
    site: Any = types.SimpleNamespace(path=first.path)
    stream = Stream(site, None, 1, 0, 0, 1, pool=int(state.most[0]))
    stream.rows, stream.parts = rows, parts
    stream.sizes = tuple(map(max, first.sizes, second.sizes))
    stream.field = first.field if first.field == second.field else None
    if first.examples is not None and second.examples is not None:
        both = _examples(first, second, shift, stream.sizes)
        stream.gatherer = types.SimpleNamespace(finish=lambda _: both)  # type: ignore[assignment]
    if state.mono_vectors is not None:
        stream.monoscores = MonoScores.of(state)
    (*_, found) = stream.finish(first.epsilon, report.threshold, sets)
    assert isinstance(found, LayerReport)
    return merged_histograms(
        first,
        second,
        dataclasses.replace(found, directions=first.directions),
    )


def _renamed(
    state: MergeState, own: tuple[str, ...], names: list[str], shift: int
) -> MergeState:
    """Renumber the labels as in `names`, and shift the input numbers."""
    number = np.array([names.index(name) for name in own], "int64")
    moments = np.zeros((3, 2, len(names), state.values.shape[0]))
    moments[:, :, number] = state.label_moments
    member, tags = state.set_member, state.tags.copy()
    where = state.far_where.copy()
    where[..., 0] += np.where(where[..., 0] >= 0, shift, 0)
    if own:
        member = number[member]
        tags[:, 1] += shift
    return state._replace(
        label_moments=moments, set_member=member, tags=tags, far_where=where
    )


def _merged(a: MergeState, b: MergeState) -> MergeState:
    every = Central(*a.moments).merge(Central(*b.moments))
    labels = [
        Central(*x).merge(Central(*y))
        for x, y in zip(
            a.label_moments.swapaxes(0, 1), b.label_moments.swapaxes(0, 1)
        )
    ]
    far = np.concatenate([a.far, b.far], axis=1)
    where = np.concatenate([a.far_where, b.far_where], axis=1)
    order = np.argsort(-far, axis=1, kind="stable")
    order = order[:, : max(a.far.shape[1], b.far.shape[1])]
    # Thin out the denser sample, so that both samples together form one
    # uniform sample.
    most = max(a.most[0], b.most[0])
    share = min(a.share[0], b.share[0])
    expected = sum(one.values.shape[1] * share / one.share[0] for one in (a, b))
    share *= min(1.0, most / max(expected, 1))
    rng = np.random.default_rng(0)
    values, tags = [], []
    codes = len(a.set_start) - 1
    mono: dict[str, Array] = {}
    if a.mono_vectors is not None:
        mono = MonoScores.of(a).merge(MonoScores.of(b)).state()
    for one, codes_before in ((a, 0), (b, codes)):
        number = one.values.shape[1]
        size = round(number * share / one.share[0])
        rows = np.sort(rng.permutation(number)[:size])
        values.append(one.values[:, rows])
        own = one.tags[rows].copy()
        if own.shape[1]:
            own[:, 0] += np.where(own[:, 0] >= 0, codes_before, 0)
        tags.append(own)
    return MergeState(
        moments=np.stack([*vars(every).values()]),
        absolute=a.absolute + b.absolute,
        far=np.take_along_axis(far, order, 1),
        far_where=np.take_along_axis(where, order[..., None], 1),
        label_moments=np.stack(
            [[one.count, one.mean, one.second] for one in labels],
            axis=1,
        ),
        set_start=np.concatenate(
            [a.set_start, a.set_start[-1] + b.set_start[1:]]
        ),
        set_member=np.concatenate([a.set_member, b.set_member]),
        values=np.concatenate(values, axis=1),
        tags=np.concatenate(tags),
        share=np.array([share]),
        most=np.array([most]),
        **mono,
    )


def _examples(
    first: LayerReport,
    second: LayerReport,
    shift: int,
    sizes: tuple[int, ...],
) -> Examples:
    """Merge examples by value, and samples by their lowest hashes."""
    parts = []
    for layer, by in ((first, 0), (second, shift)):
        one = layer.examples
        assert one is not None
        lead = len(layer.sizes)
        wide = one.most.reshape(-1, *[1] * (2 + lead))
        activation = _grown(one.activation * wide, layer.sizes, sizes, 3)
        sampled = one.sample_activation * wide.reshape(-1, *[1] * (1 + lead))
        numbers = np.where(one.input >= 0, one.input + by, -1)
        parts.append(
            one._replace(
                input=numbers,
                sample=one.sample + by,
                position=_moved(one.position, layer.sizes, sizes),
                sample_position=_moved(one.sample_position, layer.sizes, sizes),
                activation=activation,
                sample_activation=_grown(sampled, layer.sizes, sizes, 2),
            )
        )
    a, b = parts
    key = np.concatenate([a.value, b.value], axis=2) * [[1.0], [-1.0]]
    key = np.where(np.isnan(key), -np.inf, key)
    order = np.argsort(-key, axis=2, kind="stable")[..., : a.input.shape[2]]

    def best(name: str) -> Array:
        both = np.concatenate([getattr(a, name), getattr(b, name)], axis=2)
        wide = order.reshape(*order.shape, *[1] * (both.ndim - 3))
        return np.take_along_axis(both, wide, 2)

    hashes = np.concatenate([a.sample_order, b.sample_order])
    drawn = np.argsort(hashes, kind="stable")
    drawn = drawn[: max(len(a.sample), len(b.sample))]

    def sample(name: str) -> Array:
        both = [getattr(a, name), getattr(b, name)]
        return np.concatenate(both, axis=1)[:, drawn]

    activation, sampled = best("activation"), sample("sample_activation")
    most = np.zeros(len(activation), "float32")
    for one in (activation, sampled):
        finite = np.where(np.isfinite(one), np.abs(one), 0)
        flat = finite.reshape(len(finite), -1)
        most = np.maximum(most, flat.max(1, initial=0.0))
    share = np.where(most > 0, most, 1).reshape(-1, *[1] * (2 + len(sizes)))
    return Examples(
        input=best("input"),
        position=best("position"),
        value=best("value"),
        activation=(activation / share).astype("float16"),
        most=most,
        sample=np.concatenate([a.sample, b.sample])[drawn],
        sample_order=hashes[drawn],
        sample_position=sample("sample_position"),
        sample_value=sample("sample_value"),
        sample_activation=(sampled / share[:, 0]).astype("float16"),
    )


def _grown(
    values: Array, old: tuple[int, ...], new: tuple[int, ...], lead: int
) -> Array:
    wider = [(0, b - a) for a, b in zip(old, new)]
    pad = [(0, 0)] * lead + wider
    return np.pad(values.astype("float32"), pad, constant_values=np.nan)


def _moved(
    position: Array, old: tuple[int, ...], new: tuple[int, ...]
) -> Array:
    """Convert flat positions to a larger grid."""
    if old == new or not old:
        return position
    return np.ravel_multi_index(np.unravel_index(position, old), new)


def _kept(
    first: Report, second: Report, layers: dict[str, LayerReport]
) -> dict[int, Any]:
    every = dict(first.kept or {})
    for number, one in (second.kept or {}).items():
        every[number + first.inputs] = one
    used: set[int] = set()
    for layer in layers.values():
        if layer.examples is not None:
            used |= {*np.unique(layer.examples.input).tolist()}
            used |= {*layer.examples.sample.tolist()}
    return {n: every[n] for n in sorted(used & set(every))}


# Reports must not import from the analysis, so they call it through this name.
reports.merger = merge
