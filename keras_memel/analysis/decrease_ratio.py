"""Does a step bring monosemantic neurons back to their mean? [M] Table 4.

Reference: [M] Wang et al. (2024), Learning from Emergence (arXiv 2312.11560).
"""

import contextlib
import itertools
from collections.abc import Callable
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

_ARMS = {
    "original": "observe",
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
    axis: int | tuple[int, ...] | None = None,
    k: int = 1,
    batch_size: int = 32,
    warm_up: int = 10,
    seed: int = 0,
) -> Table:
    """What one training step does to the values that stand out.

    The experiment of [M] Table 4. The mean and variance of every neuron are
    gathered over `warm_up` batches without any training. Then, for each of the
    next batches: the `k` values of each sample with the highest monosemantic
    scale `phi` (Eq. 7) are selected, the model takes one step of its own
    optimizer with those values inhibited, and the same inputs go through
    again. With the same statistics before and after,

        Decrease Ratio     = 1 - mean phi(z after) / mean phi(z before)
        Total Update Ratio = mean |z after - z before| / mean |z before - mean|

    over all selected values: above 0, the step moved them towards their mean;
    the second says how far they moved at all, either way. Each arm starts from
    the same weights and optimizer state and sees the same batches; the weights
    are put back between batches, so that each is one step from the same model.

    Args:
        model: A built and compiled model, without inserted MEmeLs; or a
            PyTorch module. Its weights and its optimizer are as before when
            this returns.
        x: Array of inputs, or a structure of them.
        y: Array of targets; at least `warm_up + 1` batches.
        where: The layers whose values are watched, as in `insert`.
        step: For a PyTorch module only: a function that takes one training
            step on a batch `(x, y)` of tensors, in training mode.
        optimizer: The optimizer that `step` uses, whose state is put back too.
        axis: What tells neurons apart, as in `MEmeL`; `None` as in the paper.
        k: Values a sample.
        batch_size: Samples a step.
        warm_up: Batches that the statistics come from.
        seed: Of all that is random in the model, such as dropout.

    Returns:
        `pandas.DataFrame`, a row for each of "original" (no inhibition),
        "naive (a)", "naive (b)" and "RD", with columns `decrease_ratio`,
        `total_update_ratio` and `values`, the number of selected values.

    Raises:
        ValueError: If the model is not compiled, or is a PyTorch module and
            there is no `step`; if its optimizer accumulates gradients over
            steps, it holds MEmeLs, or there are too few inputs.

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
    """
    pd = need("pandas", "report", "`decrease_ratio`")

    batch_size = arguments.integer("batch_size", batch_size, "at least 1", 1)
    warm_up = arguments.integer("warm_up", warm_up, "at least 1", 1)
    subject = _subject(model, step, optimizer)
    if inserted(model):
        raise ValueError(
            "Argument `model` must hold no inserted MEmeLs: call "
            "`keras_memel.strip(model)` first. "
            f"Received: MEmeLs after {list(inserted(model))}"
        )
    number = len(keras.tree.flatten(x)[0]) // batch_size
    if number <= warm_up:
        raise ValueError(
            "Arguments `x` and `y` must hold more than `warm_up` batches. "
            f"Received: {number} batches of {batch_size}, warm_up={warm_up}"
        )
    batches = [
        keras.tree.map_structure(
            lambda leaf: leaf[i * batch_size : (i + 1) * batch_size],  # noqa: B023
            (x, y),
        )
        for i in range(number)
    ]
    rows = {}
    try:
        for arm, inhibition in _ARMS.items():
            memel = MEmeL(
                TopK(k),
                inhibition,
                axis=axis,
                forget_steps=None,
                late_start=0,
            )
            insert(model, where, memel)
            try:
                rows[arm] = _arm(
                    subject, batches, warm_up, memel.epsilon, k, seed
                )
            finally:
                strip(model)
                subject.restore()
    finally:
        subject.restore()
    return pd.DataFrame.from_dict(rows, orient="index")


def _subject(model: Any, step: Any, optimizer: Any) -> Any:
    """What the experiment does to a model, of Keras or PyTorch.

    Raises:
        ValueError: If no step can be taken.
    """
    if native.is_torch(model):
        from keras_memel.native.torch_decrease import TorchSubject

        if step is None:
            raise ValueError(
                "Argument `step` must be a function that takes one training "
                "step, as `step(x, y)`: a PyTorch module has no optimizer of "
                "its own. Received: step=None"
            )
        return TorchSubject(model, step, optimizer)
    if step is not None or optimizer is not None:
        raise ValueError(
            "Arguments `step` and `optimizer` are for PyTorch modules: a Keras "
            "model takes the step that it is compiled for. "
            f"Received: a model of type {type(model).__name__}"
        )
    return _KerasSubject(model)


class _KerasSubject:
    """Take steps with a compiled model, and put it back.

    Args:
        model: The model, without insertions.
    """

    capture = capture
    anchor = "/"

    def __init__(self, model: Any):
        if not getattr(model, "compiled", False):
            raise ValueError(
                "Argument `model` must be compiled: its optimizer takes the "
                f"steps. Received: model={model!r}"
            )
        optimizer = model.optimizer
        # Of a LossScaleOptimizer, which `compile` puts around under
        # mixed_float16.
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        accumulated = getattr(optimizer, "gradient_accumulation_steps", None)
        if accumulated:
            raise ValueError(
                "Argument `model` must be compiled without gradient "
                "accumulation: a single step would leave the weights as they "
                "are. Received: an optimizer with "
                f"gradient_accumulation_steps={accumulated}"
            )
        model.optimizer.build(model.trainable_variables)
        self.model = model
        self._kept = [
            (variable, to_numpy(variable))
            for variable in [*model.variables, *model.optimizer.variables]
        ]

    def restore(self) -> None:
        """Put back the weights and the optimizer."""
        self.put_back(self._kept)

    def train(self, x: Any, y: Any) -> None:
        """Take one step."""
        self.model.train_on_batch(x, y)

    def learn(self, memel: MEmeL, values: Array, mask: Any) -> None:
        """Gather the statistics of values, and nothing else."""
        memel(values, mask=mask, training=True)

    def state(self, memels: list[MEmeL]) -> list[Any]:
        """The statistics as they are now."""
        weights = [weight for memel in memels for weight in memel.weights]
        return [(weight, to_numpy(weight)) for weight in weights]

    def put_back(self, state: list[Any]) -> None:
        """The statistics as they were."""
        for weight, value in state:
            weight.assign(value)

    def statistics(self, memel: MEmeL) -> tuple[Array, Array, Array]:
        """Count, mean and variance of the neurons, broadcastable to values."""
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
) -> dict[str, float]:
    keras.utils.set_random_seed(seed)
    model, run = subject.model, subject.capture
    memels = list(inserted(model).values())
    hosts = [subject.anchor + path for path in inserted(model)]
    pending: list[Any] = []
    # One stream for all batches: the model is compiled but once.
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
            # Training for the MEmeLs only, so that nothing else moves.
            for (old, mask), memel in zip(values(x), memels):
                subject.learn(memel, old, mask)
        state = subject.state(memels)
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
    return {
        "decrease_ratio": 1 - left / total,
        "total_update_ratio": moved / distance,
        "values": int(number),
    }


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
    """Sums over the selected values: phi before, after, and distances."""
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
