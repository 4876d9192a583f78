"""Which layers a user means: patterns of paths, and `"middle:N"`."""

import re
from typing import Any

import keras

from keras_memel.insertion.paths import Site
from keras_memel.insertion.paths import Where
from keras_memel.insertion.paths import walk
from keras_memel.layers.memel import MEmeL
from keras_memel.utils import patterns


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
    tree = patterns.Tree(
        sites,
        repr(model.name),
        "layer",
        keras.Layer,
        _kind,
        hint=lambda: _suggestion(sites),
    )
    found: list[Site] = patterns.select(tree, where, argument)
    return found


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
