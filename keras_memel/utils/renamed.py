"""Raise errors for old names that give the new name."""

import functools
from collections.abc import Callable
from typing import Any
from typing import NoReturn
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def arguments(**names: str) -> Callable[[F], F]:
    """Decorate a function whose arguments were renamed.

    Args:
        **names: New name of each argument, by its old name.

    Example:

    >>> @arguments(features="labels")
    ... def analyze(labels=None):
    ...     return labels
    >>> analyze(features=[0, 1])
    Traceback (most recent call last):
    TypeError: analyze() has no argument `features`: it is now `labels`.
    """

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                raise TypeError(
                    f"{function.__name__}() has no argument `{old}`: "
                    f"it is now `{names[old]}`."
                )
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate


def attribute(owner: str, name: str, names: dict[str, str]) -> NoReturn:
    """Raise for an attribute that is missing or was renamed.

    Args:
        owner: Module or class without the attribute.
        name: Name of the missing attribute.
        names: Dictionary from old to new names of attributes.

    Raises:
        AttributeError: Always.
    """
    cure = f": it is now `{names[name]}`" if name in names else ""
    raise AttributeError(f"{owner} has no attribute `{name}`{cure}.")
