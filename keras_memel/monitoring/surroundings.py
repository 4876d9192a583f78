"""Find the callbacks around a callback, and adapt the progress bar."""

import contextlib
import inspect
from collections.abc import Callable
from collections.abc import Collection
from typing import Any

import keras

# Loggers of Keras, and modules of other loggers.
_LOGGERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.TensorBoard,
    keras.callbacks.RemoteMonitor,
)
_MODULES = ("wandb", "mlflow", "neptune", "comet_ml", "clearml", "aim")


def others(callback: keras.callbacks.Callback) -> list[Any]:
    """Find all callbacks of the training that calls a callback.

    A callback of Keras has no reference to the others. They are read from the
    calling `CallbackList`.

    Args:
        callback: The callback, during one of its methods.

    Returns:
        The callbacks in the order of their calls; empty if the caller is not a
        `CallbackList`.
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
    """Name the callbacks that miss the numbers that a callback logs.

    Args:
        callback: The callback that adds the numbers.
        callbacks: All callbacks in the order of their calls.
        layers: Paths of the layers, with which the names of the numbers start.

    Returns:
        Class names of the loggers, and of the callbacks that monitor one of
        the numbers, that are called before it.
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
        callbacks: Callbacks of a training.
        names: Names of the numbers, read at each call.
        undo: Stack that receives the functions to restore the progress bar.
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
