"""One step of a MEmeL as a pure function: the specification of the layer.

    (values, state, mask, settings) -> (outputs, loss, new state)

Data flow through four pure stages, in this order with `score_with="history"`;
with "current" the update precedes the selection:

    values --moments--> statistics --scores--> phi --selections--> mask
    values + mask + statistics --inhibitions--> outputs

`layers/memel.py` keeps the state in weights and calls `step`. A scan over time
(`layers/scan_memel.py`) calls the same parts at other times: `replace` at each
time step, and `learn` once after the last.

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

# A scan adds 1 from one time step to the next. Within one, a selection that
# draws more than once must not draw what another time step does.
WITHIN_A_SCAN = 7919


class LayerState(NamedTuple):
    """Everything that a layer remembers between two steps.

    Attributes:
        history: Statistics of every neuron, broadcastable to the values.
        steps: Number of training steps, integer scalar.
        inhibited_rate: Fraction of the values selected in the last training
            step, scalar.
        skipped_updates: Number of updates of a neuron that were skipped since
            its values were not finite, over all neurons: a high and a low
            part, scalars.
        selection: The state of the selection, by name.
        seed: The state of the random numbers, or `None` without any.
    """

    history: History
    steps: Tensor
    inhibited_rate: Tensor
    skipped_updates: tuple[Tensor, Tensor]
    selection: dict[str, Tensor]
    seed: Tensor | None


class Inhibited(NamedTuple):
    """The outcome of a selection and an inhibition.

    Attributes:
        outputs: What the next layer gets.
        number: Number of values selected, on this replica.
        loss: To be added to the loss, or `None`.
        seed: The state of the random numbers afterwards.
    """

    outputs: Tensor
    number: Tensor
    loss: Tensor | None
    seed: Tensor | None


@dataclass(eq=False)
class Settings:
    """What stays the same from step to step.

    Args:
        selection: Which values to inhibit.
        inhibition: What to do with them.
        sample_axes: Axes of the values that a neuron's statistics pool over.
        forget_steps: `n_f`, or `None` to pool exactly.
        late_start: `l_s`.
        epsilon: Fraction of the mean variance that is added to each.
        score_with: `"history"` or `"current"`.
        process_group: Processes that share a batch, on PyTorch.
    """

    selection: Selection
    inhibition: Inhibition
    sample_axes: tuple[int, ...]
    forget_steps: int | None = 10
    late_start: int = 10
    epsilon: float = 0.01
    score_with: str = "history"
    process_group: Any = None
    # The parts that make passes over the values, each compiled where that pays.
    measure: Callable[..., Moments] = field(init=False)
    inhibit: Callable[..., Any] = field(init=False)
    replace: Callable[..., Any] = field(init=False)
    add_to: Callable[..., Sums] = field(init=False)

    def __post_init__(self) -> None:
        self.measure = kernels.fused(partial(_measure, self.sample_axes))
        self.add_to = kernels.fused(partial(_add_to, self.sample_axes))
        rules = self.selection, self.inhibition
        # XLA would draw other numbers than TensorFlow does without it.
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
    """Find and inhibit monosemantic values, and learn the statistics.

    Args:
        values: Activations `(batch, ..., neurons)`.
        state: What is known before.
        mask: `None`, or booleans of the rank of `values`, broadcastable to
            them: true where a value counts.
        settings: The rules.
        learning: Whether this is a training step. At inference the statistics
            stay as they are.

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
    """Whether each neuron may be inhibited."""
    return (statistics.count > 0) & (steps >= settings.late_start)


def learn(
    state: LayerState,
    batch: Moments,
    ready: Tensor,
    found: Inhibited,
    settings: Settings,
    pooled: History | None = None,
) -> tuple[Tensor | None, LayerState]:
    """The loss and the state after a training step.

    Args:
        state: The state before it.
        batch: Moments of its values on this replica; on all of them if
            `pooled` is given.
        ready: Which neurons could be inhibited.
        found: What the inhibition did.
        settings: The rules.
        pooled: Moments of history and batch, if they are known already.
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
    """Select and inhibit, by the `inverse_variance` of every neuron."""
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
    """A generator of seeds that assigns to no variable.

    Args:
        state: The state of a `keras.random.SeedGenerator`.
        stride: How far two draws are apart.
    """

    def __init__(self, state: Tensor, stride: int = 1):
        self._first, self._stride, self._drawn = state, stride, 0

    def next(self, ordered: bool = True) -> Tensor:
        """The seed of one draw, each time another."""
        seed = self.now
        self._drawn += 1
        return seed

    @property
    def now(self) -> Tensor:
        """The state after the draws so far."""
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
    """`rule` of tensors and the arguments of the selection."""
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
    """Outputs, the number of values selected, and a loss if there is one."""
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
    """As `_inhibit`, from the `inverse_variance` of every neuron."""

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
