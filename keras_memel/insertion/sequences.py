"""Follow the sequences through a Functional model to find their padding.

The graph of the model shows which inputs the output of a layer is computed
from. The names of the inputs show which mask belongs to which input.
"""

import functools
import inspect
import weakref
from typing import Any

import keras
from keras import ops

from keras_memel.insertion import padding
from keras_memel.insertion.padding import Padding
from keras_memel.utils.types import Tensor

# A mask consists of parts along the time axis. A part is ("input", i) if its
# mask is input i of the model, or ("valid", n) for n positions that always
# count. `None` means no padding.
_Part = tuple[str, int]
_Sequence = tuple[_Part, ...] | Padding | None

# Placeholder for an unknown length, to test whether an operation keeps it.
_LENGTH = 1009


def graph_of(layer: keras.Layer) -> "Graph | None":
    """Return the graph of a Functional or Sequential model.

    Args:
        layer: A layer or model.

    Returns:
        The graph, one object per model; `None` for other layers.
    """
    model = getattr(layer, "_functional", None) or layer
    if not hasattr(model, "_nodes_by_depth"):
        return None
    if model not in _GRAPHS:
        _GRAPHS[model] = Graph(model)
    return _GRAPHS[model]


class Graph:
    """Graph of a Functional model.

    Args:
        model: The model.
    """

    def __init__(self, model: Any):
        self._inputs = tuple(model.inputs)
        self._outputs = tuple(model.outputs)
        self._struct = getattr(model, "_inputs_struct", None)
        self._index = {id(one): i for i, one in enumerate(self._inputs)}
        self._masks = _masks_of(self._inputs)
        self._sequences: dict[int, _Sequence] = {}
        self._nodes: dict[int, list[Any]] = {}
        # Visit the nodes from the inputs to the outputs.
        for depth in sorted(model._nodes_by_depth, reverse=True):
            nodes = model._nodes_by_depth[depth]
            for node in nodes:
                self._nodes.setdefault(id(node.operation), []).append(node)
                for k, output in enumerate(node.output_tensors):
                    if id(output) not in self._index:
                        self._sequences[id(output)] = self._of_node(node, k)

    def runtime_inputs(self, given: Any) -> list[Any]:
        """Order the inputs that are passed to the model.

        Args:
            given: The first argument of the call of the model.

        Returns:
            One tensor per input, `None` for inputs that are not passed.
        """
        if isinstance(given, dict):
            keys = {one.name: one.name for one in self._inputs}
            if isinstance(self._struct, dict):
                keys |= {one.name: key for key, one in self._struct.items()}
            return [given.get(key) for key in keys.values()]
        flat = list(keras.tree.flatten(given))
        return flat + [None] * (len(self._inputs) - len(flat))

    def input_pairs(self, inputs: list[Any]) -> list[tuple[Tensor, Tensor]]:
        """Pair the inputs that have a mask with their masks.

        Args:
            inputs: As returned by `runtime_inputs`.

        Returns:
            Pairs of a tensor and its mask.
        """
        return [
            (inputs[i], inputs[mask])
            for i, mask in self._masks.items()
            if inputs[i] is not None and inputs[mask] is not None
        ]

    def argument_pairs(
        self, layer: keras.Layer, arguments: dict[str, Any], inputs: list[Any]
    ) -> list[tuple[Tensor, Tensor]]:
        """Pair the tensors that are passed to a layer with their masks.

        Args:
            layer: A layer of the model, which the model calls once.
            arguments: The arguments of its call, by name.
            inputs: As returned by `runtime_inputs`.

        Returns:
            Pairs of a tensor and its mask.
        """
        nodes = self._nodes.get(id(layer), [])
        if len(nodes) != 1:
            return []
        symbols = _arguments(nodes[0])
        found = []
        for name, value in arguments.items():
            tensors = keras.tree.flatten(value)
            symbolic = keras.tree.flatten(symbols.get(name))
            for tensor, symbol in zip(tensors, symbolic):
                if isinstance(symbol, keras.KerasTensor):
                    mask = self._mask(self._sequence(symbol), inputs)
                    if mask is not None and not isinstance(mask, Padding):
                        found.append((tensor, mask))
        return found

    def mask_of(self, layer: keras.Layer, inputs: list[Any]) -> Any:
        """Find the padding mask of the output of a layer.

        Args:
            layer: A layer of the model.
            inputs: As returned by `runtime_inputs`.

        Returns:
            The mask, or a `Padding`; `None` if the model has no masks.
        """
        found = [
            self._sequence(node.output_tensors[0])
            for node in self._nodes.get(id(layer), [])
        ]
        return self._mask(_common(found), inputs) if found else None

    def _mask(self, sequence: _Sequence, inputs: list[Any]) -> Any:
        if sequence is None:
            return Padding.NONE if self._masks else None
        if isinstance(sequence, Padding):
            return sequence
        masks = [inputs[number] for kind, number in sequence if kind == "input"]
        if any(mask is None for mask in masks):
            return None  # An optional input is not passed.
        if len(sequence) == 1:
            return masks[0]
        batch = ops.shape(masks[0])[0]
        return ops.concatenate(
            [
                ops.cast(inputs[number], "bool")
                if kind == "input"
                else ops.ones((batch, number), "bool")
                for kind, number in sequence
            ],
            axis=1,
        )

    def _sequence(self, tensor: Any) -> _Sequence:
        if id(tensor) in self._index:
            mask = self._masks.get(self._index[id(tensor)])
            return None if mask is None else (("input", mask),)
        return self._sequences.get(id(tensor))

    def _of_node(self, node: Any, k: int) -> _Sequence:
        """Return the sequence of output `k` of a node."""
        operation = node.operation
        inner = graph_of(operation) if _is_layer(operation) else None
        if inner is not None and inner._masks:
            return self._of_model(inner, node, k)
        arguments = _arguments(node)
        tensors = _tensors(arguments)
        if _is_layer(operation):
            tensors = _tensors(next(iter(arguments.values()), None))
        if type(operation).__name__ == "Concatenate":
            return self._joined(tensors, operation.axis)
        found = self._common(tensors)
        if found is None and self._common(_tensors(arguments)) is not None:
            found = Padding.UNKNOWN
        if _is_layer(operation):
            found = self._with_own_mask(found, operation, arguments)
        if isinstance(found, tuple) and not _keeps_length(node, k):
            return Padding.UNKNOWN
        return found

    def _with_own_mask(
        self, found: _Sequence, layer: Any, arguments: dict[str, Any]
    ) -> _Sequence:
        mask = padding.own_mask(arguments, _parameters(layer.__class__))
        if mask is None:
            return found
        number = self._index.get(id(mask))
        if number is None:  # The model computes it, or there are several.
            return Padding.UNKNOWN if found is None else found
        part = "input", number
        return found if isinstance(found, tuple) and part in found else (part,)

    def _of_model(self, inner: "Graph", node: Any, k: int) -> _Sequence:
        given = inner.runtime_inputs(
            next(iter(_arguments(node).values()), None)
        )
        sequence = inner._sequence(inner._outputs[k])
        if sequence is None or isinstance(sequence, Padding):
            return sequence
        parts: list[_Part] = []
        for kind, number in sequence:
            if kind == "input":
                if id(given[number]) not in self._index:
                    return Padding.UNKNOWN
                number = self._index[id(given[number])]
            parts.append((kind, number))
        return tuple(parts)

    def _joined(self, tensors: list[Any], axis: int) -> _Sequence:
        common = self._common(tensors)
        if common is None or axis % len(tensors[0].shape) != 1:
            return common
        parts: list[_Part] = []
        for tensor in tensors:
            sequence = self._sequence(tensor)
            if sequence is None and tensor.shape[1] is not None:
                sequence = (("valid", tensor.shape[1]),)
            if not isinstance(sequence, tuple):
                return Padding.UNKNOWN
            parts += sequence
        return tuple(parts)

    def _common(self, tensors: list[Any]) -> _Sequence:
        masks = self._masks.values()
        return _common(
            [
                self._sequence(one)
                for one in tensors
                if self._index.get(id(one)) not in masks
            ]
        )


