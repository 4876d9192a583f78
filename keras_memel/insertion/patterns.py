"""Which layers a user means: patterns of paths, and `"middle:N"`."""

import difflib
import re
from typing import Any

import keras

from keras_memel.insertion.paths import Site
from keras_memel.insertion.paths import Where
from keras_memel.insertion.paths import walk
from keras_memel.layers.memel import MEmeL
from keras_memel.utils.patterns import matches

_MIDDLE = re.compile(r"middle:(\d+)")


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
    pattern = _common_pattern([path.rsplit("/", 1)[-1] for path in paths])
    return (
        "A model without blocks of its own takes a pattern of names, or a "
        f"list of paths, such as where={pattern!r}, which fits "
        f"{len(paths)} layers or more ({paths[0]} to {paths[-1]}). "
    )


def _common_pattern(names: list[str]) -> str:
    """Names that differ in numbers, with a `*` for each number that differs."""
    split = [re.split(r"(\d+)", name) for name in names]
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
