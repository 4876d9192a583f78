"""Find the token ids and the mask among the inputs of a prompt."""

from typing import Any

import keras
import numpy as np

from keras_memel.utils.types import Array

# Names of inputs that are masks: true where a position is not padding.
_MASKS = ("padding_mask", "attention_mask")
# Names of inputs that are token ids.
_IDS = ("token_ids", "input_ids", "tokens", "ids")
# Parts of the names of integer inputs that are not token ids.
_NOT_IDS = ("mask", "type", "segment", "position", "cache")


def mask(inputs: Any) -> Array | None:
    """Return which positions the mask among the inputs keeps."""
    for name in _MASKS:
        if isinstance(inputs, dict) and name in inputs:
            found = np.asarray(inputs[name])
            if found.ndim == 2:
                return found[0] > 0
    return None


def side(
    found: list[Any], inputs: Any, named: bool
) -> tuple[list[Any], Any, bool]:
    """Select the layers and inputs of the encoder or of the decoder.

    Args:
        found: Sites of a model.
        inputs: Inputs of the model.
        named: Whether the user has selected the layers.

    Returns:
        Sites, the inputs whose positions are theirs, and whether they belong
        to the decoder of an encoder-decoder.

    Raises:
        ValueError: If selected layers belong to both.
    """
    if not isinstance(inputs, dict) or not any(
        f"decoder_{name}" in inputs for name in (*_IDS, "inputs_embeds")
    ):
        return found, inputs, False
    sides: dict[bool, list[Any]] = {False: [], True: []}
    for site in found:
        parts = site.path.replace("/", ".").split(".")
        names = ("encoder", "decoder", "shared")
        first = next((part for part in parts if part.startswith(names)), "")
        # Layers after both, such as a head, have the positions of the decoder.
        sides[not first.startswith(("encoder", "shared"))].append(site)
    if named and all(sides.values()):
        raise ValueError(
            "Argument `layers` must select layers of the encoder or of the "
            "decoder, which have different tokens. Received: "
            f"{[site.path for site in found]}"
        )
    decodes = not sides[False]
    prefix = "decoder_" if decodes else "encoder_"
    own = {
        key.removeprefix(prefix): array
        for key, array in inputs.items()
        if key.startswith("decoder_") == decodes
    }
    return sides[decodes], own, decodes


def positions(inputs: Any) -> tuple[int | None, Array | None]:
    """Return the number of positions, `None` for a vector, and the ids."""
    leaf = None
    if isinstance(inputs, dict):
        others = {
            name: array
            for name, array in inputs.items()
            if not any(part in name for part in _NOT_IDS)
        }
        integers = [
            name
            for name, array in others.items()
            if array.ndim == 2 and array.dtype.kind in "iu"
        ]
        names = [*(name for name in _IDS if name in others), *integers]
        if names:
            leaf = others[names[0]]
        inputs = others or inputs
    if leaf is None:
        leaf = keras.tree.flatten(inputs)[0]
    if leaf.ndim == 2 and leaf.dtype.kind in "iu":
        return leaf.shape[1], leaf[0]
    return (leaf.shape[1] if leaf.ndim == 3 else None), None


def kept(
    inputs: Any, calls: list[list[dict[str, Array]]], positions: int | None
) -> Array:
    """Return which positions are not padding."""
    number = positions or 1
    own = mask(inputs)
    masks = [] if own is None else [own]
    masks += [
        its_calls[0]["mask"][0] for its_calls in calls if "mask" in its_calls[0]
    ]
    for one in masks:
        if one.shape == (number,):
            return one
    return np.ones(number, bool)
