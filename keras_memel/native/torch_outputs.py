"""Run PyTorch modules and inspect their outputs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from keras_memel.native import outputs as model_outputs
from keras_memel.native.site import Site


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode without gradients, and restore the modes on exit.

    The fast path of `nn.TransformerEncoder` is off: it would pass nested
    tensors to the layers, and skip their parts.
    """
    modes = [(module, module.training) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training


def shapes(
    model: nn.Module, found: list[Site], output: Any, example: Any
) -> dict[str, tuple[int, ...]]:
    """Find the shapes of the outputs of modules, by path.

    Args:
        model: Any module.
        found: Sites of the modules.
        output: As in `outputs.select`.
        example: A batch, as in `outputs.call`.

    Raises:
        ValueError: If one of the modules is never called, or lacks the output.
    """
    seen: dict[str, tuple[int, ...]] = {}
    with contextlib.ExitStack() as hooks, evaluating(model):
        for site in found:

            def note(
                module: Any, args: Any, outputs: Any, p: str = site.path
            ) -> None:
                seen[p] = tuple(model_outputs.select(outputs, output)[0].shape)

            hooks.callback(site.layer.register_forward_hook(note).remove)
        model_outputs.call(model, example)
    for site in found:
        if site.path not in seen:
            raise ValueError(
                "Argument `where` must select modules that the model calls. "
                f"Received: module {site.path!r}, which is never called"
            )
    return seen
