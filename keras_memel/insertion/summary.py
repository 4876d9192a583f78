"""Show each inserted MEmeL as a row of `model.summary()`.

Keras prints one row per layer of a model, but none for the parts of these
layers. While it prints, the model lists each MEmeL as one of its layers, right
after its host. The row of the host then excludes the parameters of the MEmeL.
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
    """Return the `summary` of a model that holds MEmeLs."""

    def summary(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as undo:
            _list_memels(model, _nested(args, kwargs), undo)
            return method(*args, **kwargs)

    return summary


def _nested(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    # `expand_nested` is the fourth argument of `keras.Model.summary`.
    return bool(args[3] if len(args) > 3 else kwargs.get("expand_nested"))


def _list_memels(
    model: keras.Layer, nested: bool, undo: contextlib.ExitStack
) -> None:
    # The rows of a graph are its operations, which need not be layers. The rows
    # of any other model are the layers that it tracks.
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
