"""Find padding masks among the arguments of a call by their names.

Keras layers and models use different names for a padding mask. A model with
several sequences has several masks: `encoder_padding_mask` belongs to
`encoder_token_ids`, and `decoder_padding_mask` to `decoder_token_ids`.
"""

import enum
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from keras_memel.utils.types import Tensor

_SUFFIX = "padding_mask"
# Names that layers give to the mask of the sequence that they return.
_OWN = (_SUFFIX, f"decoder_{_SUFFIX}", f"self_attention_{_SUFFIX}")


class Padding(enum.Enum):
    """Padding of values whose mask is not known.

    Attributes:
        NONE: Every position counts, although other values of the model have
            padding.
        UNKNOWN: The values may have padding.
    """

    NONE = enum.auto()
    UNKNOWN = enum.auto()


def own_mask(arguments: dict[str, Any], names: Iterable[str]) -> Any:
    """Find the padding mask of the output among the arguments of a call.

    Args:
        arguments: Arguments that are passed, by name.
        names: Names of all parameters of the call.

    Returns:
        The mask; `Padding.UNKNOWN` if masks are passed but none has a name
        that belongs to the output; `None` if no mask is passed.
    """
    first = next(iter(arguments.values()), None)
    if isinstance(first, dict):
        inside = _named(first, first, _OWN[:1])
        if inside is not None:
            return inside
    found = _named(arguments, names, _OWN)
    if found is None:
        # An attention mask with one value per position is a padding mask.
        attention = arguments.get("attention_mask")
        if len(getattr(attention, "shape", ())) == 2:
            return attention
    return found


def _named(
    arguments: Mapping[str, Any], names: Iterable[Any], own: tuple[str, ...]
) -> Any:
    masks = [
        name
        for name in names
        if isinstance(name, str) and name.endswith(_SUFFIX)
    ]
    for name in (*own, *(masks if len(masks) == 1 else ())):
        if arguments.get(name) is not None:
            return arguments[name]
    if set(masks) & set(own):  # The mask of the output is not passed.
        return None
    given = [name for name in masks if arguments.get(name) is not None]
    return Padding.UNKNOWN if given else None


def pairs(arguments: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Find the tensors among arguments whose mask is an argument too.

    Args:
        arguments: Arguments of a call, by name.

    Returns:
        Pairs of a tensor and its mask.
    """
    found = []
    for name, value in arguments.items():
        mask = partner(name, arguments)
        if mask is not None and hasattr(value, "shape"):
            found.append((value, mask))
    return found


def partner(name: Any, named: Mapping[str, Any]) -> Any:
    """Find the mask that belongs to a tensor, by its name.

    Args:
        name: The name of the tensor.
        named: Masks and other tensors by their names.

    Returns:
        The value of `<name>_mask`, or of `<prefix>padding_mask` with the
        longest prefix of the name; `None` if there is neither.
    """
    if not isinstance(name, str) or name.endswith("mask"):
        return None
    if named.get(f"{name}_mask") is not None:
        return named[f"{name}_mask"]
    prefixes = [
        key.removesuffix(_SUFFIX)
        for key, value in named.items()
        if isinstance(key, str) and key.endswith(_SUFFIX) and value is not None
    ]
    fit = [prefix for prefix in prefixes if name.startswith(prefix)]
    return named[max(fit, key=len) + _SUFFIX] if fit else None
