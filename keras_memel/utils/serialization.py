"""Selections and inhibitions: look-up by name, configs, representation."""

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
    """Find a `kind` by name, class, config or itself, as `initializers.get`."""
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
    """The config that `get` turns back into the object."""
    config: dict[str, Any] = keras.saving.serialize_keras_object(found)
    return config


def drop_promises(cls: type, method: str, promises: tuple[str, ...]) -> None:
    """Unset what a class says of a method that it overrides.

    A base class may promise something of its method, and the layer takes a
    shorter way for it. A subclass with a method of its own has promised
    nothing yet.
    """
    if method in vars(cls):
        for promise in promises:
            if promise not in vars(cls):
                setattr(cls, promise, False)


def default_config(found: Any, kind: type) -> dict[str, Any]:
    """`get_config` of the base class `kind`: that of no arguments.

    Raises:
        NotImplementedError: If the constructor takes arguments and the class
            leaves `get_config` to `kind`: the object would come back with
            their defaults. One that adds to this config may have it.
    """
    cls = type(found)
    inherited = cls.get_config is kind.get_config  # type: ignore[attr-defined]
    if inherited and cls.__init__ is not object.__init__:
        _, *arguments = inspect.signature(cls.__init__).parameters
        if arguments:
            raise NotImplementedError(
                f"{cls.__name__} must override `get_config()`, since its "
                "`__init__()` takes arguments: it cannot be copied or saved "
                f"without. Received: arguments {arguments}"
            )
    return {}


def represent(found: Any) -> str:
    """What one would type to make the object: `TopK(k=1)`."""
    try:
        config = found.get_config()
    except NotImplementedError:  # A text must not fail for want of a config.
        return f"{type(found).__name__}(...)"
    inside = ", ".join(f"{name}={value!r}" for name, value in config.items())
    return f"{type(found).__name__}({inside})"
