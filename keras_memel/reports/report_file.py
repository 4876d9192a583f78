"""Read and write reports: one `.npz` file of arrays without class names."""

import dataclasses
import json
import os
import pathlib
import uuid
import zipfile
from typing import Any

import numpy as np

from keras_memel.reports import kept_inputs
from keras_memel.reports.examples import Examples
from keras_memel.reports.examples import Field
from keras_memel.reports.examples import Unlabelled
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.merge_state import MergeState
from keras_memel.reports.ranking import Curve
from keras_memel.utils import arguments

# Version 1 called a label a feature. Versions 1 and 2 chose and scored labels
# on the same inputs. Versions before 4 kept no data of single inputs. Versions
# before 5 had bins from minimum to maximum, which cannot be added.
_VERSION = 5
_PARTS: dict[str, Any] = {
    "curve": Curve,
    "examples": Examples,
    "unlabelled": Unlabelled,
    "state": MergeState,
}


def write(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write the fields of a report, as `Report.save` does."""
    target = arguments.new_file("path", path)
    _check_npz(path)
    arrays: dict[str, Any] = {}
    told: dict[str, Any] = {"version": _VERSION, **report, "layers": []}
    kept_inputs.write(told.pop("kept"), told, arrays)
    for number, layer in enumerate(report["layers"].values()):
        plain = {}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if field.name == "labels":
                continue  # The report stores them once for all layers.
            if field.name in _PARTS and value is not None:
                for part, array in value._asdict().items():
                    if array is not None:
                        arrays[f"{number}/{field.name}.{part}"] = array
            elif isinstance(value, np.ndarray):
                arrays[f"{number}/{field.name}"] = value
            elif value is not None:
                plain[field.name] = value
        told["layers"].append(plain)
    arrays["report"] = np.array(json.dumps(told))
    # The temporary file is in the folder of the target, because a file cannot
    # be moved to another file system.
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the fields of a report, as `Report.load` does."""
    _check_npz(path)
    with _opened(path) as file:
        told = json.loads(str(file["report"])) if "report" in file else {}
        version = told.get("version")
        if version not in range(1, _VERSION + 1):
            raise ValueError(
                "Argument `path` must be a file with a report of version "
                f"{_VERSION} or older. Received: path={str(path)!r}, of "
                f"version {version}"
            )
        labels = tuple(told["features" if version == 1 else "labels"])
        layers = {}
        for number, plain in enumerate(told["layers"]):
            found: dict[str, Any] = dict(plain)
            for name in ("shape", "sizes"):
                found[name] = tuple(found[name])
            start = f"{number}/"
            for key in file.files:
                if key.startswith(start) and "." not in key:
                    name = key.removeprefix(start)
                    if version == 1:
                        name = name.replace("feature_", "label_")
                    found[name] = file[key]
            for name, kind in _PARTS.items():
                own = {
                    part: file[f"{start}{name}.{part}"]
                    for part in kind._fields
                    if f"{start}{name}.{part}" in file.files
                }
                if own and not (name == "state" and version in range(5)):
                    found[name] = kind(**own)
            if found.get("field") is not None:
                found["field"] = Field(*map(tuple, found["field"]))
            if version in (1, 2):
                found = _upgraded(found)
            layers[found["path"]] = LayerReport(**found, labels=labels)
        kept = kept_inputs.read(told, file)
    return {
        "layers": layers,
        "inputs": told["inputs"],
        "threshold": told["threshold"],
        "labels": labels,
        "split": told.get("split", False),
        "kept": kept,
        "parts": tuple(told.get("parts", ())),
    }


def _upgraded(layer: dict[str, Any]) -> dict[str, Any]:
    """Convert a layer of version 1 or 2, scored on the inputs that chose."""
    new = dict(layer)
    curve = layer["curve"]
    # The older versions stored zeros for missing values.
    new["ms_curve"] = curve.threshold
    if "label_ms" not in layer:
        del new["curve"]
        return new
    count, means = layer["label_count"], layer["label_mean"]
    rows = np.arange(len(count))
    moved = (layer["count"] > 0) & (layer["minimum"] < layer["maximum"])

    def best(values: Any) -> Any:
        choice = np.where(np.isnan(values), -np.inf, values)
        found = choice.argmax(1)
        known = moved & (choice[rows, found] > -np.inf)
        return np.where(known, found, -1)

    def on(values: Any, label: Any) -> Any:
        return np.where(label >= 0, values[rows, label], np.nan)

    label, f1_label = best(layer["label_ms"]), best(layer["label_f1"])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = count / count.sum(1, keepdims=True)
        loudest = best(means)
        highest = on(means, loudest)
        others = np.isfinite(means).sum(1) - 1
        rest = (np.nansum(means, 1) - highest) / others
        selectivity = (highest - rest) / (highest + rest)
    return new | {
        "label": label,
        "mean_on_label": on(means, label),
        "ms_on_label": on(layer["label_ms"], label),
        "f1_label": f1_label,
        "f1": on(layer["label_f1"], f1_label),
        "f1_baseline": on(2 * share / (1 + share), f1_label),
        "class_selectivity": np.where(
            layer["minimum"] >= 0, selectivity, np.nan
        ),
        "roc_auc_null": np.full(len(count), np.nan),
        "roc_auc_p": np.full(len(count), np.nan),
        "p_corrected": np.full(len(count), np.nan),
        "histogram_label": np.broadcast_to(
            np.arange(count.shape[1]), count.shape
        ),
        "scored": np.where(moved, layer["ranked"], 0),
    }


def _check_npz(path: str | os.PathLike[str]) -> None:
    if pathlib.Path(path).suffix != ".npz":
        raise ValueError(
            f"Argument `path` must end in '.npz'. Received: path={str(path)!r}"
        )


def _opened(path: str | os.PathLike[str]) -> Any:
    # NumPy would advise to unpickle a file that it does not recognize.
    if pathlib.Path(path).is_file() and not zipfile.is_zipfile(path):
        raise ValueError(
            "Argument `path` must be a file that `Report.save` wrote. "
            f"Received: path={str(path)!r}, which is not complete or not a "
            "'.npz' file"
        )
    return np.load(path, allow_pickle=False)
