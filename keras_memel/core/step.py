"""Step of a MEmeL as a pure function, which specifies the layer.

    (values, state, mask, settings) -> (outputs, loss, new state)

A step has four pure stages. With `score_with="history"` the selection precedes
the update of the statistics; with "current" it follows the update:

    values --moments--> statistics --scores--> phi --selections--> mask
    values + mask + statistics --inhibitions--> outputs

`layers/memel.py` stores the state in weights and calls `step`. A scan over time
(`layers/scan_memel.py`) calls the same parts at other times: `replace` at each
time step, and `learn` once after the last one.

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from functools import partial
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_memel import kernels
from keras_memel.core import sync
from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.moments import History
from keras_memel.core.moments import Moments
from keras_memel.core.moments import Sums
from keras_memel.core.moments import add_compensated
from keras_memel.core.moments import batch_moments
from keras_memel.core.moments import pool
from keras_memel.core.scores import inverse_variance
from keras_memel.core.selection import Selection
from keras_memel.utils.types import Tensor

# Distance between the seeds that a selection draws within one time step of a
# scan. A scan adds 1 per time step, and no two time steps may share a seed.
WITHIN_A_SCAN = 7919


class LayerState(NamedTuple):
    """State of a layer between two steps.

    Attributes:
        history: Statistics of every neuron, broadcastable to the values.
        steps: Number of training steps, integer scalar.
        inhibited_rate: Fraction of the values selected in the last training
            step, scalar.
        skipped_updates: Number of updates skipped because of non-finite
            values, summed over the neurons: a high and a low part, scalars.
        selection: State of the selection, by name.
        seed: State of the random numbers, or `None` for a selection without.
    """

    history: History
    steps: Tensor
    inhibited_rate: Tensor
    skipped_updates: tuple[Tensor, Tensor]
    selection: dict[str, Tensor]
    seed: Tensor | None


class Inhibited(NamedTuple):
    """Result of a selection and an inhibition.

    Attributes:
        outputs: Values for the next layer.
        number: Number of values selected on this replica.
        loss: Scalar to add to the loss, or `None`.
        seed: State of the random numbers after the draws.
    """

    outputs: Tensor
    number: Tensor
    loss: Tensor | None
    seed: Tensor | None


@dataclass(eq=False)
class Settings:
    """Settings of a layer, which are the same in every step.

    Args:
        selection: Rule that selects values.
        inhibition: Treatment of selected values.
        sample_axes: Axes over which the values of a neuron are pooled.
        forget_steps: `n_f`, or `None` to pool exactly.
        late_start: `l_s`.
        epsilon: Fraction of the mean variance that is added to each variance.
        score_with: `"history"` or `"current"`.
        process_group: Group of the processes that share a batch, on PyTorch.
    """

    selection: Selection
    inhibition: Inhibition
    sample_axes: tuple[int, ...]
    forget_steps: int | None = 10
    late_start: int = 10
    epsilon: float = 0.01
    score_with: str = "history"
    process_group: Any = None
    # Functions that make passes over the values, compiled where this is faster.
    measure: Callable[..., Moments] = field(init=False)
    inhibit: Callable[..., Any] = field(init=False)
    replace: Callable[..., Any] = field(init=False)
    add_to: Callable[..., Sums] = field(init=False)

    def __post_init__(self) -> None:
        self.measure = kernels.fused(partial(_measure, self.sample_axes))
        self.add_to = kernels.fused(partial(_add_to, self.sample_axes))
        rules = self.selection, self.inhibition
        # Do not compile random draws: XLA draws other numbers than TensorFlow.
        fused = (lambda f: f) if self.selection.random else kernels.fused
        self.inhibit = fused(partial(_inhibit, *rules, self.epsilon))
        self.replace = fused(partial(_replace, *rules))


def step(
    values: Tensor,
    state: LayerState,
    mask: Tensor | None,
    settings: Settings,
    learning: bool = True,
) -> tuple[Tensor, Tensor | None, LayerState]:
    """Detect and inhibit monosemantic values, and update the statistics.

    Args:
        values: Activations `(batch, ..., neurons)`.
        state: State before the step.
        mask: `None`, or booleans of the rank of `values`, broadcastable to
            them: true where a value counts.
        settings: Settings of the layer.
        learning: Whether this is a training step. At inference the statistics
            do not change.

    Returns:
        Outputs, a scalar to add to the loss (or `None`), and the new state.
    """
    statistics: History = state.history
    pooled = None
    if learning:
        batch = settings.measure(values, statistics.moments, mask)
        if settings.score_with == "current":
            (batch,) = sync.merge(batch, group=settings.process_group)
            pooled = pool(state.history, batch, settings.forget_steps)
            statistics = pooled
    ready = is_ready(statistics, state.steps, settings)
    found = _drawing(
        settings.inhibit,
        settings,
        state,
        values,
        statistics.moments,
        ready,
        mask,
    )
    if not learning:
        return found.outputs, None, state._replace(seed=found.seed)
    loss, state = learn(state, batch, ready, found, settings, pooled)
    return found.outputs, loss, state


def is_ready(statistics: History, steps: Tensor, settings: Settings) -> Tensor:
    """Return whether each neuron may be inhibited."""
    return (statistics.count > 0) & (steps >= settings.late_start)


def learn(
    state: LayerState,
    batch: Moments,
    ready: Tensor,
    found: Inhibited,
    settings: Settings,
    pooled: History | None = None,
) -> tuple[Tensor | None, LayerState]:
    """Compute the loss and the state after a training step.

    Args:
        state: State before the step.
        batch: Moments of the values on this replica, or on all replicas if
            `pooled` is passed.
        ready: Booleans, true for neurons that could be inhibited.
        found: Result of the inhibition.
        settings: Settings of the layer.
        pooled: Moments of history and batch, if they are already computed.
    """
    group, number = settings.process_group, found.number
    if pooled is None:
        batch, total = sync.merge(batch, number, group=group)
        pooled = pool(state.history, batch, settings.forget_steps)
    else:
        (total,) = sync.total(number, group=group)
    loss = found.loss
    if loss is not None and settings.inhibition.loss_is_mean:
        loss = sync.weighted(loss, number, total, group=group)

    values = ops.sum(batch.count)
    could = ops.sum(kernels.where(ready, batch.count, 0.0))
    share = total / kernels.at_least(could, 1.0)
    updated = settings.selection.update(share, **state.selection)
    bad = ops.logical_not(kernels.isfinite(batch.mean + batch.variance))
    return loss, LayerState(
        history=pooled,
        steps=kernels.after(state.steps + 1, number),
        inhibited_rate=kernels.where(
            values > 0,
            total / kernels.at_least(values, 1.0),
            state.inhibited_rate,
        ),
        skipped_updates=add_compensated(
            *state.skipped_updates, kernels.count(bad)
        ),
        selection={
            key: kernels.where(could > 0, value, state.selection[key])
            for key, value in updated.items()
        },
        seed=found.seed,
    )


def replace(
    values: Tensor,
    mean: Tensor,
    scale: Tensor,
    mask: Tensor | None,
    state: LayerState,
    settings: Settings,
) -> Inhibited:
    """Select and inhibit values, given the `inverse_variance` of neurons."""
    return _drawing(
        settings.replace,
        settings,
        state,
        values,
        mean,
        scale,
        mask,
        stride=WITHIN_A_SCAN,
    )


class Draws(keras.random.SeedGenerator):
    """Generator of seeds that does not assign to a variable.

    Args:
        state: State of a `keras.random.SeedGenerator`.
        stride: Distance between the seeds of two draws.
    """

    def __init__(self, state: Tensor, stride: int = 1):
        self._first, self._stride, self._drawn = state, stride, 0

    def next(self, ordered: bool = True) -> Tensor:
        """Return the seed of the next draw."""
        seed = self.now
        self._drawn += 1
        return seed

    @property
    def now(self) -> Tensor:
        """State after the draws so far."""
        moved = np.array([0, self._stride * self._drawn])
        dtype = keras.backend.standardize_dtype(self._first.dtype)
        return self._first + ops.convert_to_tensor(moved, dtype)


def _drawing(
    rule: Callable[..., Any],
    settings: Settings,
    state: LayerState,
    *tensors: Any,
    stride: int = 1,
) -> Inhibited:
    """Call `rule` with tensors and the arguments of the selection."""
    arguments, draws = dict(state.selection), None
    if settings.selection.random:
        arguments["seed"] = draws = Draws(state.seed, stride)
    outputs, number, loss = rule(*tensors, arguments)
    seed = kernels.after(draws.now, number) if draws else None
    return Inhibited(outputs, number, loss, seed)


def _measure(
    axes: tuple[int, ...],
    values: Tensor,
    history: Moments,
    mask: Tensor | None,
) -> Moments:
    return batch_moments(ops.stop_gradient(values), axes, history, mask)


def _add_to(
    axes: tuple[int, ...],
    sums: Sums,
    values: Tensor,
    known: Tensor,
    mask: Tensor | None,
) -> Sums:
    return sums.add(ops.stop_gradient(values), axes, known, mask)


def _inhibit(
    selection: Selection,
    inhibition: Inhibition,
    epsilon: float,
    values: Tensor,
    statistics: Moments,
    ready: Tensor,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute outputs, the number of selected values, and a loss or `None`."""
    scale = inverse_variance(statistics.variance, epsilon, where=ready)
    return _replace(
        selection, inhibition, values, statistics.mean, scale, mask, arguments
    )


def _replace(
    selection: Selection,
    inhibition: Inhibition,
    values: Tensor,
    mean: Tensor,
    scale: Tensor,
    mask: Tensor | None,
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Compute `_inhibit`, given the `inverse_variance` of every neuron."""

    def select(values: Tensor, mask: Tensor | None) -> Tensor:
        def score(values: Tensor) -> Tensor:
            return kernels.score(values, mean, scale, mask)

        scores, selected = kernels.choose(selection, score, values, arguments)
        selected = ops.cast(selected, "bool")
        if not selection.skips_negative:
            selected = ops.logical_and(selected, scores >= 0)
        return selected

    if selection.by_sample:
        selected = kernels.by_sample(select, ops.stop_gradient(values), mask)
    else:
        selected = select(ops.stop_gradient(values), mask)
    center = ops.cast(mean, values.dtype)
    return (
        inhibition(values, selected, center),
        kernels.count(selected),
        inhibition.loss(values, selected, center),
    )
