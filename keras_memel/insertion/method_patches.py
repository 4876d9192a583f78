"""Hooks: attributes of an instance that stand before methods of its class.

Keras itself puts `build` and `quantize` of every layer into the instance; the
same is done here to more of them, and undone.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras

# From the name of a method to what makes its hook from the layer and itself.
Wrappers = dict[str, Callable[[Any, Callable[..., Any]], Callable[..., Any]]]

_HOOKS = "_memel_hooks"


@dataclasses.dataclass(frozen=True)
class _Hook:
    wrapper: Callable[..., Any]
    before: Any  # What the instance had under this name, or `_NOTHING`.


_NOTHING = object()


def is_hooked(layer: keras.Layer) -> bool:
    """Whether a layer has hooks: it holds a MEmeL, or is around one."""
    return _HOOKS in vars(layer)


def hook(layer: keras.Layer, wrappers: Wrappers) -> None:
    """Puts a hook before each of some methods; of a layer with hooks, none."""
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
    """Takes all hooks of a layer away: it is as it was."""
    for name, hook in vars(layer).pop(_HOOKS, {}).items():
        if hook.before is _NOTHING:
            del vars(layer)[name]
        else:
            vars(layer)[name] = hook.before


def check(layer: keras.Layer) -> None:
    """Raises if a hook could not be taken away.

    Raises:
        RuntimeError: If something else has replaced it meanwhile.
    """
    for name, hook in vars(layer).get(_HOOKS, {}).items():
        if vars(layer).get(name) is not hook.wrapper:
            raise RuntimeError(
                f"Something else has replaced `{name}` of {layer.name!r} "
                "after a MEmeL was inserted, and would be lost, or keep the "
                "MEmeL. Undo that first. "
                f"Received: {name}={vars(layer).get(name)!r}"
            )
