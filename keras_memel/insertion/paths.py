"""Where a MEmeL can go: the tree of a model, and patterns on it.

A site is a layer of the model, whose output a MEmeL may stand on. Its path is
the names from the child of the model down to it, joined by "/"; `Layer.path`
of Keras will not do, since it is `None` for some layers and the same for
others. Nothing here changes a model.
"""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras

from keras_memel.layers.memel import MEmeL

Where = str | Callable[..., Any] | Sequence[Any]  # Layers are callable

# Layers that call their parts once a time step: a MEmeL in there would count
# time steps as training steps, and in a scan could not keep state at all.
_OPAQUE = (keras.layers.RNN, keras.layers.TimeDistributed)

# The attribute in which a layer keeps an inserted MEmeL: part of weight paths.
INSERTED = "inserted_memel"

_MARK = "_memel_is_inserted"

_MIDDLE = re.compile(r"middle:(\d+)")


@dataclasses.dataclass(frozen=True)
class Child:
    """A sublayer, and how its parent refers to it.

    Attributes:
        layer: The sublayer.
        place: What finds it again in a parent that was rebuilt from its
            config: `("name", name)` where that config carries the names of
            the parts, `("attribute", "blocks", 2)`, or `("order", i)`, the
            i-th of its class.
        of: Among how many: in its list for an attribute, of its class for an
            order, 1 for a name.
    """

    layer: keras.Layer
    place: tuple[Any, ...]
    of: int


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer somewhere in a model.

    Attributes:
        path: Names joined by "/"; no two sites of a model share one.
        chain: From the model down to the layer itself.
        steps: The `Child` of each step, one fewer than `chain`.
    """

    path: str
    chain: tuple[keras.Layer, ...]
    steps: tuple[Child, ...]

    @property
    def layer(self) -> keras.Layer:
        return self.chain[-1]


def mark_inserted(memel: MEmeL, inserted: bool) -> None:
    """Notes whether a MEmeL was inserted, rather than part of the model."""
    if inserted:
        memel.__dict__[_MARK] = True
    else:
        memel.__dict__.pop(_MARK, None)


def is_inserted(memel: keras.Layer) -> bool:
    """Whether a MEmeL is there by `insert`."""
    return _MARK in vars(memel)


def walk(model: keras.Layer, memels: bool = False) -> list[Site]:
    """All sites of a model, each layer once, parents before their parts.

    Args:
        model: A model or layer.
        memels: Whether the MEmeLs that it contains itself, other than by
            `insert`, are among them: one can look at those, but not put
            another after them.
    """
    return list(_descend(Site("", (model,), ()), {id(model)}, memels))


def in_scans(model: keras.Layer) -> dict[str, MEmeL]:
    """The MEmeLs of the `ConvGRU2D` layers of a model, by their paths.

    They are no sites: nothing can be looked at or put in there.
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
        while name in taken:  # siblings of one name: dense, dense~1
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
    """The sublayers that a MEmeL may follow, in the order of their tracking."""
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
    # The config of a Functional or Sequential names its layers; classes built
    # on them (keras_hub's backbones) have another, and make the layers anew.
    owner = next(c for c in type(layer).__mro__ if "get_config" in vars(c))
    return owner.__module__.split(".")[0] == "keras"


def _attributes(layer: keras.Layer) -> dict[int, tuple[tuple[Any, ...], int]]:
    # PyTorch keeps the modules that are attributes in a place of its own.
    values = {**vars(layer), **vars(layer).get("_modules", {})}
    found: dict[int, tuple[tuple[Any, ...], int]] = {}
    # Public names first: a private one may be an alias that comes and goes.
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
    """What `resolve` needs to find the layer again: plain numbers and names."""
    return [
        {
            "place": list(step.place),
            "of": step.of,
            "class": type(step.layer).__name__,
        }
        for step in site.steps
    ]


