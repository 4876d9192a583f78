"""Look up selections and inhibitions, and convert them to configs and text."""

import inspect
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any
from typing import TypeVar

import keras

T = TypeVar("T")


def get(
    identifier: Any,
    argument: str,
    kind: type[T],
    names: Mapping[str, Callable[[], T]],
) -> T:
    """Return a `kind`, given its name, class, config or itself."""
    found: Any = identifier
    if isinstance(identifier, str) and identifier in names:
        found = names[identifier]()
    elif isinstance(identifier, dict):
        found = keras.saving.deserialize_keras_object(identifier)
    elif inspect.isclass(identifier) and issubclass(identifier, kind):
        found = identifier()
    if isinstance(found, kind):
        return found
    raise ValueError(
        f"Argument `{argument}` must be one of {sorted(names)}, a "
        f"`{kind.__name__}`, or the config of one. "
        f"Received: {argument}={identifier!r} ({type(identifier).__name__})"
    )


def serialize(found: Any) -> dict[str, Any]:
    """Return the config from which `get` makes the object again."""
    config: dict[str, Any] = keras.saving.serialize_keras_object(found)
    return config


def drop_promises(cls: type, method: str, promises: tuple[str, ...]) -> None:
    """Unset the inherited promises of a class about a method it overrides.

    A base class may promise a property of its method, which the layer uses to
    save work. The method of a subclass need not have this property.
    """
    if method in vars(cls):
        for promise in promises:
            if promise not in vars(cls):
                setattr(cls, promise, False)


def default_config(found: Any, kind: type) -> dict[str, Any]:
    """Return the config of a class without constructor arguments.

    The base class `kind` uses this as its `get_config`.

    Raises:
        NotImplementedError: If the constructor has arguments and the class
            inherits `get_config` from `kind`: the arguments would be lost. A
            `get_config` that extends this config does not raise.
    """
    cls = type(found)
    inherited = cls.get_config is kind.get_config  # type: ignore[attr-defined]
    if inherited and cls.__init__ is not object.__init__:
        _, *arguments = inspect.signature(cls.__init__).parameters
        if arguments:
            raise NotImplementedError(
                f"{cls.__name__} must override `get_config()`, since its "
                "`__init__()` has arguments, which a copy or a file would "
                f"lose. Received: arguments {arguments}"
            )
    return {}


def represent(found: Any) -> str:
    """Return the code that makes the object, such as `TopK(k=1)`."""
    try:
        config = found.get_config()
    except NotImplementedError:  # A representation must not raise.
        return f"{type(found).__name__}(...)"
    inside = ", ".join(f"{name}={value!r}" for name, value in config.items())
    return f"{type(found).__name__}({inside})"
