"""MEmeL: the layer that sees and inhibits monosemantic neurons.

`core/step.py` has the step itself, as a pure function; `memel_state.py` keeps
its state in weights.

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

from typing import Any

import keras
from keras import ops

from keras_memel.core import axes
from keras_memel.core import inhibitions
from keras_memel.core import selections
from keras_memel.core import step
from keras_memel.core import sync
from keras_memel.core.inhibitions import InhibitionLike
from keras_memel.core.selection import SelectionLike
from keras_memel.layers import in_torch
from keras_memel.layers import rematerialization
from keras_memel.layers import untracked
from keras_memel.layers.memel_state import MEmeLState
from keras_memel.utils import arguments
from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor


@keras.saving.register_keras_serializable("keras_memel")
class MEmeL(MEmeLState):
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
        process_group: On PyTorch with `torch.distributed`, the group of the
            processes that share each batch; `None` (default) for all
            processes. Pass the data-parallel group under tensor or pipeline
            parallelism. It is no part of the config or of files: set the
            attribute of a layer that was loaded or cloned.
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

    Weights (float32 whatever the policy, but for `steps`; none trainable):
        moving_mean: `mu`, of the sizes of the neuron axes.
        moving_variance: `v`, unbiased, of the same shape; 0 before the second
            sample.
        count: Samples seen by each neuron, of the same shape (a mask or a
            non-finite value can give each neuron its own).
        steps: Training steps seen, an integer scalar (int64 on TensorFlow,
            int32 elsewhere).
        inhibited_rate: Share of the values selected in the last training
            step, scalar, in [0, 1]; 0 before the late start.
        skipped_updates: Number of times that a neuron was not updated because
            its values were not finite, over all neurons, scalar.
        threshold: Of `Rate` only: its moving threshold, scalar, in variances.
        count_low, skipped_updates_low: What rounding to float32 leaves of
            these: the exact count is `count + count_low` in float64.
        moving_mean_low, moving_variance_low: The same, with
            `forget_steps=None` only, so that a history that never forgets
            follows small changes for ever.

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
    another layer that is, it raises, since it would run twice in a step. So
    does one that draws at inference, whose second run would draw anew.

    Raises:
        ValueError: If an argument is not what is said above; at build, if the
            size of a neuron axis is not known; at the call, if the inputs are
            not floating-point, or ragged or sparse, the mask does not fit
            them, or a parent is rematerialized; on JAX, if the model that is
            trained does not hold the layer, as in a `keras.layers.Lambda`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)),
    ...     keras.layers.Dense(16),
    ...     MEmeL(),
    ...     keras.layers.ReLU(),
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
        selection: SelectionLike = "top_k",
        inhibition: InhibitionLike = "reverse",
        axis: int | tuple[int, ...] | None = None,
        forget_steps: int | None = 10,
        late_start: int = 10,
        epsilon: float = 0.01,
        score_with: str = "history",
        at_inference: bool = False,
        process_group: Any = None,
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
        self.process_group = process_group

    @property
    def process_group(self) -> Any:
        """The processes that share a batch, on PyTorch; may be set."""
        return self._process_group

    @process_group.setter
    def process_group(self, group: Any) -> None:
        self._process_group = sync._check_group(group)
        if self.built:
            self._settings.process_group = group

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
        self._add_weights(shape)
        self._settings = step.Settings(
            selection=self.selection,
            inhibition=self.inhibition,
            sample_axes=self._sample_axes,
            forget_steps=self.forget_steps,
            late_start=self.late_start,
            epsilon=self.epsilon,
            score_with=self.score_with,
            process_group=self.process_group,
        )
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
        in_torch.check(self, training)
        if not (learning or self.at_inference):
            return inputs
        if learning or self.selection.random:
            rematerialization.refuse(self)
        if learning:
            untracked.refuse(self)

        outputs, loss, state = step.step(
            inputs,
            self._read(),
            axes.expand_mask(mask, inputs),
            self._settings,
            learning,
        )
        self._write(loss, state, learning)
        return outputs

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


def _default_name() -> str:
    # memel, memel_1, ...: the numbers that Keras gives to its own layers.
    number = keras.backend.get_uid("memel") - 1
    return f"memel_{number}" if number else "memel"
