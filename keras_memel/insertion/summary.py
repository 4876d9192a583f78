"""`model.summary()` of a model with insertions: each MEmeL has a row.

Keras prints a row for each layer of a model, not for parts of other layers.
While it prints, a model lists the MEmeLs as layers of its own, right after the
layer that holds them, whose own row leaves their parameters out.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_memel.insertion.forward import insertion_of


def with_insertions(
    model: keras.Model, method: Callable[..., Any]
) -> Callable[..., Any]:
    """The `summary` of a model that holds MEmeLs."""

    def summary(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as undo:
            _list_memels(model, _nested(args, kwargs), undo)
            return method(*args, **kwargs)

    return summary


def _nested(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # The fourth argument of `keras.Model.summary`.
    return bool(args[3] if len(args) > 3 else kwargs.get("expand_nested"))


def _list_memels(
    model: keras.Layer, nested: bool, undo: contextlib.ExitStack
) -> None:
    # A graph prints its operations, which need not be layers; any other model
    # prints the layers that it tracks.
    is_graph = isinstance(vars(model).get("_operations"), (list, tuple))
    name = "_operations" if is_graph else "_layers"
    rows: list[Any] = []
    for part in vars(model)[name]:
        rows.append(part)
        if not isinstance(part, keras.Layer):
            continue
        if nested and getattr(part, "layers", None):
            _list_memels(part, nested, undo)
            held = insertion_of(part)
            memels = [] if held is None else [held.memel]
        else:
            memels = [
                held.memel
                for layer in part._flatten_layers()
                if (held := insertion_of(layer)) is not None
            ]
        rows += memels
        if memels:
            count = functools.partial(_count_without, part, memels)
            _set(part, "count_params", count, undo)
    _set(model, name, rows, undo)


def _count_without(layer: keras.Layer, memels: list[keras.Layer]) -> int:
    count: int = type(layer).count_params(layer)
    return count - sum(int(memel.count_params()) for memel in memels)


def _set(
    layer: keras.Layer, name: str, value: Any, undo: contextlib.ExitStack
) -> None:
    if name in vars(layer):
        undo.callback(vars(layer).__setitem__, name, vars(layer)[name])
    else:
        undo.callback(vars(layer).pop, name, None)
    vars(layer)[name] = value
