"""Models that are not Keras models: PyTorch modules and Flax NNX modules.

The files `torch_*.py` and `nnx_*.py` are imported when such a model is used.
Keras models need neither.

    torch_memel     the layer as a module; its state is in torch_state
    torch_step      one training step in PyTorch's own operations
    torch_replay    calls that activation checkpointing runs again
    torch_insert    find, insert, inserted, strip; paths in torch_paths
    torch_hooks     hooks that pass outputs and masks to the module
    torch_masks     masks of positions, from the arguments of a model
    torch_outputs   runs of a model that collect its outputs
    torch_saving    save and restore
    torch_analysis  the model as a subject of analyze
    torch_decrease  the model as a subject of decrease_ratio
    torch_prompt    inputs and generated tokens for prompt

    nnx_memel       the layer as a module of Flax
    nnx_insert      find, insert, inserted, strip; paths in nnx_paths
    nnx_analysis    the model as a subject of analyze

    outputs         selection of one tensor from the outputs of a module
    site            a place in a model
"""

import sys
from typing import Any

import keras


def verbs(model: Any) -> Any:
    """Return the file with find, insert, inserted, strip, memels for a model.

    Args:
        model: Any object.

    Returns:
        A Python module; `None` for a Keras model and for any other object.

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
    """Check whether a model is a PyTorch module but not a Keras layer.

    Args:
        model: Any object.

    Raises:
        ValueError: If it is, but Keras runs on another backend.
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
    """Check whether a model is a Flax NNX module but not a Keras layer.

    Args:
        model: Any object.

    Raises:
        ValueError: If it is, but Keras runs on another backend than JAX.
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
            f"Argument `model` is a {kind}, which needs Keras on {name}. Set "
            f"the environment variable KERAS_BACKEND={backend} before you "
            f"import Keras. Received: a {type(model).__name__} on the backend "
            f"{keras.backend.backend()!r}"
        )
