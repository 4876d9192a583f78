"""Attach a TorchMEmeL to a module: as a submodule that a hook calls.

An inserted TorchMEmeL is the submodule `memel` of its host, the module that it
follows. A forward hook of the host passes the output through it. Hooks of the
surrounding modules record the attention mask. All hooks are functions of this
file and read their data from the module that calls them. A copy of a model, or
one from a pickle, is therefore independent of the original.
"""

import warnings
from typing import Any

import torch
from torch import nn

from keras_memel.native import outputs as model_outputs
from keras_memel.native import torch_masks
from keras_memel.native import torch_paths
from keras_memel.native import torch_sequential
from keras_memel.native.torch_memel import TorchMEmeL


def attach(host: nn.Module, memel: TorchMEmeL, output: Any) -> None:
    """Make a module the host of a TorchMEmeL."""
    memel.train(host.training)
    host.add_module("memel", memel)
    host.__dict__["_memel_output"] = output
    memel.attached = True
    torch_sequential.hide(host)
    host.register_forward_hook(_pass_through)


def detach(module: nn.Module) -> None:
    """Remove everything that `attach` and `watch` have added to a module."""
    _remove(module._forward_hooks, _pass_through, module)
    if torch_paths.is_host(module):
        module.memel.attached = False
        del module.memel
    torch_sequential.unhide(module)
    vars(module).pop("_memel_output", None)
    _unwatch(module)


def watch(root: nn.Module) -> None:
    """Make the modules around the hosts record their masks."""
    for module in root.modules():
        _unwatch(module)
        under = tuple(torch_paths.inserted(module).values())
        if not under or isinstance(module, TorchMEmeL):
            continue
        argument = torch_masks.argument_of(module)
        if argument is None and module is not root:
            continue
        module.__dict__["_memel_argument"] = argument
        module.__dict__["_memel_under"] = under
        if argument is not None:
            module.register_forward_pre_hook(_note_mask, with_kwargs=True)
        if module is root:
            module.__dict__["_memel_unseen"] = True
        # The hook is always called, so that a failed forward pass leaves no
        # mask behind.
        module.register_forward_hook(_after_forward, always_call=True)


def _unwatch(module: nn.Module) -> None:
    _remove(module._forward_pre_hooks, _note_mask, module)
    _remove(module._forward_hooks, _after_forward, module)
    for name in ("_memel_argument", "_memel_under", "_memel_unseen"):
        vars(module).pop(name, None)


def _remove(hooks: Any, function: Any, module: nn.Module) -> None:
    for key in [key for key, hook in hooks.items() if hook is function]:
        del hooks[key]
        for flags in (
            module._forward_pre_hooks_with_kwargs,
            module._forward_hooks_with_kwargs,
            module._forward_hooks_always_called,
        ):
            flags.pop(key, None)


# ---------------------------------------------------------------------------
# Hooks


def _pass_through(host: Any, args: Any, outputs: Any) -> Any:
    if not torch_paths.is_host(host):
        # Quantization creates another module with only the hooks of the first.
        _remove(host._forward_hooks, _pass_through, host)
        warnings.warn(
            f"A conversion of the model has removed the MEmeL after a "
            f"{type(host).__name__}. Call `insert` after the conversion.",
            stacklevel=2,
        )
        return outputs
    if isinstance(outputs, torch.fx.Proxy):
        # A symbolic trace does not know how many outputs there are. In
        # evaluation the MEmeL is the identity; in training it cannot be traced.
        return host.memel(outputs)
    values, place = model_outputs.select(outputs, host._memel_output)
    return model_outputs.replace(outputs, place, host.memel(values))


def _note_mask(module: Any, args: Any, kwargs: Any) -> None:
    known, mask = torch_masks.read(module._memel_argument, args, kwargs)
    if known:
        for memel in module._memel_under:
            memel.noted_mask = mask


def _after_forward(module: Any, args: Any, outputs: Any) -> None:
    for memel in module._memel_under:
        memel.noted_mask = None
    if torch.compiler.is_compiling() or not module.training:
        return
    if outputs is None:  # The forward pass has failed.
        return
    if not any(memel.attached for memel in module._memel_under):
        _unwatch(module)  # They were stripped from a submodule.
        return
    if vars(module).pop("_memel_unseen", False):
        _warn_of_strays(module)


def _warn_of_strays(root: nn.Module) -> None:
    for path, memel in torch_paths.inserted(root).items():
        if path.rpartition(".")[2] == "base_layer":
            warnings.warn(
                f"An adapter adds to the output of {path!r} after its MEmeL. "
                "Apply the adapter first, then call `insert`.",
                stacklevel=3,
            )
        elif memel.training and memel.trainable and not float(memel.steps):
            warnings.warn(
                f"Module {path!r} was not called in the first forward pass of "
                "the model, so the MEmeL after it has no effect. Some modules "
                "only hold weights, such as `out_proj` of an attention layer, "
                "or parts that the model calls one by one. Insert after the "
                "module around it, or after its last part.",
                stacklevel=3,
            )
