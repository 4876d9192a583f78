"""Store the kept inputs of a report in its file.

An input is a text, an array, or a list, tuple or dictionary of these. All
leaves at one place of the structure are stored in two arrays: the values, one
after the other, and the shapes.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np


def write(
    kept: dict[int, Any] | None, told: dict[str, Any], arrays: dict[str, Any]
) -> None:
    """Add the kept inputs to the fields and the arrays of a file."""
    if kept is None:
        return
    leaves = [keras.tree.flatten(one) for one in kept.values()]
    first = next(iter(kept.values()), None)
    told["kept"] = _structure(first)
    arrays["kept/numbers"] = np.array(list(kept), "int64")
    for place in range(len(leaves[0]) if leaves else 0):
        own = [np.asarray(leaf[place]) for leaf in leaves]
        if own[0].dtype.kind in "OSU":
            texts = [one.item() for one in own]
            own = [
                np.frombuffer(
                    text if isinstance(text, bytes) else str(text).encode(),
                    "uint8",
                )
                for text in texts
            ]
        arrays[f"kept/{place}/values"] = np.concatenate(
            [one.ravel() for one in own]
        )
        arrays[f"kept/{place}/shapes"] = np.array([one.shape for one in own])


def read(told: Mapping[str, Any], file: Any) -> dict[int, Any] | None:
    """Read the inputs that `write` added; `None` without kept inputs."""
    if "kept" not in told:
        return None
    numbers = file["kept/numbers"].tolist()
    columns: list[list[Any]] = []
    while f"kept/{len(columns)}/values" in file.files:
        start = f"kept/{len(columns)}/"
        shapes = file[f"{start}shapes"]
        ends = np.cumsum(shapes.prod(1, dtype="int64"))[:-1]
        parts = np.split(file[f"{start}values"], ends)
        columns.append(
            [one.reshape(shape) for one, shape in zip(parts, shapes)]
        )
    return {
        number: _built(told["kept"], [column[row] for column in columns])
        for row, number in enumerate(numbers)
    }


def _structure(one: Any) -> Any:
    """Describe the structure of an input in JSON, for `_built`."""
    if isinstance(one, Mapping):
        # Keras flattens dictionaries in the order of their keys.
        return {"dict": [[key, _structure(one[key])] for key in sorted(one)]}
    if isinstance(one, (list, tuple)):
        return {"list": [_structure(part) for part in one]}
    text = isinstance(one, (str, bytes)) or (
        getattr(one, "dtype", np.dtype(int)).kind in "OSU"
    )
    return "text" if text else "array"


def _built(structure: Any, leaves: list[Any]) -> Any:
    if isinstance(structure, str):
        leaf = leaves.pop(0)
        if structure == "text":
            return leaf.tobytes().decode("utf-8", "replace")
        return leaf
    if "dict" in structure:
        return {key: _built(part, leaves) for key, part in structure["dict"]}
    return [_built(part, leaves) for part in structure["list"]]
