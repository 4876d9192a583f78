"""Check the arguments of a call of `ConvGRU2D`: frames, state and mask."""

from typing import Any

from keras import ops

from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor


def check_sequences(
    sequences: Tensor, unroll: bool, batch_size: int | None
) -> None:
    """Raise if the frames cannot be scanned.

    Args:
        sequences: `(batch, time, ...)`.
        unroll: Whether the layer unrolls the time steps.
        batch_size: Batch size that a stateful layer was built with, or `None`
            for any.

    Raises:
        ValueError: If the sequences have 0 time steps, if their number is
            unknown and `unroll` is true, or if the batch size differs.
    """
    batch, time = sequences.shape[:2]
    if time == 0 or (unroll and time is None):
        raise ValueError(
            "Argument `sequences` must have at least one time step, and a "
            "known number of time steps if `unroll=True`. "
            f"Received: sequences of shape {tuple(sequences.shape)}"
        )
    if batch_size is not None and batch not in (None, batch_size):
        raise ValueError(
            "Argument `sequences` of a stateful layer must have the batch "
            f"size that the layer was built with, {batch_size}. "
            f"Received: sequences of shape {tuple(sequences.shape)}"
        )


def only_state(
    initial_state: Any, sequences: Tensor, state_shape: Shape
) -> Tensor:
    """Return the initial state, which may be the only element of a list.

    Raises:
        ValueError: If the list does not have exactly one state, or the shape of
            the state is not `(batch, *state_shape)`.
    """
    states = initial_state
    if not isinstance(states, (list, tuple)):
        states = [states]
    shapes = [tuple(ops.convert_to_tensor(s).shape) for s in states]
    wanted = (sequences.shape[0], *state_shape)
    if len(shapes) != 1 or not _fits(shapes[0], wanted):
        raise ValueError(
            f"Argument `initial_state` must be one state of shape {wanted}."
            f" Received: initial_state of shapes {shapes}"
        )
    return states[0]


def time_mask(mask: Tensor | None, sequences: Tensor) -> Tensor | None:
    """Return the mask as `(time, batch, 1, 1, 1)`."""
    if mask is None:
        return None
    shape, wanted = tuple(mask.shape), tuple(sequences.shape)
    if not 2 <= len(shape) <= 5 or not _fits(shape, wanted[: len(shape)]):
        raise ValueError(
            "Argument `mask` must have the leading dimensions of `sequences`, "
            "at least batch and time. "
            f"Received: mask of shape {shape} for sequences of shape {wanted}"
        )
    mask = ops.swapaxes(any_part(mask), 0, 1)
    return ops.reshape(mask, (*ops.shape(mask), 1, 1, 1))


def any_part(mask: Tensor) -> Tensor:
    """Return the mask as `(batch, time)`: true if any part of a step counts."""
    mask = ops.cast(mask, "bool")
    axes = tuple(range(2, len(mask.shape)))
    return ops.any(mask, axis=axes) if axes else mask


def _fits(shape: Shape, wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(
        s == w or None in (s, w) for s, w in zip(shape, wanted)
    )
