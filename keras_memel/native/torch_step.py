"""Compute one training step of MEmeL in plain PyTorch.

The formulas are those of `core/`, in PyTorch's own operations: on the small
tensors of the statistics an operation of `keras.ops` takes five times as long.
The passes over the values are those of `kernels/torch.py`, so that the results
equal those of the Keras layer.

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

import math
from typing import Any

import torch

from keras_memel.core.moments import History
from keras_memel.core.moments import Moments
from keras_memel.core.moments import add_compensated
from keras_memel.core.scores import TINY
from keras_memel.core.selection import Selection
from keras_memel.core.selections import Random
from keras_memel.core.selections import RandomK
from keras_memel.core.selections import Rate
from keras_memel.kernels import torch as kernels
from keras_memel.utils.types import Tensor


def batch_moments(
    values: Tensor,
    axes: tuple[int, ...],
    history: History,
    valid: Tensor | None,
) -> Moments:
    """Compute `core.moments.batch_moments` of one batch.

    Without a mask `count` is one number, expanded to all neurons.
    """
    if valid is None:
        number = math.prod([values.shape[axis] for axis in axes])
        count = history.count.new_full((), float(number))
    else:
        count = valid.to(torch.float32).sum(axes, keepdim=True)
        for axis in axes:
            if valid.shape[axis] == 1:
                count = count * values.shape[axis]
    shift = history.mean
    known = history.count > 0
    if not is_everywhere(known):
        near = _near(values, axes, count, valid)
        shift = torch.where(known, shift, near)
    first, second = kernels.sums(values, shift, axes, valid)
    divisor = count.clamp(min=1.0)
    offset = first / divisor
    variance = second / divisor - offset * offset
    return Moments(
        count.expand(shift.shape),
        torch.where(count > 0, shift + offset, 0.0),
        variance.clamp(min=0.0),
    )


def _near(
    values: Tensor,
    axes: tuple[int, ...],
    count: Tensor,
    valid: Tensor | None,
) -> Tensor:
    """Compute a number near the values of each neuron without its history."""
    if valid is not None:
        counted = torch.where(valid, values.to(torch.float32), 0.0)
        return counted.sum(axes, keepdim=True) / count.clamp(min=1.0)
    for axis in axes:
        values = values.narrow(axis, 0, min(1, values.shape[axis]))
    return values.to(torch.float32).sum(axes, keepdim=True)


def is_everywhere(condition: Tensor) -> bool:
    """Check whether a condition holds everywhere, if the check is fast.

    The result is false on an accelerator, which would have to finish its work
    first, and in a graph, which cannot depend on it.
    """
    return (
        not torch.compiler.is_compiling()
        and condition.device.type == "cpu"
        and bool(condition.all())
    )


def pool(history: History, batch: Moments, forget_steps: int | None) -> History:
    """Compute `core.moments.pool`."""
    m, b, low = history.count, batch.count, history.low
    step = batch.mean - history.mean
    if forget_steps is None:
        step = step - low.mean
    else:
        m = torch.minimum(m, forget_steps * b)
    both = m + b
    weight = b / both.clamp(min=1.0)
    freedom = (both - 1.0).clamp(min=1.0)
    spread = m * weight * step * step + b * batch.variance
    variance = (spread + (m - 1.0).clamp(min=0.0) * history.variance) / freedom
    mean_low, variance_low = low.mean, low.variance
    if forget_steps is None:
        mean, mean_low = add_compensated(history.mean, mean_low, weight * step)
        change = (spread - b * history.variance) / freedom
        changed = add_compensated(history.variance, variance_low, change)
        settled = m > b
        variance = torch.where(settled, changed[0], variance)
        variance_low = torch.where(settled, changed[1], 0.0)
    else:
        mean = history.mean + weight * step
    count, count_low = add_compensated(history.count, low.count, b)
    # One comparison replaces `torch.isfinite`, which runs five operations per
    # tensor.
    largest = torch.maximum(mean.abs(), variance.abs())
    usable = (b > 0) & (largest < math.inf)
    if not is_everywhere(usable):
        count = torch.where(usable, count, history.count)
        count_low = torch.where(usable, count_low, low.count)
        mean = torch.where(usable, mean, history.mean)
        variance = torch.where(usable, variance, history.variance)
        if forget_steps is None:
            mean_low = torch.where(usable, mean_low, low.mean)
            variance_low = torch.where(usable, variance_low, low.variance)
    return History(
        count, mean, variance, Moments(count_low, mean_low, variance_low)
    )


def inverse_variance(variance: Tensor, epsilon: float, where: Tensor) -> Tensor:
    """Compute `core.scores.inverse_variance`."""
    whole = is_everywhere(where)
    if whole:
        number = variance.new_full((), float(where.numel()))
        total = variance.sum()
    else:
        number = where.to(torch.float32).sum().clamp(min=1.0)
        total = torch.where(where, variance, 0.0).sum()
    denominator = variance + epsilon * (total / number)
    denominator = torch.where(denominator > TINY, denominator, math.inf)
    if not whole:
        denominator = torch.where(where, denominator, math.nan)
    return denominator.reciprocal()


def select(
    selection: Selection,
    values: Tensor,
    mean: Tensor,
    scale: Tensor,
    valid: Tensor | None,
    arguments: dict[str, Any],
) -> Tensor:
    """Apply a selection; return booleans with the shape of the values."""

    def chosen(values: Tensor, valid: Tensor | None) -> Tensor:
        scores = kernels.score(values, mean, scale, valid)
        selected: Tensor = selection(scores, **arguments)
        selected = selected.to(torch.bool)
        if not selection.skips_negative:
            selected = selected & (scores >= 0)
        return selected

    if selection.by_sample:
        selected: Tensor = kernels.by_sample(chosen, values, valid)
        return selected
    return chosen(values, valid)


def updated(
    selection: Selection, share: Tensor, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Compute `selection.update`."""
    if type(selection) is not Rate:
        return selection.update(share, **state)
    nudge = selection.gain * (share / selection.rate - 1.0)
    threshold = state["threshold"] * nudge.clamp(max=2.0).exp()
    return {"threshold": threshold.clamp(min=selection.lowest)}


