"""Select layers of a Keras model by patterns of paths or `"middle:N"`."""

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
    """Return the sites that `where` selects, in the order of the model.

    Args:
        model: A model or layer.
        where: As in `find`.
        memels: As in `walk`.
        argument: Name that the error message uses for `where`.

    Raises:
        ValueError: If it selects no site. The message lists the nearest paths.
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
    """Suggest a pattern for a model whose blocks are not layers.

    In a flat model, a block is a sequence of layers. The names of its parts
    recur with other numbers: `..._block_0_pointwise_conv_1`. The layer that
    ends a block is likely the one whose name recurs most often and latest.
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
        "If the blocks of the model are not layers, pass a pattern of names "
        f"or a list of paths, such as where={pattern!r}, which matches at "
        f"least {len(paths)} layers ({paths[0]} to {paths[-1]}). "
    )


def _common_pattern(names: list[str]) -> str:
    """Replace each number in which the names differ by `*`."""
    split = [re.split(r"(\d+)", name) for name in names]
    return "".join(
        parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*split)
    )


def _kind(layer: keras.Layer) -> tuple[type, tuple[Any, ...]]:
    # Include the weights of sublayers, but not those of MEmeLs.
    own = [
        tuple(weight.shape)
        for part in layer._flatten_layers()
        if not isinstance(part, MEmeL)
        for weight in part._trainable_variables
    ]
    return type(layer), tuple(own)
