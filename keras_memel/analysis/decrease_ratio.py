"""Test whether one training step moves monosemantic neurons to their mean.

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

import contextlib
import itertools
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_memel import native
from keras_memel.core import scores
from keras_memel.core.selections import TopK
from keras_memel.insertion import capture
from keras_memel.insertion.insert import insert
from keras_memel.insertion.insert import inserted
from keras_memel.insertion.insert import strip
from keras_memel.insertion.paths import Where
from keras_memel.layers.memel import MEmeL
from keras_memel.utils import arguments
from keras_memel.utils.arrays import to_numpy
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array
from keras_memel.utils.types import Table

_TABLE_4 = {
    "original": None,
    "naive (a)": "naive_a",
    "naive (b)": "naive_b",
    "RD": "reverse",
}


def decrease_ratio(
    model: Any,
    x: Any,
    y: Any,
    where: Where,
    *,
    step: Callable[[Any, Any], Any] | None = None,
    optimizer: Any = None,
    arms: Mapping[str, Mapping[str, Any] | None] | None = None,
    axis: int | tuple[int, ...] | None = None,
    k: int = 1,
    batch_size: int = 32,
    warm_up: int = 10,
    seed: int = 0,
) -> Table:
    """Measure the effect of one training step on the most extreme values.

    This is the experiment of [Wang et al. 2024], Table 4. The mean and variance
    of every neuron are computed over `warm_up` batches without training. For
    each of the next batches, the `k` values per sample with the highest
    monosemantic scale `phi` (Eq. 7) are selected. The model's optimizer then
    takes one step with these values inhibited, or with those that an arm
    selects, and the model runs again on the same inputs. With the same
    statistics before and after the step,

        Decrease Ratio     = 1 - mean phi(z after) / mean phi(z before)
        Total Update Ratio = mean |z after - z before| / mean |z before - mean|

    over all selected values. A Decrease Ratio above 0 means that the step
    moved the values towards their mean. The Total Update Ratio measures how
    far they moved in either direction. Each arm starts from the same weights
    and optimizer state and uses the same batches. The weights are restored
    between batches, so that each result is one step from the same model.

    The values are measured at inference, so dropout acts in the step only.
    Positions that a Keras mask or a `padding_mask` excludes are neither counted
    nor selected. Nor is a neuron without a value in the `warm_up` batches.
    Inputs after the last whole batch are not used.

    Args:
        model: A built and compiled model without inserted MEmeLs, or a
            PyTorch module. Its weights and its optimizer are restored at the
            end.
        x: Array of inputs, or a structure of arrays.
        y: Array of targets; at least `warm_up + 1` batches.
        where: Layers whose values are measured, as in `insert`.
        step: For a PyTorch module only: function that runs one training
            step, in training mode, on a batch `(x, y)` of tensors.
        optimizer: Optimizer that `step` uses. Its state is restored too.
        arms: Arguments of `MEmeL` by name of the arm, such as
            `keras_memel.paper.arms`; `None` for a step without inhibition. By
            default the four arms of Table 4. An arm may select and inhibit
            other values than those that are measured, which are the same for
            all arms. Statistics of its own include all `warm_up` batches:
            `forget_steps` and `late_start` have no effect here.
        axis: Axis or axes that index the neurons, as in `MEmeL`; `None` as in
            the paper.
        k: Number of values to select per sample.
        batch_size: Number of samples per step.
        warm_up: Number of batches for the statistics.
        seed: Seed of all random operations of the model, such as dropout.

    Returns:
        `pandas.DataFrame` with one row per arm, by default "original" (no
        inhibition), "naive (a)", "naive (b)" and "RD" (Reverse Deactivation),
        and columns `decrease_ratio`, `total_update_ratio` and `values`, the
        number of selected values.

    Raises:
        ValueError: If the model is not compiled, or is a PyTorch module
            without `step`; if its optimizer accumulates gradients over steps,
            if it already contains inserted MEmeLs, or if there are too few
            inputs. If `arms` is empty, or holds something else than arguments
            of `MEmeL`.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8, name="h"),
    ...      keras.layers.Dense(1)]
    ... )
    >>> model.compile(keras.optimizers.SGD(0.01), "mse")
    >>> x = np.random.default_rng(0).normal(size=(96, 4)).astype("float32")
    >>> table = decrease_ratio(model, x, x[:, :1], "h", warm_up=2)
    >>> list(table.index)
    ['original', 'naive (a)', 'naive (b)', 'RD']
    >>> table["values"].tolist()
    [32, 32, 32, 32]
    >>> arms = {"plain": None, "10 %": {"selection": Random(0.1), "axis": -1}}
    >>> table = decrease_ratio(model, x, x[:, :1], "h", warm_up=2, arms=arms)
    >>> list(table.index)
    ['plain', '10 %']
    """
    pd = need("pandas", "report", "`decrease_ratio`")

    batch_size = arguments.integer("batch_size", batch_size, "at least 1", 1)
    warm_up = arguments.integer("warm_up", warm_up, "at least 1", 1)
    observer: dict[str, Any] = {
        "selection": TopK(k),
        "inhibition": "observe",
        "axis": axis,
        "forget_steps": None,
        "late_start": 0,
    }
    made = _memels(arms, observer)
    subject = _subject(model, step, optimizer)
    if inserted(model):
        raise ValueError(
            "Argument `model` must not contain inserted MEmeLs: call "
            "`keras_memel.strip(model)` first. "
            f"Received: MEmeLs after {list(inserted(model))}"
        )
    sizes = sorted({len(leaf) for leaf in keras.tree.flatten((x, y))})
    number = sizes[0] // batch_size
    if number <= warm_up or len(sizes) > 1:
        raise ValueError(
            "Arguments `x` and `y` must have one length, of more than "
            f"`warm_up` batches. Received: lengths {sizes}, {number} batches "
            f"of {batch_size}, warm_up={warm_up}"
        )
    batches = [
        keras.tree.map_structure(
            lambda leaf: leaf[i * batch_size : (i + 1) * batch_size],  # noqa: B023
            (x, y),
        )
        for i in range(number)
    ]

    def measure(memel: MEmeL, statistics: Any = None) -> Any:
        insert(model, where, memel)
        try:
            return _arm(
                subject, batches, warm_up, memel.epsilon, k, seed, statistics
            )
        finally:
            strip(model)
            subject.restore()

    try:
        plain, statistics = measure(MEmeL(**observer))
        rows = {
            arm: plain if memel is None else measure(memel, statistics)[0]
            for arm, memel in made.items()
        }
    finally:
        subject.restore()
    return pd.DataFrame.from_dict(rows, orient="index")


def _memels(arms: Any, observer: dict[str, Any]) -> dict[str, MEmeL | None]:
    """Create the MEmeL of each arm; `None` for a step without inhibition.

    Raises:
        ValueError: If `arms` are not arguments of `MEmeL` by name.
    """
    if arms is None:
        return {
            name: MEmeL(**{**observer, "inhibition": inhibition})
            if inhibition
            else None
            for name, inhibition in _TABLE_4.items()
        }
    right = isinstance(arms, Mapping) and all(
        settings is None or isinstance(settings, Mapping)
        for settings in arms.values()
    )
    if not right or not arms:
        raise ValueError(
            "Argument `arms` must be a dictionary of arguments of `MEmeL`, or "
            "`None`, by name of the arm, such as `keras_memel.paper.arms`. "
            f"Received: arms={arms!r}"
        )
    always = {name: observer[name] for name in ("forget_steps", "late_start")}
    return {
        name: None if settings is None else MEmeL(**{**settings, **always})
        for name, settings in arms.items()
    }


def _subject(model: Any, step: Any, optimizer: Any) -> Any:
    """Create the subject of the experiment for a Keras or PyTorch model.

    Raises:
        ValueError: If the model cannot take a step.
    """
    if native.is_torch(model):
        from keras_memel.native.torch_decrease import TorchSubject

        if step is None:
            raise ValueError(
                "Argument `step` must be a function that runs one training "
                "step, `step(x, y)`, because a PyTorch module does not "
                "include an optimizer. Received: step=None"
            )
        return TorchSubject(model, step, optimizer)
    if step is not None or optimizer is not None:
        raise ValueError(
            "Arguments `step` and `optimizer` are only for PyTorch modules: a "
            "Keras model uses its compiled training step. Omit them. "
            f"Received: a model of type {type(model).__name__}"
        )
    return _KerasSubject(model)


class _KerasSubject:
    """Run training steps of a compiled model and restore it.

    Args:
        model: A model without insertions.
    """

    capture = capture
    anchor = "/"

    def __init__(self, model: Any):
        if not getattr(model, "compiled", False):
            raise ValueError(
                "Argument `model` must be compiled, because its optimizer "
                f"takes the steps. Received: model={model!r}"
            )
        optimizer = model.optimizer
        # Under mixed_float16 `compile` wraps the optimizer in a
        # LossScaleOptimizer.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None)
        if accumulated:
            raise ValueError(
                "Argument `model` must be compiled without gradient "
                "accumulation, because a single step would not change the "
                "weights. Received: an optimizer with "
                f"gradient_accumulation_steps={accumulated}"
            )
        model.optimizer.build(model.trainable_variables)
        self.model = model
        self._kept = [
            (variable, to_numpy(variable))
            for variable in [*model.variables, *model.optimizer.variables]
        ]

    def restore(self) -> None:
        """Restore the weights and the optimizer."""
        self.put_back(self._kept)

    def train(self, x: Any, y: Any) -> None:
        """Take one step."""
        self.model.train_on_batch(x, y)

    def learn(self, memel: MEmeL, values: Array, mask: Any) -> None:
        """Update only the statistics of a MEmeL, from `values`."""
        memel(values, mask=mask, training=True)

    def state(self, memels: list[MEmeL]) -> list[Any]:
        """Return a copy of the current statistics."""
        weights = [weight for memel in memels for weight in memel.weights]
        return [(weight, to_numpy(weight)) for weight in weights]

    def put_back(self, state: list[Any]) -> None:
        """Restore the statistics that `state` returned."""
        for weight, value in state:
            weight.assign(value)

    def statistics(self, memel: MEmeL) -> tuple[Array, Array, Array]:
        """Return count, mean, variance per neuron, broadcastable to values."""
        named = memel.count, memel.moving_mean, memel.moving_variance
        count, mean, variance = (
            to_numpy(weight).reshape(memel._keepdims_shape) for weight in named
        )
        return count, mean, variance


def _arm(
    subject: Any,
    batches: list[Any],
    warm_up: int,
    epsilon: float,
    k: int,
    seed: int,
    statistics: Any,
) -> tuple[dict[str, float], Any]:
    """Return the row of an arm, and the statistics that measured it.

    statistics: `None` for those of the inserted layers themselves.
    """
    keras.utils.set_random_seed(seed)
    model, run = subject.model, subject.capture
    memels = list(inserted(model).values())
    hosts = [subject.anchor + path for path in inserted(model)]
    pending: list[Any] = []
    # One stream serves all batches, so that the model is compiled only once.
    stream = run.outputs(
        model,
        run.chosen(model, hosts),
        (pending.pop() for _ in itertools.count()),
    )

    def values(x: Any) -> list[tuple[Array, Array | None]]:
        pending.append(x)
        return [
            (np.concatenate([call["values"] for call in calls]), _mask(calls))
            for calls in next(stream)
        ]

    sums = np.zeros(5)
    with contextlib.closing(stream):
        for x, _ in batches[:warm_up]:
            # Only the MEmeLs run in training mode, so that the rest of the
            # model does not change.
            for (old, mask), memel in zip(values(x), memels):
                subject.learn(memel, old, mask)
        state = subject.state(memels)
        if statistics is None:
            statistics = [subject.statistics(memel) for memel in memels]
        for x, y in batches[warm_up:]:
            subject.restore()
            subject.put_back(state)
            before = values(x)
            subject.train(x, y)
            after = values(x)
            for found, (old, mask), (new, _) in zip(statistics, before, after):
                sums += _moved(found, old, new, mask, epsilon, k)
    total, left, moved, distance, number = sums
    row = {
        "decrease_ratio": 1 - left / total,
        "total_update_ratio": moved / distance,
        "values": int(number),
    }
    return row, statistics


def _mask(calls: list[dict[str, Array]]) -> Array | None:
    if "mask" not in calls[0]:
        return None
    return np.concatenate([call["mask"] for call in calls])


def _moved(
    statistics: tuple[Array, Array, Array],
    old: Array,
    new: Array,
    mask: Array | None,
    epsilon: float,
    k: int,
) -> Array:
    """Sum phi before and after, and the distances, over selected values."""
    count, mean, variance = (part.astype("float64") for part in statistics)
    seen = count > 0
    phi = scores.phi(old, mean, variance, epsilon, seen)
    later = scores.phi(new, mean, variance, epsilon, seen)
    if mask is not None:
        wide = mask.reshape(mask.shape + (1,) * (phi.ndim - mask.ndim))
        phi = np.where(wide, phi, -1.0)
    flat = phi.reshape(len(phi), -1)
    kth = np.sort(flat, axis=1)[:, -k].reshape(-1, *[1] * (phi.ndim - 1))
    chosen = (phi >= kth) & (phi > 0)
    return np.array(
        [
            phi[chosen].sum(),
            later[chosen].sum(),
            np.abs(new - old)[chosen].sum(),
            np.abs(old - mean)[chosen].sum(),
            chosen.sum(),
        ]
    )
