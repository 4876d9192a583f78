"""Find the shapes of the values at a site without any data.

The model runs on symbolic tensors, as Keras itself does to build a layer, and
the outputs of its layers are recorded. No state changes.
"""

import functools
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_memel.insertion.paths import Site
from keras_memel.utils import keras_internals


def specs(
    model: keras.Layer, found: list[Site], output: int | str | None
) -> list[keras.KerasTensor]:
    """Return shape and dtype of the chosen output at each site.

    Raises:
        ValueError: If the model never calls a site, or the output of a site is
            not a floating-point tensor.
    """
    result = {}
    for site in found:
        outputs = _node_specs(site)
        if outputs:
            result[id(site.layer)] = outputs
    missing = [site for site in found if id(site.layer) not in result]
    if missing:
        result.update(_traced_specs(model, missing))
    return [_one_spec(site, result[id(site.layer)], output) for site in found]


def known_shape(
    site: Site, output: int | str | None
) -> tuple[int | None, ...] | None:
    """Return the shape at a site as the graph of its model has it.

    Args:
        site: The site.
        output: Which output, if the layer has several.

    Returns:
        The shape, in which `None` is a size that is open or differs between
        calls; or `None` if there is no graph, or the layer has several outputs.

    Raises:
        ValueError: If the layer has one output, and `output` is another.
    """
    shapes = []
    for node in _nodes(site):
        if len(node.outputs) != 1:
            return None
        output_index(site.path, node.outputs[0], output)
        shapes.append(tuple(node.outputs[0].shape))
    if len({len(shape) for shape in shapes}) != 1:
        return None
    return tuple(
        sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes)
    )


def _nodes(site: Site) -> list[Any]:
    """Return the calls of a layer in a Functional or Sequential graph."""
    if len(site.chain) < 2:
        return []
    parent = getattr(site.chain[-2], "_functional", None) or site.chain[-2]
    return [
        node
        for nodes in getattr(parent, "_nodes_by_depth", {}).values()
        for node in nodes
        if node.operation is site.layer
    ]


def _node_specs(site: Site) -> list[Any]:
    return [
        _called(site.layer, node.arguments.args, dict(node.arguments.kwargs))
        for node in _nodes(site)
    ]


