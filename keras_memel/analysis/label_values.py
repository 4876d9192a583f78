"""Find the kind of labels, and which of them are missing."""

import numbers
from typing import Any

import numpy as np

from keras_memel.utils.types import Array

# Numbers that Keras, scikit-learn and PyTorch use for a missing label.
UNLABELLED = (-1, -100)


def objects(labels: Any) -> Any:
    """Keep the kinds of a list: NumPy would make NaN the text "nan"."""
    if not isinstance(labels, (list, tuple)):
        return labels
    objects = np.array(labels, dtype=object)
    kinds = {type(one) for one in objects.ravel().tolist()}
    if len(kinds) > 1 and kinds & {str, bytes, bool, np.bool_, type(None)}:
        return objects
    return labels


def standard(values: Array) -> tuple[str, Array, Array]:
    """Return the kind of labels, the labels, and which are missing."""
    kind = values.dtype.kind
    if kind == "O":
        return _of_objects(values)
    missing = np.zeros(values.shape, bool)
    if kind == "b":
        return "bool", values.astype("int64"), missing
    if kind in "UT":
        return "str", values.astype("U"), missing
    if kind == "S":
        return "str", np.char.decode(values, "utf-8"), missing
    if kind == "f":
        missing = np.isnan(values)
        values = np.where(missing, 0, values)
        if (values % 1 != 0).any():
            raise _wrong(values)
    elif kind not in "iu":
        raise _wrong(values)
    if kind != "u":
        missing |= np.isin(values, UNLABELLED)
    told = values[~missing]
    if (told < 0).any() or (told > np.iinfo("int64").max).any():
        raise _wrong(values)
    return "int", values.astype("int64"), missing


def _of_objects(values: Array) -> tuple[str, Array, Array]:
    def is_missing(value: Any) -> bool:
        if value is None or type(value).__name__ in ("NAType", "NaTType"):
            return True
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        return number and (value != value or value in UNLABELLED)

    missing = np.array([is_missing(one) for one in values.ravel()], bool)
    missing = missing.reshape(values.shape)
    told = values[~missing].tolist()
    filled: Array
    if told and all(isinstance(one, (str, bytes)) for one in told):
        text = [
            one.decode("utf-8") if isinstance(one, bytes) else one
            for one in told
        ]
        filled = np.full(values.shape, "", np.array(text).dtype)
        filled[~missing] = text
        return "str", filled, missing
    if all(isinstance(one, (bool, np.bool_)) for one in told) and told:
        filled = np.zeros(values.shape, "int64")
        filled[~missing] = told
        return "bool", filled, missing
    filled = np.full(values.shape, -1.0)
    try:
        filled[~missing] = told
    except (TypeError, ValueError):
        raise _wrong(values) from None
    return standard(filled)


def _wrong(values: Array) -> ValueError:
    number = values.dtype.kind in "iuf" and values.size
    kinds = []
    if values.dtype.kind == "O":
        kinds = sorted({type(one).__name__ for one in values.ravel().tolist()})
    return ValueError(
        "Argument `labels` must be integers from 0 (-1 and -100 mean "
        "'unlabelled'), booleans or strings, one per input or one per "
        "position; or 0 and 1 in one column per label, with multi_label=True. "
        f"Received: an array of shape {values.shape}, dtype {values.dtype}"
        + (f", minimum {values.min()}" if number else "")
        + (f", of {', '.join(kinds)}" if kinds else "")
    )
