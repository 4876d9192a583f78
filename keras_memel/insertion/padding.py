"""Which padding mask belongs to the values of a layer.

Models with several sequences have several masks: an encoder and a decoder, a
text after the patches of an image. A Functional model says which of its inputs
the values of a layer come from, and the names of the inputs say which mask
belongs to which: `decoder_padding_mask` to `decoder_token_ids`.
"""

import functools
import inspect
import weakref
from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

Tensor = Any

_SUFFIX = "padding_mask"
# How layers name the mask of the sequence that they return.
_OWN = (_SUFFIX, f"decoder_{_SUFFIX}", f"self_attention_{_SUFFIX}")

# A mask as parts along the time axis: the position of an input of the model
# that is a padding mask, or the number of positions that are always valid.
Part = tuple[str, int]

# To try out what becomes of an open length: one that no layer has.
_SIZE = 1009


class _Sentinel:
    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


# Values without padding, although other values of the model have some.
NO_PADDING = _Sentinel("NO_PADDING")
# Values that may be padded, by a mask that is not known.
UNSURE = _Sentinel("UNSURE")


def own_mask(arguments: dict[str, Any], names: Iterable[str]) -> Any:
    """The padding mask among the arguments of a call; `None` if none is.

    Args:
        arguments: The arguments, by name.
        names: The names of all parameters of the call.

    Returns:
        The mask of what the layer returns; `UNSURE` if there are several that
        could be.
    """
    first = next(iter(arguments.values()), None)
    if isinstance(first, dict):
        inside = _named(first, first, _OWN[:1])
        if inside is not None:
            return inside
    found = _named(arguments, names, _OWN)
    if found is None:
        # For keys only, one of a value for each position is padding too.
        attention = arguments.get("attention_mask")
        if len(getattr(attention, "shape", ())) == 2:
            return attention
    return found


def _named(
    arguments: dict[str, Any], names: Iterable[str], own: tuple[str, ...]
) -> Any:
    masks = [
        name
        for name in names
        if isinstance(name, str) and name.endswith(_SUFFIX)
    ]
    for name in (*own, *(masks if len(masks) == 1 else ())):
        if arguments.get(name) is not None:
            return arguments[name]
    if set(masks) & set(own):  # It was left out.
        return None
    given = [name for name in masks if arguments.get(name) is not None]
    return UNSURE if given else None


