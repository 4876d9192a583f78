"""Find the rows of each input in the output of a PyTorch module.

Most outputs have one row per input, along their first axis. Some modules merge
this axis with another one: a feed-forward layer of some language models with
the positions, a windowed attention with the windows. Others put another axis
first, or have no batch axis, such as a table of position embeddings. A forward
pass with a single input shows the difference.
"""

from typing import Any

import keras
import torch

from keras_memel.utils.types import Tensor


def size_of(inputs: Any) -> int:
    """Return the number of inputs of a batch."""
    return max((len(leaf) for leaf in _rows(inputs)[:1]), default=0)


def first_of(inputs: Any) -> Any:
    """Return the batch that contains the first input only."""
    size = size_of(inputs)

    def first(leaf: Any) -> Any:
        batched = torch.is_tensor(leaf) and leaf.ndim and len(leaf) == size
        return leaf[:1] if batched else leaf

    return keras.tree.map_structure(first, inputs)


def _rows(inputs: Any) -> list[Tensor]:
    leaves = keras.tree.flatten(inputs)
    return [leaf for leaf in leaves if torch.is_tensor(leaf) and leaf.ndim]


def rows_per_input(
    values: Tensor, inputs: Any, alone: Tensor | None
) -> int | None:
    """Return the number of rows of each input, or `None` if they are unclear.

    Args:
        values: Output of a module for a batch.
        inputs: The batch.
        alone: Output for the first input alone; `None` if it is unknown.
    """
    size = size_of(inputs)
    if not values.ndim:
        return None
    if size < 2 or alone is None:
        if values.ndim == 2 and any(
            leaf.ndim > 1 and len(values) == leaf.shape[0] * leaf.shape[1]
            for leaf in _rows(inputs)
        ):
            return len(values) // size if size else None
        return 1 if len(values) == size else None
    number = len(alone) if alone.ndim else 0
    if len(values) != size * number or values.shape[1:] != alone.shape[1:]:
        return None
    if number == 1:
        return 1
    # Rows of one input follow each other, unless another axis comes first.
    near = torch.isclose(
        values[:number], alone, rtol=1e-2, atol=1e-4, equal_nan=True
    )
    return number if bool(near.all()) else None


def by_input(values: Tensor, number: int, axis: Any) -> Tensor | None:
    """Give the rows of one input an axis of their own.

    Args:
        values: Output of a module, `(batch * number, ...)`.
        number: Number of rows of each input.
        axis: Axis or axes of the neurons, which the new axis does not change.

    Returns:
        Values with one row per input, or `None` if the axes of the neurons
        would change.
    """
    if number == 1:
        return values
    if not isinstance(axis, int):
        return None
    values = values.reshape(-1, number, *values.shape[1:])
    return values if axis < 0 else values.movedim(1, -1)
