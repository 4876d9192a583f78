"""Forward pass through a host and its MEmeL.

The calls of the layers on the way down note `training` and the padding mask.
The call of the host passes both to the MEmeL, with the output.
"""

import contextlib
import dataclasses
import inspect
import threading
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_memel.insertion import output_specs
from keras_memel.insertion import padding
from keras_memel.insertion import sequences
from keras_memel.insertion.padding import Padding
from keras_memel.layers.memel import MEmeL
from keras_memel.utils import keras_internals
from keras_memel.utils.keras_internals import get_keras_mask
from keras_memel.utils.types import Tensor

Output = int | str | None

# Attribute of an inserted MEmeL: the monitor warns that padding is counted.
LOST_PADDING = "_memel_lost_padding"


@dataclasses.dataclass(frozen=True)
class Insertion:
    """MEmeL of a host, and the output of the host that it receives."""

    memel: MEmeL
    output: Output


def insertion_of(layer: keras.Layer) -> Insertion | None:
    """Return the insertion of a layer, or `None` if it is not a host."""
    found: Insertion | None = vars(layer).get("_memel_insertion")
    return found


@dataclasses.dataclass(frozen=True)
class _Context:
    """Context of a call.

    Attributes:
        training: Argument `training` of the innermost layer that received it.
        masks: Padding mask or `Padding` per layer with a known one, from the
            innermost layer outwards.
        pairs: Tensors that the layers received, and the mask of each.
        graph: If the innermost layer is a Functional model, its graph and its
            inputs.
    """

    training: bool | None = None
    masks: tuple[Any, ...] = ()
    pairs: tuple[tuple[Tensor, Tensor], ...] = ()
    graph: tuple[sequences.Graph, list[Tensor]] | None = None


_NOWHERE = _Context()


class _Now(threading.local):
    """Context per thread. `torch.compile` can trace it, but no `ContextVar`."""

    context = _NOWHERE


_now = _Now()


def noting_call(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the `call` of a host, or of a layer around one."""
    parameters = tuple(inspect.signature(method).parameters.values())
    names = [parameter.name for parameter in parameters]
    sequences.graph_of(layer)  # cached: `torch.compile` cannot create it

    def call(*args: Any, **kwargs: Any) -> Any:
        arguments = _bound(parameters, args, kwargs)
        context = _within(layer, arguments, names)
        with _noted(context):
            outputs = method(*args, **kwargs)
        insertion = insertion_of(layer)
        if insertion is None:
            return outputs
        return _apply(layer, insertion, outputs, arguments, context)

    return call


def _bound(
    parameters: tuple[inspect.Parameter, ...],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Bind the arguments of a valid call to the names of the parameters.

    `inspect.Signature.bind_partial` does the same, but `torch.compile` cannot
    trace it.
    """
    arguments: dict[str, Any] = {}
    rest = dict(kwargs)
    for index, parameter in enumerate(parameters):
        name = parameter.name
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            if args[index:]:
                arguments[name] = args[index:]
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            if rest:
                arguments[name] = rest
        elif name in rest:
            arguments[name] = rest.pop(name)
        elif (
            index < len(args)
            and parameter.kind is not inspect.Parameter.KEYWORD_ONLY
        ):
            arguments[name] = args[index]
    return arguments


@contextlib.contextmanager
def _noted(context: _Context) -> Iterator[None]:
    before = _now.context
    _now.context = context
    try:
        yield
    finally:
        _now.context = before


def _within(
    layer: keras.Layer, arguments: dict[str, Any], names: list[str]
) -> _Context:
    """Add the call of a layer to the context around it."""
    # Keras passes `training` to inner layers, except in a step of a model whose
    # `call` does not accept it. It does not pass padding masks to them.
    outer = _now.context
    training = arguments.get("training")
    if training is None:
        training = keras_internals.training_of_call()
    first = next(iter(arguments.values()), None)
    pairs = padding.pairs(arguments)
    own = padding.own_mask(arguments, names)
    if own is None:
        own = next((m for one, m in outer.pairs if one is first), None)
    masks: tuple[Any, ...] = (own,)
    if outer.graph is not None:
        above, inputs = outer.graph
        masks = _of_both(own, above.mask_of(layer, inputs), inputs)
        pairs += above.argument_pairs(layer, arguments, inputs)
    graph = sequences.graph_of(layer)
    inner = None
    if graph is not None:
        inner = graph, graph.runtime_inputs(first)
        pairs += graph.input_pairs(inner[1])
    elif isinstance(first, dict):
        pairs += padding.pairs(first)
    return _Context(
        outer.training if training is None else training,
        (*(mask for mask in masks if mask is not None), *outer.masks),
        (*pairs, *outer.pairs),
        inner,
    )


def _of_both(own: Any, traced: Any, inputs: list[Any]) -> tuple[Any, ...]:
    """Combine the mask among a layer's arguments with that of the graph."""
    if own is None or own is Padding.UNKNOWN:
        return (own if traced is None else traced,)
    if traced is None or isinstance(traced, Padding):
        return (own,)
    # If the argument is an input of the model, the graph also knows the
    # positions that the model adds before the text.
    return (traced,) if any(own is one for one in inputs) else (own, traced)


def training_step(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    """Return the `train_step` for a `call` that does not accept `training`."""

    def train_step(*args: Any, **kwargs: Any) -> Any:
        context = dataclasses.replace(_now.context, training=True)
        with _noted(context):
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
        mask=_mask(host, insertion.memel, values, index, arguments, context),
        training=context.training,
    )
    return keras.tree.pack_sequence_as(outputs, flat)


def _mask(
    host: keras.Layer,
    memel: MEmeL,
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
    lost = False
    first = next(iter(arguments.values()), None)
    for known in context.masks if mask is None else ():
        if known is Padding.NONE:
            break
        if known is Padding.UNKNOWN:
            lost = True
            break
        if _covers(known, values, first):
            mask, lost = known, False
            break
        lost = True
    lost = lost and len(values.shape) > 2
    # Write only a change: `torch.compile` breaks the graph at a write.
    if context.training and vars(memel).get(LOST_PADDING, False) != lost:
        memel.__dict__[LOST_PADDING] = lost
    return mask


def _covers(padding_mask: Tensor, values: Tensor, inputs: Any) -> bool:
    # A mask (batch, time) covers values (batch, time, channels) and the values
    # that a layer derives from them, such as the heads of attention. It covers
    # neither pooled values nor attention scores.
    def begins(tensor: Any) -> bool:
        shape = getattr(tensor, "shape", ())
        return len(shape) > len(padding_mask.shape) and all(
            size == time or size is None or time is None
            for size, time in zip(shape, padding_mask.shape)
        )

    if not begins(values):
        return False
    rank = len(padding_mask.shape) + 1
    if len(values.shape) == rank:
        return True
    return begins(inputs) and len(inputs.shape) == rank
