"""Implement find, insert, inserted and strip for modules of Flax NNX.

The class of a host is replaced by a subclass whose `__call__` passes the
outputs through the MEmeL in the attribute `memel`. Flax keeps the class of a
module in its graph definition. The insertion is therefore part of the results
of `nnx.split` and of the code that `nnx.jit` compiles.
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
    """Implement `keras_memel.find`."""
    return [site.path for site in nnx_paths.select(model, where)]


def insert(
    model: nnx.Module,
    where: Any,
    layer: Any,
    output: Any = None,
    example: Any = None,
) -> nnx.Module:
    """Implement `keras_memel.insert`."""
    if not isinstance(layer, MEmeL):
        raise ValueError(
            "Argument `layer` must be a MEmeL. "
            f"Received: layer={layer!r} ({type(layer).__name__})"
        )
    if example is None:
        raise ValueError(
            "Argument `example` must be a batch of inputs of the module. The "
            "statistics need their sizes now, because `nnx.jit` cannot create "
            "variables. Received: example=None"
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
    """Return all MEmeLs by path. An inserted one has the path of its host."""
    found = inserted(model)
    held = set(map(id, found.values()))
    for path, module in nnx.iter_modules(model):
        if isinstance(module, NnxMEmeL) and id(module) not in held:
            found[".".join(map(str, path))] = module
    return found


def strip(model: nnx.Module) -> nnx.Module:
    """Implement `keras_memel.strip`."""
    for site in [Site("", (model,)), *nnx_paths.walk(model)]:
        if nnx_paths.is_host(site.layer):
            detach(site.layer)
    return model


def attach(host: Any, memel: Any) -> None:
    """Make a module the host of a MEmeL or of a `Recorder`."""
    host.memel = memel
    object.__setattr__(host, "__class__", _followed(host.__class__))


def detach(host: Any) -> None:
    """Remove everything that `attach` has added to a module."""
    object.__setattr__(host, "__class__", nnx_paths.plain(type(host)))
    del host.memel


@functools.cache
def _followed(kind: Any) -> Any:
    """Create the class of a host, once per class so that graphs are equal."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = kind.__call__(self, *args, **kwargs)
        values, place = model_outputs.select(outputs, self.memel.output)
        return model_outputs.replace(outputs, place, self.memel(values))

    def reduce(self: Any, protocol: int) -> Any:
        # No Python module contains the new class, so a pickle refers to the
        # original class.
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
    """Record the values that a MEmeL at the same place would receive.

    Args:
        output: Index or key of the output of the host.
        memel: MEmeL that is already inserted, or `None`.
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
    """Find the shapes of the outputs of modules, by path.

    The forward pass is only traced, and the model does not change.

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
                "Argument `where` must select modules that the model calls; "
                "calls of their other methods do not count. "
                f"Received: module {path!r}, which is never called"
            )
    return {
        path: tuple(recorder.seen[0].shape)
        for path, recorder in recorders.items()
    }


def _check_host(site: Site, where: Any) -> None:
    if nnx_paths.is_host(site.layer):
        raise ValueError(
            f"Module {site.path!r} already holds an inserted MEmeL. Call "
            "`keras_memel.strip(model)` first, or select other modules. "
            f"Received: where={where!r}"
        )
    reason = None
    if not callable(site.layer):
        reason = "it cannot be called. Select its parts: "
        reason += f"'{site.path}.*'"
    elif hasattr(site.layer, "memel"):
        reason = "it already has an attribute `memel`"
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
