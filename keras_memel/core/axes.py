"""Find the axes that index neurons, and expand masks to the inputs."""

import numbers
from typing import Any

from keras import ops

from keras_memel.utils.types import Tensor


def check(axis: Any) -> int | tuple[int, ...] | None:
    """Return a valid argument `axis` in its simplest form, or raise."""
    if axis is None:
        return None
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    whole = all(
        isinstance(a, numbers.Integral) and not isinstance(a, bool)
        for a in axes
    )
    if not axes or not whole:
        raise ValueError(
            "Argument `axis` must be None, an integer, or a tuple of integers. "
            f"Received: axis={axis!r} ({type(axis).__name__})"
        )
    return tuple(map(int, axes)) if len(axes) > 1 else int(axes[0])


def of_neurons(
    axis: int | tuple[int, ...] | None, rank: int
) -> tuple[int, ...]:
    """Return the axes that index the neurons, positive and sorted."""
    if axis is None:
        return tuple(range(1, rank))
    axes = axis if isinstance(axis, tuple) else (axis,)
    positive = sorted(a + rank if a < 0 else a for a in axes)
    if positive[0] < 1 or positive[-1] >= rank:
        raise ValueError(
            f"Argument `axis` must name axes of the inputs other than the "
            f"batch axis: 1 to {rank - 1} or {1 - rank} to -1 for inputs of "
            f"rank {rank}. Received: axis={axis}"
        )
    if len(set(positive)) < len(positive):
        raise ValueError(
            "Argument `axis` must name each axis once. "
            f"Received: axis={axis} for inputs of rank {rank}"
        )
    return tuple(positive)


def expand_mask(mask: Tensor | None, inputs: Tensor) -> Tensor | None:
    """Add the trailing axes that a Keras mask lacks to match the inputs."""
    if mask is None:
        return None
    mask = ops.cast(mask, "bool")
    shape, expected = tuple(mask.shape), tuple(inputs.shape)
    fits = 1 <= len(shape) <= len(expected) and all(
        m in (e, None) or e is None for m, e in zip(shape, expected)
    )
    if not fits:
        raise ValueError(
            "Argument `mask` must have the leading dimensions of the inputs. "
            f"Received: mask of shape {shape} for inputs of shape {expected}"
        )
    for _ in range(len(expected) - len(shape)):
        mask = ops.expand_dims(mask, -1)
    return mask
