"""Find places for a MEmeL in a Flax NNX module by dotted paths and patterns."""

from typing import Any

import jax
from flax import nnx

from keras_memel.native.nnx_memel import NnxMEmeL
from keras_memel.native.site import Site
from keras_memel.utils import patterns

# Attribute of the class of a host. It holds the original class.
PLAIN = "_keras_memel_plain"


def walk(model: nnx.Module) -> list[Site]:
    """Return the modules within a model in order, without MEmeLs."""
    found: list[Site] = []
    seen = {id(model)}

    def descend(chain: tuple[Any, ...], path: str) -> None:
        names = list(vars(chain[-1]))
        parts = {
            name: part
            for name, part in nnx.iter_children(chain[-1])
            if isinstance(part, nnx.Module)
        }
        # Flax sorts the modules. Restore the order of assignment.
        parts = dict(
            sorted(
                parts.items(),
                key=lambda part: (
                    names.index(part[0]) if part[0] in names else 0
                ),
            )
        )
        for name, part in parts.items():
            if id(part) in seen or isinstance(part, NnxMEmeL):
                continue
            seen.add(id(part))
            below = f"{path}.{name}" if path else str(name)
            found.append(Site(below, (*chain, part)))
            descend((*chain, part), below)

    descend((model,), "")
    return found


def at(model: nnx.Module, path: str) -> Any:
    """Return the module at a path of `walk` in a model of equal structure."""
    for site in walk(model):
        if site.path == path:
            return site.layer
    raise KeyError(path)


def select(
    model: nnx.Module, where: Any, argument: str = "where"
) -> list[Site]:
    """Return the sites that `where` selects, in the order of the model.

    Args:
        model: Any module.
        where: As in `find`, with paths joined by ".".
        argument: Name of `where` in error messages.

    Raises:
        ValueError: If `where`, or one pattern of several, selects no module.
    """
    tree = patterns.Tree(
        walk(model),
        f"the {type(model).__name__}",
        "module",
        nnx.Module,
        _kind,
        separator=".",
    )
    found: list[Site] = patterns.select(tree, where, argument)
    return found


def plain(kind: type) -> type:
    """Return the class of a module before an insertion."""
    found: type = vars(kind).get(PLAIN, kind)
    return found


def is_host(module: Any) -> bool:
    """Check whether `insert` has added a MEmeL after a module."""
    return PLAIN in vars(type(module))


def inserted(model: nnx.Module) -> dict[str, Any]:
    """Return the inserted MEmeLs of a model by the path of their host."""
    sites = [Site("", (model,)), *walk(model)]
    return {
        site.path: site.layer.memel for site in sites if is_host(site.layer)
    }


def _kind(module: Any) -> tuple[type, tuple[Any, ...]]:
    parameters = jax.tree.leaves(nnx.state(module, nnx.Param))
    return plain(type(module)), tuple(tuple(p.shape) for p in parameters)
