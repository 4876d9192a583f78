"""The callbacks around a callback: those before it, and the progress bar."""

import contextlib
import inspect
from collections.abc import Callable
from collections.abc import Collection
from typing import Any

import keras

# Loggers of Keras, and modules of those of others.
_LOGGERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
)
_MODULES = ("wandb", "mlflow", "neptune", "comet_ml", "clearml", "aim")


def others(callback: keras.callbacks.Callback) -> list[Any]:
    """Find all callbacks of the training that calls a callback.

    Keras gives a callback no reference to the others, so that they are taken
    from the `CallbackList` that is calling.

    Args:
        callback: The callback, during one of its methods.

    Returns:
        The callbacks in the order of their calls; empty if something else than
        a `CallbackList` is calling.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList) and any(
            one is callback for one in caller.callbacks
        ):
            return list(caller.callbacks)
        frame = frame.f_back
    return []


def before(
    callback: keras.callbacks.Callback,
    callbacks: list[Any],
    layers: Collection[str],
) -> list[str]:
    """Name the callbacks that miss what a callback adds to the logs.

    Args:
        callback: The callback.
        callbacks: All callbacks in the order of their calls.
        layers: What the names of the numbers start with.

    Returns:
        The class names of loggers, and of callbacks that monitor one of the
        numbers, that are called before it.
    """
    found = []
    for other in callbacks:
        if other is callback:
            break
        monitored = getattr(other, "monitor", None)
        if (
            isinstance(other, _LOGGERS)
            or type(other).__module__.split(".")[0] in _MODULES
            or (
                isinstance(monitored, str)
                and monitored.rpartition("/")[0] in layers
            )
        ):
            found.append(type(other).__name__)
    return found


def keep_off(
    callbacks: list[Any],
    names: Collection[str],
    undo: contextlib.ExitStack,
) -> None:
    """Keep numbers off the progress bar.

    Args:
        callbacks: The callbacks of a training.
        names: The names of the numbers, read at each call.
        undo: Gets what makes the progress bar show them again.
    """
    for bar in callbacks:
        if not isinstance(bar, keras.callbacks.ProgbarLogger):
            continue
        for method in ("on_train_batch_end", "on_epoch_end"):
            vars(bar)[method] = _without(getattr(bar, method), names)
            undo.callback(vars(bar).pop, method, None)


def _without(
    method: Callable[..., None], names: Collection[str]
) -> Callable[..., None]:
    def show(index: int, logs: dict[str, Any] | None = None) -> None:
        kept = {k: v for k, v in (logs or {}).items() if k not in names}
        method(index, kept)

    return show
