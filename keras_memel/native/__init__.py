"""Models that are not Keras models: PyTorch modules and Flax NNX modules.

The files `torch_*.py` and `nnx_*.py` are imported when such a model is used:
Keras alone needs neither.

    torch_memel     the layer as a module; its state is in torch_state
    torch_step      one training step, in PyTorch's own operations
    torch_replay    calls that activation checkpointing runs again
    torch_insert    find, insert, inserted, strip; paths in torch_paths
    torch_hooks     hooks that pass outputs through it, and masks to it
    torch_masks     masks of positions, from the arguments of a model
    torch_outputs   running a model, to see what it returns
    torch_saving    save and restore
    torch_analysis  what analyze looks at
    torch_decrease  what decrease_ratio does
    torch_prompt    what prompt reads and generates

    nnx_memel       the layer as a module of Flax
    nnx_insert      find, insert, inserted, strip; paths in nnx_paths
    nnx_analysis    what analyze looks at

    outputs         which tensor of what a module returns
    site            a place in a model
"""

import sys
from typing import Any

import keras


def verbs(model: Any) -> Any:
    """The file with find, insert, inserted, strip and memels for a model.

    Args:
        model: Any object.

    Returns:
        A module; `None` for Keras models, and for what is no model.

    Raises:
        ValueError: If Keras runs on a backend that the model cannot use.
    """
    if is_torch(model):
        from keras_memel.native import torch_insert

        return torch_insert
    if is_nnx(model):
        from keras_memel.native import nnx_insert

        return nnx_insert
    return None


def is_torch(model: Any) -> bool:
    """Check whether a model is a PyTorch module that is no Keras layer.

    Args:
        model: Any object.

    Raises:
        ValueError: If it is, and Keras runs on another backend.
    """
    torch = sys.modules.get("torch")
    if (
        torch is None
        or isinstance(model, keras.Layer)
        or not isinstance(model, getattr(torch.nn, "Module", ()))
    ):
        return False
    _check_backend(model, "PyTorch module", "PyTorch", "torch")
    return True


def is_nnx(model: Any) -> bool:
    """Check whether a model is a module of Flax NNX that is no Keras layer.

    Args:
        model: Any object.

    Raises:
        ValueError: If it is, and Keras runs on another backend than JAX.
    """
    nnx = sys.modules.get("flax.nnx")
    if (
        nnx is None
        or isinstance(model, keras.Layer)
        or not isinstance(model, nnx.Module)
    ):
        return False
    _check_backend(model, "module of Flax NNX", "JAX", "jax")
    return True


def _check_backend(model: Any, kind: str, name: str, backend: str) -> None:
    if keras.backend.backend() != backend:
        raise ValueError(
            f"Argument `model` is a {kind}, which needs Keras on {name}: set "
            f"the environment variable KERAS_BACKEND={backend} before Keras "
            f"is imported. Received: a {type(model).__name__} on the backend "
            f"{keras.backend.backend()!r}"
        )
