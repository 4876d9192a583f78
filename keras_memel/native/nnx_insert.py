"""find, insert, inserted and strip for modules of Flax NNX.

A host gets another class, a subclass of its own whose `__call__` passes the
outputs through the MEmeL in its attribute `memel`. Flax keeps the class of a
module in its graph definition, so that the insertion is part of what
`nnx.split` returns, and of what `nnx.jit` compiles.
"""

import functools
from typing import Any

import jax
from flax import nnx

from keras_memel.core import seeds
from keras_memel.layers.memel import MEmeL
from keras_memel.native import nnx_paths
from keras_memel.native import outputs as model_outputs
from keras_memel.native.nnx_memel import NnxMEmeL
from keras_memel.native.nnx_paths import inserted
from keras_memel.native.site import Site
from keras_memel.utils.types import Tensor

__all__ = ["find", "insert", "inserted", "memels", "strip"]


def find(model: nnx.Module, where: Any = "**") -> list[str]:
    """As `keras_memel.find`."""
    return [site.path for site in nnx_paths.select(model, where)]


def insert(
    model: nnx.Module,
    where: Any,
    layer: Any,
    output: Any = None,
    example: Any = None,
) -> nnx.Module:
    """As `keras_memel.insert`."""
    if not isinstance(layer, MEmeL):
        raise ValueError(
            "Argument `layer` must be a MEmeL. "
            f"Received: layer={layer!r} ({type(layer).__name__})"
        )
    if example is None:
        raise ValueError(
            "Argument `example` must be a batch of inputs of the module: "
            "variables cannot be made within `nnx.jit`, so the statistics get "
            "their sizes from it now. Received: example=None"
        )
    found = nnx_paths.select(model, where)
    for site in found:
        _check_host(site, where)
    shapes = _shapes(model, found, output, example)
    made = [
        _copy(layer, site, number, shapes[site.path], output)
        for number, site in enumerate(found)
    ]
    for site, memel in zip(found, made):
        attach(site.layer, memel)
    return model


def memels(model: nnx.Module) -> dict[str, Any]:
    """All MEmeLs of a model; inserted ones by the paths of their hosts."""
    found = inserted(model)
    held = set(map(id, found.values()))
    for path, module in nnx.iter_modules(model):
        if isinstance(module, NnxMEmeL) and id(module) not in held:
            found[".".join(map(str, path))] = module
    return found


def strip(model: nnx.Module) -> nnx.Module:
    """As `keras_memel.strip`."""
    for site in [Site("", (model,)), *nnx_paths.walk(model)]:
        if nnx_paths.is_host(site.layer):
            detach(site.layer)
    return model


def attach(host: Any, memel: Any) -> None:
    """Make a module the host of a MEmeL, or of what stands for one."""
    host.memel = memel
    object.__setattr__(host, "__class__", _followed(host.__class__))


def detach(host: Any) -> None:
    """Remove all that `attach` has added to a module."""
    object.__setattr__(host, "__class__", nnx_paths.plain(type(host)))
    del host.memel


@functools.cache
def _followed(kind: Any) -> Any:
    """The class of a host; one per class, so that graphs compare equal."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = kind.__call__(self, *args, **kwargs)
        values, place = model_outputs.select(outputs, self.memel.output)
        return model_outputs.replace(outputs, place, self.memel(values))

    def reduce(self: Any, protocol: int) -> Any:
        # No module holds the new class: a pickle names the one before.
        made, arguments, *state = kind.__reduce_ex__(self, protocol)
        arguments = tuple(kind if a is followed else a for a in arguments)
        return _rebuilt, (made, arguments), *state

    followed: Any = type(
        kind.__name__,
        (kind,),
        {
            "__call__": functools.wraps(kind.__call__)(call),
            "__reduce_ex__": reduce,
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            nnx_paths.PLAIN: kind,
        },
    )
    return followed


def _rebuilt(make: Any, arguments: Any) -> Any:
    made = make(*arguments)
    object.__setattr__(made, "__class__", _followed(made.__class__))
    return made


class Recorder:
    """In the place of a MEmeL: notes what it would get.

    Args:
        output: Which output of the host.
        memel: The MEmeL that is there, if one is.
    """

    def __init__(self, output: Any, memel: Any = None):
        self.output = output
        self.memel = memel
        self.seen: list[Tensor] = []

    def __call__(self, values: Tensor) -> Tensor:
        self.seen.append(values)
        return values if self.memel is None else self.memel(values)


def _shapes(
    model: nnx.Module, found: list[Site], output: Any, example: Any
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of what modules return, by their paths.

    Nothing is computed, and nothing in the model changes.

    Raises:
        ValueError: If one of the modules is never called.
    """
    recorders = {site.path: Recorder(output) for site in found}
    graph, state = nnx.split(model)

    def forward(state: Any) -> None:
        copy = nnx.merge(graph, state)
        for path, host in [(p, nnx_paths.at(copy, p)) for p in recorders]:
            attach(host, recorders[path])
        model_outputs.call(copy, example)

    jax.eval_shape(forward, state)
    for path, recorder in recorders.items():
        if not recorder.seen:
            raise ValueError(
                f"Module {path!r} is never called in the model: a MEmeL "
                "there would do nothing. Only calls of the module itself "
                "count, not those of other methods."
            )
    return {
        path: tuple(recorder.seen[0].shape)
        for path, recorder in recorders.items()
    }


def _check_host(site: Site, where: Any) -> None:
    if nnx_paths.is_host(site.layer):
        raise ValueError(
            f"Module {site.path!r} holds an inserted MEmeL already. Call "
            "`keras_memel.strip(model)` first, or name other modules. "
            f"Received: where={where!r}"
        )
    reason = None
    if not callable(site.layer):
        reason = "it cannot be called. Name its parts: "
        reason += f"'{site.path}.*'"
    elif hasattr(site.layer, "memel"):
        reason = "it has an attribute `memel` already"
    if reason:
        raise ValueError(
            f"A MEmeL cannot follow {site.path!r} "
            f"({type(site.layer).__name__}): {reason}. "
            f"Received: where={where!r}"
        )


def _copy(
    layer: MEmeL,
    site: Site,
    number: int,
    shape: tuple[int, ...],
    output: Any,
) -> NnxMEmeL:
    selection = seeds.of_site(layer.selection, number)
    try:
        return NnxMEmeL(layer, (None, *shape[1:]), output, selection)
    except ValueError as error:
        raise ValueError(
            f"A MEmeL cannot follow {site.path!r}: {error}"
        ) from error
