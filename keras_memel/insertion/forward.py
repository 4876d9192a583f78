"""The forward pass through a host: what an inserted MEmeL is told, and does.

The calls of the layers on the way down note `training` and the padding mask;
the call of the host gives them to the MEmeL with the output.
"""

import contextlib
import contextvars
import dataclasses
import inspect
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

# Private, and the only way to a mask on JAX, whose traced arrays take no
# attributes: Keras keeps their masks in a table of its own.
from keras.src.backend import get_keras_mask

from keras_memel.insertion import output_specs
from keras_memel.layers.memel import MEmeL

Tensor = Any
Output = int | str | None


@dataclasses.dataclass(frozen=True)
class Insertion:
    """What a host holds: the MEmeL, and which output goes through it."""

    memel: MEmeL
    output: Output


def insertion_of(layer: keras.Layer) -> Insertion | None:
    """What a layer holds, if it is a host."""
    found: Insertion | None = vars(layer).get("_memel_insertion")
    return found


@dataclasses.dataclass(frozen=True)
class _Context:
    training: bool | None = None
    padding_mask: Tensor = None


_NOWHERE = _Context()
_CONTEXT: contextvars.ContextVar[_Context] = contextvars.ContextVar(
    "keras_memel_context", default=_NOWHERE
)


def noting_call(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    """The `call` of a host, or of a layer around one."""
    signature = inspect.signature(method)

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = dict(signature.bind_partial(*args, **kwargs).arguments)
        with _noted(arguments) as context:
            outputs = method(*args, **kwargs)
        insertion = insertion_of(layer)
        if insertion is None:
            return outputs
        return _apply(layer, insertion, outputs, arguments, context)

    return call


@contextlib.contextmanager
def _noted(arguments: dict[str, Any]) -> Iterator[_Context]:
    # Keras hands `training` down by itself, except on JAX from a model whose
    # `call` does not forward it; and `padding_mask` it does not know.
    outer = _CONTEXT.get()
    training = arguments.get("training")
    padding_mask = arguments.get("padding_mask")
    first = next(iter(arguments.values()), None)
    if padding_mask is None and isinstance(first, dict):
        padding_mask = first.get("padding_mask")
    context = _Context(
        outer.training if training is None else training,
        outer.padding_mask if padding_mask is None else padding_mask,
    )
    token = _CONTEXT.set(context)
    try:
        yield context
    finally:
        _CONTEXT.reset(token)


def training_step(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    """The `train_step` of a model whose `call` does not take `training`."""

    def train_step(*args: Any, **kwargs: Any) -> Any:
        with _noted({"training": True}):
            return method(*args, **kwargs)

    return train_step


def _apply(
    host: keras.Layer,
    insertion: Insertion,
    outputs: Any,
    arguments: dict[str, Any],
    context: _Context,
) -> Any:
    index = output_specs.output_index(host.name, outputs, insertion.output)
    flat = keras.tree.flatten(outputs)
    values = flat[index]
    flat[index] = insertion.memel(
        values,
        mask=_mask(host, values, index, arguments, context),
        training=context.training,
    )
    return keras.tree.pack_sequence_as(outputs, flat)


def _mask(
    host: keras.Layer,
    values: Tensor,
    index: int,
    arguments: dict[str, Any],
    context: _Context,
) -> Tensor:
    mask = get_keras_mask(values)
    if mask is None and host.supports_masking:
        first = next(iter(arguments.values()), None)
        before = arguments.get("mask")
        if before is None:
            before = keras.tree.map_structure(get_keras_mask, first)
        after = keras.tree.flatten(host.compute_mask(first, before))
        mask = after[index] if index < len(after) else None
    first = next(iter(arguments.values()), None)
    for padding_mask in (
        arguments.get("padding_mask"),
        arguments.get("decoder_padding_mask"),
        context.padding_mask,
    ):
        if mask is None and _covers(padding_mask, values, first):
            mask = padding_mask
    return mask


def _covers(padding_mask: Tensor, values: Tensor, inputs: Any) -> bool:
    # (batch, time) is that of values (batch, time, channels), and of those
    # that a layer makes of them, such as the heads of attention; neither of
    # pooled values nor of attention scores.
    def begins(tensor: Any) -> bool:
        shape = getattr(tensor, "shape", ())
        return len(shape) > len(padding_mask.shape) and all(
            size == time or size is None or time is None
            for size, time in zip(shape, padding_mask.shape)
        )

    if padding_mask is None or not begins(values):
        return False
    rank = len(padding_mask.shape) + 1
    if len(values.shape) == rank:
        return True
    return begins(inputs) and len(inputs.shape) == rank
