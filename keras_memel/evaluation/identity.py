"""Identify an arm by a text that depends on its content alone.

Equal content has the same text in any process and under any hash seed.
Different content has a different text. A store compares these texts.
"""

import dataclasses
import enum
import functools
import hashlib
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# A longer text is cut and ends with the hash of the whole text.
LONGEST = 200
PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice)


def identify(argument: Any) -> str:
    """Describe an argument by its content.

    Numbers, text and containers are written out, with sets and dictionaries
    in a fixed order. Arrays are hashed. A Keras object is described by its
    serialized config and the hash of its weights, without automatic names; a
    function or a class by its module and name; any other object by its class
    and state, as for `pickle`.

    Args:
        argument: Any object.

    Returns:
        Text of at most about 300 characters.

    Raises:
        TypeError: If the content cannot be described: a lambda or a local
            function or class, an object without state, or an object that
            contains itself.

    Example:

    >>> identify({"rate": 0.1, "layers": {"b", "a"}})
    "{'layers': {'a', 'b'}, 'rate': 0.1}"
    """
    text = _text(argument, ())
    if len(text) > LONGEST:
        digest = hashlib.sha256(text.encode()).hexdigest()
        text = f"{text[:LONGEST]}... sha256:{digest}"
    return text


def _text(value: Any, parents: tuple[int, ...]) -> str:
    if id(value) in parents:
        raise TypeError("an object that contains itself")
    inner = functools.partial(_text, parents=(*parents, id(value)))
    kind = type(value)
    if kind in PLAIN:
        return repr(value)
    if isinstance(value, np.generic) and not value.dtype.hasobject:
        return f"{kind.__name__}({value.item()!r})"
    if isinstance(value, enum.Enum):
        return f"{_name(kind)}.{value.name}"
    if isinstance(value, pathlib.PurePath):
        return f"Path({str(value)!r})"
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        return _name(value)
    if isinstance(value, types.MethodType):
        return f"{inner(value.__self__)}.{value.__name__}"
    if isinstance(value, functools.partial):
        parts = inner((value.func, value.args, value.keywords))
        return f"partial{parts}"
    prefix = "" if kind in (list, tuple, dict, set) else _name(kind)
    if isinstance(value, Mapping):
        items = sorted((inner(k), inner(v)) for k, v in value.items())
        return prefix + "{" + ", ".join(f"{k}: {v}" for k, v in items) + "}"
    if isinstance(value, set | frozenset):
        return prefix + "{" + ", ".join(sorted(map(inner, value))) + "}"
    if isinstance(value, list):
        return f"{prefix}[{', '.join(map(inner, value))}]"
    if isinstance(value, tuple):
        comma = "," if len(value) == 1 else ""
        return f"{prefix}({', '.join(map(inner, value))}{comma})"
    if dataclasses.is_dataclass(value):
        fields = [f.name for f in dataclasses.fields(value)]
        state = {name: getattr(value, name) for name in fields}
        return _name(kind) + inner(state)
    if callable(getattr(value, "get_config", None)):
        return _keras(value, inner)
    if hasattr(value, "__array__") or keras.ops.is_tensor(value):
        return _array(value, inner)
    return _state(value, inner)


def _name(value: Any) -> str:
    name = getattr(value, "__qualname__", value.__name__)
    if "<" in name:
        raise TypeError(f"`{name}`, a lambda or a local definition")
    return f"{value.__module__}.{name}"


def _array(value: Any, inner: Any) -> str:
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        value = keras.ops.convert_to_numpy(value)
    array = np.ascontiguousarray(value)
    if array.dtype.hasobject:
        return f"array{array.shape}{inner(array.tolist())}"
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    return f"array({array.dtype}, {np.shape(value)}, sha256:{digest})"


def _keras(value: Any, inner: Any) -> str:
    """Serialize the config, with automatic names replaced by their order."""
    config = keras.saving.serialize_keras_object(value)
    automatic: dict[str, str] = {}
    _collect_names(config, automatic)
    text = inner(_rename(config, automatic))
    # Only the weights are hashed: `variables` also holds the state of random
    # generators, which without a seed differs in each process.
    weights = getattr(value, "weights", ())
    parts = [text, *(_array(weight, inner) for weight in weights)]
    return f"{type(value).__name__}({', '.join(parts)})"


def _collect_names(config: Any, found: dict[str, str]) -> None:
    if isinstance(config, Mapping):
        inside = config.get("config")
        if isinstance(inside, Mapping) and isinstance(inside.get("name"), str):
            name, kind = inside["name"], str(config.get("class_name"))
            # A Conv2DTranspose may be called "conv2d_transpose_3".
            plain = re.sub(r"_\d+$", "", name).replace("_", "")
            if plain == kind.lower():
                found.setdefault(name, f"<{kind} {len(found)}>")
        for part in config.values():
            _collect_names(part, found)
    elif isinstance(config, list | tuple):
        for part in config:
            _collect_names(part, found)


def _rename(config: Any, automatic: Mapping[str, str]) -> Any:
    if isinstance(config, Mapping):
        return {key: _rename(part, automatic) for key, part in config.items()}
    if isinstance(config, list | tuple):
        return [_rename(part, automatic) for part in config]
    if isinstance(config, str):
        return automatic.get(config, config)
    return config


def _state(value: Any, inner: Any) -> str:
    try:
        reduced = value.__reduce_ex__(2)
    except Exception as error:
        raise TypeError(
            f"{type(value).__name__}, an object without state"
        ) from error
    if isinstance(reduced, str):
        return f"{type(value).__module__}.{reduced}"
    function, arguments, *rest = reduced
    state = [
        list(part) if hasattr(part, "__next__") else part
        for part in (*rest, None, None, None)
    ][:3]
    if arguments in ((), (type(value),)) and not any(
        part is not None and part != [] for part in state
    ):
        raise TypeError(f"{type(value).__name__}, an object without state")
    return f"{_name(type(value))}{inner((function, arguments, *state))}"
