"""Record the outputs of modules while a PyTorch model predicts.

This is the counterpart of `insertion/capture.py`. Forward hooks record the
values that a MEmeL at the site would receive, and the mask. The hooks exist
during one batch only.
"""

import contextlib
import dataclasses
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import torch
from torch import nn

from keras_memel.native import outputs as model_outputs
from keras_memel.native import torch_layout
from keras_memel.native import torch_masks
from keras_memel.native import torch_outputs
from keras_memel.native import torch_paths
from keras_memel.native.site import Site
from keras_memel.native.torch_memel import TorchMEmeL
from keras_memel.utils import arguments
from keras_memel.utils.types import Array
from keras_memel.utils.types import Tensor

# Modules whose channels are the second axis.
_CHANNELS_FIRST = (
    nn.modules.batchnorm._NormBase,
    nn.modules.conv._ConvNd,
    nn.GroupNorm,
)


def chosen(
    model: nn.Module, layers: Any, argument: str = "layers"
) -> list[Site]:
    """Select the modules to analyze.

    Args:
        model: Any module.
        layers: As `where` in `find`. It may also select a TorchMEmeL that is
            part of the model. `None` selects the modules with a MEmeL or, if
            none has one, the modules that own parameters; `outputs` leaves out
            those that the model does not call, or whose output has no batch
            axis.
        argument: Name of the argument in messages.

    Raises:
        ValueError: If `layers` selects no module.
    """
    root = torch_paths.unwrap(model)
    if layers is not None:
        return torch_paths.select(root, layers, memels=True, argument=argument)
    found = torch_paths.walk(root, memels=True)
    hosts = [
        site
        for site in found
        if isinstance(site.layer, TorchMEmeL) or torch_paths.is_host(site.layer)
    ]
    return hosts or [
        dataclasses.replace(site, optional=True)
        for site in found
        if next(site.layer.parameters(recurse=False), None) is not None
        # MultiheadAttention reads the weights of its parts without a call.
        and not isinstance(site.chain[-2], nn.MultiheadAttention)
    ]


def axis_of(site: Site) -> Any:
    """Return the neuron axis: the one of a MEmeL, or else of the channels."""
    memel = site.layer
    if torch_paths.is_host(site.layer):
        memel = site.layer._modules["memel"]
    if isinstance(memel, TorchMEmeL):
        return memel.axis
    return 1 if isinstance(site.layer, _CHANNELS_FIRST) else -1


def outputs(
    model: nn.Module,
    found: list[Site],
    batches: Iterable[Any],
    output: Any = None,
    neurons: Sequence[Any] | None = None,
) -> Generator[list[list[dict[str, Array]]], None, None]:
    """Yield the values at the sites, batch by batch, in evaluation mode.

    Args:
        model: Any module.
        found: Sites in the model.
        batches: Batches of inputs: mappings of arguments, tuples, or arrays.
        output: Index or key of the output, if a module has several.
        neurons: Axis or axes of the neurons of each site; by default, those of
            `axis_of`.

    Yields:
        For each site and each call of its module: `values`, float32
        `(batch, ...)`, and `mask`, booleans over its leading dimensions, if
        the model has a mask. If the module merges the batch axis with another
        one, the values have both. An optional site has no call if its module
        is never called or its output has no batch axis.

    Raises:
        ValueError: If a module is never called, or its output is not
            floating-point or has no batch axis.
    """
    root = torch_paths.unwrap(model)
    axes = neurons or [axis_of(site) for site in found]
    numbers: list[list[int | None]] | None = None
    for batch in batches:
        inputs = to_tensors(batch, root)
        with _tapped(found, output) as taps, torch_outputs.evaluating(root):
            model_outputs.call(root, inputs)
        if numbers is None:
            numbers = _rows_per_input(root, found, output, inputs, taps)
        calls = [
            _checked(site, _by_input(site, tap, inputs, rows, axis))
            for site, tap, rows, axis in zip(found, taps, numbers, axes)
        ]
        if not any(calls):
            raise ValueError(
                "Argument `model` must call a module with parameters whose "
                "output has one row per input. Select other modules with "
                f"`layers`. Received: {type(root).__name__}"
            )
        yield calls


def _rows_per_input(
    root: nn.Module,
    found: list[Site],
    output: Any,
    inputs: Any,
    taps: list["_Tap"],
) -> list[list[int | None]]:
    """Return the rows of each input, per site and call."""
    alone: list[list[Tensor]] = [[] for _ in found]
    if torch_layout.size_of(inputs) > 1:
        one = torch_layout.first_of(inputs)
        # Some models need several inputs.
        with contextlib.suppress(Exception):
            with _tapped(found, output) as seen, torch_outputs.evaluating(root):
                model_outputs.call(root, one)
            alone = [[values for values, _ in tap.seen] for tap in seen]
    return [
        [
            torch_layout.rows_per_input(
                values, inputs, its[call] if call < len(its) else None
            )
            for call, (values, _) in enumerate(tap.seen)
        ]
        for tap, its in zip(taps, alone)
    ]


