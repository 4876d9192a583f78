"""Convert a text or the inputs of a model to a checked batch of one."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_memel.utils.types import Array


def tokenized(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text.

    Raises:
        ValueError: If `tokenizer` is `None`, or does not return token ids.
    """
    if tokenizer is None:
        raise ValueError(
            "Argument `tokenizer` is required for a text, since the model has "
            "no preprocessor. Pass a tokenizer, or token ids of shape (1, "
            f"tokens). Received: tokenizer=None, text {text!r}"
        )
    found = tokenizer(text)
    if isinstance(found, Mapping) or hasattr(found, "input_ids"):
        found = found["input_ids"]
    if not isinstance(found, (list, tuple, np.ndarray)):
        found = keras.ops.convert_to_numpy(found)
    ids = np.asarray(found)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(
            "Argument `tokenizer` must return one or more token ids, which are "
            f"integers, for a text. Received: {found!r} for {text!r}"
        )
    return [int(one) for one in ids]


def checked(given: Any) -> Any:
    """Convert inputs to arrays and check that they are a batch of one.

    Raises:
        ValueError: If they are not a batch of one.
    """

    def convert(leaf: Any) -> Array:
        if isinstance(leaf, (np.ndarray, np.generic)):
            return np.asarray(leaf)
        try:
            return np.asarray(keras.ops.convert_to_numpy(leaf))
        except Exception:
            raise ValueError(
                "Argument `text_or_inputs` must be a text, or inputs of the "
                "model with batch size 1, such as token ids of shape (1, "
                f"tokens). Received: {leaf!r:.80} ({type(leaf).__name__})"
            ) from None

    if isinstance(given, Mapping):
        inputs: Any = {key: convert(leaf) for key, leaf in given.items()}
    elif isinstance(given, tuple):
        inputs = tuple(convert(leaf) for leaf in given)
    else:
        inputs = convert(given)
    for leaf in keras.tree.flatten(inputs):
        if leaf.ndim < 2 or len(leaf) != 1 or leaf.dtype.kind not in "biuf":
            raise ValueError(
                "Argument `text_or_inputs` must be a text, or inputs of the "
                "model with batch size 1, such as token ids of shape (1, "
                f"tokens). Received: an array of shape {leaf.shape}, dtype "
                f"{leaf.dtype}"
            )
    return inputs


def cannot_generate(model: Any) -> ValueError:
    """Make the error for a model that cannot generate text."""
    return ValueError(
        "Argument `generate` needs a causal language model: a "
        "keras_hub.models.CausalLM, or a Hugging Face model with a language "
        f"head. Received: a {type(model).__name__}"
    )
