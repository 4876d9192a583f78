"""What all parts share: look-up, configs, checked arguments."""

import inspect
import math
import numbers
import sys
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

import keras

T = TypeVar("T")


def get(
    identifier: Any,
    argument: str,
    kind: type[T],
    names: Mapping[str, Callable[[], T]],
) -> T:
    """Find a `kind` by name, class, config or itself, as `initializers.get`."""
    found: Any = identifier
    if isinstance(identifier, str) and identifier in names:
        found = names[identifier]()
    elif isinstance(identifier, dict):
        found = keras.saving.deserialize_keras_object(identifier)
    elif inspect.isclass(identifier) and issubclass(identifier, kind):
        found = identifier()
    if isinstance(found, kind):
        return found
    raise ValueError(
        f"Argument `{argument}` must be one of {sorted(names)}, a "
        f"`{kind.__name__}`, or the config of one. "
        f"Received: {argument}={identifier!r} ({type(identifier).__name__})"
    )


def serialize(found: Any) -> dict[str, Any]:
    """The config that `get` turns back into the object."""
    config: dict[str, Any] = keras.saving.serialize_keras_object(found)
    return config


def represent(found: Any) -> str:
    """What one would type to make the object: `TopK(k=1)`."""
    arguments = found.get_config().items()
    inside = ", ".join(f"{name}={value!r}" for name, value in arguments)
    return f"{type(found).__name__}({inside})"


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
