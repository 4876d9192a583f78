"""Write one page to browse the neurons of a report: `Report.to_html`.

The page contains its code, JSON, and a blob of arrays that the JSON refers to
by offset. JSON and blob are compressed. The browser draws only the visible
rows and charts: small SVGs in colors that follow the theme.
"""

import base64
import gzip
import html
import importlib.resources
import json
import math
import os
import pathlib
import re
import uuid
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_memel.core import scores
from keras_memel.reports import prompt_view
from keras_memel.reports import ranking
from keras_memel.reports import shown_inputs
from keras_memel.reports.bins import used as bins_used
from keras_memel.reports.blob import Blob
from keras_memel.reports.blob import companded
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.shown_inputs import Shown
from keras_memel.utils import arguments
from keras_memel.utils.types import Array

if TYPE_CHECKING:
    from keras_memel.reports.report import Report

# Version of the payload. It changes when reading needs other code.
VERSION = 2
_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# Number of points that are kept of a curve with 256 points.
_POINTS = 50


def write(
    report: "Report",
    path: str | os.PathLike[str],
    inputs: Any = None,
    kind: str = "auto",
    tokenize: Callable[[Any], Sequence[str]] | None = None,
    title: str = "Neurons",
    other: "Report | None" = None,
    other_title: str = "other",
    prompts: Sequence[Any] = (),
) -> None:
    """Write the page. Arguments and errors as in `Report.to_html`."""
    target = arguments.new_file("path", path)
    arguments.text("title", title)
    arguments.text("other_title", other_title)
    arguments.function("tokenize", tokenize)
    if kind not in ("auto", *shown_inputs.KINDS):
        raise ValueError(
            f"Argument `kind` must be 'auto' or one of {shown_inputs.KINDS}. "
            f"Received: kind={kind!r}"
        )
    if tokenize is not None and kind not in ("auto", "text"):
        raise ValueError(
            "Argument `tokenize` is only for texts: pass kind='text' or "
            f"'auto'. Received: tokenize={tokenize!r} with kind={kind!r}"
        )
    if other is not None and not isinstance(other, type(report)):
        raise ValueError(
            f"Argument `other` must be a Report. Received: other={other!r}"
        )
    prompt_view.check(report, prompts)
    if inputs is None:
        inputs = report.kept
    shown = None
    if inputs is not None:
        inputs = shown_inputs.checked(inputs, report.inputs)
        numbers = sorted(
            {n for layer in report.layers.values() for n in _seen(layer)}
        )
        shown = shown_inputs.convert(inputs, numbers, kind, tokenize)
    blob = Blob()
    data = {
        "version": VERSION,
        "title": title,
        "rates": _RATES,
        "facts": _facts(report, shown),
        **_side(report, blob),
        **_shown(shown, blob),
        "prompts": prompt_view.packed(report, prompts, shown, blob),
        "same": other is not None and other.inputs == report.inputs,
    }
    if other is not None:
        data["other"] = {"title": other_title, **_side(other, blob)}
    _save(target, _page(data, blob, title))


