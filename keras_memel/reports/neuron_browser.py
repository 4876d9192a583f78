"""One page to look through the neurons of a report: `Report.to_html`.

Charts are described by Vega-Altair and drawn by Vega, whose code is put into
the page, so that it needs neither network nor server. Values are compressed:
a page of 10,000 neurons takes a few megabytes, and the browser lays out only
those rows and charts that are looked at.
"""

import base64
import gzip
import html
import importlib.resources
import io
import json
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from keras_memel.reports.layer_report import LayerReport
from keras_memel.utils.types import Array

if TYPE_CHECKING:
    from keras_memel.reports.report import Report


_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_KINDS = ("text", "image", "series")


def write(
    report: "Report",
    path: str | os.PathLike[str],
    inputs: Sequence[Any] | None = None,
    kind: str = "auto",
    tokenize: Callable[[str], Sequence[str]] | None = None,
    title: str = "Neurons",
) -> None:
    """Writes the page. Arguments and errors as in `Report.to_html`."""
    if inputs is not None and len(inputs) < report.inputs:
        raise ValueError(
            f"Argument `inputs` must hold the {report.inputs} inputs that were "
            f"analyzed, in their order. Received: {len(inputs)} inputs"
        )
    if kind not in ("auto", *_KINDS):
        raise ValueError(
            f"Argument `kind` must be 'auto' or one of {_KINDS}. "
            f"Received: kind={kind!r}"
        )
    if inputs is not None and len(inputs) and kind == "auto":
        kind = _kind(_at(inputs, 0))
    data = {
        "labels": report.labels,
        "rates": _RATES,
        "kind": kind if inputs is not None else None,
        "layers": [_layer(layer) for layer in report.layers.values()],
        "inputs": _inputs(report, inputs, kind, tokenize),
        "table": _table(report),
        "charts": _charts(bool(report.labels)),
    }
    page = importlib.resources.files(__package__) / "neuron_browser.html"
    packed = gzip.compress(
        json.dumps(data, allow_nan=False, separators=(",", ":")).encode(),
        mtime=0,
    )
    values = {
        "{{title}}": html.escape(title),
        "{{data}}": base64.b64encode(packed).decode(),
        "{{vega}}": _vega().replace("</script", "<\\/script"),
    }
    # In one pass: a value may hold what looks like a mark.
    text = re.sub(
        "{{(title|data|vega)}}",
        lambda mark: values[mark[0]],
        page.read_text(encoding="utf-8"),
    )
    pathlib.Path(path).write_text(text, encoding="utf-8")


def _vega() -> str:
    import vl_convert

    bundle: str = vl_convert.javascript_bundle()
    return bundle


def _at(inputs: Any, number: int) -> Any:
    # A table or series of pandas is taken by position, not by its index.
    return getattr(inputs, "iloc", inputs)[number]


def _kind(first: Any) -> str:
    if isinstance(first, (str, bytes)):
        return "text"
    if isinstance(first, (list, tuple)) and isinstance(first[0], str):
        return "text"
    shape = np.shape(first)
    flat = len(shape) == 1 or (len(shape) == 2 and shape[1] <= 4)
    return "series" if flat else "image"


def _plain(values: Array, digits: int = 4) -> Any:
    """Nested lists, rounded to some digits, `None` for what is not finite."""
    values = np.asarray(values, "float64")
    flat = [
        float(f"{value:.{digits}g}") if np.isfinite(value) else None
        for value in values.ravel()
    ]
    if values.ndim < 2:
        return flat
    width = values.shape[1]
    return [flat[i : i + width] for i in range(0, len(flat), width)]


def _table(report: "Report") -> dict[str, Any]:
    """The columns of the table, each a list over all neurons."""
    frame = report.to_dataframe()
    frame["flags"] = [
        " ".join(
            word
            for word, said in (
                ("dead", dead),
                ("dormant", dormant and not dead),
                ("nonfinite", bad > 0),
            )
            if said
        )
        for dead, dormant, bad in zip(
            frame["dead"], frame["dormant"], frame["nonfinite"]
        )
    ]
    frame["neuron"] = [_neuron_name(one) for one in frame["neuron"]]
    if "label" in frame:
        frame["label"] = frame["label"].fillna("")
    names = {
        "layer": "layer",
        "neuron": "neuron",
        "label": "label",
        "direction": "fires",
        "ms_on_label": "MS on it",
        "roc_auc": "ROC-AUC",
        "p_corrected": "p",
        "f1": "F1",
        "f1_baseline": "F1 chance",
        "false_killing_rate": "FKR 2 %",
        "ms_99": "MS 99 %",
        "ms_max": "MS max",
        "kurtosis": "kurtosis",
        "flags": "flags",
    }
    columns = []
    for key, name in names.items():
        if key in frame:
            column = frame[key]
            number = column.dtype.kind == "f"
            columns.append(
                {
                    "name": name,
                    "number": number,
                    "values": _plain(column) if number else list(column),
                }
            )
    return {"columns": columns, "size": len(frame)}


def _neuron_name(neuron: Any) -> Any:
    """A neuron as the page shows it: 7, or "3,5" by position."""
    if isinstance(neuron, tuple):
        return ",".join(map(str, neuron))
    return neuron


