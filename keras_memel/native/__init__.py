"""Models that are not Keras models: PyTorch modules.

The files `torch_*.py` are imported when such a model is used: Keras alone does
not need PyTorch.

    torch_memel     the layer as a module; its state is in torch_state
    torch_step      one training step, in PyTorch's own operations
    torch_replay    calls that activation checkpointing runs again
    torch_insert    find, insert, inserted, strip; paths in torch_paths
    torch_hooks     hooks that pass outputs through it, and masks to it
    torch_masks     masks of positions, from the arguments of a model
    torch_outputs   which tensor of what a module returns; running a model
    torch_saving    save and restore
    torch_analysis  what analyze looks at
    torch_decrease  what decrease_ratio does
    torch_prompt    what prompt reads and generates
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
