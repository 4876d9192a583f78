"""Hooks: attributes of an instance that override methods of its class.

Keras itself stores `build` and `quantize` of every layer in the instance. This
module does the same for more methods, and undoes it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

# For each method, a function that makes its hook from the layer and the method.
Wrappers = dict[str, Callable[[Any, Callable[..., Any]], Callable[..., Any]]]

_HOOKS = "_memel_hooks"


@dataclasses.dataclass(frozen=True)
class _Hook:
    wrapper: Callable[..., Any]
    before: Any  # The attribute of the instance, or `_NOTHING`.


_NOTHING = object()


def is_hooked(layer: keras.Layer) -> bool:
    """Return whether a layer has hooks: it holds a MEmeL, or is around one."""
    return _HOOKS in vars(layer)


def hook(layer: keras.Layer, wrappers: Wrappers) -> None:
    """Hook some methods of a layer, unless it has hooks already."""
    if is_hooked(layer):
        return
    hooks: dict[str, _Hook] = {}
    for name, wrap in wrappers.items():
        method = getattr(layer, name, None)
        if method is not None:
            wrapper = functools.wraps(method)(wrap(layer, method))
            hooks[name] = _Hook(wrapper, vars(layer).get(name, _NOTHING))
            vars(layer)[name] = wrapper
    vars(layer)[_HOOKS] = hooks


def unhook(layer: keras.Layer) -> None:
    """Remove all hooks of a layer, and restore its attributes."""
    for name, hook in vars(layer).pop(_HOOKS, {}).items():
        if hook.before is _NOTHING:
            del vars(layer)[name]
        else:
            vars(layer)[name] = hook.before


def check(layer: keras.Layer) -> None:
    """Raise if a hook of a layer cannot be removed.

    Raises:
        RuntimeError: If other code has replaced it since `insert`.
    """
    for name, hook in vars(layer).get(_HOOKS, {}).items():
        if vars(layer).get(name) is not hook.wrapper:
            raise RuntimeError(
                f"Other code has replaced `{name}` of {layer.name!r} after a "
                "MEmeL was inserted. Its replacement would be lost, or would "
                "keep the MEmeL. Undo it first. "
                f"Received: {name}={vars(layer).get(name)!r}"
            )
