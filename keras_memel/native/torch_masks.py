"""Pass masks of positions from the arguments of a model to inner layers."""

import inspect
import sys
from typing import Any
from typing import NamedTuple

import torch
from torch import nn

from keras_memel.utils.types import Tensor

# Names of arguments for masks of positions, and whether true means padding.
_NAMES = {
    "attention_mask": False,
    "padding_mask": False,
    "src_key_padding_mask": True,
}
# A module with one of these arguments creates the mask of its inner layers.
_TEXT = {"input_ids", "inputs_embeds", "src"}


class MaskArgument(NamedTuple):
    """Argument of a module that receives the mask.

    Attributes:
        name: Name of the argument. In a module that accepts all keywords it
            is "", which represents all known names.
        position: Position of the argument.
        inverted: Whether true means padding.
        is_whole: Whether the module is a whole model, whose mask `None` means
            inputs without padding.
    """

    name: str
    position: int
    inverted: bool
    is_whole: bool


def argument_of(module: nn.Module) -> MaskArgument | None:
    """Find the mask argument of a module, or return `None` without one."""
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return None
    names = list(parameters)
    for name, inverted in _NAMES.items():
        if name in names:
            is_whole = bool(_TEXT & set(names))
            return MaskArgument(name, names.index(name), inverted, is_whole)
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return MaskArgument("", sys.maxsize, False, False)
    return None


def read(
    argument: MaskArgument, args: Any, kwargs: Any
) -> tuple[bool, Tensor | None]:
    """Read the mask of a call.

    Returns:
        Whether the call determines the mask, and the mask: true where a
        position counts.
    """
    if not argument.name:
        named = [name for name in _NAMES if name in kwargs]
        if not named:
            return False, None
        argument = argument._replace(name=named[0], inverted=_NAMES[named[0]])
    name, place = argument.name, argument.position
    mask = kwargs.get(name, args[place] if place < len(args) else None)
    if mask is None:
        return argument.is_whole, None
    # Inner layers receive a mask with more axes, which the model derives from
    # this one.
    if not torch.is_tensor(mask) or mask.ndim != 2:
        return False, None
    if argument.inverted:
        mask = ~mask if mask.dtype == torch.bool else mask == 0
    return True, mask


def tail(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """Cut the mask of a model to the positions of a layer, if it fits them."""
    if mask is None or inputs.ndim != 3 or len(mask) != len(inputs):
        return None
    # During generation the mask covers all previous text, but the inputs are
    # only its end.
    length = inputs.shape[1]
    return mask[:, -length:] if 0 < length <= mask.shape[1] else None


def at_rank(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """Reshape a mask to the rank of the inputs and convert it to booleans.

    Raises:
        ValueError: If the mask does not have the leading dimensions of the
            inputs.
    """
    if mask is None:
        return None
    mask = mask.to(device=inputs.device, dtype=torch.bool)
    shape, expected = tuple(mask.shape), tuple(inputs.shape)
    rank = len(shape)
    if rank > len(expected) or shape != expected[:rank]:
        raise ValueError(
            "Argument `mask` must have the leading dimensions of the inputs. "
            f"Received: mask of shape {shape} for inputs of shape {expected}"
        )
    return mask.reshape(shape + (1,) * (len(expected) - rank))
