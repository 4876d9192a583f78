"""ConvGRU2D: convolutional GRU, the counterpart of `keras.layers.ConvLSTM2D`.

`conv_gru2d_cell.py` defines the equations of a time step. The convolutions of
the inputs are computed for all time steps at once, before the scan over time.
`scan_memel.py` describes how a MEmeL works within the scan.

Reference: [Shi et al. 2017] Deep Learning for Precipitation Nowcasting: A
Benchmark and A New Model (arXiv 1706.03458), Eq. 1.
"""

import functools
import inspect
from typing import Any

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.layers.conv_gru2d_cell import GATES
from keras_memel.layers.conv_gru2d_cell import ConvGRU2DCell
from keras_memel.layers.conv_gru2d_cell import Weights
from keras_memel.layers.conv_gru2d_cell import dropped
from keras_memel.layers.conv_gru2d_cell import updated
from keras_memel.layers.scan_memel import build_new
from keras_memel.layers.scan_memel import checked
from keras_memel.layers.scan_memel import config_of
from keras_memel.layers.scan_memel import inhibitor_of
from keras_memel.layers.sequence_inputs import any_part
from keras_memel.layers.sequence_inputs import check_sequences
from keras_memel.layers.sequence_inputs import only_state
from keras_memel.layers.sequence_inputs import time_mask
from keras_memel.utils import arguments
from keras_memel.utils.keras_internals import get_keras_mask
from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor

_CELL_ARGUMENTS = tuple(inspect.signature(ConvGRU2DCell).parameters)[:-1]


def _of_cell(name: str) -> Any:
    return property(
        lambda layer: getattr(layer.cell, name),
        # Keras sets `activation` when it rematerializes the activation.
        lambda layer, value: setattr(layer.cell, name, value),
    )


