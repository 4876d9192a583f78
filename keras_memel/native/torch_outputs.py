"""What PyTorch modules return: which tensor of it, and its shape."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from keras_memel.native.torch_paths import Site
from keras_memel.utils.types import Tensor


def select(outputs: Any, output: Any) -> tuple[Tensor, Any]:
    """Select one tensor of what a module returns.

    Args:
        outputs: A tensor, or a tuple, list or mapping that holds it.
        output: Its index or key; `None` for the first.

    Returns:
        The tensor, and its index or key; `None` if it is all there is.

    Raises:
        ValueError: If there is no such tensor.
    """
    if torch.is_tensor(outputs):
        # What is a tuple of one in one release is a tensor in another.
        if output in (None, 0):
            return outputs, None
    elif isinstance(outputs, (tuple, list)):
        index = 0 if output is None else output
        number = len(outputs)
        inside = isinstance(index, int) and -number <= index < number
        if inside and torch.is_tensor(outputs[index]):
            return outputs[index], index
    elif hasattr(outputs, "keys"):
        keys = list(outputs.keys())
        key = 0 if output is None else output
        if isinstance(key, int) and -len(keys) <= key < len(keys):
            key = keys[key]
        if key in keys and torch.is_tensor(outputs[key]):
            return outputs[key], key
    raise ValueError(
        "Argument `output` must be the index or key of a tensor that the "
        "module returns. "
        f"Received: output={output!r} for a {type(outputs).__name__}"
    )


def replace(outputs: Any, place: Any, values: Tensor) -> Any:
    """Replace one tensor of what a module returns.

    Args:
        outputs: As of `select`. It is not changed.
        place: The index or key that `select` returned.
        values: The new tensor.
    """
    if place is None:
        return values
    if isinstance(outputs, tuple):
        place %= len(outputs)
        parts = (*outputs[:place], values, *outputs[place + 1 :])
        named = hasattr(outputs, "_fields")
        return type(outputs)(*parts) if named else parts
    made = copy.copy(outputs)
    made[place] = values
    return made


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation without gradients; afterwards, back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model on a batch: a mapping of arguments, a tuple, or a tensor."""
    if hasattr(inputs, "keys"):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def shapes(
    model: nn.Module, found: list[Site], output: Any, example: Any
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of what modules return, by their paths.

    Args:
        model: A model.
        found: The modules.
        output: As of `select`.
        example: A batch, as of `call`.

    Raises:
        ValueError: If one of the modules is never called, or has no such
            output.
    """
    seen: dict[str, tuple[int, ...]] = {}
    with contextlib.ExitStack() as hooks, evaluating(model):
        for site in found:

            def note(
                module: Any, args: Any, outputs: Any, p: str = site.path
            ) -> None:
                seen[p] = tuple(select(outputs, output)[0].shape)

            hooks.callback(site.layer.register_forward_hook(note).remove)
        call(model, example)
    for site in found:
        if site.path not in seen:
            raise ValueError(
                f"Module {site.path!r} is never called in the model: a MEmeL "
                "there would do nothing."
            )
    return seen
