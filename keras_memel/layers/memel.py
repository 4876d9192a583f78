"""MEmeL: the layer that sees and inhibits monosemantic neurons.

Data flows through four pure steps, and only this file keeps state between
them (and `scans.py`, which takes them at other times):

    values --moments--> statistics --scores--> phi --selections--> mask
    values + mask + statistics --inhibitions--> outputs

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

from functools import partial
from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.core import axes
from keras_memel.core import inhibitions
from keras_memel.core import selections
from keras_memel.core import sync
from keras_memel.core.moments import Moments
from keras_memel.core.moments import Sums
from keras_memel.core.moments import batch_moments
from keras_memel.core.moments import pool
from keras_memel.core.scores import inverse_variance
from keras_memel.layers import in_torch
from keras_memel.layers import rematerialization
from keras_memel.layers import untracked
from keras_memel.utils import arguments

Tensor = Any
Shape = tuple[int | None, ...]


class Reading(NamedTuple):
    """What a layer knows before a training step.

    Attributes:
        history: Of every neuron, broadcastable to the values.
        steps: Number of training steps, scalar.
        selection: What the selection remembers, by name.
    """

    history: Moments
    steps: Tensor
    selection: dict[str, Tensor]


@keras.saving.register_keras_serializable("keras_memel")
class MEmeL(keras.layers.Layer):
    """Inhibits monosemantic neurons while a network trains.

    Keeps a running mean and variance of every neuron. In training it finds
    the values that deviate most from the history of their neuron and replaces
    them; at inference it is the identity and can be removed. It has no
    trainable weights and can stand after any layer with floating-point
    outputs. The defaults are the paper's MEmeL.

    One training step, on values `z` with running mean `mu`, variance `v` and
    count `m` of every neuron [Wang et al. 2024]:

        phi   = (z - mu)^2 / (v + epsilon * mean_k(v_k))        (Eq. 7)
        mask  = selection(phi), none in the first `late_start` steps
        z'    = where(mask, ng(mu) - delta (z - ng(z)), z)      (Eq. 12)
        m     = min(count, forget_steps * b)                    (App. C.1)
        mu, v = pooled with the batch's b values a neuron       (Lemma 3.2)

    `ng` stops the gradient: where selected, the value is the running mean and
    the gradient `-delta g`; elsewhere both pass unchanged.

    Args:
        selection: Which values to inhibit. `"top_k"` = `TopK(1)` (default;
            the paper's), `"rate"` = `Rate(0.02)` (a moving threshold, no
            sort), `"threshold"` = `Threshold(9.0)`, `"random"` =
            `Random(0.02)` (the placebo), or any `Selection`.
        inhibition: What to do with them. `"reverse"` =
            `ReverseDeactivation(1.0)` (default), `"naive_a"`, `"naive_b"`
            (gradient 0 and g), `"penalty"` = `LogPenalty()`, `"observe"`
            (nothing: statistics only), or any `Inhibition`.
        axis: The axis or axes that tell neurons apart; statistics are pooled
            over the others. `None` (default): all but the batch axis, so that
            every position of every channel is a neuron of its own, as in the
            authors' code. `-1`: one neuron a channel; needed when the length
            varies. `1`: the same for channels-first inputs.
        forget_steps: `n_f`, number of batches that the history counts as at
            most. `None` never forgets.
        late_start: `l_s`, number of training steps before the first
            inhibition.
        epsilon: Share of the mean variance of all neurons that is added to
            the variance of each when scoring.
        score_with: `"history"` (default, Algorithm 1) scores a batch with the
            statistics before it; `"current"` updates them first, as the
            authors' code does.
        at_inference: `True` inhibits at inference too, with the statistics as
            they are (the paper's Tables 6-8).
        name: Of the layer; `memel`, `memel_1`, ... by default.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Floating-point tensor `(batch, ...)`.
        mask: Booleans of the leading dimensions of `inputs`, as Keras passes
            them: true where a position counts. A masked position is neither
            counted nor selected.
        training: Python boolean. Statistics are updated and values inhibited
            in training only.

    Output shape: That of the inputs, in the compute dtype.

    Weights (all float32 whatever the policy, none trainable):
        moving_mean: `mu`, of the sizes of the neuron axes.
        moving_variance: `v`, unbiased, of the same shape; 0 before the second
            sample.
        count: Samples seen by each neuron, of the same shape (a mask or a
            non-finite value can give each neuron its own).
        steps: Training steps seen, scalar.
        inhibited_rate: Share of the values selected in the last training
            step, scalar, in [0, 1]; 0 before the late start.
        skipped_updates: Number of times that a neuron was not updated because
            its values were not finite, over all neurons, scalar.
        threshold: Of `Rate` only: its moving threshold, scalar, in variances.

    At cold start a neuron has no history, no score, and is not selected.
    A value that is not finite passes untouched, and its neuron keeps its
    statistics for this step. With `trainable=False` the layer behaves as at
    inference, in training too.

    A layer that is called twice in a step counts two steps and pools both
    calls. `TimeDistributed(MEmeL())` is such a case, once a time step: apply
    the layer to `(batch, time, ...)` directly instead. In the cell of a
    `keras.layers.RNN` it counts so too, and fails on JAX; `ConvGRU2D` takes one
    as `memel`.

    On many devices the statistics are those of the whole batch, the same on
    all of them, and so are `threshold` and the gauges; see
    `keras_memel.sync`. `TopK` looks at one sample at a time; `Random` chooses
    on each replica by itself, as `keras.layers.Dropout` does.

    Under `keras.RematScope` the layer itself is not rematerialized; inside
    another layer that is, it raises, since it would run twice in a step.

    Raises:
        ValueError: If an argument is not what is said above; at build, if the
            size of a neuron axis is not known; at the call, if the inputs are
            not floating-point, or ragged or sparse, the mask does not fit
            them, or a parent is rematerialized; on JAX, if the model that is
            trained does not hold the layer, as in a `keras.layers.Lambda`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(16, activation="relu"),
    ...     MEmeL(),
    ...     keras.layers.Dense(2),
    ... ])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(np.ones((32, 8)), np.ones((32, 2)), verbose=0)
    >>> int(model.get_layer("memel").steps)
    1

    Reference:
        - [Wang et al. 2024](https://arxiv.org/abs/2312.11560)
    """

    def __init__(
        self,
        selection: Any = "top_k",
        inhibition: Any = "reverse",
        axis: int | tuple[int, ...] | None = None,
        forget_steps: int | None = 10,
        late_start: int = 10,
        epsilon: float = 0.01,
        score_with: str = "history",
        at_inference: bool = False,
        name: str | None = None,
        **kwargs: Any,
    ):
        # Keras would make "m_eme_l" of the class name.
        super().__init__(name=name or _default_name(), **kwargs)
        self.supports_masking = True
        self.selection = selections.get(selection)
        self.inhibition = inhibitions.get(inhibition)
        self.axis = axes.check(axis)
        if forget_steps is not None:
            forget_steps = arguments.integer(
                "forget_steps", forget_steps, "at least 1, or None", 1
            )
        self.forget_steps = forget_steps
        self.late_start = arguments.integer(
            "late_start", late_start, "at least 0", 0
        )
        self.epsilon = arguments.number("epsilon", epsilon, "at least 0", 0.0)
        if score_with not in ("history", "current"):
            raise ValueError(
                "Argument `score_with` must be 'history' or 'current'. "
                f"Received: score_with={score_with!r}"
            )
        self.score_with = score_with
        self.at_inference = arguments.boolean("at_inference", at_inference)

    def build(self, input_shape: Shape) -> None:
        rank = len(input_shape)
        if rank < 2:
            raise ValueError(
                "Argument `inputs` must have a batch axis and at least one "
                f"more. Received: input_shape={input_shape}"
            )
        neurons = axes.of_neurons(self.axis, rank)
        unknown = [axis for axis in neurons if input_shape[axis] is None]
        if unknown:
            raise ValueError(
                f"MEmeL keeps statistics of every neuron, and axis={self.axis} "
                f"makes neurons of axis {unknown[0]}, whose size is not known. "
                "Pass `axis=-1` to make one neuron of each channel, or give "
                f"the input a fixed size. Received: input_shape={input_shape}"
            )
        self.selection._check(tuple(input_shape[1:]))
        self._sample_axes = tuple(a for a in range(rank) if a not in neurons)
        self._keepdims_shape = tuple(
            input_shape[axis] if axis in neurons else 1 for axis in range(rank)
        )
        shape = tuple(s for a, s in enumerate(input_shape) if a in neurons)
        self.moving_mean = self._add_state("moving_mean", shape)
        self.moving_variance = self._add_state("moving_variance", shape)
        self.count = self._add_state("count", shape)
        self.steps = self._add_state("steps")
        self.inhibited_rate = self._add_state("inhibited_rate")
        self.skipped_updates = self._add_state("skipped_updates")
        initial_state = self.selection.initial_state()
        self._state_keys = tuple(initial_state)
        for key, value in initial_state.items():
            if hasattr(self, key):
                raise ValueError(
                    "`initial_state` of a selection must use names that the "
                    f"layer does not have. Received: {key!r} from "
                    f"{type(self.selection).__name__}"
                )
            setattr(self, key, self._add_state(key, initial=value))
        if self.selection.random:
            self.seed_generator = keras.random.SeedGenerator(
                getattr(self.selection, "seed", None)
            )
        self._measure = kernels.fused(partial(_measure, self._sample_axes))
        # A random selection advances its seed: it is not pure.
        fused = (lambda f: f) if self.selection.random else kernels.fused
        settings = self.selection, self.inhibition
        self._inhibit = fused(partial(_inhibit, *settings, self.epsilon))
        # The parts of a call for one time step of many.
        self.add_to = kernels.fused(partial(_add_to, self._sample_axes))
        self.replace = fused(partial(_replace, *settings))
        self.input_spec = keras.layers.InputSpec(
            ndim=rank, axes={axis: input_shape[axis] for axis in neurons}
        )
        self.built = True

    def call(
        self,
        inputs: Tensor,
        mask: Tensor = None,
        training: bool | None = None,
    ) -> Tensor:
        arguments.float_dtype(inputs)
        if self.autocast:  # `stateless_call` does not cast for us
            inputs = ops.cast(inputs, self.compute_dtype)
        learning = bool(training) and self.trainable
        in_torch.check(self, inputs, training)
        rematerialization.refuse_parent(self, inputs, learning)
        if not (learning or self.at_inference):
            return inputs
        if learning:
            untracked.refuse(self)

        valid = axes.expand_mask(mask, inputs)
        before = self.read()
        statistics, pooled = before.history, None
        if learning:
            batch = self._measure(inputs, before.history, valid)
            if self.score_with == "current":
                (batch,) = sync.merge(batch)
                pooled = pool(before.history, batch, self.forget_steps)
                statistics = pooled

        ready = self.ready(statistics, before.steps)
        state = dict(before.selection)
        if self.selection.random:
            state["seed"] = self.seed_generator
        outputs, number, penalty = self._inhibit(
            inputs, statistics, ready, valid, state
        )
        if learning:
            self.learn(before, batch, ready, number, penalty, pooled)
        return outputs

    def read(self) -> Reading:
        """The state as it is now."""
        history = Moments(
            *(
                kernels.reshape(_read(weight), self._keepdims_shape)
                for weight in (
                    self.count,
                    self.moving_mean,
                    self.moving_variance,
                )
            )
        )
        return Reading(
            history,
            _read(self.steps),
            {key: _read(getattr(self, key)) for key in self._state_keys},
        )

    def ready(self, statistics: Moments, steps: Tensor) -> Tensor:
        """Whether each neuron may be inhibited, by its statistics."""
        return (statistics.count > 0) & (steps >= self.late_start)

    def learn(
        self,
        before: Reading,
        batch: Moments,
        ready: Tensor,
        number: Tensor,
        penalty: Tensor | None,
        pooled: Moments | None = None,
    ) -> None:
        """Writes what a training step has found out.

        Args:
            before: What was known before it.
            batch: Moments of its values on this replica; on all of them if
                `pooled` is given.
            ready: Which neurons could be inhibited.
            number: How many values were, on this replica.
            penalty: To be added to the loss, or `None`.
            pooled: Moments of history and batch, if they are known already.
        """
        if pooled is None:
            batch, total = sync.merge(batch, number)
            pooled = pool(before.history, batch, self.forget_steps)
        else:
            (total,) = sync.total(number)
        if penalty is not None:
            if self.inhibition.loss_is_mean:
                penalty = sync.weighted(penalty, number, total)
            # What Keras adds losses in; TensorFlow adds no two dtypes.
            self.add_loss(ops.cast(penalty, keras.config.floatx()))
        self._write_statistics(pooled)
        self._write_gauges(batch, ready, total, before.selection)
        self.steps.assign(before.steps + 1.0)

    def _write_statistics(self, statistics: Moments) -> None:
        for weight, value in (
            (self.count, statistics.count),
            (self.moving_mean, statistics.mean),
            (self.moving_variance, statistics.variance),
        ):
            weight.assign(kernels.reshape(value, weight.shape))

    def _write_gauges(
        self,
        batch: Moments,
        ready: Tensor,
        number: Tensor,
        state: dict[str, Tensor],
    ) -> None:
        total = ops.sum(batch.count)
        could = ops.sum(kernels.where(ready, batch.count, 0.0))
        self.inhibited_rate.assign(
            kernels.where(
                total > 0,
                number / kernels.at_least(total, 1.0),
                self.inhibited_rate.value,
            )
        )
        share = number / kernels.at_least(could, 1.0)
        for key, value in self.selection.update(share, **state).items():
            new = kernels.where(could > 0, value, state[key])
            getattr(self, key).assign(new)
        bad = ops.logical_not(kernels.isfinite(batch.mean + batch.variance))
        self.skipped_updates.assign_add(kernels.count(bad))

    def _add_state(
        self, name: str, shape: Shape = (), initial: float = 0.0
    ) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(initial),
            dtype="float32",
            autocast=False,
            trainable=False,
        )

    def rematerialized_call(
        self, layer_call: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """The call itself, under any `keras.RematScope`.

        Rematerialization runs a layer twice, which would count every step
        twice or leak its state; and this layer keeps but one byte a value for
        the backward pass, so that there is nothing to gain.
        """
        del args, kwargs
        return layer_call

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def compute_output_spec(self, inputs: Tensor, **kwargs: Any) -> Tensor:
        # Keras would not run `call`, and let integers pass until the model is
        # trained.
        del kwargs
        dtype = arguments.float_dtype(inputs)
        return keras.KerasTensor(
            inputs.shape, dtype=self.compute_dtype if self.autocast else dtype
        )

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config.update(
            selection=selections.serialize(self.selection),
            inhibition=inhibitions.serialize(self.inhibition),
            axis=self.axis,
            forget_steps=self.forget_steps,
            late_start=self.late_start,
            epsilon=self.epsilon,
            score_with=self.score_with,
            at_inference=self.at_inference,
        )
        return config


def _measure(
    axes: tuple[int, ...],
    inputs: Tensor,
    history: Moments,
    valid: Tensor | None,
) -> Moments:
    return batch_moments(ops.stop_gradient(inputs), axes, history, valid)


def _add_to(
    axes: tuple[int, ...],
    sums: Sums,
    inputs: Tensor,
    known: Tensor,
    valid: Tensor | None,
) -> Sums:
    return sums.add(ops.stop_gradient(inputs), axes, known, valid)


def _inhibit(
    selection: selections.Selection,
    inhibition: inhibitions.Inhibition,
    epsilon: float,
    inputs: Tensor,
    statistics: Moments,
    ready: Tensor,
    valid: Tensor | None,
    state: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Outputs, the number of values selected, and a penalty if there is one."""
    scale = inverse_variance(statistics.variance, epsilon, where=ready)
    return _replace(
        selection,
        inhibition,
        inputs,
        statistics.mean,
        scale,
        valid,
        state,
    )


def _replace(
    selection: selections.Selection,
    inhibition: inhibitions.Inhibition,
    inputs: Tensor,
    mean: Tensor,
    scale: Tensor,
    valid: Tensor | None,
    state: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `_inhibit`, from the `inverse_variance` of every neuron."""

    def select(values: Tensor, valid: Tensor | None) -> Tensor:
        def score(values: Tensor) -> Tensor:
            return kernels.score(values, mean, scale, valid)

        scores, selected = kernels.choose(selection, score, values, state)
        selected = ops.cast(selected, "bool")
        if not selection.skips_negative:
            selected = ops.logical_and(selected, scores >= 0)
        return selected

    if selection.by_sample:
        selected = kernels.by_sample(select, ops.stop_gradient(inputs), valid)
    else:
        selected = select(ops.stop_gradient(inputs), valid)
    center = ops.cast(mean, inputs.dtype)
    return (
        inhibition(inputs, selected, center),
        kernels.count(selected),
        inhibition.loss(inputs, selected, center),
    )


def _default_name() -> str:
    # memel, memel_1, ...: the numbers that Keras gives to its own layers.
    number = keras.backend.get_uid("memel") - 1
    return f"memel_{number}" if number else "memel"


def _read(weight: Any) -> Tensor:
    # PyTorch assigns in place: without the copy, what was computed from the
    # old value would see the new one in the backward pass.
    return kernels.copy(weight)
