"""Compute the value of each neuron at each token of one text: `prompt`."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_memel import native
from keras_memel.analysis import prompt_inputs
from keras_memel.insertion import capture
from keras_memel.insertion import output_specs
from keras_memel.insertion.paths import Where
from keras_memel.reports.prompt_report import PromptReport
from keras_memel.reports.report import Report
from keras_memel.utils import arguments
from keras_memel.utils import prompts
from keras_memel.utils.types import Array


def prompt(
    model: Any,
    text_or_inputs: Any,
    layers: Where | None = None,
    *,
    generate: int = 0,
    tokenizer: Any = None,
    report: Report | None = None,
) -> PromptReport:
    """Run one prompt through a model and return the values of its neurons.

    With `generate`, the model first continues the prompt. A
    `keras_hub.models.CausalLM` uses the sampler it was compiled with, and a
    Hugging Face model uses its generation settings. Then the model runs once
    on the whole text. In a causal model the values at a token depend only on
    the tokens up to it. They therefore equal the values during generation, up
    to rounding.

    Args:
        model: A built Keras model, or a PyTorch module, with or without MEmeL
            layers. It runs at inference and is not changed.
        text_or_inputs: A text, or inputs of the model with a batch of one:
            token ids, `(1, tokens)`, a series `(1, time, channels)`,
            or a mapping of arguments. The token ids of a mapping are found
            by name, such as `input_ids`; for layers of a decoder they are the
            `decoder_input_ids`. A text needs a model with a
            preprocessor, such as those of keras_hub, or a `tokenizer`.
        layers: Layers to select, as in `find`. `None` selects the layers of
            `report`. Without a report it selects the default layers of
            `analyze`, limited to those with one value per neuron and token,
            `(1, tokens, neurons)`.
        generate: Maximum number of tokens to generate. The model generates
            fewer if it ends the text.
        tokenizer: A tokenizer of Hugging Face or keras_hub, or a function from
            a text to token ids. `None` uses the tokenizer of the
            model's preprocessor.
        report: Result of `analyze` for the same layers on other data, with
            `axis=-1`. Its means and standard deviations are the
            reference for the deviations.

    Returns:
        `PromptReport`, without padding. For a layer that is called several
        times it contains the first call.

    Raises:
        ValueError: If the text cannot be tokenized or the model cannot
            generate; if the inputs are not a batch of one; if a selected
            layer does not have one value per token, or is not in the report.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((None,), dtype="int32"),
    ...         keras.layers.Embedding(26, 4, name="embedding"),
    ...         keras.layers.Dense(8, name="hidden"),
    ...     ]
    ... )
    >>> letters = lambda text: [ord(letter) - ord("a") for letter in text]
    >>> found = prompt(model, "memel", tokenizer=letters)
    >>> found
    <PromptReport of 5 tokens, neurons {'embedding': 4, 'hidden': 8}>
    >>> found.activations["hidden"].shape
    (5, 8)
    """
    generate = arguments.integer("generate", generate, "at least 0", 0)
    if report is not None and not isinstance(report, Report):
        raise ValueError(
            "Argument `report` must be a Report of `analyze`. "
            f"Received: {type(report).__name__}"
        )
    run: Any = capture
    if native.is_torch(model):
        from keras_memel.native import torch_analysis
        from keras_memel.native import torch_prompt

        run = torch_analysis
        prepare: Any = torch_prompt.prepare
    elif isinstance(model, keras.Layer) and model.built:
        prepare = _prepare
    else:
        raise ValueError(
            "Argument `model` must be a built Keras model: build it, or call "
            f"it on some data, first. Received: model={model!r}"
        )
    arguments.function("tokenizer", tokenizer)
    where = layers
    if layers is None and report is not None:
        where = list(report.layers)
    found = run.chosen(model, where)
    _check_report([site.path for site in found], report)
    if tokenizer is None:
        tokenizer = getattr(
            getattr(model, "preprocessor", None), "tokenizer", None
        )
    if where is not None and run is capture:
        _check_shapes(found, None, report)
    inputs, start = prepare(model, text_or_inputs, generate, tokenizer)
    found, own_inputs, decodes = prompt_inputs.side(
        found, inputs, layers is not None
    )
    positions, ids = prompt_inputs.positions(own_inputs)
    if where is not None and run is capture:
        _check_shapes(found, positions or 1, report)
    if run is capture:
        seen = run.outputs(model, found, [inputs], preprocess=False)
    else:
        seen = run.outputs(model, found, [inputs])
    (calls,) = list(seen)
    # A default layer may not be called at all.
    called = [one for one in zip(found, calls) if one[1]]
    found = [site for site, _ in called]
    calls = [its_calls for _, its_calls in called]
    # The mask of a call in a decoder may be the one of the encoder.
    kept = prompt_inputs.kept(own_inputs, [] if decodes else calls, positions)
    activations = {}
    for site, its_calls in zip(found, calls):
        values = its_calls[0]["values"]
        if positions is None and values.ndim == 2:
            values = values[:, None]
        if values.ndim == 3 and values.shape[1] == (positions or 1):
            activations[site.path] = np.ascontiguousarray(values[0, kept])
        elif where is not None:
            raise _not_per_token(site.path, positions or 1, values.shape)
    if not activations:
        raise ValueError(
            "No default layer has one value per token and neuron: select "
            "layers with `layers`. Received: layers of shapes "
            f"{ {s.path: c[0]['values'].shape for s, c in zip(found, calls)} }"
        )
    return PromptReport(
        _names(ids, positions, kept, tokenizer),
        activations,
        None if start is None else int(kept[:start].sum()),
        _reference(activations, report),
    )


def _check_shapes(
    found: list[Any], positions: int | None, report: Report | None
) -> None:
    """Raise if a layer of known shape does not have one value per token.

    Args:
        found: Sites of a Keras model.
        positions: Number of positions, 1 for a vector; `None` if it is still
            unknown.
        report: As in `prompt`.
    """
    for site in found:
        shape = output_specs.known_shape(site, None)
        if shape is None:
            continue
        fits = len(shape) == 3
        if fits and positions is not None:
            fits = shape[1] in (None, positions)
        if len(shape) == 2:
            fits = positions in (None, 1)
        if not fits:
            raise _not_per_token(site.path, positions or "tokens", shape)
        own = None if report is None else report.layers[site.path].shape
        if own is not None and shape[-1] not in (None, *own):
            raise _not_per_channel(site.path, own, shape)


def _not_per_token(path: str, positions: Any, shape: Any) -> ValueError:
    return ValueError(
        "Argument `layers` must select layers with one value per token and "
        f"neuron, (1, {positions}, neurons). Received: layer {path!r}, of "
        f"shape {shape}"
    )


def _not_per_channel(path: str, own: Any, shape: Any) -> ValueError:
    return ValueError(
        "Argument `report` must have one neuron per channel: analyze layer "
        f"{path!r} with `axis=-1`. Received: neurons of shape {own} for "
        f"values of shape {shape}"
    )


def _prepare(
    model: keras.Layer, given: Any, generate: int, tokenizer: Any
) -> tuple[Any, int | None]:
    """Prepare a batch of one input for a Keras model.

    Returns:
        Inputs, and the position of the first generated token, or `None`.
    """
    preprocessor = getattr(model, "preprocessor", None)
    generates = hasattr(model, "make_generate_function")
    if generate and not generates:
        raise prompts.cannot_generate(model)
    text = isinstance(given, str)
    if text and preprocessor is not None:
        if generates:
            inputs = preprocessor.generate_preprocess([given])
        else:
            inputs, *_ = keras.utils.unpack_x_y_sample_weight(
                preprocessor([given])
            )
        inputs = keras.tree.map_structure(keras.ops.convert_to_numpy, inputs)
    elif text:
        inputs = _named(model, np.array([prompts.tokenized(tokenizer, given)]))
    else:
        inputs = prompts.checked(given)
    if not generate:
        return _cut(inputs), None
    inputs = _cut(inputs)
    if not isinstance(inputs, dict) or "token_ids" not in inputs:
        inputs = _named(model, inputs)
    length = inputs["token_ids"].shape[1]
    # Pad with the model's own padding token, which does not end a text.
    pad = {"token_ids": getattr(tokenizer, "pad_token_id", None) or 0}
    padded = {
        key: np.pad(
            array, ((0, 0), (0, generate)), constant_values=pad.get(key, 0)
        )
        for key, array in inputs.items()
    }
    end = _end_tokens(tokenizer)
    made = model.make_generate_function()(
        keras.tree.map_structure(keras.ops.convert_to_tensor, padded),
        stop_token_ids=end,
    )
    made = {
        key: np.asarray(keras.ops.convert_to_numpy(array))
        for key, array in made.items()
    }
    return _cut(padded | made), length


def _end_tokens(tokenizer: Any) -> tuple[int, ...] | None:
    """Return the tokens that end a text, for `CausalLM.generate`."""
    names = ("end_token_id", "end_token2_id")
    ids = [getattr(tokenizer, name, None) for name in names]
    return tuple(int(one) for one in ids if one is not None) or None


def _named(model: keras.Layer, ids: Array) -> Any:
    """Add the other inputs of a text model to the token ids."""
    names = {tensor.name for tensor in getattr(model, "inputs", None) or ()}
    if "token_ids" not in names:
        return ids
    made = {
        "token_ids": ids,
        "padding_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
    }
    return {name: array for name, array in made.items() if name in names}


def _cut(inputs: Any) -> Any:
    """Remove the padding at the end of inputs."""
    mask = prompt_inputs.mask(inputs)
    if mask is None or not mask.any():
        return inputs
    stop = int(np.flatnonzero(mask)[-1]) + 1
    return {
        key: array[:, :stop] if array.ndim > 1 else array
        for key, array in inputs.items()
    }


def _names(
    ids: Array | None, positions: int | None, kept: Array, tokenizer: Any
) -> list[str]:
    if ids is None:
        return [str(number) for number in np.flatnonzero(kept)]
    numbers = [int(one) for one in ids[kept]]
    if hasattr(tokenizer, "convert_ids_to_tokens"):
        names: Sequence[Any] = tokenizer.convert_ids_to_tokens(numbers)
    elif hasattr(tokenizer, "id_to_token"):
        names = [tokenizer.id_to_token(one) for one in numbers]
    else:
        names = numbers
    return [
        name.decode("utf-8", "replace")
        if isinstance(name, bytes)
        else str(name)
        for name in names
    ]


def _check_report(paths: list[str], report: Report | None) -> None:
    """Raise if a report does not contain the layers."""
    for path in paths if report is not None else ():
        assert report is not None
        if path not in report.layers:
            raise ValueError(
                "Argument `report` must contain the layers of the prompt: "
                f"{path!r} is missing. Received: a report of "
                f"{list(report.layers)}"
            )
        if report.layers[path].directions:
            raise ValueError(
                "Argument `report` must contain neurons. Received: directions "
                f"in layer {path!r}"
            )
        if len(report.layers[path].shape) != 1:
            own = report.layers[path].shape
            raise _not_per_channel(path, own, "(1, tokens, neurons)")


def _reference(
    activations: dict[str, Array], report: Report | None
) -> dict[str, tuple[Array, Array]] | None:
    if report is None:
        return None
    found = {}
    for path, values in activations.items():
        layer = report.layers[path]
        if layer.shape != values.shape[1:]:
            raise _not_per_channel(path, layer.shape, values.shape)
        found[path] = layer.mean, np.sqrt(layer.variance)
    return found
