"""Convert inputs of any framework to NumPy arrays."""

from typing import Any

import numpy as np


def as_numpy(leaf: Any) -> Any:
    """Convert to a NumPy array in the order of positions; keep a string.

    Tensors may be on a device, of dtype bfloat16 or require a gradient.
    """
    if isinstance(leaf, str):
        return leaf
    if hasattr(leaf, "to_numpy"):
        leaf = leaf.to_numpy()
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16.
        if str(leaf.dtype) == "torch.bfloat16":
            leaf = leaf.float()
    array = np.asarray(leaf)
    # The bfloat16 of JAX and TensorFlow is not a NumPy floating-point type.
    bfloat16 = array.dtype.name == "bfloat16"
    return array.astype("float32") if bfloat16 else array