# ---------------------------------------------------------------------------
# Many processes


def replicas(group: Any) -> int:
    """Return the number of processes that share the statistics."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size(group))
    return 1


def total(group: Any, *numbers: Tensor) -> list[Tensor]:
    """Sum each number over the processes in float64, with one message."""
    flat = [number.detach().double().reshape(-1) for number in numbers]
    packed = torch.cat(flat)
    torch.distributed.all_reduce(packed, group=group)
    parts = packed.split([part.numel() for part in flat])
    return [part.reshape(number.shape) for part, number in zip(parts, numbers)]


def merge(
    group: Any, batch: Moments, *numbers: Tensor
) -> tuple[Moments, list[Tensor]]:
    """Compute `core.sync.merge`."""
    if replicas(group) == 1:
        return batch, list(numbers)
    count, mean, variance = (part.double() for part in batch)
    second = count * (variance + mean * mean)
    count, first, second, *sums = total(
        group, count, count * mean, second, *numbers
    )
    divisor = count.clamp(min=1.0)
    mean = first / divisor
    variance = second / divisor - mean * mean
    variance = torch.where(variance < 0, 0.0, variance)
    return Moments(count.float(), mean.float(), variance.float()), [
        part.float() for part in sums
    ]


class InGraph:
    """Select as `Random` or `RandomK` do, with the generator of PyTorch."""

    random = True
    by_sample = False

    def __init__(self, selection: Random | RandomK):
        self._own = selection
        self.skips_negative = selection.skips_negative

    def __call__(self, score: Tensor) -> Tensor:
        drawn = torch.rand_like(score)
        if isinstance(self._own, Random):
            return drawn < self._own.rate
        flat = torch.where(score > 0, drawn, -1.0).flatten(1)
        places = flat.topk(self._own.k).indices
        chosen = torch.zeros_like(flat, dtype=torch.bool)
        chosen = chosen.scatter(1, places, True).reshape(score.shape)
        return chosen & (score > 0)
