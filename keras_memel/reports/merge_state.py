"""What a report keeps of each layer so that it can be merged with others."""

from typing import NamedTuple

from keras_memel.utils.types import Array


class MergeState(NamedTuple):
    """Sums and a sample of values of the neurons of one layer.

    Attributes:
        moments: Count, mean, and sums of the second, third and fourth powers of
            deviations, `(5, neurons)`.
        absolute: Sum of absolute values, `(neurons,)`.
        far, far_where: The highest values and, negated, the lowest, `(2, top,
            neurons)`; number of the input and position of each.
        label_moments: Count, mean and second sum of each half and label, `(3,
            2, labels, neurons)`.
        set_start, set_member: Labels of each code (`LabelSets`).
        values: A uniform sample of the values, `(neurons, rows)`; NaN is left
            out.
        tags: Code of the label and number of the input of each row, `(rows,
            2)`; no columns without labels.
        share: Probability with which a row is in the sample, `(1,)`.
        most: Rows that the sample may have, `(1,)`.
    """

    moments: Array
    absolute: Array
    far: Array
    far_where: Array
    label_moments: Array
    set_start: Array
    set_member: Array
    values: Array
    tags: Array
    share: Array
    most: Array
