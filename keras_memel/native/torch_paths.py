"""Find places for a MEmeL in a PyTorch module by dotted paths and patterns."""

from typing import Any

from torch import nn

from keras_memel.native import torch_sequential
from keras_memel.native.site import Site
from keras_memel.native.torch_memel import TorchMEmeL
from keras_memel.utils import patterns


def walk(model: nn.Module, memels: bool = False) -> list[Site]:
    """Return the modules of a model, without itself, each once, with paths.

    Args:
        model: Any module.
        memels: Whether to include TorchMEmeLs that were not inserted.
    """
    found = []
    for path, module in model.named_modules():
        *outer, _ = chain = _chain(model, path)
        if not path or any(isinstance(part, TorchMEmeL) for part in outer):
            continue
        if isinstance(module, TorchMEmeL) and (
            not memels or is_inserted(outer[-1], module)
        ):
            continue
        found.append(Site(path, chain))
    return found


def _chain(model: nn.Module, path: str) -> tuple[nn.Module, ...]:
    chain = [model]
    for name in filter(None, path.split(".")):
        chain.append(chain[-1]._modules[name])
    return tuple(chain)


def is_host(module: nn.Module) -> bool:
    """Check whether `insert` has added a TorchMEmeL after a module."""
    return "_memel_output" in vars(module) and isinstance(
        module._modules.get("memel"), TorchMEmeL
    )


def is_inserted(host: nn.Module, module: nn.Module) -> bool:
    """Check whether a module is the TorchMEmeL that `insert` has added."""
    return is_host(host) and host._modules.get("memel") is module


def inserted(model: nn.Module) -> dict[str, TorchMEmeL]:
    """Return the inserted TorchMEmeLs of a model by the path of their host."""
    found = {}
    for path, module in model.named_modules():
        if is_host(module):
            memel = module._modules["memel"]
            assert isinstance(memel, TorchMEmeL)
            found[path] = memel
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside a result of `torch.compile`, or the model."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def select(
    model: nn.Module,
    where: Any,
    memels: bool = False,
    argument: str = "where",
) -> list[Site]:
    """Return the sites that `where` selects, in the order of the model.

    Args:
        model: Any module.
        where: As in `find`, with paths joined by ".".
        memels: As in `walk`.
        argument: Name of `where` in error messages.

    Raises:
        ValueError: If `where`, or one pattern of several, selects no module.
    """
    tree = patterns.Tree(
        walk(model, memels),
        f"the {type(model).__name__}",
        "module",
        nn.Module,
        _kind,
        separator=".",
    )
    found: list[Site] = patterns.select(tree, where, argument)
    return found


def _kind(module: nn.Module) -> tuple[type, tuple[Any, ...]]:
    kind = torch_sequential.plain(type(module))
    return kind, tuple(tuple(p.shape) for p in module.parameters())