class _Symbolic(keras.Operation):
    """Operation that runs a function on symbols, as Keras runs `call`."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self._function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _called(layer: keras.Layer, args: Any, kwargs: dict[str, Any]) -> Any:
    try:
        # A call on symbols finds the dtype too.
        with keras_internals.name_scopes_kept():
            return _Symbolic(layer).compute_output_spec(*args, **kwargs)
    except Exception:
        # Some calls need more than symbols. Use what the layer declares.
        return layer.compute_output_spec(*args, **kwargs)


def _traced_specs(
    model: keras.Layer, missing: list[Site]
) -> dict[int, list[Any]]:
    # A size that the model leaves open is traced with two values. A size at the
    # site that differs between the two traces is open too.
    for inputs, named in _inputs(model):
        found: dict[int, list[Any]] = {id(site.layer): [] for site in missing}
        try:
            for one in inputs:
                traced = _trace(model, missing, one, named)
                for key, outputs in traced.items():
                    found[key] += outputs
        except Exception as failure:
            error = failure
            continue
        break
    else:
        raise ValueError(
            "Argument `model` must run on symbolic inputs, since this "
            "determines the shapes of the values inside it. "
            f"Received: {model!r}, which fails with: {error}"
        )
    for site in missing:
        if not found[id(site.layer)]:
            raise ValueError(
                "Argument `where` must select layers that the model calls: "
                "elsewhere a MEmeL would receive no values. Received: layer "
                f"{site.path!r}, which is never called in {model.name!r}"
            )
    return found


def _inputs(model: keras.Layer) -> Iterator[tuple[list[Any], bool]]:
    """Yield inputs to trace a model with, and whether to pass them by name.

    The likelier inputs come first.
    """
    graph = getattr(model, "_functional", None) or model
    if hasattr(graph, "operations"):
        for inputs in _sized(graph.input):
            yield inputs, False
        return
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or config.get("input_shape")
    if isinstance(shapes, dict):
        shapes = dict(shapes)  # JAX accepts no other class of mappings.
    by_name = "shapes_dict" in config
    # The config does not record the dtype of the inputs.
    for dtype in (model.input_dtype, "int32"):
        symbols = keras.tree.map_shape_structure(
            functools.partial(keras.KerasTensor, dtype=dtype), shapes
        )
        if by_name:
            symbols = {
                key.removesuffix("_shape"): value
                for key, value in symbols.items()
            }
        for inputs in _sized(symbols):
            yield inputs, by_name


def _sized(inputs: Any) -> Iterator[list[Any]]:
    flat = keras.tree.flatten(inputs)
    if not any(None in tensor.shape[1:] for tensor in flat):
        yield [_fill(inputs, 0)]
        return
    for pair in ((4, 6), (32, 48), (64, 96), (224, 256)):
        yield [_fill(inputs, size) for size in pair]


def _fill(inputs: Any, size: int) -> Any:
    def fill(tensor: keras.KerasTensor) -> keras.KerasTensor:
        batch, *rest = tensor.shape
        shape = (batch or 2, *(size if n is None else n for n in rest))
        return keras.KerasTensor(shape, tensor.dtype)

    return keras.tree.map_structure(fill, inputs)


def _trace(
    model: keras.Layer, missing: list[Site], inputs: Any, named: bool
) -> dict[int, list[Any]]:
    """Return the outputs of the layers when the model runs on symbols."""
    record: dict[int, list[Any]] = {}

    def recorded(layer: keras.Layer, call: Callable[..., Any]) -> Any:
        @functools.wraps(call)
        def recorder(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            record[id(layer)].append(keras.tree.map_structure(_spec, outputs))
            return outputs

        return recorder

    def run(inputs: Any) -> Any:
        # On PyTorch, Keras runs this again on another device after a failure.
        record.update({id(site.layer): [] for site in missing})
        if named:
            return model(**inputs, training=False)
        return model(inputs, training=False)

    # A quantized layer runs `quantized_call` instead of `call`.
    before = [
        (site.layer, name, vars(site.layer).get(name))
        for site in missing
        for name in ("call", "quantized_call")
        if hasattr(site.layer, name)
    ]
    try:
        for layer, name, _ in before:
            vars(layer)[name] = recorded(layer, getattr(layer, name))
        with keras_internals.name_scopes_kept():
            _Symbolic(run).compute_output_spec(inputs)
    finally:
        for layer, name, method in before:
            del vars(layer)[name]
            if method is not None:
                vars(layer)[name] = method
    return record


def _spec(value: Any) -> Any:
    if not hasattr(value, "dtype"):
        return value
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    dtype = keras.backend.standardize_dtype(value.dtype)
    return keras.KerasTensor(shape, dtype)


def _one_spec(
    site: Site, calls: list[Any], output: int | str | None
) -> keras.KerasTensor:
    chosen = []
    for outputs in calls:
        index = output_index(site.path, outputs, output, strict=True)
        chosen.append(keras.tree.flatten(outputs)[index])
    first = chosen[0]
    dtype = keras.backend.standardize_dtype(getattr(first, "dtype", "bool"))
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(
            "Argument `where` must select layers with a floating-point output. "
            f"Received: layer {site.path!r}, whose output is {first}"
        )
    if len({len(one.shape) for one in chosen}) > 1:
        raise ValueError(
            "Argument `where` must select layers whose output has the same "
            f"rank in every call. Received: layer {site.path!r}, which is "
            f"called several times and returns {chosen}"
        )
    shape = tuple(
        sizes[0] if len(set(sizes)) == 1 else None
        for sizes in zip(*(one.shape for one in chosen))
    )
    return keras.KerasTensor(shape, dtype)


def output_index(
    path: str, outputs: Any, output: int | str | None, strict: bool = False
) -> int:
    """Return the index of the chosen output among the flattened outputs.

    A layer whose only output was chosen may return more in another use, such
    as a cache in text generation. The first output is then used unless
    `strict`.

    Raises:
        ValueError: If the layer lacks this output, or if `strict` and several
            outputs are possible.
    """
    if not keras.tree.is_nested(outputs):
        outputs = (outputs,)
        output = output or 0
    flat = keras.tree.flatten(outputs)
    if output is None and (len(flat) == 1 or not strict):
        return 0
    numbers = keras.tree.pack_sequence_as(outputs, list(range(len(flat))))
    try:
        index = None if output is None else numbers[output]
    except (IndexError, KeyError, TypeError):
        index = None
    if isinstance(index, int):
        return index
    keys = list(outputs) if isinstance(outputs, dict) else range(len(outputs))
    raise ValueError(
        f"Argument `output` must choose one of the outputs of layer {path!r}: "
        f"{', '.join(map(repr, keys))}. Received: output={output!r}"
    )
