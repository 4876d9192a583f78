"""Pass masks of positions from the arguments of a model to inner layers."""

import inspect
import sys
from typing import Any
from typing import NamedTuple

import torch
from torch import nn

from keras_memel.core import axes
from keras_memel.utils.types import Tensor

# Names of arguments for masks of positions, and whether true means padding.
_NAMES = {
    "attention_mask": False,
    "padding_mask": False,
    "src_key_padding_mask": True,
}
# The same for the decoder of a model that also has an encoder.
_DECODER_NAMES = {
    "decoder_attention_mask": False,
    "tgt_key_padding_mask": True,
}
# A module with one of these arguments creates the mask of its inner layers.
_INPUTS = (
    "input_ids",
    "inputs_embeds",
    "input_features",
    "input_values",
    "pixel_values",
    "src",
)
_DECODER_INPUTS = ("decoder_input_ids", "decoder_inputs_embeds", "tgt")


class MaskArgument(NamedTuple):
    """Argument of a module that receives the mask.

    Attributes:
        name: Name of the argument. In a module that accepts all keywords it
            is "", which represents all known names. `None` if the module has
            inputs of its own but no mask.
        position: Position of the argument.
        inverted: Whether true means padding.
        is_whole: Whether the module is a whole model, whose mask `None` means
            inputs without padding.
        inputs: Names and positions of arguments that the mask covers; the
            first that is passed counts.
    """

    name: str | None
    position: int
    inverted: bool
    is_whole: bool
    inputs: tuple[tuple[str, int], ...]


def argument_of(module: nn.Module) -> MaskArgument | None:
    """Find the mask argument of a module, or return `None` without one.

    The layers of a model with encoder and decoder that belong to neither
    follow the decoder.
    """
    try:
        parameters = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):
        return None
    names = list(parameters)
    decodes = bool(set(_DECODER_INPUTS) & set(names))
    known = _DECODER_NAMES if decodes else _NAMES
    wanted = _DECODER_INPUTS if decodes else _INPUTS
    inputs = [(name, names.index(name)) for name in wanted if name in names]
    is_whole = bool(inputs)
    inputs = inputs or [(name, at) for at, name in enumerate(names[:1])]
    for name, inverted in known.items():
        if name in names:
            place = names.index(name)
            return MaskArgument(name, place, inverted, is_whole, tuple(inputs))
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds and not decodes:
        return MaskArgument("", sys.maxsize, False, is_whole, tuple(inputs))
    if is_whole:
        return MaskArgument(None, sys.maxsize, False, True, tuple(inputs))
    return None


def read(
    argument: MaskArgument, args: Any, kwargs: Any
) -> tuple[bool, Tensor | None]:
    """Read the mask of a call.

    Returns:
        Whether the call determines the mask, and the mask: true where a
        position counts.
    """
    name, inverted = argument.name, argument.inverted
    if name is None:
        return True, None
    if not name:
        named = [known for known in _NAMES if known in kwargs]
        if not named:
            return argument.is_whole, None
        name, inverted = named[0], _NAMES[named[0]]
    mask = _passed(args, kwargs, name, argument.position)
    if mask is None:
        return argument.is_whole, None
    # Inner layers receive a mask with more axes, which the model derives from
    # this one.
    if not torch.is_tensor(mask) or mask.ndim != 2:
        return False, None
    if inverted:
        mask = ~mask if mask.dtype == torch.bool else mask == 0
    elif not argument.is_whole and _is_of_attention(mask):
        return False, None
    # During generation the mask covers all previous text, but the inputs are
    # only its end.
    for covered, place in argument.inputs:
        given = _passed(args, kwargs, covered, place)
        if torch.is_tensor(given) and given.ndim > 1:
            if 0 < given.shape[1] < mask.shape[1]:
                mask = mask[:, -given.shape[1] :]
            break
    return True, mask


def _passed(args: Any, kwargs: Any, name: str, position: int) -> Any:
    return kwargs.get(name, args[position] if position < len(args) else None)


def _is_of_attention(mask: Tensor) -> bool:
    """Check whether a mask is one of pairs of positions, such as a causal one.

    It has the shape of a mask of positions if the batch has as many samples as
    positions.
    """
    if torch.compiler.is_compiling():  # Values are unknown.
        return False
    if mask.is_floating_point() and bool((mask < 0).any()):
        return True
    square = mask.bool()
    return mask.shape[0] == mask.shape[1] > 1 and any(
        torch.equal(square, triangle.bool())
        for triangle in (
            torch.ones_like(square).tril(),
            torch.ones_like(square).triu(1),
        )
    )


def fit(mask: Tensor | None, values: Tensor, axis: Any) -> Tensor | None:
    """Expand the mask of a model to the values of a layer.

    Args:
        mask: Mask, `(batch, length)`, or `None`.
        values: Output of a layer. Positions are the first axis with this
            length that does not index neurons, or are merged with the batch.
        axis: Axis or axes of the neurons.

    Returns:
        Booleans of the leading dimensions of `values`, or `None` if the mask
        does not fit.
    """
    if mask is None:
        return None
    batch, length = mask.shape
    if values.ndim == 2 and length > 1 and len(values) == batch * length:
        return mask.reshape(-1)
    if values.ndim < 3 or len(values) != batch:
        return None
    neurons = axes.of_neurons(axis, values.ndim)
    # With a neuron per position, the last axis is that of the channels.
    outside = neurons if len(neurons) == 1 else (values.ndim - 1,)
    for place in range(1, values.ndim):
        if place not in outside and values.shape[place] == length:
            inner = (1,) * (place - 1)
            mask = mask.reshape(batch, *inner, length)
            return mask.expand(values.shape[: place + 1])
    return None


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