@keras.saving.register_keras_serializable("keras_memel")
class ConvGRU2D(keras.layers.RNN):
    """Apply a convolutional gated recurrent unit (GRU) to a series of frames.

    It is to `keras.layers.GRU` what `keras.layers.ConvLSTM2D` is to
    `keras.layers.LSTM`. Arguments, weights and masks follow these layers.

    A time step, with inputs `x`, state `h` and convolutions `*` [Shi et al.
    2017, Eq. 1, extended by the bias `d` of the state]:

        z  = sigmoid(W_z * x + b_z + R_z * h + d_z)
        r  = sigmoid(W_r * x + b_r + R_r * h + d_r)
        c  = tanh(W_h * x + b_h + r (R_h * h + d_h))
        h <- z h + (1 - z) c

    With `reset_after=False` the candidate is `c = tanh(W_h * x + b_h +
    R_h * (r h))`, without `d`.

    Args:
        filters: Number of channels of the state and of the outputs.
        kernel_size: Size of the kernel of the inputs, an integer or a pair.
        recurrent_kernel_size: Kernel size for the state, by default the same.
        strides: Strides over the inputs, an integer or a pair.
        padding: Padding of the inputs, `"valid"` (default) or `"same"`.
        data_format: `"channels_last"` or `"channels_first"`. `None` uses
            `keras.config.image_data_format()`.
        dilation_rate: Dilation of the convolution of the inputs, an integer
            or a pair. It cannot be combined with strides.
        activation: Activation of the candidate state.
        recurrent_activation: Activation of the two gates.
        use_bias: Whether to use biases.
        kernel_initializer: Initializer of `kernel`.
        recurrent_initializer: Initializer of `recurrent_kernel`.
        bias_initializer: Initializer of `bias`.
        kernel_regularizer: Regularizer of `kernel`.
        recurrent_regularizer: Regularizer of `recurrent_kernel`.
        bias_regularizer: Regularizer of `bias`.
        activity_regularizer: Regularizer of the outputs.
        kernel_constraint: Constraint on `kernel`.
        recurrent_constraint: Constraint on `recurrent_kernel`.
        bias_constraint: Constraint on `bias`.
        dropout: Fraction of the inputs to drop in training, in [0, 1). Each
            gate drops different values, the same ones in all time steps.
        recurrent_dropout: Fraction of the state to drop, in the same way.
        reset_after: Whether the reset gate is applied after the convolution
            of the state (default, as in `keras.layers.GRU`) or before it.
        seed: Integer seed of the dropout. `None` draws a seed.
        return_sequences: Whether to return all states instead of the last one.
        return_state: Whether to return the last state in addition.
        go_backwards: Whether to process and return the frames in reverse order.
        stateful: Whether each sample starts with the last state of the same
            sample of the previous batch. The batch size must be fixed.
        unroll: Whether to unroll the loop over a known number of time steps.
        zero_output_for_mask: Whether masked time steps return 0, not the state.
        memel: New `MEmeL` for the candidate states `c`, or `None`. See below.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        sequences: `(batch, time, rows, columns, channels)`, or
            `(batch, time, channels, rows, columns)` if channels come first.
        initial_state: State before the first time step, or a list with this
            state. `None` uses zeros, or the last state if `stateful`.
        mask: Booleans `(batch, time)`. Time steps that are `False` leave the
            state unchanged. If the mask has more axes, as from
            `keras.layers.Masking`, a time step counts if any part of it does.
        training: Python boolean, for dropout and for `memel`.

    Output shape:
        `(batch, new rows, new columns, filters)`, or channels first. With
        `return_sequences`, `(batch, time, ...)`. With `return_state`, a pair of
        outputs and state.

    Weights, with the gates in the order update, reset, candidate:
        kernel: `(rows, columns, channels, 3 filters)`.
        recurrent_kernel: `(rows, columns, filters, 3 filters)`.
        bias: `(2, 3 filters)`, of inputs and of state; `(3 filters,)` with
            `reset_after=False`.

    The states of a stateful layer are not saved. `reset_state` sets them to 0.

    With `memel`, the candidate `c` of every time step is scored and inhibited
    before the update gate is applied, as in the nowcasting network of
    [Wang et al. 2024]:

    - The MEmeL receives the candidates of one time step,
      `(batch, new rows, new columns, filters)`, and its `axis` indexes these
      axes. With `None`, each channel at each position is a neuron, the same
      at all time steps. With -1 (channels first: 1), each channel is a neuron.
    - `steps`, `late_start` and `forget_steps` count calls (in the authors'
      code, time steps).
    - All time steps of a call are scored with the statistics before the call.
      The `b = batch * time` values of a neuron (for a channel, times its
      positions) are pooled once, after the scan. `inhibited_rate` and
      `threshold` refer to all these values.
    - `TopK(k)` selects k values per sequence and time step. `Random` draws
      again at each time step. A penalty is the mean over all selected values
      or, with `loss_is_mean = False`, the sum of the losses of the time steps.
    - Masked time steps are neither scored nor counted.
    - The first call inhibits no value: no neuron has a history yet.
    - At inference, only `at_inference=True` inhibits; statistics are frozen.
    - `score_with="current"` raises: candidates depend on the inhibition in
      the time steps before them.
    - `keras.RematScope` does not rematerialize the layer.
    - The scan carries three float32 numbers per neuron, and training keeps
      one byte per candidate.

    Raises:
        ValueError: If an argument is invalid; in `build`, if a size of the
            frames is unknown, or the convolution leaves no rows or columns; in
            `call`, if the initial state or the mask does not match.

    Example:

    >>> layer = ConvGRU2D(4, kernel_size=3, padding="same")
    >>> tuple(layer(np.ones((2, 5, 8, 8, 1))).shape)
    (2, 8, 8, 4)

    >>> layer = ConvGRU2D(4, kernel_size=3, memel=MEmeL(axis=-1))
    >>> outputs = layer(np.ones((2, 5, 8, 8, 1)), training=True)
    >>> int(layer.memel.steps), int(layer.memel.count[0])
    (1, 360)

    Reference:
        - [Shi et al. 2017](https://arxiv.org/abs/1706.03458)
        - [Wang et al. 2024](https://arxiv.org/abs/2312.11560)
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        recurrent_kernel_size: int | tuple[int, int] | None = None,
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = 1,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        recurrent_initializer: Any = "orthogonal",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        recurrent_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        unroll: bool = False,
        zero_output_for_mask: bool = False,
        memel: Any = None,
        **kwargs: Any,
    ):
        # The arguments of the cell have the same names here.
        given = locals()
        cell = ConvGRU2DCell(
            **{name: given[name] for name in _CELL_ARGUMENTS},
            name="conv_gru2d_cell",
            dtype=kwargs.get("dtype"),
        )
        super().__init__(
            cell,
            return_sequences=return_sequences,
            return_state=return_state,
            go_backwards=go_backwards,
            stateful=stateful,
            unroll=unroll,
            zero_output_for_mask=zero_output_for_mask,
            activity_regularizer=activity_regularizer,
            **kwargs,
        )
        self.input_spec = keras.layers.InputSpec(ndim=5)
        self.memel = checked(memel)

    def build(
        self, sequences_shape: Shape, initial_state_shape: Any = None
    ) -> None:
        super().build(sequences_shape, initial_state_shape)
        if self.memel is not None:
            build_new(self.memel, (None, *self.cell.state_shape))
        self.input_spec = keras.layers.InputSpec(
            shape=(None, None, *sequences_shape[2:])
        )
        self.built = True

    @property
    def variables(self) -> list[Any]:
        """All variables of the layer, including the states if `stateful`."""
        # The layers of Keras omit the states, and JAX then loses them.
        return [*super().variables, *(self.states or ())]

    def call(
        self,
        sequences: Tensor,
        initial_state: Any = None,
        mask: Tensor | None = None,
        training: bool | None = False,
    ) -> Any:
        arguments.dense("sequences", sequences)
        if mask is None:  # Keras omits the mask with an initial state
            mask = get_keras_mask(sequences)
        state = self._first_state(sequences, initial_state)
        valid = time_mask(mask, sequences)
        # `stateless_call` does not cast the inputs.
        frames = ops.cast(sequences, self.compute_dtype)
        frames = ops.swapaxes(frames, 0, 1)
        if valid is not None:
            # Masked values, even NaN, do not reach the gradient.
            frames = ops.where(valid, frames, ops.zeros_like(frames))

        masks = recurrent_masks = None
        if training:
            masks = self._draw(frames[0], self.dropout)
            recurrent_masks = self._draw(state, self.recurrent_dropout)
        weights = self.cell.read()
        convolved = self._convolve(frames, masks, weights)
        inhibitor = inhibitor_of(self.memel, bool(training))
        inputs = [convolved]
        if valid is not None:
            inputs.append(valid)
        if inhibitor is not None:
            seeds = inhibitor.seeds(ops.shape(convolved)[0])
            if self.go_backwards:
                seeds = ops.flip(seeds, axis=0)
            inputs.append(seeds)

        def step(carry: Any, parts: Any) -> Any:
            state, *sums = carry
            convolved, *rest = parts
            keep = rest[0] if valid is not None else None
            gate, candidate = self.cell.propose(
                convolved, state, weights, recurrent_masks
            )
            if inhibitor is not None:
                candidate, sums = inhibitor(candidate, keep, sums, rest[-1])
            new = updated(gate, state, candidate)
            if keep is not None:
                new = ops.where(keep, new, state)
            return (new, *sums)

        scan = kernels.reference.scan if self.unroll else kernels.scan
        (state, *sums), outputs = scan(
            step,
            (state, *(inhibitor.start(valid) if inhibitor else ())),
            tuple(inputs),
            backwards=self.go_backwards,
            collect=self.return_sequences,
        )
        if inhibitor is not None:
            inhibitor.write(sums)
        if self.stateful:
            self.states[0].assign(state)
        output = state
        if self.return_sequences:
            if valid is not None and self.zero_output_for_mask:
                if self.go_backwards:
                    valid = ops.flip(valid, axis=0)
                outputs = ops.where(valid, outputs, ops.zeros_like(outputs))
            output = ops.swapaxes(outputs, 0, 1)
        return (output, state) if self.return_state else output

    def rematerialized_call(
        self, layer_call: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Return the call of Keras or, with a MEmeL, the call itself.

        Rematerialization would run a MEmeL twice and count each step twice.
        """
        if self.memel is not None:
            return layer_call
        # JAX would trace `training`, which must be a Python boolean, and
        # TensorFlow does not accept keyword arguments here.
        call = super().rematerialized_call(
            functools.partial(layer_call, **kwargs), *args
        )
        return lambda *args, **_: call(*args)

    def _first_state(self, sequences: Tensor, initial_state: Any) -> Tensor:
        batch = self._expected_batch_size if self.stateful else None
        check_sequences(sequences, self.unroll, batch)
        if initial_state is not None:
            state = only_state(initial_state, sequences, self.cell.state_shape)
        elif self.stateful:
            # Copy: on PyTorch, this call overwrites the state in place.
            state = kernels.copy(self.states[0])
        else:
            state = self.get_initial_state(ops.shape(sequences)[0])[0]
        return ops.cast(state, self.compute_dtype)

    def _draw(self, like: Tensor, rate: float) -> list[Tensor] | None:
        if not rate:
            return None
        seed = self.cell.seed_generator
        ones = ops.ones_like(like)
        return [keras.random.dropout(ones, rate, seed=seed) for _ in GATES]

    def _convolve(
        self, frames: Tensor, masks: list[Tensor] | None, weights: Weights
    ) -> Tensor:
        """Compute `W * x + b` of all frames, `(time, batch, ...)`."""
        time, batch, *sample = ops.shape(frames)
        flat = [
            ops.reshape(seen, (time * batch, *sample))
            for seen in dropped(frames, masks)
        ]
        found = self.cell.convolve(flat, weights)
        return ops.reshape(found, (time, batch, *ops.shape(found)[1:]))

    def compute_output_shape(
        self, sequences_shape: Shape, initial_state_shape: Any = None
    ) -> Any:
        batch, time, *sample = sequences_shape
        state, _ = self.cell.compute_output_shape((batch, *sample))
        outputs = (batch, time, *state[1:]) if self.return_sequences else state
        return (outputs, state) if self.return_state else outputs

    def compute_mask(self, sequences: Tensor, mask: Any) -> Any:
        mask = keras.tree.flatten(mask)[0]
        kept = None
        if mask is not None and self.return_sequences:
            kept = any_part(mask)
            if self.go_backwards:
                kept = ops.flip(kept, axis=1)
        return [kept, None] if self.return_state else kept

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        cell = self.cell.get_config()
        del config["cell"]
        config.update({name: cell[name] for name in _CELL_ARGUMENTS})
        config["activity_regularizer"] = keras.regularizers.serialize(
            self.activity_regularizer
        )
        config["memel"] = config_of(self.memel)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "ConvGRU2D":
        """Create a layer from the result of `get_config`."""
        return cls(**config)


for _name in _CELL_ARGUMENTS:
    setattr(ConvGRU2D, _name, _of_cell(_name))