_GRAPHS: "weakref.WeakKeyDictionary[Any, Graph]" = weakref.WeakKeyDictionary()


def _common(sequences: list[_Sequence]) -> _Sequence:
    """Return the sequence of a value that is computed from several values."""
    padded = {one for one in sequences if one is not None}
    if len(padded) > 1:
        return Padding.UNKNOWN
    return padded.pop() if padded else None


def _masks_of(inputs: tuple[Any, ...]) -> dict[int, int]:
    """Map the number of each input with a mask to the number of its mask."""
    named = {one.name: i for i, one in enumerate(inputs)}
    found = {
        i: mask
        for name, i in named.items()
        if (mask := padding.partner(name, named)) is not None
        and _may_belong(inputs[i], inputs[mask])
    }
    # If a mask belongs to tokens, vectors are another sequence, such as patches
    # of an image.
    rank = [len(one.shape) for one in inputs]
    tokens = {mask for i, mask in found.items() if rank[i] == rank[mask]}
    return {
        i: mask
        for i, mask in found.items()
        if rank[i] == rank[mask] or mask not in tokens
    }


def _may_belong(tensor: Any, mask: Any) -> bool:
    # Tokens have the shape of their mask, and vectors one more axis. An image
    # has neither.
    shape, time = tuple(tensor.shape), tuple(mask.shape)
    more = keras.backend.is_float_dtype(tensor.dtype)
    return len(shape) - len(time) in (0, int(more)) and all(
        size == other or None in (size, other)
        for size, other in zip(shape[1:], time[1:])
    )


