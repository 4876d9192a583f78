"""Select one array from the outputs of a PyTorch or Flax module."""

import copy
from typing import Any

from keras import ops

from keras_memel.utils.types import Tensor


def select(outputs: Any, output: Any) -> tuple[Tensor, Any]:
    """Select one tensor from the outputs of a module.

    Args:
        outputs: A tensor, or a tuple, list or mapping that contains it.
        output: Index or key of the tensor; `None` selects the first.

    Returns:
        The tensor, and its index or key, which is `None` if the output is a
        single tensor.

    Raises:
        ValueError: If `outputs` contains no such tensor.
    """
    if ops.is_tensor(outputs):
        # Some modules return a tuple of one in one release of their library
        # and a tensor in another.
        if output in (None, 0):
            return outputs, None
    elif isinstance(outputs, (tuple, list)):
        index = 0 if output is None else output
        number = len(outputs)
        inside = isinstance(index, int) and -number <= index < number
        if inside and ops.is_tensor(outputs[index]):
            return outputs[index], index
    elif hasattr(outputs, "keys"):
        keys = list(outputs.keys())
        key = 0 if output is None else output
        if isinstance(key, int) and -len(keys) <= key < len(keys):
            key = keys[key]
        if key in keys and ops.is_tensor(outputs[key]):
            return outputs[key], key
    raise ValueError(
        "Argument `output` must be the index or key of a tensor that the "
        "module returns. "
        f"Received: output={output!r} for a {type(outputs).__name__}"
    )


def replace(outputs: Any, place: Any, values: Tensor) -> Any:
    """Replace one tensor in the outputs of a module.

    Args:
        outputs: As in `select`. They are not changed.
        place: Index or key that `select` returned.
        values: New tensor.
    """
    if place is None:
        return values
    if isinstance(outputs, tuple):
        place %= len(outputs)
        parts = (*outputs[:place], values, *outputs[place + 1 :])
        named = hasattr(outputs, "_fields")
        return type(outputs)(*parts) if named else parts
    made = copy.copy(outputs)
    made[place] = values
    return made


def call(model: Any, inputs: Any) -> Any:
    """Call a model on a batch: a mapping of arguments, a tuple, or a tensor."""
    if hasattr(inputs, "keys"):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)
