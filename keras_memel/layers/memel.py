"""MEmeL: the layer that detects and inhibits monosemantic neurons.

`core/step.py` defines the training step as a pure function. `memel_state.py`
stores its state in weights.

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
    """Inhibit monosemantic neurons during training.

    The layer keeps a running mean and variance of every neuron. During
    training it selects the values that deviate most from the history of their
    neuron and replaces them with its mean. At inference it is the identity
    and can be removed. It has no trainable weights and accepts the
    floating-point output of any layer. The defaults follow the paper.

    A training step on values `z`, with running mean `mu`, variance `v` and
    count `m` per neuron [Wang et al. 2024]:

        phi   = (z - mu)^2 / (v + epsilon * mean_k(v_k))        (Eq. 7)
        mask  = selection(phi), empty in the first `late_start` steps
        z'    = where(mask, ng(mu) - delta (z - ng(z)), z)      (Eq. 12)
        m     = min(count, forget_steps * b)                    (App. C.1)
        mu, v = pooled with the batch's b values per neuron     (Lemma 3.2)

    `ng` stops the gradient `g`. A selected value becomes the running mean and
    its gradient becomes `-delta g`. All other values and gradients are
    unchanged.

    Args:
        selection: Rule that selects values. `"top_k"` is `TopK(1)` (default,
            as in the paper), `"rate"` is `Rate(0.02)` (a moving threshold,
            no sort), `"threshold"` is `Threshold(9.0)`, `"random"` is
            `Random(0.02)` (the placebo), `"random_k"` is `RandomK(1)`. Any
            `Selection`, its class or its config also works.
        inhibition: Treatment of selected values. `"reverse"` is
            `ReverseDeactivation(1.0)` (default), `"naive_a"` and `"naive_b"`
            use the gradients 0 and `g`, `"penalty"` is `LogPenalty()`,
            `"observe"` only updates the statistics. Any `Inhibition`, its
            class or its config also works.
        axis: Axis or axes that index the neurons. Statistics are pooled over
            all others. `None` (default) uses all axes except the batch axis:
            each channel at each position is a neuron, as in the authors'
            code. `-1` uses one neuron per channel and allows inputs of
            varying length; use `1` for channels-first inputs.
        forget_steps: Maximum number of batches that the history counts as,
            `n_f`. `None` never forgets.
        late_start: Number of training steps before the first inhibition,
            `l_s`.
        epsilon: Fraction of the mean variance of all neurons that is added
            to each variance in `phi`.
        score_with: `"history"` (default, Algorithm 1) scores a batch before
            it updates the statistics; `"current"` updates them first, as the
            authors' code does.
        at_inference: Whether to inhibit at inference too, with frozen
            statistics (the paper's Tables 6-8).
        process_group: On PyTorch with `torch.distributed`, the group of the
            processes that share each batch. `None` (default) uses all
            processes. Under tensor or pipeline parallelism, pass the
            data-parallel group. The config and files do not contain the
            group: set this attribute again after you load or clone a layer.
        name: Name of the layer. Defaults to `memel`, `memel_1`, ...
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: Floating-point tensor of shape `(batch, ...)`.
        mask: Boolean Keras mask over the leading dimensions of `inputs`.
            Positions that are `False` are neither counted nor selected.
        training: Python boolean. The layer updates its statistics, and
            without `at_inference` inhibits values, only if it is `True`.

    Output shape:
        The shape of the inputs, in the compute dtype.

    Weights (not trainable; float32 under any dtype policy, except `steps`):
        moving_mean: `mu`, with the shape of the neuron axes.
        moving_variance: `v`, unbiased, same shape. 0 before the second value.
        count: Number of values seen per neuron, same shape. Neurons differ
            if a mask or a non-finite value excludes some of their values.
        steps: Number of training steps, integer scalar (int64 on TensorFlow,
            int32 on JAX and PyTorch).
        inhibited_rate: Fraction of the values selected in the last training
            step, scalar. 0 before the late start.
        skipped_updates: Number of updates skipped because of non-finite
            values, summed over the neurons, scalar.
        threshold: Moving threshold in variances, scalar. `Rate` only.
        count_low, skipped_updates_low: Rounding errors of `count` and
            `skipped_updates`. In float64, `count + count_low` is exact.
        moving_mean_low, moving_variance_low: Rounding errors of mean and
            variance, with `forget_steps=None` only. With them, a history that
            never forgets follows arbitrarily small changes.

    Notes:
        - A neuron without history is never selected. A non-finite value
          passes unchanged, and its neuron skips the update of this step.
        - With `trainable=False` the layer always behaves as at inference.
        - Every call in training counts as one step, and its values are
          pooled. `TimeDistributed(MEmeL())` would call the layer once per
          time step: apply it to `(batch, time, ...)` directly. The same applies
          to a MEmeL in the cell of a `keras.layers.RNN`, which also fails on
          JAX: use `ConvGRU2D(memel=...)`.
        - On several devices the statistics cover the whole batch and agree
          on all devices, as do `threshold` and `inhibited_rate`; see
          `keras_memel.sync`. `TopK` selects per sample. `Random` draws on
          each replica separately, as `keras.layers.Dropout` does.
        - `keras.RematScope` does not rematerialize the layer itself. The call
          raises inside another rematerialized layer, where it would run
          twice per step. At inference it raises only for random
          selections with `at_inference=True`, which would draw other values
          in the second run.

    Raises:
        ValueError: If an argument is invalid; in `build`, if the size of a
            neuron axis is unknown; in `call`, if the inputs are not
            floating-point or are ragged or sparse, if the mask does not match
            them, or if a parent layer is rematerialized; on JAX, if the
            trained model does not track the layer, as in a
            `keras.layers.Lambda`.

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
        # Keras would derive the name "m_eme_l" from the class name.
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
        """Group of the processes that share a batch, on PyTorch; can be set."""
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
                f"other axis. Received: input_shape={input_shape}"
            )
        neurons = axes.of_neurons(self.axis, rank)
        unknown = [axis for axis in neurons if input_shape[axis] is None]
        if unknown:
            raise ValueError(
                "Argument `axis` must index axes of known size, because the "
                "statistics have one entry per neuron. Pass `axis=-1` for one "
                f"neuron per channel, or fix the size of axis {unknown[0]}. "
                f"Received: axis={self.axis}, input_shape={input_shape}"
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
        if self.autocast:  # `stateless_call` does not cast the inputs
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
        """Return the call itself, under any `keras.RematScope`.

        Rematerialization would run the layer twice and count every step twice
        or leak its state. It would also save little memory: the layer keeps
        only one byte per value for the backward pass.
        """
        del args, kwargs
        return layer_call

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def compute_output_spec(self, inputs: Tensor, **kwargs: Any) -> Tensor:
        # Check the dtype here: Keras would not run `call`, and would accept
        # integers until the model is trained.
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
    # Number the names as Keras does: memel, memel_1, ...
    number = keras.backend.get_uid("memel") - 1
    return f"memel_{number}" if number else "memel"