def pairs(arguments: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The tensors among arguments whose mask is an argument too."""
    found = []
    for name, value in arguments.items():
        mask = _partner(name, arguments)
        if mask is not None and hasattr(value, "shape"):
            found.append((value, mask))
    return found


def _partner(name: Any, named: dict[str, Any]) -> Any:
    """The mask that belongs to a tensor of this name, if there is one."""
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


def graph_of(layer: keras.Layer) -> "Graph | None":
    """The graph of a Functional or Sequential model; `None` for others."""
    model = getattr(layer, "_functional", None) or layer
    if not hasattr(model, "_nodes_by_depth"):
        return None
    if model not in _GRAPHS:
        _GRAPHS[model] = Graph(model)
    return _GRAPHS[model]


class Graph:
    """The sequences that flow through a Functional model.

    Args:
        model: The model.
    """

    def __init__(self, model: Any):
        self._inputs = tuple(model.inputs)
        self._outputs = tuple(model.outputs)
        self._struct = getattr(model, "_inputs_struct", None)
        self._index = {id(one): i for i, one in enumerate(self._inputs)}
        named = {one.name: i for i, one in enumerate(self._inputs)}
        self._masks = {
            i: partner
            for name, i in named.items()
            if (partner := _partner(name, named)) is not None
            and _may_belong(self._inputs[i], self._inputs[partner])
        }
        self._streams: dict[int, Any] = {}
        self._nodes: dict[int, list[Any]] = {}
        # From the inputs to the outputs, so that nothing is looked up before
        # it is known.
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            for node in nodes:
                self._nodes.setdefault(id(node.operation), []).append(node)
                for k, output in enumerate(node.output_tensors):
                    if id(output) not in self._index:
                        self._streams[id(output)] = self._of_node(node, k)

    def runtime_inputs(self, given: Any) -> list[Tensor]:
        """What was passed to the model, in the order of its inputs."""
        if isinstance(given, dict):
            keys = {one.name: one.name for one in self._inputs}
            if isinstance(self._struct, dict):
                keys |= {one.name: key for key, one in self._struct.items()}
            return [given.get(key) for key in keys.values()]
        flat = keras.tree.flatten(given)
        missing = len(self._inputs) - len(flat)
        return flat + [None] * missing

    def input_pairs(self, inputs: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The inputs that have a mask, and the mask of each."""
        return [
            (inputs[i], inputs[mask])
            for i, mask in self._masks.items()
            if inputs[i] is not None and inputs[mask] is not None
        ]

    def argument_masks(
        self, layer: keras.Layer, arguments: dict[str, Any], inputs: list[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """The tensors that are passed to a layer, and the mask of each."""
        nodes = self._nodes.get(id(layer), [])
        if len(nodes) != 1:
            return []
        symbols = _bound(nodes[0])
        found = []
        for name, value in arguments.items():
            flat = keras.tree.flatten(value)
            symbolic = keras.tree.flatten(symbols.get(name))
            if len(flat) != len(symbolic):
                continue
            for tensor, symbol in zip(flat, symbolic):
                if isinstance(symbol, keras.KerasTensor):
                    mask = self._value(self._stream(symbol), inputs)
                    if mask is not None and mask is not UNSURE:
                        found.append((tensor, mask))
        return found

    def mask_of(self, layer: keras.Layer, inputs: list[Tensor]) -> Any:
        """The mask of what a layer of the model returns.

        Args:
            layer: A layer of the model.
            inputs: What was passed to the model.

        Returns:
            The mask, `NO_PADDING`, `UNSURE`, or `None`: the model says
            nothing.
        """
        found = [
            self._stream(node.output_tensors[0])
            for node in self._nodes.get(id(layer), [])
        ]
        if not found:
            return None
        return self._value(_agreed(found), inputs)

    def _value(self, stream: Any, inputs: list[Tensor]) -> Any:
        if stream is UNSURE:
            return UNSURE
        if stream is None:
            return NO_PADDING if self._masks else None
        values = [
            inputs[number] if kind == "input" else number
            for kind, number in stream
        ]
        masks = [one for one in values if hasattr(one, "shape")]
        if any(value is None for value in values):
            return None  # A mask that is optional and was left out.
        if len(values) == 1:
            return values[0]
        batch = ops.shape(masks[0])[0]
        return ops.concatenate(
            [
                ops.cast(one, "bool")
                if hasattr(one, "shape")
                else ops.ones((batch, one), "bool")
                for one in values
            ],
            axis=1,
        )

    def _stream(self, tensor: Any) -> Any:
        """The parts of the mask of a symbolic tensor.

        Returns:
            A tuple of parts; `None` without padding; or `UNSURE`.
        """
        if id(tensor) in self._index:
            mask = self._masks.get(self._index[id(tensor)])
            return None if mask is None else (("input", mask),)
        return self._streams.get(id(tensor))

    def _of_node(self, node: Any, k: int) -> Any:
        operation = node.operation
        if not isinstance(operation, keras.Layer):
            stream = self._of_operation(node)
        else:
            stream = self._of_layer(node, k)
        if stream is None or stream is UNSURE or _keeps_time(node, k):
            return stream
        return UNSURE

    def _of_layer(self, node: Any, k: int) -> Any:
        operation = node.operation
        inner = graph_of(operation)
        if inner is not None and inner._masks:
            return self._of_model(inner, node, k)
        bound = _bound(node)
        first = _tensors(next(iter(bound.values()), None))
        if isinstance(operation, keras.layers.Concatenate):
            return self._joined(first, operation.axis)
        streams = [self._stream(one) for one in first if not self._is_mask(one)]
        found = _agreed(streams)
        if found is None and any(
            self._stream(one) is not None
            for one in _tensors(bound)
            if not self._is_mask(one)
        ):
            found = UNSURE
        explicit = own_mask(bound, _parameters(operation))
        if explicit is None:
            return found
        if explicit is UNSURE:
            return UNSURE if found is None else found
        part = "input", self._index.get(id(explicit), -1)
        if part[1] < 0:
            # Computed in the model: known to this layer alone.
            return UNSURE if found is None else found
        if found not in (None, UNSURE) and part in found:
            return found
        return (part,)

    def _of_operation(self, node: Any) -> Any:
        tensors = [
            one
            for one in _tensors(node.arguments.args)
            + _tensors(node.arguments.kwargs)
            if not self._is_mask(one)
        ]
        if type(node.operation).__name__ == "Concatenate":
            return self._joined(tensors, getattr(node.operation, "axis", None))
        return _agreed([self._stream(one) for one in tensors])

    def _of_model(self, inner: "Graph", node: Any, k: int) -> Any:
        given = inner.runtime_inputs(next(iter(_bound(node).values()), None))
        stream = inner._stream(inner._outputs[k])
        if stream is None or stream is UNSURE:
            return stream
        parts = []
        for kind, number in stream:
            if kind == "input":
                number = self._index.get(id(given[number]), -1)
                if number < 0:
                    return UNSURE
            parts.append((kind, number))
        return tuple(parts)

    def _joined(self, tensors: list[Any], axis: int | None) -> Any:
        streams = [self._stream(one) for one in tensors]
        if all(stream is None for stream in streams):
            return None
        rank = len(tensors[0].shape)
        if axis is None or axis % rank != 1:
            return _agreed(streams)
        parts: list[Part] = []
        for tensor, stream in zip(tensors, streams):
            if stream is UNSURE or (stream is None and tensor.shape[1] is None):
                return UNSURE
            parts += [("valid", tensor.shape[1])] if stream is None else stream
        return tuple(parts)

    def _is_mask(self, tensor: Any) -> bool:
        return self._index.get(id(tensor)) in self._masks.values()


_GRAPHS: "weakref.WeakKeyDictionary[Any, Graph]" = weakref.WeakKeyDictionary()


def _may_belong(tensor: Any, mask: Any) -> bool:
    # Tokens have the shape of their mask, and embeddings one axis more; an
    # image has neither.
    shape, time = tuple(tensor.shape), tuple(mask.shape)
    more = keras.backend.is_float_dtype(tensor.dtype)
    return len(shape) - len(time) in (0, int(more)) and all(
        size == other or None in (size, other)
        for size, other in zip(shape[1:], time[1:])
    )


def _keeps_time(node: Any, k: int) -> bool:
    """Whether values stay at their positions, where that can be found out."""
    operation = node.operation
    if type(operation).__name__ == "Concatenate":
        return True
    if isinstance(operation, keras.Layer) and (
        isinstance(operation, keras.Model)
        or not type(operation).__module__.startswith("keras.")
    ):
        return True
    # An open length is tried out: a convolution returns another.
    args, kwargs = keras.tree.map_structure(
        _filled, (node.arguments.args, node.arguments.kwargs)
    )
    before = _tensors(args) + _tensors(kwargs)
    try:
        after = operation.compute_output_spec(*args, **kwargs)
        shape = keras.tree.flatten(after)[k].shape
    except Exception:
        return True
    return len(shape) < 2 or any(
        shape[1] == one.shape[1] for one in before if len(one.shape) > 1
    )


def _filled(argument: Any) -> Any:
    if not isinstance(argument, keras.KerasTensor):
        return argument
    batch, *rest = argument.shape or (None,)
    shape = (batch or 2, *(_SIZE if size is None else size for size in rest))
    return keras.KerasTensor(shape[: len(argument.shape)], argument.dtype)


def _agreed(streams: list[Any]) -> Any:
    """The one stream of all that have one."""
    padded = list(dict.fromkeys(one for one in streams if one is not None))
    if not padded:
        return None
    return padded[0] if len(padded) == 1 else UNSURE


def _tensors(arguments: Any) -> list[Any]:
    return [
        one
        for one in keras.tree.flatten(arguments)
        if isinstance(one, keras.KerasTensor)
    ]


@functools.lru_cache(maxsize=1024)
def _of_class(kind: type) -> inspect.Signature:
    return inspect.signature(kind.call)


def _parameters(layer: keras.Layer) -> list[str]:
    return list(_of_class(type(layer)).parameters)[1:]


def _bound(node: Any) -> dict[str, Any]:
    """The arguments of a node by name."""
    arguments = node.arguments
    signature = _of_class(type(node.operation))
    try:
        bound = signature.bind_partial(None, *arguments.args, **arguments.kwargs)
    except TypeError:
        return dict(enumerate(arguments.args), **arguments.kwargs)
    return dict(list(bound.arguments.items())[1:])
