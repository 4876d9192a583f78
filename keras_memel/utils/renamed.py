"""Old names that raise an error with the new one."""

import functools
from collections.abc import Callable
from typing import Any
from typing import NoReturn
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def arguments(**names: str) -> Callable[[F], F]:
    """Decorate a function whose arguments were renamed.

    Args:
        **names: From the old name of an argument to the new one.

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
    """Raise for an attribute that does not exist, or has another name now.

    Args:
        owner: Module or class that was asked.
        name: Attribute that it does not have.
        names: From the old name of an attribute to the new one.

    Raises:
        AttributeError: Always.
    """
    cure = f": it is now `{names[name]}`" if name in names else ""
    raise AttributeError(f"{owner} has no attribute `{name}`{cure}.")
