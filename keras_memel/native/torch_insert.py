"""MEmeL in PyTorch modules that exist: find, insert, inserted, strip.

An inserted TorchMEmeL is the submodule `memel` of its host, the module that it
follows. A forward hook of the host passes the output through it. Hooks of the
modules around note the attention mask on the way. All hooks are functions of
this file, which find what they need in the module that calls them: a copy of a
model, or one from a pickle, is independent of the first.
"""

import contextlib
import copy
import inspect
import sys
import warnings
from typing import Any

import keras
import torch
from torch import nn

from keras_memel.core import seeds
from keras_memel.layers.memel import MEmeL
from keras_memel.native import torch_paths
from keras_memel.native.torch_memel import TorchMEmeL
from keras_memel.native.torch_paths import Site

Tensor = Any

# Arguments that hold a mask of positions, and whether true means padding.
_MASKS = {
    "attention_mask": False,
    "padding_mask": False,
    "src_key_padding_mask": True,
}


def find(model: nn.Module, where: Any = "**") -> list[str]:
    """As `keras_memel.find`."""
    return [site.path for site in torch_paths.select(unwrap(model), where)]


def insert(
    model: nn.Module,
    where: Any,
    layer: Any,
    output: Any = None,
    example: Any = None,
) -> nn.Module:
    """As `keras_memel.insert`."""
    if not isinstance(layer, (MEmeL, TorchMEmeL)):
        raise ValueError(
            "Argument `layer` must be a MEmeL. "
            f"Received: layer={layer!r} ({type(layer).__name__})"
        )
    root = unwrap(model)
    found = torch_paths.select(root, where)
    for site in found:
        _check_host(site, where)
    shapes = {} if example is None else _shapes(root, found, output, example)
    made = [
        _make(layer, site, number, shapes.get(site.path))
        for number, site in enumerate(found)
    ]
    for site, memel in zip(found, made):
        attach(site.layer, memel, output)
    refresh(root)
    return model


def inserted(model: nn.Module) -> dict[str, TorchMEmeL]:
    """As `keras_memel.inserted`."""
    found = {}
    for path, module in unwrap(model).named_modules():
        if "_memel_output" in vars(module):
            memel = module._modules["memel"]
            assert isinstance(memel, TorchMEmeL)
            found[path] = memel
    return found


def memels(model: nn.Module) -> dict[str, TorchMEmeL]:
    """All TorchMEmeLs of a model; inserted ones by the paths of their hosts."""
    found = inserted(model)
    held = set(map(id, found.values()))
    for path, module in unwrap(model).named_modules():
        if isinstance(module, TorchMEmeL) and id(module) not in held:
            found[path] = module
    return found


def describe(model: nn.Module) -> list[dict[str, Any]]:
    """The insertions of a model, as what JSON can hold."""
    return [
        {
            "path": path,
            "output": vars(unwrap(model).get_submodule(path))["_memel_output"],
            "layer": keras.saving.serialize_keras_object(memel.to_layer()),
        }
        for path, memel in inserted(model).items()
    ]


def strip(model: nn.Module) -> nn.Module:
    """As `keras_memel.strip`."""
    root = unwrap(model)
    for module in list(root.modules()):
        if "_memel_output" in vars(module):
            _remove(module._forward_hooks, _pass_through, module)
            del module.memel
            del module._memel_output
        _forget(module)
    _write_config(root)
    _reset_compiler()
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of what `torch.compile` returns."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def attach(host: nn.Module, memel: TorchMEmeL, output: Any) -> None:
    """Make a module the host of a TorchMEmeL."""
    memel.train(host.training)
    host.add_module("memel", memel)
    host.__dict__["_memel_output"] = output
    # A Sequential calls all of its parts itself.
    if not isinstance(host, nn.Sequential):
        host.register_forward_hook(_pass_through)


def refresh(root: nn.Module) -> None:
    """Make the modules around the hosts note their masks."""
    for module in root.modules():
        _forget(module)
        under = tuple(inserted(module).values())
        if not under or isinstance(module, TorchMEmeL):
            continue
        note = _note_of(module)
        if note is None and module is not root:
            continue
        module.__dict__["_memel_note"] = note
        module.__dict__["_memel_under"] = under
        if note is not None:
            module.register_forward_pre_hook(_note_mask, with_kwargs=True)
        if module is root:
            module.__dict__["_memel_unseen"] = True
        module.register_forward_hook(_after_forward)
    _write_config(root)
    _reset_compiler()


def _check_host(site: Site, where: Any) -> None:
    host = site.layer
    if "_memel_output" in vars(host):
        raise ValueError(
            f"Module {site.path!r} holds an inserted MEmeL already. Call "
            "`keras_memel.strip(model)` first, or name other modules. "
            f"Received: where={where!r}"
        )
    reason = None
    if isinstance(host, (nn.ModuleList, nn.ModuleDict)):
        reason = "it is a list of modules, which is never called. Name its "
        reason += f"parts: '{site.path}.*'"
    elif isinstance(host, torch.jit.ScriptModule):
        reason = "it is a script, which takes no hooks"
    elif hasattr(host, "memel"):
        reason = "it has an attribute `memel` already"
    elif site.path.rpartition(".")[2] == "base_layer":
        reason = "an adapter adds to it. Name the module around it"
    elif any(
        getattr(module, "batch_first", True) is False
        for module in host.modules()
    ):
        reason = "its batch is the second axis. Make it with `batch_first=True`"
    if reason:
        raise ValueError(
            f"A MEmeL cannot follow {site.path!r} "
            f"({type(host).__name__}): {reason}. Received: where={where!r}"
        )


