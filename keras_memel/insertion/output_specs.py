"""Shapes of the values at a site, found without any data.

A model is run on symbols, as Keras itself does to build a layer, and what the
layers return is noted on the way. No state changes.
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
    """Shape and dtype of the chosen output at each site, without any data.

    Raises:
        ValueError: If a site is never called in the model, or its output is
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


def _node_specs(site: Site) -> list[Any]:
    # The graph of a Functional or Sequential has the calls of its layers.
    parent = getattr(site.chain[-2], "_functional", None) or site.chain[-2]
    return [
        _called(site.layer, node.arguments.args, dict(node.arguments.kwargs))
        for nodes in getattr(parent, "_nodes_by_depth", {}).values()
        for node in nodes
        if node.operation is site.layer
    ]


class _Symbolic(keras.Operation):
    """Runs a function on symbols, as Keras runs the `call` of a layer."""

    def __init__(self, function: Callable[..., Any]):
        super().__init__()
        self._function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


def _called(layer: keras.Layer, args: Any, kwargs: dict[str, Any]) -> Any:
    try:
        # By a call on symbols, which knows the dtype, ...
        with keras_internals.name_scopes_kept():
            return _Symbolic(layer).compute_output_spec(*args, **kwargs)
    except Exception:
        # ... or as the layer declares it, where a call needs more than those.
        return layer.compute_output_spec(*args, **kwargs)


def _traced_specs(
    model: keras.Layer, missing: list[Site]
) -> dict[int, list[Any]]:
    # A size that the model leaves open is traced twice: what differs then is
    # open at the site too.
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
            "Argument `model` must run on symbolic inputs, which tell the "
            "shapes of values inside it. "
            f"Received: {model!r}, which fails with: {error}"
        )
    for site in missing:
        if not found[id(site.layer)]:
            raise ValueError(
                "Argument `where` must name layers that the model calls: "
                "elsewhere a MEmeL would see nothing. Received: layer "
                f"{site.path!r}, which is never called in {model.name!r}"
            )
    return found


def _inputs(model: keras.Layer) -> Iterator[tuple[list[Any], bool]]:
    """What to trace a model with: the likelier first; and whether by name."""
    graph = getattr(model, "_functional", None) or model
    if hasattr(graph, "operations"):
        for inputs in _sized(graph.input):
            yield inputs, False
        return
    config = model.get_build_config() or {}
    shapes = config.get("shapes_dict") or config.get("input_shape")
    if isinstance(shapes, dict):
        shapes = dict(shapes)  # JAX knows no other class of mappings.
    by_name = "shapes_dict" in config
    # Which dtype the inputs had is not recorded.
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
    """What the layers return when the model runs on symbols of `inputs`."""
    record: dict[int, list[Any]] = {}

    def recorded(layer: keras.Layer, call: Callable[..., Any]) -> Any:
        @functools.wraps(call)
        def recorder(*args: Any, **kwargs: Any) -> Any:
            outputs = call(*args, **kwargs)
            record[id(layer)].append(keras.tree.map_structure(_spec, outputs))
            return outputs

        return recorder

    def run(inputs: Any) -> Any:
        # PyTorch tries again on another device if the first one fails.
        record.update({id(site.layer): [] for site in missing})
        if named:
            return model(**inputs, training=False)
        return model(inputs, training=False)

    # A quantized layer runs `quantized_call` in the place of `call`.
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
            "Argument `where` must name layers with a floating-point output. "
            f"Received: layer {site.path!r}, whose output is {first}"
        )
    if len({len(one.shape) for one in chosen}) > 1:
        raise ValueError(
            "Argument `where` must name layers whose output has one rank. "
            f"Received: layer {site.path!r}, which is called several times "
            f"and returns {chosen}"
        )
    shape = tuple(
        sizes[0] if len(set(sizes)) == 1 else None
        for sizes in zip(*(one.shape for one in chosen))
    )
    return keras.KerasTensor(shape, dtype)


def output_index(
    path: str, outputs: Any, output: int | str | None, strict: bool = False
) -> int:
    """Which of the flattened outputs of a layer is the chosen one.

    A layer whose only output was chosen may return more in another use, such
    as a cache in text generation: then it is the first, unless `strict`.

    Raises:
        ValueError: If there is no such output.
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
