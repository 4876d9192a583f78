"""Implement find, insert, inserted and strip for PyTorch modules."""

import sys
from typing import Any

import keras
import torch
from torch import nn

from keras_memel.core import seeds
from keras_memel.layers.memel import MEmeL
from keras_memel.native import torch_analysis
from keras_memel.native import torch_hooks
from keras_memel.native import torch_outputs
from keras_memel.native import torch_paths
from keras_memel.native.site import Site
from keras_memel.native.torch_memel import TorchMEmeL


def find(model: nn.Module, where: Any = "**") -> list[str]:
    """Implement `keras_memel.find`."""
    found = torch_paths.select(torch_paths.unwrap(model), where)
    return [site.path for site in found]


def insert(
    model: nn.Module,
    where: Any,
    layer: Any,
    output: Any = None,
    example: Any = None,
) -> nn.Module:
    """Implement `keras_memel.insert`."""
    if not isinstance(layer, (MEmeL, TorchMEmeL)):
        raise ValueError(
            "Argument `layer` must be a MEmeL. "
            f"Received: layer={layer!r} ({type(layer).__name__})"
        )
    root = torch_paths.unwrap(model)
    found = torch_paths.select(root, where)
    for site in found:
        _check_host(site, where)
    shapes = {}
    if example is not None:
        example = _to_tensors(example, root)
        shapes = torch_outputs.shapes(root, found, output, example)
    made = [
        _copy(layer, site, number, shapes.get(site.path))
        for number, site in enumerate(found)
    ]
    for site, memel in zip(found, made):
        torch_hooks.attach(site.layer, memel, output)
    refresh(root)
    return model


def inserted(model: nn.Module) -> dict[str, TorchMEmeL]:
    """Implement `keras_memel.inserted`."""
    return torch_paths.inserted(torch_paths.unwrap(model))


def memels(model: nn.Module) -> dict[str, TorchMEmeL]:
    """Return all TorchMEmeLs by path; for an inserted one, of its host."""
    found = inserted(model)
    held = set(map(id, found.values()))
    for path, module in torch_paths.unwrap(model).named_modules():
        if isinstance(module, TorchMEmeL) and id(module) not in held:
            found[path] = module
    return found


def describe(model: nn.Module) -> list[dict[str, Any]]:
    """Describe the insertions of a model in values that JSON can represent."""
    root = torch_paths.unwrap(model)
    return [
        {
            "path": path,
            "output": vars(root.get_submodule(path))["_memel_output"],
            "layer": keras.saving.serialize_keras_object(memel.to_layer()),
        }
        for path, memel in inserted(root).items()
    ]


def strip(model: nn.Module) -> nn.Module:
    """Implement `keras_memel.strip`."""
    root = torch_paths.unwrap(model)
    for module in list(root.modules()):
        torch_hooks.detach(module)
    _write_config(root)
    _reset_compiler()
    return model


def refresh(root: nn.Module) -> None:
    """Update the hooks, config and compiler after a change of insertions."""
    torch_hooks.watch(root)
    _write_config(root)
    _reset_compiler()


def _check_host(site: Site, where: Any) -> None:
    host = site.layer
    if torch_paths.is_host(host):
        raise ValueError(
            f"Module {site.path!r} already holds an inserted MEmeL. Call "
            "`keras_memel.strip(model)` first, or select other modules. "
            f"Received: where={where!r}"
        )
    reason = None
    if isinstance(host, (nn.ModuleList, nn.ModuleDict)):
        reason = "it is a list of modules, which is never called"
        if type(host).forward is not nn.Module.forward:
            reason = "it is a list of modules that calls its own parts"
        reason += f". Select its parts: '{site.path}.*'"
    elif isinstance(host, torch.jit.ScriptModule):
        reason = "it is a script, which does not support hooks"
    elif hasattr(host, "memel"):
        reason = "it already has an attribute `memel`"
    elif site.path.rpartition(".")[2] == "base_layer":
        reason = "an adapter adds to its output. Select the module around it"
    elif any(
        getattr(module, "batch_first", True) is False
        for module in host.modules()
    ):
        reason = "its batch axis is the second. Set `batch_first=True`"
    if reason:
        raise ValueError(
            f"A MEmeL cannot follow {site.path!r} "
            f"({type(host).__name__}): {reason}. Received: where={where!r}"
        )


def _copy(
    layer: Any, site: Site, number: int, shape: tuple[int, ...] | None
) -> TorchMEmeL:
    made = TorchMEmeL.from_layer(
        layer,
        selection=seeds.of_site(layer.selection, number),
        loss_scale=getattr(layer, "loss_scale", 1.0),
    )
    for module in (site.layer, site.chain[0]):
        parameter = next(module.parameters(), None)
        if parameter is not None:
            made.to(parameter.device)
            break
    if shape is not None:
        try:
            made.build((None, *shape[1:]))
        except ValueError as error:
            raise ValueError(
                f"A MEmeL cannot follow {site.path!r}: {error}"
            ) from error
    return made


def _to_tensors(example: Any, root: nn.Module) -> Any:
    """Convert the arrays of a batch as `analyze` does; keep its tensors."""

    def convert(leaf: Any) -> Any:
        if torch.is_tensor(leaf) or not hasattr(leaf, "__array__"):
            return leaf
        return torch_analysis.to_tensors(leaf, root)

    if hasattr(example, "keys"):  # Hugging Face has mappings of its own.
        example = {key: example[key] for key in example.keys()}  # noqa: SIM118
    return keras.tree.map_structure(convert, example)


def _reset_compiler() -> None:
    # A compiled graph contains the previous hooks.
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


def _write_config(root: nn.Module) -> None:
    """Write the insertions to the config that `save_pretrained` saves."""
    config: Any = getattr(root, "config", None)
    if not hasattr(config, "to_json_string"):
        return
    found = describe(root)
    if found:
        config.keras_memel = found
    elif hasattr(config, "keras_memel"):
        del config.keras_memel