def _page(data: dict[str, Any], blob: Blob, title: str) -> str:
    here = importlib.resources.files(__package__)
    assets = here / "browser_assets"
    scripts = sorted(
        one.name for one in assets.iterdir() if one.name[-3:] == ".js"
    )
    told = json.dumps(data, allow_nan=False, separators=(",", ":"))
    values = {
        "title": html.escape(title),
        "style": (assets / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join(
            (assets / name).read_text(encoding="utf-8") for name in scripts
        ),
        "data": _packed(told.encode()),
        "blob": _packed(blob.content()),
    }
    # One pass replaces all marks, because a value may contain a mark itself.
    return re.sub(
        "{{(title|style|script|data|blob)}}",
        lambda mark: values[mark[1]],
        (here / "neuron_browser.html").read_text(encoding="utf-8"),
    )


def _packed(content: bytes) -> str:
    # The lowest level suffices: the page is small, and the highest level needs
    # 20 times as long to save a tenth.
    return base64.b64encode(gzip.compress(content, 1, mtime=0)).decode()


def _save(target: pathlib.Path, text: str) -> None:
    """Save a file completely or not at all, as `Report.save` does."""
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _facts(report: "Report", shown: Shown | None) -> list[tuple[str, str]]:
    neurons = sum(len(layer) for layer in report.layers.values())
    layers = len(report.layers)
    names = {"text": "texts", "image": "images", "series": "series"}
    what = names[shown.kind] if shown else "inputs"
    if not any(layer.sizes for layer in report.layers.values()):
        what = what.replace("series", "inputs")  # They are plain vectors.
    most = max(
        int(layer.count.max(initial=0)) for layer in report.layers.values()
    )
    places = f", {most:,} values per neuron" if most != report.inputs else ""
    facts = [
        ("model", f"{_many(layers, 'layer')}, {_many(neurons, 'neuron')}"),
        ("inputs", f"{report.inputs:,} {what}{places}"),
    ]
    if report.labels:
        ends = report.labels[:: max(1, len(report.labels) - 1)]
        names_ = " … ".join(
            one if len(one) < 20 else one[:19] + "…" for one in ends[:2]
        )
        facts.append(("labels", f"{len(report.labels):,}: {names_}"))
    return facts


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _shown(shown: Shown | None, blob: Blob) -> dict[str, Any]:
    if shown is None:
        return {"kind": None, "inputs": {}}
    inputs = shown.inputs
    if shown.kind == "series":
        inputs = {n: blob.add(one, "f4") for n, one in inputs.items()}
    return {
        "kind": shown.kind,
        "inputs": inputs,
        "channels": shown.channels,
        "range": shown.limits,
        "sizes": shown.sizes or {},
    }


def _side(report: "Report", blob: Blob) -> dict[str, Any]:
    """Convert one report: its layers and the columns of its table."""
    layers, first = [], 0
    for layer in report.layers.values():
        layers.append({"first": first, **_layer(layer, blob)})
        first += len(layer)
    columns = [layer.columns() for layer in report.layers.values()]
    found: dict[str, Any] = {}
    booleans = []
    for name in columns[0]:
        if name in ("layer", "neuron"):
            found[name] = {"texts": [], "codes": blob.add([], "i4")}
            continue
        values = np.concatenate([np.asarray(one[name]) for one in columns])
        if values.dtype.kind == "b":
            booleans.append(name)
            found[name] = blob.add(values, "u1")
        elif values.dtype.kind in "iuf":
            found[name] = blob.add(values, "f8")
        else:
            texts = {str(one): n for n, one in enumerate(report.labels)}
            codes = [texts.get(one, -1) for one in values]
            found[name] = {"texts": list(texts), "codes": blob.add(codes, "i4")}
    return {
        "labels": report.labels,
        "split": report.split,
        "layers": layers,
        "columns": found,
        "booleans": booleans,
    }


def _layer(layer: LayerReport, blob: Blob) -> dict[str, Any]:
    size = len(layer)
    bins = layer.histogram.shape[2]
    scale = scores.phi_denominator(
        layer.variance, layer.epsilon, layer.count > 0
    )
    whole = layer.histogram_all
    if whole is None:  # An older file; without labels it has one row.
        whole = layer.histogram.sum(1)
    zeros = layer.zeros
    edges, width = layer.histogram_edges, layer.bin_width
    used = np.full(size, bins)
    if width is not None:
        used = bins_used(edges[:, 0], width, layer.maximum)
    points = np.unique(np.linspace(0, ranking.RANKS - 1, _POINTS).astype(int))
    ranks = np.stack([ranking.ranks(max(1, int(n))) for n in layer.ranked])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = ranks[:, points] / layer.ranked[:, None]
    found: dict[str, Any] = {
        "path": layer.path,
        "size": size,
        "sizes": layer.sizes,
        "bins": bins,
        "field": layer.field._asdict() if layer.field else None,
        "ranked": blob.counts(layer.ranked),
        "binned": blob.counts(whole.sum(1)),
        # The page needs start, width and number of the used bins.
        "start": blob.add(edges[:, 0], "f8"),
        "width": blob.add(edges[:, 1] - edges[:, 0], "f8"),
        "used": blob.counts(used),
        "zeros": None if zeros is None else blob.counts(zeros),
        "all": blob.counts(_without_zeros(layer, whole, zeros)),
        "scale": blob.add(scale, "f8"),
        "full": blob.add(_full_scale(layer, whole, zeros), "f4"),
        "msCurve": blob.add(layer.ms_curve[:, points], "f4"),
        "msShare": blob.add(share, "f4"),
        **_examples(layer, blob),
    }
    if len(layer.shape) > 1:
        found["names"] = [",".join(map(str, one)) for one in layer.neurons]
    if layer.label is not None:
        found |= _labelled(layer, blob)
    return found


def _without_zeros(layer: LayerReport, counts: Array, zeros: Any) -> Array:
    """Subtract the values that are 0, which the page shows separately."""
    if zeros is None:
        return counts
    found = np.array(counts, "int64")
    bins = found.shape[-1]
    holds = (layer.histogram_edges[:, 1:bins] <= 0).sum(1)
    if layer.bin_width is not None:
        holds[layer.bin_width == 0] = 0  # A constant is in the first bin.
    rows = np.arange(len(found))
    found[rows, ..., holds] -= np.asarray(zeros)
    return np.maximum(found, 0)


def _full_scale(layer: LayerReport, counts: Array, zeros: Any) -> Array:
    """Compute the value of the full shade: the 99.5 % quantile without 0."""
    counts = _without_zeros(layer, counts, zeros)
    with np.errstate(invalid="ignore"):
        edges = np.abs(layer.histogram_edges)
        outer = np.maximum(edges[:, :-1], edges[:, 1:])
        order = np.argsort(outer, axis=1)
        ordered = np.take_along_axis(outer, order, 1)
        reached = np.cumsum(np.take_along_axis(counts, order, 1), axis=1)
        at = (reached < 0.995 * reached[:, -1:]).sum(1)
        most = np.maximum(np.abs(layer.minimum), np.abs(layer.maximum))
        return np.minimum(ordered[np.arange(len(at)), at], most)


def _labelled(layer: LayerReport, blob: Blob) -> dict[str, Any]:
    shown, count = layer.histogram_label, layer.label_count
    assert shown is not None
    assert count is not None
    assert layer.label is not None
    assert layer.label_mean is not None
    assert layer.label_ms is not None
    rates = [layer.false_killing_rate(rate) for rate in _RATES]
    rows, own = np.arange(len(layer)), np.maximum(layer.label, 0)
    known = layer.label >= 0
    its = np.where(known, count[rows, own], 0).astype("float64")
    there = np.where(known, layer.label_mean[rows, own], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = layer.count * layer.mean - its * np.nan_to_num(there)
        elsewhere = total / (layer.count - its)
    zeros = layer.label_zeros
    found = {
        "label": blob.add(layer.label, "i4"),
        "share": blob.add(1 - layer.blind_rate, "f4"),
        "fkr": blob.add(np.stack(rates, axis=1), "f4"),
        "there": blob.add(there, "f8"),
        "elsewhere": blob.add(elsewhere, "f8"),
        "shown": blob.add(shown, "i4"),
        "hist": blob.counts(_without_zeros(layer, layer.histogram, zeros)),
        "labelZeros": None if zeros is None else blob.counts(zeros),
    }
    for key, values in (
        ("labelMean", layer.label_mean),
        ("labelMs", layer.label_ms),
        ("labelCount", count),
    ):
        values = np.take_along_axis(values, shown, 1)
        counts = key == "labelCount"
        found[key] = blob.counts(values) if counts else blob.add(values, "f4")
    rest = layer.unlabelled
    if rest is not None:
        hist = _without_zeros(layer, rest.histogram, rest.zeros)
        found |= {
            "rest": blob.counts(hist),
            "restZeros": blob.counts(rest.zeros),
            "restCount": blob.counts(rest.count),
            "restMean": blob.add(rest.mean, "f4"),
            "restMs": blob.add(rest.ms, "f4"),
        }
    return found


def _seen(layer: LayerReport) -> set[int]:
    """Return the numbers of the inputs that some neuron of a layer shows."""
    numbers = layer.top_input
    if layer.examples is not None:
        both = (layer.examples.input.ravel(), layer.examples.sample)
        numbers = np.concatenate(both)
    return set(np.unique(numbers[numbers >= 0]).tolist())


def _examples(layer: LayerReport, blob: Blob) -> dict[str, Any]:
    """Convert the examples of each neuron, or else its most extreme values."""
    found = layer.examples
    if found is None:
        top = {
            "input": blob.add(layer.top_input, "i4"),
            "position": blob.add(layer.top_position, "i4"),
            "value": blob.add(layer.top_value, "f4"),
        }
        return {"groups": [], "top": top, "positions": 0}
    groups = []
    for side, (name, what) in enumerate(
        (
            ("Top", "highest value, each input once"),
            ("Bottom", "lowest value, each input once"),
        )
    ):
        groups.append(
            {
                "name": name,
                "what": what,
                "input": blob.add(found.input[:, side], "i4"),
                "position": blob.add(found.position[:, side], "i4"),
                "value": blob.add(found.value[:, side], "f4"),
                "activation": blob.add(
                    companded(found.activation[:, side]), "i1"
                ),
            }
        )
    told: dict[str, Any] = {
        "groups": groups,
        "positions": math.prod(found.activation.shape[3:]),
        "most": blob.add(found.most, "f4"),
        "sample": found.sample.tolist(),
        "sampleActivation": blob.add(companded(found.sample_activation), "i1"),
        "samplePeak": blob.add(found.sample_value, "f4"),
        "samplePosition": blob.add(found.sample_position, "i4"),
    }
    if told["positions"] > 1:
        first = (found.sample_position == 0).sum(1)
        first += ((found.position[:, 0] == 0) & (found.input[:, 0] >= 0)).sum(1)
        told["first0"] = blob.add(first, "i4")
        told["firstOf"] = len(found.sample) + found.input.shape[2]
    return told
