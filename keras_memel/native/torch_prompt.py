"""Prepare a prompt for a PyTorch module, and generate its continuation."""

import inspect
from typing import Any

import numpy as np
import torch
from torch import nn

from keras_memel.native import torch_outputs
from keras_memel.native import torch_paths
from keras_memel.utils import prompts

# Arguments that are extended to the generated tokens.
_EXTENDED = ("input_ids", "attention_mask", "token_type_ids")


def prepare(
    model: nn.Module, given: Any, generate: int, tokenizer: Any
) -> tuple[Any, int | None]:
    """Prepare a batch of one input for a module.

    Args:
        model: Any module.
        given: `text_or_inputs` of `prompt`.
        generate: Maximum number of tokens to generate.
        tokenizer: As in `prompt`.

    Returns:
        Inputs, and the position of the first generated token, or `None`.

    Raises:
        ValueError: If the module cannot generate, the text cannot be
            tokenized, or an argument cannot be extended.
    """
    root = torch_paths.unwrap(model)
    config = getattr(root, "config", None)
    if generate and (
        not hasattr(root, "generate")
        or getattr(config, "is_encoder_decoder", False)
    ):
        raise prompts.cannot_generate(model)
    if isinstance(given, str):
        ids = np.array([prompts.tokenized(tokenizer, given)])
        names = inspect.signature(root.forward).parameters
        inputs: Any = ids
        if "input_ids" in names:
            inputs = {"input_ids": ids}
            if "attention_mask" in names:
                inputs["attention_mask"] = np.ones_like(ids)
    else:
        inputs = prompts.checked(given)
    if not generate:
        return inputs, None
    if not isinstance(inputs, dict):
        inputs = {"input_ids": inputs}
    wrong = sorted(set(inputs) - set(_EXTENDED))
    if wrong or "input_ids" not in inputs:
        raise ValueError(
            "Argument `text_or_inputs` must contain `input_ids`, and no other "
            f"arguments than {list(_EXTENDED)}, with `generate`. Received: "
            f"{', '.join(f'`{name}`' for name in wrong or inputs)}"
        )
    inputs.setdefault("attention_mask", np.ones_like(inputs["input_ids"]))
    device = next(root.parameters()).device
    tensors = {
        key: torch.as_tensor(array, device=device)
        for key, array in inputs.items()
    }
    with torch_outputs.evaluating(root):
        made = root.generate(**tensors, max_new_tokens=generate)
    made = np.asarray(getattr(made, "sequences", made).cpu())
    start = inputs["input_ids"].shape[1]
    more = ((0, 0), (0, made.shape[1] - start))
    mask = np.pad(inputs["attention_mask"], more, constant_values=1)
    whole = {"input_ids": made, "attention_mask": mask}
    if "token_type_ids" in inputs:
        # `generate` repeats the last one.
        whole["token_type_ids"] = np.pad(inputs["token_type_ids"], more, "edge")
    names = inspect.signature(root.forward).parameters
    if "position_ids" in names and not mask.all():
        # `generate` counts the positions from the first unmasked token.
        whole["position_ids"] = np.maximum(np.cumsum(mask, 1) - 1, 0)
    return whole, start
