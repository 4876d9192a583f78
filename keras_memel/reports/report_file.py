"""Reports on disk: one file of arrays, `.npz`, that names no class."""

import dataclasses
import json
import os
import pathlib
import uuid
from typing import Any

import numpy as np

from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.ranking import Curve

# Version 1 called a label a feature.
_VERSION = 2


def write(report: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """As `Report.save`, of the fields of the report."""
    target = _npz(path)
    arrays: dict[str, Any] = {}
    told: dict[str, Any] = {"version": _VERSION, **report, "layers": []}
    for number, layer in enumerate(report["layers"].values()):
        plain = {}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if isinstance(value, Curve):
                for part, array in value._asdict().items():
                    arrays[f"{number}/curve.{part}"] = array
            elif isinstance(value, np.ndarray):
                arrays[f"{number}/{field.name}"] = value
            elif value is not None:
                plain[field.name] = value
        told["layers"].append(plain)
    arrays["report"] = np.array(json.dumps(told))
    # Beside the target, since a file system is left by copying only.
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with unfinished.open("xb") as file:
            np.savez_compressed(file, **arrays)
        os.replace(unfinished, target)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a report, as `Report.load`."""
    with np.load(_npz(path), allow_pickle=False) as file:
        told = json.loads(str(file["report"])) if "report" in file else {}
        version = told.get("version")
        if version not in (1, _VERSION):
            raise ValueError(
                f"The file must hold a report of version {_VERSION} or 1. "
                f"Received: path={str(path)!r}, of version "
                f"{version}"
            )
        layers = {}
        for number, plain in enumerate(told["layers"]):
            found: dict[str, Any] = dict(plain)
            for name in ("shape", "sizes"):
                found[name] = tuple(found[name])
            start = f"{number}/"
            for key in file.files:
                if key.startswith(start) and "curve." not in key:
                    name = key.removeprefix(start)
                    if version == 1:
                        name = name.replace("feature_", "label_")
                    found[name] = file[key]
            found["curve"] = Curve(
                *(file[f"{start}curve.{part}"] for part in Curve._fields)
            )
            layers[found["path"]] = LayerReport(**found)
    return {
        "layers": layers,
        "inputs": told["inputs"],
        "threshold": told["threshold"],
        "labels": tuple(told["features" if version == 1 else "labels"]),
    }


def _npz(path: str | os.PathLike[str]) -> pathlib.Path:
    target = pathlib.Path(path)
    if target.suffix != ".npz":
        raise ValueError(
            f"Argument `path` must end in '.npz'. Received: path={str(path)!r}"
        )
    return target
