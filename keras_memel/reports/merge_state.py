"""Define the state of a layer that merging reports needs."""

from typing import NamedTuple

import numpy as np

from keras_memel.utils.types import Array


class MergeState(NamedTuple):
    """Sums and a sample of values of the neurons of one layer.

    Attributes:
        moments: Count, mean, and sums of the second, third and fourth powers of
            deviations, `(5, neurons)`.
        absolute: Sum of absolute values, `(neurons,)`.
        far, far_where: Highest values and, negated, lowest values, `(2, top,
            neurons)`; number of the input and position of each.
        label_moments: Count, mean and second sum of each half and label, `(3,
            2, labels, neurons)`.
        set_start, set_member: Labels of each code (`LabelSets`).
        values: Uniform sample of the values, `(neurons, rows)`. NaN marks
            excluded values.
        tags: Code of the label and number of the input of each row, `(rows,
            2)`; zero columns without labels.
        share: Probability that a row is in the sample, `(1,)`.
        most: Maximum number of rows of the sample, `(1,)`.
        cell, cell_count: Counts of the labels that the histogram does not
            show: the number `(neuron * labels + label) * (BINS + 1) + bin` of
            a cell, increasing, and its number of values. Bin `BINS` counts the
            values that are 0 a second time.
        mono_base, mono_vectors, mono_sums: Sums for MonoScore
            (`MonoScores.state`), `(neurons,)`, `(2, neurons, dimensions)` and
            `(5, neurons)`; `None` without embeddings.
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
    cell: Array = np.zeros(0, "int64")
    cell_count: Array = np.zeros(0, "int64")
    mono_base: Array | None = None
    mono_vectors: Array | None = None
    mono_sums: Array | None = None
