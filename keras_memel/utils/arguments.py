"""Check arguments. Errors name the argument and the value received."""

import math
import numbers
import os
import pathlib
import sys
from typing import Any

import keras


def number(
    argument: str,
    value: Any,
    expected: str,
    low: float = -sys.float_info.max,
    high: float = math.inf,
    low_included: bool = True,
) -> float:
    """Return `value` as a float if it is finite and in the allowed interval.

    The interval excludes `high`, and includes `low` if `low_included`.
    """
    found = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        found = float(value)
    above = low <= found if low_included else low < found
    if not (above and found < high):
        raise _wrong(argument, value, expected)
    return found


def integer(argument: str, value: Any, expected: str, low: int) -> int:
    """Return `value` as an int if it is an integer of at least `low`."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or value < low:
        raise _wrong(argument, value, expected)
    return int(value)


def boolean(argument: str, value: Any) -> bool:
    """Return `value` if it is a bool."""
    if not isinstance(value, bool):
        raise _wrong(argument, value, "a bool")
    return value


def text(argument: str, value: Any) -> str:
    """Return `value` if it is a string."""
    if not isinstance(value, str):
        raise _wrong(argument, value, "a string")
    return value


def function(argument: str, value: Any) -> Any:
    """Return `value` if it is callable or `None`."""
    if value is not None and not callable(value):
        raise _wrong(argument, value, "a function, or None")
    return value


def new_file(argument: str, value: Any) -> pathlib.Path:
    """Return the path of a file to write; raise if its folder is missing."""
    if not isinstance(value, (str, os.PathLike)):
        raise _wrong(argument, value, "a file path")
    target = pathlib.Path(value)
    if not target.parent.is_dir():
        raise _wrong(argument, str(value), "in an existing folder")
    if target.is_dir():
        raise _wrong(argument, str(value), "a file path, not a folder")
    return target


def _wrong(argument: str, value: Any, expected: str) -> ValueError:
    return ValueError(
        f"Argument `{argument}` must be {expected}. "
        f"Received: {argument}={value!r} ({type(value).__name__})"
    )


def float_dtype(inputs: Any) -> str:
    """Return the dtype of `inputs` if they are dense and floating-point."""
    dense("inputs", inputs)
    dtype: str = keras.backend.standardize_dtype(inputs.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `inputs` must be of a floating-point dtype. "
            f"Received: inputs of dtype {dtype}"
        )
    return dtype


def dense(argument: str, value: Any) -> None:
    """Raise if a tensor of any backend is ragged or sparse."""
    name = type(value).__name__

    def is_(kind: str) -> bool:  # `sparse` and `ragged` exist on KerasTensor
        return getattr(value, kind, False) is True

    kind = None
    if is_("ragged") or is_("is_nested") or "Ragged" in name:
        kind = "ragged"
    elif (
        (is_("sparse") and not _is_computed(value))
        or is_("is_sparse")
        or "sparse" in str(getattr(value, "layout", ""))
        or name in ("SparseTensor", "IndexedSlices", "BCOO", "BCSR")
    ):
        kind = "sparse"
    if kind is not None:
        cure = {
            "ragged": "Pad it to one length, and pass a `mask` of the "
            "positions that count",
            "sparse": "Convert it with `keras.ops.convert_to_tensor(x, "
            "sparse=False)`",
        }[kind]
        raise ValueError(
            f"Argument `{argument}` must be a dense tensor. {cure}. "
            f"Received: a {kind} tensor ({name})"
        )


def _is_computed(value: Any) -> bool:
    # Keras marks the product of a symbol and a number as sparse. Only the flag
    # of an input is reliable. Sparse values are refused when the model runs.
    history = getattr(value, "_keras_history", None)
    return history is not None and not isinstance(
        history.operation, keras.layers.InputLayer
    )


def same_output(path: str, held: Any, output: Any) -> None:
    """Raise unless `output` is the output that an inserted MEmeL receives.

    Args:
        path: Path of the layer with the MEmeL.
        held: Index or key of the output that the MEmeL receives; `None` is
            the first.
        output: Argument of `analyze`; `None` is the output of the MEmeL.
    """
    if output is not None and output != (0 if held is None else held):
        raise ValueError(
            "Argument `output` must be None, or the output that the MEmeL "
            f"after {path!r} receives, {held!r}. Call `strip` to analyze "
            f"another one. Received: output={output!r}"
        )
