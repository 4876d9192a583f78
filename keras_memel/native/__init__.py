"""Models that are not Keras models: PyTorch modules and Flax NNX modules.

Nothing here is imported before such a model is used: Keras alone does not
need PyTorch or Flax.
"""

import sys
from typing import Any

import keras


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
    if keras.backend.backend() != "torch":
        raise ValueError(
            "Argument `model` is a PyTorch module, which needs Keras on "
            "PyTorch: set the environment variable KERAS_BACKEND=torch before "
            "Keras is imported. "
            f"Received: a {type(model).__name__} on the backend "
            f"{keras.backend.backend()!r}"
        )
    return True


def is_nnx(model: Any) -> bool:
    """Check whether a model is a Flax NNX module that is no Keras layer.

    Args:
        model: Any object.

    Raises:
        ValueError: If it is, and Keras runs on another backend, or its layers
            are no NNX modules.
    """
    nnx = sys.modules.get("flax.nnx")
    if (
        nnx is None
        or isinstance(model, keras.Layer)
        or not isinstance(model, nnx.Module)
    ):
        return False
    if keras.backend.backend() != "jax" or not keras.config.is_nnx_enabled():
        raise ValueError(
            "Argument `model` is a Flax NNX module, which needs Keras on JAX "
            "with NNX: set the environment variables KERAS_BACKEND=jax and "
            "KERAS_NNX_ENABLED=true before Keras is imported. "
            f"Received: a {type(model).__name__}"
        )
    return True