def _keeps_length(node: Any, k: int) -> bool:
    """Return whether a Keras operation keeps the positions, as far as known.

    The symbolic length of a text is unknown before and after a convolution, so
    the function tries known lengths.
    """
    operation = node.operation
    if _is_layer(operation) and not (
        type(operation).__module__.startswith("keras.")
    ):
        return True
    for fixed in (True, False):
        # A fixed length may equal the number of channels by chance, so another
        # length is tried too.
        args, kwargs = keras.tree.map_structure(
            functools.partial(_with_length, fixed=fixed),
            (node.arguments.args, node.arguments.kwargs),
        )
        try:
            after = operation.compute_output_spec(*args, **kwargs)
            shape = keras.tree.flatten(after)[k].shape
        except Exception:
            continue
        before = [one.shape for one in _tensors((args, kwargs))]
        if not any(shape[1:2] == one[1:2] for one in before):
            return False
    return True


def _with_length(argument: Any, fixed: bool) -> Any:
    if not isinstance(argument, keras.KerasTensor):
        return argument
    sizes = [_LENGTH if size is None else size for size in argument.shape]
    if not fixed and len(sizes) > 1:
        sizes[1] = _LENGTH
    return keras.KerasTensor(sizes, argument.dtype)


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, keras.Layer)


def _tensors(arguments: Any) -> list[Any]:
    return [
        one
        for one in keras.tree.flatten(arguments)
        if isinstance(one, keras.KerasTensor)
    ]


@functools.lru_cache(maxsize=1024)
def _parameters(kind: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(kind.call).parameters)[1:]


def _arguments(node: Any) -> dict[Any, Any]:
    """Return the arguments of a node, by name if the operation is a layer."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    names: tuple[Any, ...] = tuple(range(len(args)))
    if _is_layer(node.operation):
        names = _parameters(node.operation.__class__)
    given = {**dict(zip(names, args)), **kwargs}
    order = [name for name in names if name in given]
    return {name: given[name] for name in [*order, *given]}