def _make(
    layer: Any, site: Site, number: int, shape: tuple[int, ...] | None
) -> TorchMEmeL:
    template = layer if isinstance(layer, MEmeL) else layer.to_layer()
    kwargs = {}
    if isinstance(layer, TorchMEmeL):
        kwargs = {
            "process_group": layer.process_group,
            "loss_scale": layer.loss_scale,
        }
    made = TorchMEmeL.from_layer(template, **kwargs)
    if template.selection.random and number:
        made = TorchMEmeL.from_layer(
            _with(
                template, selection=seeds.of_site(template.selection, number)
            ),
            **kwargs,
        )
    parameter = next(site.chain[-1].parameters(), None)
    if parameter is None:
        parameter = next(site.chain[0].parameters(), None)
    if parameter is not None:
        made.to(parameter.device)
    if shape is not None:
        try:
            made.build((None, *shape[1:]))
        except ValueError as error:
            raise ValueError(
                f"A MEmeL cannot follow {site.path!r}: {error}"
            ) from error
    return made


def _with(layer: MEmeL, **changed: Any) -> MEmeL:
    made: MEmeL = type(layer).from_config(
        {
            **layer.get_config(),
            "selection": layer.selection,
            "inhibition": layer.inhibition,
            **changed,
        }
    )
    return made


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Any:
    """The model at inference, without gradients; afterwards as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a batch: a mapping of arguments, a tuple, or a tensor."""
    if isinstance(inputs, dict) or hasattr(inputs, "keys"):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def _shapes(
    model: nn.Module, found: list[Site], output: Any, example: Any
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    with contextlib.ExitStack() as hooks, evaluating(model):
        for site in found:

            def note(
                module: Any, args: Any, outputs: Any, p: str = site.path
            ) -> None:
                shapes[p] = tuple(values_of(outputs, output)[0].shape)

            hooks.callback(site.layer.register_forward_hook(note).remove)
        call(model, example)
    for site in found:
        if site.path not in shapes:
            raise ValueError(
                f"Module {site.path!r} is never called in the model: a MEmeL "
                "there would do nothing."
            )
    return shapes


# ---------------------------------------------------------------------------
# Hooks


def values_of(outputs: Any, output: Any) -> tuple[Tensor, Any]:
    """One tensor of what a module returns, and its index or key.

    Raises:
        ValueError: If there is no such tensor, or it is not floating-point.
    """
    if torch.is_tensor(outputs):
        # What is a tuple of one in one release is a tensor in another.
        if output in (None, 0):
            return outputs, None
    elif isinstance(outputs, (tuple, list)):
        index = 0 if output is None else output
        inside = isinstance(index, int) and -len(outputs) <= index < len(
            outputs
        )
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


def with_values(outputs: Any, place: Any, values: Tensor) -> Any:
    """What a module returns, with one tensor replaced."""
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


def _pass_through(host: Any, args: Any, outputs: Any) -> Any:
    values, place = values_of(outputs, host._memel_output)
    return with_values(outputs, place, host.memel(values))


def _note_mask(module: Any, args: Any, kwargs: Any) -> None:
    name, index, inverted, is_stack = module._memel_note
    if name in kwargs:
        mask = kwargs[name]
    else:
        mask = args[index] if index < len(args) else None
    # Layers get a mask that the model has made of it, with more axes.
    if torch.is_tensor(mask) and mask.ndim == 2:
        if inverted:
            mask = ~mask if mask.dtype == torch.bool else mask == 0
    elif mask is None and is_stack:
        mask = None
    else:
        return
    for memel in module._memel_under:
        memel.noted_mask = mask


def _after_forward(module: Any, args: Any, outputs: Any) -> None:
    for memel in module._memel_under:
        memel.noted_mask = None
    if torch.compiler.is_compiling() or not module.training:
        return
    if vars(module).pop("_memel_unseen", False):
        _warn_of_strays(module)


def _warn_of_strays(root: nn.Module) -> None:
    for path, memel in inserted(root).items():
        if path.rpartition(".")[2] == "base_layer":
            warnings.warn(
                f"An adapter adds to the output of {path!r} after its MEmeL. "
                "Apply the adapter first, then insert.",
                stacklevel=3,
            )
        elif memel.training and memel.trainable and not float(memel.steps):
            warnings.warn(
                f"Module {path!r} was not called in the first forward pass of "
                "the model: the MEmeL after it does nothing. Some modules "
                "only hold weights, such as `out_proj` of an attention layer. "
                "Insert after the module around it.",
                stacklevel=3,
            )


def _note_of(module: nn.Module) -> tuple[str, int, bool, bool] | None:
    """Name and position of the mask among the arguments of a module."""
    try:
        names = list(inspect.signature(module.forward).parameters)
    except (TypeError, ValueError):
        return None
    for name, inverted in _MASKS.items():
        if name in names:
            is_stack = bool({"input_ids", "inputs_embeds", "src"} & set(names))
            return name, names.index(name), inverted, is_stack
    return None


def _forget(module: nn.Module) -> None:
    _remove(module._forward_pre_hooks, _note_mask, module)
    _remove(module._forward_hooks, _after_forward, module)
    for name in ("_memel_note", "_memel_under", "_memel_unseen"):
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


def _reset_compiler() -> None:
    # A compiled graph holds the hooks as they were.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _write_config(root: nn.Module) -> None:
    """Note the insertions where `save_pretrained` keeps them."""
    config: Any = getattr(root, "config", None)
    if not hasattr(config, "to_json_string"):
        return
    found = describe(root)
    if found:
        config.keras_memel = found
    elif hasattr(config, "keras_memel"):
        del config.keras_memel