def resolve(model: keras.Layer, steps: list[dict[str, Any]]) -> Site:
    """The site at an address, in a model rebuilt from its config.

    Raises:
        ValueError: If what stands there is not what was saved.
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
                "The model that its config describes differs from the one "
                "that was saved, and the place of an inserted layer is not "
                f"certain any more. Expected: in layer {layer.name!r} a part "
                f"{wanted}. Received: parts {there}"
            )
        child = children(layer)[there.index(wanted)]
        layer = child.layer
        chain.append(layer)
        found.append(child)
    path = "/".join(part.name for part in chain[1:])
    return Site(path, tuple(chain), tuple(found))


def select(
    model: keras.Layer,
    where: Where,
    memels: bool = False,
    argument: str = "where",
) -> list[Site]:
    """The sites that `where` names, in the order of the model.

    Args:
        model: A model or layer.
        where: As in `find`.
        memels: As in `walk`.
        argument: What the user calls `where`.

    Raises:
        ValueError: If it names none; the message lists the nearest paths.
    """
    sites = walk(model, memels)
    if isinstance(where, str):
        # What `find` has returned names its layer, whatever is in it.
        found = [site for site in sites if site.path == where]
        middle = _MIDDLE.fullmatch(where)
        if found:
            return found
        if middle:
            return _middle(sites, int(middle[1]), argument)
        found = [site for site in sites if matches(site.path, where)]
    elif isinstance(where, keras.Layer):
        found = [site for site in sites if site.layer is where]
    elif callable(where):
        found = [site for site in sites if where(site.layer)]
    elif isinstance(where, (list, tuple, set)) and where:
        wanted = {
            id(site.layer)
            for part in where
            for site in select(model, part, memels, argument)
        }
        found = [site for site in sites if id(site.layer) in wanted]
    else:
        raise ValueError(
            f"Argument `{argument}` must be a pattern of layer paths, "
            "'middle:N', a layer, a predicate on layers, or a list of these. "
            f"Received: {argument}={where!r} ({type(where).__name__})"
        )
    if not found:
        near = ", ".join(map(repr, _nearest(sites, where)))
        raise ValueError(
            f"Argument `{argument}` must name at least one layer of "
            f"{model.name!r}; {near}. "
            f"Received: {argument}={where!r}"
        )
    return found


def matches(path: str, pattern: str) -> bool:
    """Whether the last parts of a path fit a pattern.

    `*`, `?` and `[...]` stay within one name, `**` stands for any number of
    names; a pattern that starts with "/" must fit the whole path.

    Example:

    >>> matches("backbone/block_1/dense", "block_*/dense")
    True
    >>> matches("backbone/block_1/dense", "block_*")
    False
    """
    parts = pattern.strip("/").split("/")
    if not pattern.startswith("/"):
        parts = ["**", *parts]
    return _fits(path.split("/"), parts)


def _fits(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[i:], parts[1:]) for i in range(len(names) + 1))
    return (
        bool(names)
        and fnmatch.fnmatchcase(names[0], parts[0])
        and _fits(names[1:], parts[1:])
    )


def _nearest(sites: list[Site], where: Any) -> list[str]:
    if not isinstance(where, str):
        return [site.path for site in sites]

    def likeness(site: Site) -> float:
        return max(
            difflib.SequenceMatcher(None, where, text).ratio()
            for text in (site.path, site.path.rsplit("/", 1)[-1])
        )

    return [site.path for site in sorted(sites, key=likeness)[:-6:-1]]


def _middle(sites: list[Site], number: int, argument: str) -> list[Site]:
    # The longest run of siblings of one class and equal weights; layers
    # without weights (residual additions, dropout) do not end a run.
    best: list[Site] = []
    run: list[Site] = []
    by_parent: dict[int, list[Site]] = {}
    for site in sites:
        by_parent.setdefault(id(site.chain[-2]), []).append(site)
    for siblings in by_parent.values():
        previous = None
        for site in siblings:
            kind = _kind(site.layer)
            if not kind[1]:
                continue
            run = [*run, site] if kind == previous else [site]
            previous = kind
            if len(run) > len(best):
                best = run
    if not 1 <= number <= len(best):
        longest = (
            f"{len(best)} ({best[0].path} to {best[-1].path})"
            if best
            else "0: the model has no layers with weights"
        )
        raise ValueError(
            f"Argument `{argument}` asks for the middle of the longest run of "
            f"equal layers; its length is {longest}. {_suggestion(sites)}"
            f"Received: {argument}='middle:{number}'"
        )
    start = (len(best) - number) // 2
    return best[start : start + number]


def _suggestion(sites: list[Site]) -> str:
    """A pattern for blocks that do not follow one another as layers.

    In a flat model, a block is a sequence of layers, and its parts recur under
    names that differ in numbers: `..._block_0_pointwise_conv_1`. The layer
    that ends a block is likely the one whose name recurs most and latest.
    """
    groups: dict[tuple[str, type, tuple[Any, ...]], list[Site]] = {}
    for site in sites:
        pattern = re.sub(r"\d+", "*", site.path.rsplit("/", 1)[-1])
        kind, shapes = _kind(site.layer)
        if "*" in pattern and shapes:
            groups.setdefault((pattern, kind, shapes), []).append(site)
    if not groups:
        return ""
    group = max(
        groups.values(), key=lambda group: (len(group), sites.index(group[-1]))
    )
    if len(group) < 2:
        return ""
    paths = [site.path for site in group]
    pattern = _common_pattern(paths)
    return (
        "A model without blocks of its own takes a pattern of names, or a "
        f"list of paths, such as where={pattern!r}, which fits "
        f"{len(paths)} layers or more ({paths[0]} to {paths[-1]}). "
    )


def _common_pattern(paths: list[str]) -> str:
    """The path with a `*` in place of each number that differs."""
    split = [re.split(r"(\d+)", path) for path in paths]
    if len({len(parts) for parts in split}) > 1:
        split = [re.split(r"(\d+)", paths[0])]
    return "".join(
        parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*split)
    )


def _kind(layer: keras.Layer) -> tuple[type, tuple[Any, ...]]:
    # Weights of sublayers too, but not those of MEmeLs.
    own = [
        tuple(weight.shape)
        for part in layer._flatten_layers()
        if not isinstance(part, MEmeL)
        for weight in part._trainable_variables
    ]
    return type(layer), tuple(own)