def _by_input(
    site: Site, tap: "_Tap", inputs: Any, rows: list[int | None], axis: Any
) -> list[dict[str, Tensor]]:
    """Return the values and masks of a site, with one row per input."""
    calls = []
    size = torch_layout.size_of(inputs)
    for place, (values, mask) in enumerate(tap.seen):
        number = rows[place] if place < len(rows) else 1
        own = None
        if number is not None and values.ndim and len(values) == size * number:
            own = torch_layout.by_input(values, number, axis)
        if own is None:
            if site.optional:
                return []
            raise ValueError(
                "Argument `layers` must select modules whose output has one "
                "row per input, along its first axis. With `batch_first=True` "
                "recurrent and attention layers have one. Received: module "
                f"{site.path!r}, whose output has shape {tuple(values.shape)} "
                f"for {size} inputs"
            )
        noted = {"values": own}
        fitted = torch_masks.fit(mask, own, axis)
        if fitted is not None:
            noted["mask"] = fitted
        calls.append(noted)
    return calls


class _Tap:
    """Recorder of the values at a site."""

    def __init__(self, output: Any):
        self.output = output
        self.mask: Tensor | None = None
        self.seen: list[tuple[Tensor, Tensor | None]] = []

    def note(self, values: Tensor) -> None:
        self.seen.append((values, self.mask))

    def before(self, module: nn.Module, args: Any) -> None:
        """Record the inputs of a MEmeL, as its forward pre-hook."""
        self.note(args[0])

    def after(self, module: nn.Module, args: Any, outputs: Any) -> None:
        """Record the output of a module, as its forward hook."""
        self.note(model_outputs.select(outputs, self.output)[0])


@contextlib.contextmanager
def _tapped(found: list[Site], output: Any) -> Iterator[list[_Tap]]:
    taps = [_Tap(output) for _ in found]
    with contextlib.ExitStack() as hooks:
        under: dict[nn.Module, list[_Tap]] = {}
        for site, tap in zip(found, taps):
            for module in site.chain:
                under.setdefault(module, []).append(tap)
            if torch_paths.is_host(site.layer):
                held = vars(site.layer)["_memel_output"]
                arguments.same_output(site.path, held, output)
                memel = site.layer.get_submodule("memel")
                hook = memel.register_forward_pre_hook(tap.before)
            else:
                hook = site.layer.register_forward_hook(tap.after)
            hooks.callback(hook.remove)
        for module, inner in under.items():
            argument = torch_masks.argument_of(module)
            if argument is not None:

                def note(
                    module: nn.Module,
                    args: Any,
                    kwargs: Any,
                    argument: torch_masks.MaskArgument = argument,
                    inner: list[_Tap] = inner,
                ) -> None:
                    known, mask = torch_masks.read(argument, args, kwargs)
                    if known:
                        for tap in inner:
                            tap.mask = mask

                hook = module.register_forward_pre_hook(note, with_kwargs=True)
                hooks.callback(hook.remove)
        yield taps


def to_tensors(batch: Any, model: nn.Module) -> Any:
    """Convert arrays to tensors with the device and dtype of a model."""
    parameters = list(model.parameters()) or [torch.zeros(())]
    # A quantized model, or a table of indices, also has parameters of integers.
    floats = [one for one in parameters if one.is_floating_point()]
    dtype = floats[0].dtype if floats else torch.get_default_dtype()

    def convert(leaf: Any) -> Tensor:
        tensor = torch.as_tensor(leaf, device=parameters[0].device)
        if tensor.is_floating_point():
            return tensor.to(dtype)
        return tensor

    return keras.tree.map_structure(convert, batch)


def _checked(
    site: Site, calls: list[dict[str, Tensor]]
) -> list[dict[str, Array]]:
    if not calls and not site.optional:
        raise ValueError(
            "Argument `layers` must select modules that the model calls. "
            f"Received: module {site.path!r}, which is never called"
        )
    checked = []
    for call in calls:
        if not call["values"].is_floating_point():
            raise ValueError(
                "Argument `layers` must select modules with a floating-point "
                f"output. Received: module {site.path!r}, whose output is of "
                f"dtype {call['values'].dtype}"
            )
        noted = {"values": call["values"].float().cpu().numpy()}
        if "mask" in call:
            noted["mask"] = np.asarray(call["mask"].cpu()).astype(bool)
        checked.append(noted)
    return checked
