"""Checks of arguments, whose errors name the argument and what was received."""

import math
import numbers
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
    """`value` as a float, if it is finite and between `low` and `high`.

    `high` itself is never included; `low` is unless said otherwise.
    """
    found = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        found = float(value)
    above = low <= found if low_included else low < found
    if not (above and found < high):
        raise ValueError(
            f"Argument `{argument}` must be {expected}. "
            f"Received: {argument}={value!r} ({type(value).__name__})"
        )
    return found


def integer(argument: str, value: Any, expected: str, low: int) -> int:
    """`value` as an int, if it is a whole number of at least `low`."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or value < low:
        raise ValueError(
            f"Argument `{argument}` must be {expected}. "
            f"Received: {argument}={value!r} ({type(value).__name__})"
        )
    return int(value)


def boolean(argument: str, value: Any) -> bool:
    """`value`, if it is a bool."""
    if not isinstance(value, bool):
        raise ValueError(
            f"Argument `{argument}` must be a bool. "
            f"Received: {argument}={value!r} ({type(value).__name__})"
        )
    return value


def float_dtype(inputs: Any) -> str:
    """The dtype of `inputs`, if it is a floating-point one."""
    dtype: str = keras.backend.standardize_dtype(inputs.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `inputs` must be of a floating-point dtype. "
            f"Received: inputs of dtype {dtype}"
        )
    return dtype
