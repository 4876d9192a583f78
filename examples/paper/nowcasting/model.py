"""The encoder-forecaster of Shi et al. (2017), with ConvGRUs.

    frames -> conv -> ConvGRU -> conv -> ConvGRU -> conv -> ConvGRU   encoder
                        | state            | state            | state
    frames <- out <-  ConvGRU <- up   <- ConvGRU <- up   <- ConvGRU   forecaster

The encoder processes smaller and smaller maps. The forecaster starts from its
states, and its top level has no input. All convolutions and the candidate
states have leaky ReLUs with a slope of 0.2. The reset gate multiplies the
output of the recurrent convolution. The two networks of the papers forecast the
frames; the small one forecasts the change from the last input frame, and starts
as persistence.

Reference: X. Shi et al. (2017), Deep Learning for Precipitation Nowcasting: A
Benchmark and a New Model (arXiv 1706.03458).
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_memel import ConvGRU2D
from keras_memel import MEmeL


@dataclasses.dataclass(frozen=True)
class Network:
    """Sizes of a network; its convolutions are (filters, kernel, stride).

    Attributes:
        down: Convolutions before the three ConvGRUs of the encoder.
        up: Transposed convolutions after those of the forecaster, from the top.
        states: Filters of the ConvGRUs, from the bottom, and of both sides.
        recurrent: Kernels of their states; those of their inputs are 3 wide.
        head: Convolutions (filters, kernel) before the 1 x 1 output.
        size: Height and width of the frames.
        frames: Number of frames to see and to forecast.
        residual: Whether the output is added to the last frame seen.
    """

    down: tuple[tuple[int, int, int], ...]
    up: tuple[tuple[int, int, int], ...]
    states: tuple[int, ...]
    recurrent: tuple[int, ...]
    size: tuple[int, int]
    frames: tuple[int, int]
    head: tuple[tuple[int, int], ...] = ()
    residual: bool = False


NETWORKS = {
    # The ConvGRUs of Wang et al. (2024).
    "paper": Network(
        down=((8, 7, 5), (64, 5, 3), (192, 3, 2)),
        up=((192, 4, 2), (192, 5, 3), (8, 7, 5)),
        states=(64, 192, 192),
        recurrent=(5, 5, 3),
        size=(120, 120),
        frames=(10, 10),
    ),
    # The sizes in the published configuration of Shi et al. (2017).
    "shi": Network(
        down=((8, 7, 5), (192, 5, 3), (192, 3, 2)),
        up=((192, 4, 2), (192, 5, 3), (8, 7, 5)),
        states=(64, 192, 192),
        recurrent=(5, 5, 3),
        head=((8, 3),),
        size=(480, 480),
        frames=(5, 20),
    ),
    # Sizes for a few hours of a small field on a laptop.
    "small": Network(
        down=((8, 6, 4), (16, 4, 2), (24, 3, 1)),
        up=((24, 3, 1), (16, 4, 2), (8, 6, 4)),
        states=(16, 24, 24),
        recurrent=(3, 3, 3),
        size=(56, 40),
        frames=(3, 2),
        residual=True,
    ),
}
LEAKY = "leaky_relu"  # In Keras, it has a slope of 0.2.


@keras.saving.register_keras_serializable("nowcasting")
class EachFrame(keras.layers.Wrapper):
    """Apply a layer of images to all frames of `(batch, frames, ...)`.

    At once, where `keras.layers.TimeDistributed` goes from frame to frame.
    """

    def build(self, input_shape):
        super().build((None, *input_shape[2:]))

    def call(self, inputs):
        shape = ops.shape(inputs)
        outputs = self.layer(ops.reshape(inputs, (-1, *inputs.shape[2:])))
        return ops.reshape(
            outputs, (-1, shape[1], *self.compute_output_shape(shape)[2:])
        )

    def compute_output_shape(self, input_shape):
        image = self.layer.compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *image[1:])


def build(network, memel=None, frames=None, size=None):
    """Build a model from `(batch, frames in, h, w, 1)` to `(... out ...)`.

    Args:
        network: A `Network`, or the name of one.
        memel: Arguments of a MEmeL on the candidate states of each of the six
            ConvGRUs, or `None`.
        frames: Number of frames to see and to forecast, instead of those of
            the network.
        size: Height and width, instead of those of the network.

    Weights begin as they do without MEmeL under the same seed.
    """
    if isinstance(network, str):
        network = NETWORKS[network]
    frames_in, frames_out = frames or network.frames
    size = tuple(size or network.size)
    _check_size(network, size)

    def gru(level, name, **kwargs):
        if memel is not None:
            kwargs["memel"] = MEmeL(**memel)
        return ConvGRU2D(
            network.states[level],
            3,
            recurrent_kernel_size=network.recurrent[level],
            padding="same",
            activation=LEAKY,
            return_sequences=True,
            name=f"{name}_{level + 1}",
            **kwargs,
        )

    inputs = keras.Input((frames_in, *size, 1), name="frames")
    x, states = inputs, []
    for level, (filters, kernel, stride) in enumerate(network.down):
        # Pad equally on both sides, as PyTorch does.
        pad = _padding(kernel, stride)
        x = keras.layers.ZeroPadding3D((0, pad, pad))(x)
        x = EachFrame(
            keras.layers.Conv2D(filters, kernel, stride, activation=LEAKY),
            name=f"down_{level + 1}",
        )(x)
        x, state = gru(level, "encoder", return_state=True)(x)
        states.append(state)

    # The top level of the forecaster has no input: one channel of zeros.
    nothing = ops.expand_dims(ops.zeros_like(states[-1][..., :1]), 1)
    x = ops.repeat(nothing, frames_out, axis=1)
    for i, (filters, kernel, stride) in enumerate(network.up):
        level = len(network.up) - 1 - i
        x = gru(level, "forecaster")(x, initial_state=[states[level]])
        x = EachFrame(
            keras.layers.Conv2DTranspose(
                filters, kernel, stride, padding="same", activation=LEAKY
            ),
            name=f"up_{level + 1}",
        )(x)
    for i, (filters, kernel) in enumerate(network.head):
        x = EachFrame(
            keras.layers.Conv2D(
                filters, kernel, padding="same", activation=LEAKY
            ),
            name=f"head_{i + 1}",
        )(x)
    x = EachFrame(
        keras.layers.Conv2D(
            1,
            1,
            kernel_initializer="zeros"
            if network.residual
            else "glorot_uniform",
            dtype="float32",
        ),
        dtype="float32",
        name="output",
    )(x)
    if network.residual:
        last = keras.layers.Identity(dtype="float32")(inputs[:, -1:])
        x = keras.layers.Add(dtype="float32")([x, last])
    return keras.Model(inputs, x, name="encoder_forecaster")


def forecast(model, seen, batch):
    """Forecast in batches of equal size.

    A smaller one would be compiled anew, and not divide over devices.
    """
    told = []
    for first in range(0, len(seen), batch):
        part = seen[first : first + batch]
        missing = np.repeat(part[-1:], batch - len(part), axis=0)
        full = model.predict_on_batch(np.concatenate([part, missing]))
        told.append(np.asarray(full)[: len(part)])
    return np.concatenate(told)


def _padding(kernel, stride):
    return -(-(kernel - stride) // 2)


def _check_size(network, size):
    whole = math.prod(stride for _, _, stride in network.down)
    if any(side % whole for side in size):
        raise ValueError(
            f"The sides of the frames must be multiples of {whole}, the "
            f"strides of the network together. Received: size={size}"
        )
