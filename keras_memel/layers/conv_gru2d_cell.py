"""ConvGRU2DCell: one time step of a convolutional GRU.

With convolutions `*` and a state `h`:

    z  = sigmoid(W_z * x + b_z  +  R_z * h + d_z)         update gate
    r  = sigmoid(W_r * x + b_r  +  R_r * h + d_r)         reset gate
    c  = tanh(W_h * x + b_h  +  r (R_h * h + d_h))        candidate state
    h <- z h + (1 - z) c

Reference: [Shi et al. 2017] Deep Learning for Precipitation Nowcasting: A
Benchmark and A New Model (arXiv 1706.03458), Eq. 1.
"""

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.utils import arguments
from keras_memel.utils.keras_internals import DropoutRNNCell
from keras_memel.utils.keras_internals import standardize_data_format
from keras_memel.utils.keras_internals import standardize_padding
from keras_memel.utils.keras_internals import standardize_tuple
from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor

# Order of the gates in the kernels, as in `keras.layers.GRU`.
GATES = ("update", "reset", "candidate")


class Weights(NamedTuple):
    """Weights of a cell in its compute dtype, read once per call.

    Attributes:
        kernel: `(rows, columns, channels, 3 filters)`.
        recurrent_kernel: `(rows, columns, filters, 3 filters)`.
        bias: Added to the convolved inputs, broadcastable to them, or `None`.
        recurrent_bias: The same for the convolved state.
    """

    kernel: Tensor
    recurrent_kernel: Tensor
    bias: Tensor | None
    recurrent_bias: Tensor | None


