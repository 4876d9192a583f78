"""Let a Sequential be a host: hide its MEmeL from what it runs and counts.

A Sequential calls, counts and slices all of its submodules, so that an inserted
MEmeL would become its last part. While it is a host, it is therefore of a
subclass that is created from its own class, as `torch.nn.utils.parametrize` and
`fully_shard` do. For all else the MEmeL is a submodule: `state_dict`,
`children`, `to` and `train` find it as in other hosts. `children` must, because
`checkpoint_sequential` runs the children and never calls the Sequential.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import nn

_PLAIN = "_memel_plain"


def hide(module: nn.Module) -> None:
    """Hide the MEmeL of a host from its own iteration, if it iterates."""
    if isinstance(module, nn.Sequential):
        module.__class__ = _hiding(plain(type(module)))


def unhide(module: nn.Module) -> None:
    """Give a module its own class back."""
    # A class that another library has created on top of this one stays: it
    # hides nothing once the MEmeL is gone.
    if _PLAIN in vars(type(module)):
        module.__class__ = plain(type(module))


def plain(cls: Any) -> Any:
    """Return the class that a module had before `hide`."""
    return getattr(cls, _PLAIN, cls)


@functools.cache
def _hiding(cls: type) -> type:
    # The overrides of a subclass come before those of this file, and use them
    # in place of those of `nn.Sequential`.
    bases = (_Hiding,) if cls is nn.Sequential else (cls, _Hiding)
    names = {name: getattr(cls, name) for name in ("__module__", "__doc__")}
    names |= {"__qualname__": cls.__qualname__, _PLAIN: cls}
    return type(cls.__name__, bases, names)


def _new(cls: type, *args: Any) -> Any:
    hiding: Any = _hiding(cls)
    return hiding.__new__(hiding, *args)


class _Hiding(nn.Sequential):
    """A Sequential whose MEmeL is not one of its parts."""

    def _parts(self) -> dict[str, Any]:
        return {k: v for k, v in self._modules.items() if k != "memel"}

    @contextlib.contextmanager
    def _only_parts(self) -> Iterator[None]:
        memel = self._modules.pop("memel", None)
        try:
            yield
        finally:
            # It stays the last child, for `checkpoint_sequential`.
            if memel is not None:
                self._modules["memel"] = memel

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts().values())

    def __len__(self) -> int:
        return len(self._parts())

    def __getitem__(self, idx: Any) -> Any:
        parts = self._parts()
        if isinstance(idx, slice):
            items = OrderedDict(list(parts.items())[idx])
            return plain(type(self))(items)
        return self._get_item_by_idx(iter(parts.values()), idx)

    def __setitem__(self, idx: Any, module: Any) -> None:
        with self._only_parts():
            super().__setitem__(idx, module)

    def __delitem__(self, idx: Any) -> None:
        with self._only_parts():
            super().__delitem__(idx)

    def __iadd__(self, other: Any) -> Any:
        with self._only_parts():
            return super().__iadd__(other)

    def __imul__(self, other: int) -> Any:
        with self._only_parts():
            return super().__imul__(other)

    def append(self, module: Any) -> Any:
        with self._only_parts():
            return super().append(module)

    def insert(self, index: int, module: Any) -> Any:
        with self._only_parts():
            return super().insert(index, module)

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class itself cannot be found by its name.
        reduced = super().__reduce_ex__(max(int(protocol), 2))
        if _PLAIN not in vars(type(self)) or isinstance(reduced, str):
            return reduced
        _, args, *state = reduced
        if not args or args[0] is not type(self):
            return reduced
        return (_new, (plain(args[0]), *args[1:]), *state)
