"""Sites: the layers of a model that a MEmeL can follow.

The path of a site joins the names of the layers, from the child of the model
down to the layer itself, with "/". `Layer.path` of Keras is not usable, since
it is `None` for some layers and equal for others. This module does not change
a model. `patterns.py` selects sites.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_memel.layers.memel import MEmeL

Where = str | Callable[..., Any] | Sequence[Any]  # Layers are callable

# Layers that call their parts once per time step. A MEmeL inside would count
# time steps as training steps, and could not keep its state in a scan.
_OPAQUE = (keras.layers.RNN, keras.layers.TimeDistributed)

# Attribute in which a host holds its MEmeL. It is part of the weight paths.
INSERTED = "inserted_memel"

_MARK = "_memel_is_inserted"


@dataclasses.dataclass(frozen=True)
class Child:
    """Sublayer, and how its parent refers to it.

    Attributes:
        layer: The sublayer.
        place: Address of the sublayer in a parent that was rebuilt from its
            config: `("name", name)` if this config contains the names of the
            parts, `("attribute", "blocks", 2)`, or `("order", i)` for the
            i-th part of its class.
        of: Number of parts among which `place` selects: the length of the
            list for an attribute, the parts of the class for an order, 1 for
            a name.
    """

    layer: keras.Layer
    place: tuple[Any, ...]
    of: int


@dataclasses.dataclass(frozen=True)
class Site:
    """Layer and its position in a model.

    Attributes:
        path: Names joined by "/", unique in the model.
        chain: Layers from the model down to the layer itself.
        steps: `Child` of each step down, one fewer than `chain`.
    """

    path: str
    chain: tuple[keras.Layer, ...]
    steps: tuple[Child, ...]

    @property
    def layer(self) -> keras.Layer:
        return self.chain[-1]


def mark_inserted(memel: MEmeL, inserted: bool) -> None:
    """Record whether `insert` added a MEmeL."""
    if inserted:
        memel.__dict__[_MARK] = True
    else:
        memel.__dict__.pop(_MARK, None)


def is_inserted(memel: keras.Layer) -> bool:
    """Return whether `insert` added a MEmeL."""
    return _MARK in vars(memel)


def walk(model: keras.Layer, memels: bool = False) -> list[Site]:
    """Return all sites of a model, each layer once, parents before their parts.

    Args:
        model: A model or layer.
        memels: Whether to include the MEmeLs that the model itself contains.
            Their outputs can be analyzed, but no other MEmeL can follow them.
    """
    return list(_descend(Site("", (model,), ()), {id(model)}, memels))


def in_scans(model: keras.Layer) -> dict[str, MEmeL]:
    """Return the MEmeLs of the `ConvGRU2D` layers of a model by path.

    They are not sites: their outputs cannot be captured, and no MEmeL can be
    inserted there.
    """
    found = {}
    for site in walk(model):
        memel = getattr(site.layer, "memel", None)
        if isinstance(site.layer, _OPAQUE) and isinstance(memel, MEmeL):
            found[f"{site.path}/{memel.name}"] = memel
    return found


def _descend(site: Site, seen: set[int], memels: bool) -> Iterator[Site]:
    taken: set[str] = set()
    for child in children(site.layer, memels):
        layer = child.layer
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        name, number = layer.name, 1
        while name in taken:  # siblings with equal names: dense, dense~1
            name, number = f"{layer.name}~{number}", number + 1
        taken.add(name)
        below = Site(
            f"{site.path}/{name}" if site.path else name,
            (*site.chain, layer),
            (*site.steps, child),
        )
        yield below
        if not isinstance(layer, _OPAQUE):
            yield from _descend(below, seen, memels)


def children(layer: keras.Layer, memels: bool = False) -> list[Child]:
    """Return the sublayers that a MEmeL may follow, in tracking order."""
    tracked = [
        part
        for part in layer._flatten_layers(include_self=False, recursive=False)
        if not isinstance(part, keras.layers.InputLayer)
        and (not isinstance(part, MEmeL) or (memels and not is_inserted(part)))
    ]
    is_graph = isinstance(layer, keras.Sequential) or hasattr(
        layer, "operations"
    )
    names = is_graph and _config_is_from_keras(layer)
    graph = {id(part) for part in layer.layers} if is_graph else set()
    attributes = {} if is_graph else _attributes(layer)
    kinds = [type(part).__name__ for part in tracked]
    found = []
    for index, part in enumerate(tracked):
        kind = kinds[index]
        place: tuple[Any, ...] = ("order", kinds[:index].count(kind))
        of = kinds.count(kind)
        if names and id(part) in graph:
            place, of = ("name", part.name), 1
        elif id(part) in attributes:
            place, of = attributes[id(part)]
        found.append(Child(part, place, of))
    return found


def _config_is_from_keras(layer: keras.Layer) -> bool:
    # The config of a Functional or Sequential contains the names of its layers.
    # Subclasses with another `get_config`, such as KerasHub backbones, create
    # their layers again.
    owner = next(c for c in type(layer).__mro__ if "get_config" in vars(c))
    return owner.__module__.split(".")[0] == "keras"


def _attributes(layer: keras.Layer) -> dict[int, tuple[tuple[Any, ...], int]]:
    # PyTorch stores attributes that are modules in `_modules`.
    values = {**vars(layer), **vars(layer).get("_modules", {})}
    found: dict[int, tuple[tuple[Any, ...], int]] = {}
    # Sort public names first: a private one may be a temporary alias.
    for name in sorted(values, key=lambda name: (name.startswith("_"), name)):
        if name not in ("_layers", "_modules"):
            _collect(values[name], ("attribute", name), 1, found)
    return found


def _collect(
    value: Any,
    place: tuple[Any, ...],
    of: int,
    found: dict[int, tuple[tuple[Any, ...], int]],
) -> None:
    if isinstance(value, keras.Layer):
        found.setdefault(id(value), (place, of))
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(item, (*place, str(key)), len(value), found)
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            _collect(item, (*place, key), len(value), found)


def address(site: Site) -> list[dict[str, Any]]:
    """Return the numbers and names by which `resolve` finds the layer."""
    return [
        {
            "place": list(step.place),
            "of": step.of,
            "class": type(step.layer).__name__,
        }
        for step in site.steps
    ]


def resolve(model: keras.Layer, steps: list[dict[str, Any]]) -> Site:
    """Find the site at an address in a model rebuilt from its config.

    Raises:
        ValueError: If the model does not contain the saved part exactly once.
    """
    chain, layer, found = [model], model, []
    for step in steps:
        there = [
            (list(child.place), child.of, type(child.layer).__name__)
            for child in children(layer)
        ]
        wanted = (list(step["place"]), step["of"], step["class"])
        if there.count(wanted) != 1:
            raise ValueError(
                "The model rebuilt from its config differs from the saved "
                "one, so the position of an inserted layer is ambiguous. Load "
                "the file with the code that defined the saved model. "
                f"Expected: a part {wanted} in layer {layer.name!r}. "
                f"Received: parts {there}"
            )
        child = children(layer)[there.index(wanted)]
        layer = child.layer
        chain.append(layer)
        found.append(child)
    path = "/".join(part.name for part in chain[1:])
    return Site(path, tuple(chain), tuple(found))
