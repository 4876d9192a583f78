"""Define the values of single inputs that a report keeps per neuron."""

from typing import NamedTuple

from keras_memel.utils.types import Array


class Examples(NamedTuple):
    """Activations of each neuron on some inputs.

    The examples have two sides: side 0 are the inputs with the highest value,
    side 1 those with the lowest. Each side contains an input once, even if it
    has several extreme values. A sample of inputs is added, the same for all
    neurons: the inputs whose number has the lowest hash.

    Activations are shares of `most`, in float16. They are infinite where a
    value is not finite, and NaN where a mask excludes the value. Positions are
    flat indices into `sizes`. If a layer is called several times per input,
    the first call is kept.

    Attributes:
        input: Numbers of inputs, `(neurons, 2, examples)`; -1 where there are
            fewer.
        position: Position of the highest or lowest value, same shape.
        value: Highest or lowest value, same shape.
        activation: All values of the neuron on that input, `(neurons, 2,
            examples, *sizes)`.
        most: Highest absolute value among those kept, `(neurons,)`.
        sample: Numbers of the inputs of the sample, `(sample,)`, sorted by
            `sample_order`.
        sample_order: Hash of each number, by which samples are merged.
        sample_position, sample_value: Position of the highest value, and the
            value, `(neurons, sample)`.
        sample_activation: All values on the inputs of the sample, `(neurons,
            sample, *sizes)`.
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
    """Statistics of the values of each neuron without a label.

    Attributes:
        count, zeros: Number of these values, and number of those that are
            exactly 0, `(neurons,)`.
        mean, ms: Mean value and mean `phi`; NaN without values.
        histogram: Number of values per bin, `(neurons, bins)`, with the bins
            of the labels.
    """

    count: Array
    zeros: Array
    mean: Array
    ms: Array
    histogram: Array


class Field(NamedTuple):
    """Receptive field of a layer: the part of the input behind one value.

    The value at position `p` of an axis depends on `size` values of the same
    axis of the input, starting at `offset + p * stride`. A negative offset
    reaches into the padding.

    Attributes:
        input: Sizes of the axes of the input, one or two.
        size, stride, offset: One number per axis.
    """

    input: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: tuple[int, ...]