@keras.saving.register_keras_serializable("keras_memel")
class ConvGRU2DCell(keras.layers.Layer, DropoutRNNCell):
    """Compute one time step of a `ConvGRU2D`.

    Use the cell in a custom loop, such as a forecaster that receives its own
    outputs as inputs. In a model, use `ConvGRU2D`: `keras.layers.RNN` does not
    support the cell, because it assumes states with one axis. `ConvGRU2D`
    describes the equations and the arguments in detail.

    Args:
        filters: Number of channels of the state.
        kernel_size: Rows and columns of the convolution of the inputs.
        recurrent_kernel_size: Kernel size for the state, by default the same.
        strides: Strides of the convolution of the inputs.
        padding: Padding of the inputs, `"valid"` or `"same"`.
        data_format: `"channels_last"`, `"channels_first"`, or `None`.
        dilation_rate: Dilation of the convolution of the inputs.
        activation: Activation of the candidate state.
        recurrent_activation: Activation of the gates.
        use_bias: Whether to use biases.
        kernel_initializer: Initializer of `kernel`.
        recurrent_initializer: Initializer of `recurrent_kernel`.
        bias_initializer: Initializer of `bias`.
        kernel_regularizer: Regularizer of `kernel`.
        recurrent_regularizer: Regularizer of `recurrent_kernel`.
        bias_regularizer: Regularizer of `bias`.
        kernel_constraint: Constraint on `kernel`.
        recurrent_constraint: Constraint on `recurrent_kernel`.
        bias_constraint: Constraint on `bias`.
        dropout: Fraction of the inputs to drop in training.
        recurrent_dropout: Fraction of the state to drop in training.
        reset_after: Whether the reset gate is applied after the convolution.
        seed: Integer seed of both dropouts, or `None`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        inputs: `(batch, rows, columns, channels)`, or channels first.
        states: State `(batch, new rows, new columns, filters)`, or a list with
            this state.
        training: Python boolean. Dropout acts only in training. Each time step
            drops the same values until you call `reset_dropout_mask` and
            `reset_recurrent_dropout_mask`.

    Returns:
        The new state as output, and the new state again, in a list if `states`
        is a list.

    Raises:
        ValueError: If an argument is invalid; in `build`, if a size of the
            frames is unknown, or the convolution leaves no rows or columns.

    Example:

    >>> cell = ConvGRU2DCell(4, kernel_size=3, padding="same")
    >>> cell.build((None, 8, 8, 1))
    >>> state = cell.get_initial_state(batch_size=2)
    >>> output, state = cell(np.ones((2, 8, 8, 1)), state)
    >>> tuple(output.shape)
    (2, 8, 8, 4)
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
        kernel_constraint: Any = None,
        recurrent_constraint: Any = None,
        bias_constraint: Any = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reset_after: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = arguments.integer("filters", filters, "at least 1", 1)
        self.kernel_size = standardize_tuple(kernel_size, 2, "kernel_size")
        if recurrent_kernel_size is None:
            recurrent_kernel_size = self.kernel_size
        self.recurrent_kernel_size = standardize_tuple(
            recurrent_kernel_size, 2, "recurrent_kernel_size"
        )
        self.strides = standardize_tuple(strides, 2, "strides")
        self.padding = standardize_padding(padding)
        self.data_format = standardize_data_format(data_format)
        self.dilation_rate = standardize_tuple(
            dilation_rate, 2, "dilation_rate"
        )
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                "Specifying `strides > 1` is not compatible with "
                "`dilation_rate > 1`. "
                f"Received: strides={self.strides} and "
                f"dilation_rate={self.dilation_rate}"
            )
        self.activation = keras.activations.get(activation)
        self.recurrent_activation = keras.activations.get(recurrent_activation)
        self.use_bias = arguments.boolean("use_bias", use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.recurrent_initializer = keras.initializers.get(
            recurrent_initializer
        )
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.recurrent_regularizer = keras.regularizers.get(
            recurrent_regularizer
        )
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.dropout = _share("dropout", dropout)
        self.recurrent_dropout = _share("recurrent_dropout", recurrent_dropout)
        self.dropout_mask_count = len(GATES)
        self.reset_after = arguments.boolean("reset_after", reset_after)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        # As in the cells of Keras, `RNN` then infers the sizes from shapes.
        self.state_size = -1

    def build(self, input_shape: Shape, states_shape: Any = None) -> None:
        channels = 1 if self.data_format == "channels_first" else 3
        if any(size is None for size in input_shape[1:]):
            raise ValueError(
                "Argument `sequences` must have rows, columns and channels of "
                "a known size. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(shape=(None, *input_shape[1:]))
        width = len(GATES) * self.filters
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.kernel_size, input_shape[channels], width),
            initializer=self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.recurrent_kernel = self.add_weight(
            name="recurrent_kernel",
            shape=(*self.recurrent_kernel_size, self.filters, width),
            initializer=self.recurrent_initializer,
            regularizer=self.recurrent_regularizer,
            constraint=self.recurrent_constraint,
        )
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                # Inputs and state have one bias each, as in `keras.layers.GRU`.
                shape=(2, width) if self.reset_after else (width,),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )
        # Compute it once here: `torch.compile` cannot trace the computation.
        shape, _ = self.compute_output_shape((None, *input_shape[1:]))
        self.state_shape = shape[1:]
        self.built = True

    def call(
        self, inputs: Tensor, states: Any, training: bool | None = False
    ) -> tuple[Tensor, Any]:
        nested = isinstance(states, (list, tuple))
        state = states[0] if nested else states
        masks = recurrent_masks = None
        if training:
            masks = self.get_dropout_mask(inputs)
            recurrent_masks = self.get_recurrent_dropout_mask(state)
        weights = self.read()
        convolved = self.convolve(dropped(inputs, masks), weights)
        gate, candidate = self.propose(
            convolved, state, weights, recurrent_masks
        )
        state = updated(gate, state, candidate)
        return state, [state] if nested else state

    def read(self) -> Weights:
        """Return the current weights in the compute dtype."""
        kernel, recurrent_kernel = (
            ops.cast(weight, self.compute_dtype)
            for weight in (self.kernel, self.recurrent_kernel)
        )
        bias = recurrent_bias = None
        if self.bias is not None:
            parts = ops.cast(self.bias, self.compute_dtype)
            shape = (1, 1, 1, -1)
            if self.data_format == "channels_first":
                shape = (1, -1, 1, 1)
            if self.reset_after:
                bias = ops.reshape(parts[0], shape)
                recurrent_bias = ops.reshape(parts[1], shape)
            else:
                bias = ops.reshape(parts, shape)
        return Weights(kernel, recurrent_kernel, bias, recurrent_bias)

    def convolve(self, inputs: list[Tensor], weights: Weights) -> Tensor:
        """Compute `W * x + b`, `(batch, new rows, new columns, 3 filters)`.

        Args:
            inputs: Inputs of the gates, one tensor for all or one per gate.
            weights: Weights as `read` returns them.
        """
        found = self._convolve(
            inputs,
            weights.kernel,
            strides=self.strides,
            padding=self.padding,
            dilation_rate=self.dilation_rate,
        )
        return found if weights.bias is None else found + weights.bias

    def propose(
        self,
        convolved: Tensor,
        state: Tensor,
        weights: Weights,
        masks: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the update gate and the candidate state of one time step.

        Args:
            convolved: Result of `convolve` for the inputs of the time step.
            state: State before the time step.
            weights: Weights as `read` returns them.
            masks: Dropout mask of the state per gate, or `None`.
        """
        channels = self._channels
        x_update, x_reset, x_candidate = ops.split(convolved, 3, channels)
        seen = dropped(state, masks)
        kernel = weights.recurrent_kernel
        if self.reset_after:
            recurrent = self._convolve(seen, kernel)
            if weights.recurrent_bias is not None:
                recurrent = recurrent + weights.recurrent_bias
            h_update, h_reset, h_candidate = ops.split(recurrent, 3, channels)
        else:
            last = 2 * self.filters
            recurrent = self._convolve(seen[:2], kernel[..., :last])
            h_update, h_reset = ops.split(recurrent, 2, channels)
        update = self.recurrent_activation(x_update + h_update)
        reset = self.recurrent_activation(x_reset + h_reset)
        if self.reset_after:
            h_candidate = reset * h_candidate
        else:
            h_candidate = self._convolve([reset * seen[-1]], kernel[..., last:])
        return update, self.activation(x_candidate + h_candidate)

    @property
    def _channels(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def _convolve(
        self,
        inputs: list[Tensor],
        kernel: Tensor,
        strides: tuple[int, int] = (1, 1),
        padding: str = "same",
        dilation_rate: tuple[int, int] = (1, 1),
    ) -> Tensor:
        # Use one convolution for all gates, unless their dropout masks differ.
        parts = [kernel]
        if len(inputs) > 1:
            parts = ops.split(kernel, len(inputs), axis=-1)
        settings = {
            "strides": strides,
            "padding": padding,
            "data_format": self.data_format,
            "dilation_rate": dilation_rate,
        }
        found = [kernels.conv(*pair, **settings) for pair in zip(inputs, parts)]
        if len(found) == 1:
            return found[0]
        return ops.concatenate(found, axis=self._channels)

    def compute_output_shape(
        self, inputs_shape: Shape, states_shape: Any = None
    ) -> tuple[Shape, list[Shape]]:
        channels = inputs_shape[self._channels]
        outputs = ops.conv(
            keras.KerasTensor(inputs_shape),
            keras.KerasTensor((*self.kernel_size, channels, self.filters)),
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
        )
        shape = tuple(outputs.shape)
        return shape, [shape]

    def get_initial_state(self, batch_size: Any = None) -> list[Tensor]:
        """Return zeros, `[(batch, new rows, new columns, filters)]`."""
        return [ops.zeros((batch_size, *self.state_shape), self.compute_dtype)]

    def get_config(self) -> dict[str, Any]:
        config: dict[str, Any] = super().get_config()
        config.update(
            filters=self.filters,
            kernel_size=self.kernel_size,
            recurrent_kernel_size=self.recurrent_kernel_size,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            dilation_rate=self.dilation_rate,
            use_bias=self.use_bias,
            dropout=self.dropout,
            recurrent_dropout=self.recurrent_dropout,
            reset_after=self.reset_after,
            seed=self.seed,
        )
        for kind, names in (
            (keras.activations, ("activation", "recurrent_activation")),
            (keras.initializers, _weights("initializer")),
            (keras.regularizers, _weights("regularizer")),
            (keras.constraints, _weights("constraint")),
        ):
            for name in names:
                config[name] = kind.serialize(getattr(self, name))
        return config


def _weights(kind: str) -> tuple[str, ...]:
    return f"kernel_{kind}", f"recurrent_{kind}", f"bias_{kind}"


def _share(argument: str, value: Any) -> float:
    # Keras would treat 1 as 0, and accept -1 and 2 as well.
    return arguments.number(argument, value, "at least 0 and below 1", 0.0, 1.0)


def dropped(values: Tensor, masks: list[Tensor] | None) -> list[Tensor]:
    """Apply the dropout masks. Without masks, all gates share one tensor."""
    return [values] if masks is None else [values * mask for mask in masks]


def updated(gate: Tensor, state: Tensor, candidate: Tensor) -> Tensor:
    """Compute the state after a time step, `z h + (1 - z) c`."""
    return gate * state + (1 - gate) * candidate
