"""Where a MEmeL can go in a PyTorch module: dotted paths, and patterns."""

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Any

from torch import nn

from keras_memel.native.torch_memel import TorchMEmeL
from keras_memel.utils import patterns

_MIDDLE = re.compile(r"middle:(\d+)")


@dataclasses.dataclass(frozen=True)
class Site:
    """A module somewhere in a model.

    Attributes:
        path: Its dotted path.
        chain: From the model down to the module itself.
    """

    path: str
    chain: tuple[nn.Module, ...]

    @property
    def layer(self) -> nn.Module:
        return self.chain[-1]


def walk(model: nn.Module, memels: bool = False) -> list[Site]:
    """The modules of a model but itself, each once, by their dotted paths.

    Args:
        model: Any module.
        memels: Whether the TorchMEmeLs of the model itself are among them.
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
    """Check whether `insert` has put a TorchMEmeL after a module."""
    return "_memel_output" in vars(module)


def is_inserted(host: nn.Module, module: nn.Module) -> bool:
    """Check whether a module is the TorchMEmeL that `insert` has put there."""
    return is_host(host) and host._modules.get("memel") is module


def inserted(model: nn.Module) -> dict[str, TorchMEmeL]:
    """The inserted TorchMEmeLs of a model, by the paths of their hosts."""
    found = {}
    for path, module in model.named_modules():
        if is_host(module):
            memel = module._modules["memel"]
            assert isinstance(memel, TorchMEmeL)
            found[path] = memel
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of what `torch.compile` returns."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def select(
    model: nn.Module,
    where: Any,
    memels: bool = False,
    argument: str = "where",
) -> list[Site]:
    """The sites that `where` names, in the order of the model.

    Args:
        model: Any module.
        where: As in `find`, with paths joined by ".".
        memels: As of `walk`.
        argument: What the user calls `where`.

    Raises:
        ValueError: If it, or one pattern of several, names none.
    """
    sites = walk(model, memels)
    # What `find` has returned names its module, whatever is in it.
    named = [site for site in sites if site.path == where]
    if named:
        return named
    if isinstance(where, str) and (middle := _MIDDLE.fullmatch(where)):
        return _middle(sites, int(middle[1]), argument)
    test: Callable[[Site], bool]
    if isinstance(where, str):
        pattern = where.replace(".", "/")

        def test(site: Site) -> bool:
            return patterns.matches(site.path.replace(".", "/"), pattern)
    elif isinstance(where, nn.Module):

        def test(site: Site) -> bool:
            return site.layer is where
    elif callable(where):

        def test(site: Site) -> bool:
            return bool(where(site.layer))
    elif isinstance(where, (list, tuple, set)) and where:
        # Each part must name something, or it raises.
        wanted = {
            site.path
            for part in where
            for site in select(model, part, memels, argument)
        }

        def test(site: Site) -> bool:
            return site.path in wanted
    else:
        raise ValueError(
            f"Argument `{argument}` must be a pattern of module paths, "
            "'middle:N', a module, a predicate on modules, or a list of these. "
            f"Received: {argument}={where!r} ({type(where).__name__})"
        )
    found = [site for site in sites if test(site)]
    if not found:
        near = ", ".join(map(repr, _nearest(sites, where)))
        raise ValueError(
            f"Argument `{argument}` must name at least one module of the "
            f"{type(model).__name__}; {near}. Received: {argument}={where!r}"
        )
    return found


def _nearest(sites: list[Site], where: Any) -> list[str]:
    def likeness(site: Site) -> float:
        return max(
            difflib.SequenceMatcher(None, str(where), text).ratio()
            for text in (site.path, site.path.rpartition(".")[2])
        )

    return [site.path for site in sorted(sites, key=likeness)[:-6:-1]]


def _middle(sites: list[Site], number: int, argument: str) -> list[Site]:
    best: list[Site] = []
    by_parent: dict[int, list[Site]] = {}
    for site in sites:
        by_parent.setdefault(id(site.chain[-2]), []).append(site)
    for siblings in by_parent.values():
        run: list[Site] = []
        previous = None
        for site in siblings:
            kind = _kind(site.layer)
            if not kind[1]:  # Dropout and activations do not end a run.
                continue
            run = [*run, site] if kind == previous else [site]
            previous = kind
            if len(run) > len(best):
                best = run
    if not 1 <= number <= len(best):
        ends = f" ({best[0].path} to {best[-1].path})" if best else ""
        raise ValueError(
            f"Argument `{argument}` asks for the middle of the longest run of "
            f"equal modules; its length is {len(best)}{ends}. "
            f"Received: {argument}='middle:{number}'"
        )
    start = (len(best) - number) // 2
    return best[start : start + number]


def _kind(module: nn.Module) -> tuple[type, tuple[Any, ...]]:
    return type(module), tuple(tuple(p.shape) for p in module.parameters())