def _layer(layer: LayerReport) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": layer.path,
        "size": len(layer),
        "sizes": layer.sizes,
        "low": _plain(layer.minimum),
        "high": _plain(layer.maximum),
        "count": layer.count.tolist(),
        "mean": _plain(layer.mean),
        "variance": _plain(layer.variance),
        # Counts, a row a neuron: labels by bins, one after the other.
        "histogram": layer.histogram.reshape(len(layer), -1).tolist(),
        "bins": layer.histogram.shape[2],
        "topInput": layer.top_input.tolist(),
        "topPosition": layer.top_position.tolist(),
        "topValue": _plain(layer.top_value, 3),
        "topMs": _plain(layer.top_ms, 3),
    }
    if layer.label_ms is not None:
        rates = [layer.false_killing_rate(rate) for rate in _RATES]
        found["fkr"] = _plain(np.stack(rates, axis=1), 3)
        found["blind"] = _plain(layer.blind_rate, 3)
        found["label"] = layer.label.tolist()  # type: ignore[union-attr]
        shown = layer.histogram_label
        found["shown"] = shown.tolist()  # type: ignore[union-attr]
        for key, values in (
            ("labelMs", layer.label_ms),
            ("labelCount", layer.label_count),
        ):
            own = np.take_along_axis(values, shown, 1)
            found[key] = _plain(own, 3) if key == "labelMs" else own.tolist()
    return found


def _inputs(
    report: "Report",
    inputs: Sequence[Any] | None,
    kind: str,
    tokenize: Callable[[str], Sequence[str]] | None,
) -> dict[int, Any]:
    """The inputs that move some neuron most, by number."""
    if inputs is None:
        return {}
    wanted = np.unique(
        np.concatenate(
            [one.top_input.ravel() for one in report.layers.values()]
        )
    )
    found = {}
    for number in wanted[wanted >= 0].tolist():
        one = _at(inputs, number)
        if kind == "text":
            one = one.decode() if isinstance(one, bytes) else one
            if tokenize is not None and isinstance(one, str):
                one = tokenize(one)
            found[number] = one if isinstance(one, str) else list(map(str, one))
        elif kind == "image":
            found[number] = _image(one)
        else:
            found[number] = _plain(np.asarray(one))
    return found


def _image(values: Any) -> str:
    values = np.asarray(values, "float32")
    if values.ndim == 2:
        values = values[..., None]
    buffer = io.BytesIO()
    keras.utils.array_to_img(values, data_format="channels_last").save(
        buffer, "PNG"
    )
    return base64.b64encode(buffer.getvalue()).decode()


def _charts(labelled: bool) -> dict[str, Any]:
    """What Vega-Lite draws; the page fills in the data of a neuron."""
    import altair as alt

    alt.data_transformers.disable_max_rows()
    own = alt.condition("datum.own", alt.value("#D55E00"), alt.value("#999999"))
    activation = alt.X("low:Q", title="activation", scale=alt.Scale(zero=False))
    if labelled:
        order = alt.EncodingSortField(field="order", op="min")
        rows = alt.Y("label:N", title=None, sort=order)
        bare = alt.Y(
            "label:N", title=None, sort=order, axis=alt.Axis(labels=False)
        )
        spread = (
            alt.Chart(alt.NamedData("bins"))
            .mark_rect()
            .encode(
                x=activation,
                x2="high:Q",
                y=rows,
                color=alt.Color(
                    "share:Q",
                    title="share of label",
                    scale=alt.Scale(scheme="blues"),
                    legend=alt.Legend(format="%", orient="top"),
                ),
                tooltip=["label:N", "low:Q", "high:Q", "count:Q"],
            )
            .properties(width=300, height=alt.Step(15))
        )
        scales = (
            alt.Chart(alt.NamedData("scales"))
            .mark_bar()
            .encode(
                x=alt.X("ms:Q", title="mean MS (variances)"),
                y=bare,
                color=own,
                tooltip=["label:N", "ms:Q", "count:Q"],
            )
            .properties(width=120, height=alt.Step(15))
        )
        curve = alt.Chart(alt.NamedData("curve")).encode(
            x=alt.X(
                "rate:Q",
                title="share of values inhibited",
                scale=alt.Scale(type="log"),
                axis=alt.Axis(format="~%", values=[0.001, 0.01, 0.1, 0.5]),
            ),
            y=alt.Y(
                "fkr:Q",
                title="False Killing Rate",
                scale=alt.Scale(domain=[0, 1]),
            ),
            tooltip=["rate:Q", "fkr:Q"],
        )
        blind = (
            alt.Chart(alt.NamedData("blind"))
            .mark_rule(strokeDash=[4, 3], color="#999999")
            .encode(y="fkr:Q", tooltip=alt.value("a blind choice"))
        )
        fkr = (curve.mark_line(point=True, color="#0072B2") + blind).properties(
            width=300, height=130
        )
        neuron = alt.vconcat(
            alt.hconcat(spread, scales).resolve_scale(y="shared"), fkr
        )
    else:
        neuron = (
            alt.Chart(alt.NamedData("bins"))
            .mark_bar(color="#0072B2")
            .encode(
                x=activation,
                x2="high:Q",
                y=alt.Y("count:Q", title="values"),
                y2="none:Q",
                tooltip=["low:Q", "high:Q", "count:Q"],
            )
            .properties(width=420, height=160)
        )
    line = (
        alt.Chart(alt.NamedData("series"))
        .mark_line(strokeWidth=1.2)
        .encode(
            x=alt.X("time:Q", title=None, axis=alt.Axis(tickCount=4)),
            y=alt.Y(
                "value:Q",
                title=None,
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=3),
            ),
            color=alt.Color("channel:N", legend=None),
        )
    )
    mark = (
        alt.Chart(alt.NamedData("marks"))
        .mark_rule(color="#D55E00", strokeWidth=2)
        .encode(x="time:Q")
    )
    series = (line + mark).properties(width=200, height=70)
    return {"neuron": neuron.to_dict(), "series": series.to_dict()}
