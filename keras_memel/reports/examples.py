"""What a report keeps of single inputs, neuron by neuron."""

from typing import NamedTuple

from keras_memel.utils.types import Array


class Examples(NamedTuple):
    """What each neuron does on some inputs.

    Two sides: the inputs with the highest value, 0, and those with the lowest,
    1. Each input is there once, however often it comes near. Beside them
    stands a sample of inputs, the same for all neurons: those for whose numbers
    a hash is lowest.

    Activations are shares of `most`, in float16: infinite where a value is not
    finite, NaN where a mask leaves nothing. Positions are flat indices into
    `sizes`; where a layer is called several times per input, those of its
    first call.

    Attributes:
        input: Numbers of inputs, `(neurons, 2, examples)`; -1 where there are
            fewer.
        position: Where the highest, or lowest, value is, of the same shape.
        value: That value, of the same shape.
        activation: All values of the neuron on that input, `(neurons, 2,
            examples, *sizes)`.
        most: Highest absolute value among those kept, `(neurons,)`.
        sample: Numbers of the inputs of the sample, `(sample,)`, rising by
            `sample_order`.
        sample_order: The hash of each, by which samples are merged.
        sample_position, sample_value: Where the highest value is, and the
            value, `(neurons, sample)`.
        sample_activation: `(neurons, sample, *sizes)`.
    """

    input: Array
    position: Array
    value: Array
    activation: Array
    most: Array
    sample: Array
    sample_order: Array
    sample_position: Array
    sample_value: Array
    sample_activation: Array


class Unlabelled(NamedTuple):
    """The values of each neuron that have no label.

    Attributes:
        count, zeros: How many values there are, and how many are exactly 0,
            `(neurons,)`.
        mean, ms: Their mean, and mean `phi`; NaN if there are none.
        histogram: `(neurons, bins)`, of the bins of the other labels.
    """

    count: Array
    zeros: Array
    mean: Array
    ms: Array
    histogram: Array


class Field(NamedTuple):
    """The receptive field of a layer: which part of the input one value sees.

    The value at position `p` of an axis depends on `size` values of the same
    axis of the input, from `offset + p * stride` on. An offset below 0 reaches
    into the padding.

    Attributes:
        input: Sizes of the axes of the input, one or two.
        size, stride, offset: Along each axis.
    """

    input: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]
