"""Record the code, versions and device that a result may depend on."""

import contextlib
import functools
import importlib
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_memel.utils.version import __version__


def folder_of(train: Callable[..., Any]) -> str:
    """Return the folder of the code of `train`, for its git revision."""
    while isinstance(train, functools.partial):
        train = train.func
    # A callable object may lack `__module__`, but its class has one.
    module = getattr(train, "__module__", type(train).__module__)
    file = getattr(sys.modules.get(module), "__file__", None)
    folder = pathlib.Path(file).parent if file else pathlib.Path()
    return str(folder.absolute() if folder.is_dir() else pathlib.Path.cwd())


@functools.cache
def environment_of(folder: str) -> dict[str, Any]:
    """Describe the environment of a run: backend, device, versions, code."""
    backend = keras.backend.backend()
    modules = (keras, importlib.import_module(backend), np)
    environment: dict[str, Any] = {
        "backend": backend,
        # The default device, on which the backend creates an array.
        "device": str(keras.ops.zeros(()).device),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            "keras_memel": __version__,
        }
        | {module.__name__: module.__version__ for module in modules},
    }
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"]
            + ["--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        environment["revision"] = asked.stdout.strip()
    return environment
