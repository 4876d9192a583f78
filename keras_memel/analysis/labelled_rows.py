"""Order rows by the half that chooses or scores labels, and group them."""

from typing import NamedTuple

import numpy as np

from keras_memel.analysis.labels import LabelSets
from keras_memel.reports.halves import held_out
from keras_memel.reports.rules import Groups
from keras_memel.utils.types import Array


class Chosen(NamedTuple):
    """Labels that the measures are computed for.

    Attributes:
        sets: Labels of each code.
        best: Label of each neuron, `(neurons,)`; -1 without a label.
        shown: Labels of the histogram of each neuron, `(neurons, labels)`.
        parts: Numbers of inputs of the parts that were merged, each with its
            own halves; empty for one stream.
    """

    sets: LabelSets
    best: Array
    shown: Array
    parts: tuple[int, ...] = ()


class Part:
    """Rows that follow each other in the order of `Rows`.

    Args:
        start: Position of the first row.
        codes: Code of the labels of each row.
        chosen: The labels.
    """

    def __init__(self, start: int, codes: Array, chosen: Chosen):
        self._start, self._stop = start, start + len(codes)
        names = len(chosen.sets.names)
        self.groups = Groups(*chosen.sets.pairs(codes), len(codes), names)

    def of(self, ordered: Array, order: Array) -> "Ordered":
        """Select the values of this part from all values in order."""
        # Indices are faster than `ordered[inside]`, because a CPU cannot
        # predict the branches of a random mask.
        inside = (order >= self._start) & (order < self._stop)
        at = np.flatnonzero(inside)
        numbers = order.take(at)
        numbers -= self._start
        places = self.groups.places(numbers)
        return Ordered(self.groups, at, ordered.take(at), numbers, places)


class Ordered(NamedTuple):
    """Sorted values of a neuron in one part of the rows.

    Attributes:
        groups: Labels of the part.
        at: Positions of the values among all sorted values, `(n,)`.
        values: Values, lowest first.
        numbers: Number of the row of each value, within the part.
        places: Positions of the values of each label: `groups.places`.
    """

    groups: Groups
    at: Array
    values: Array
    numbers: Array
    places: Array

    def counts_between(self, ends: Array, labels: Array) -> Array:
        """Count the values of labels between positions among all values.

        Args:
            ends: Positions, ascending, `(ends,)`.
            labels: Numbers of labels, `(labels,)`.

        Returns:
            Counts, `(labels, ends - 1)`.
        """
        own = np.searchsorted(self.at, ends)[None]
        return self.groups.counts_between(self.places, own, labels)


class Rows:
    """Labels, halves and inputs of the rows.

    Attributes:
        order: Rows of the half that chooses, then those of the half that
            scores, then those without a label.
        unlabelled: Position of the first of these in `order`.
        choosing, scoring: The two halves.
        inputs: Number of the input of each row that scores, from 0 up; `None`
            if no two have the same input.
    """

    def __init__(self, tags: Array, chosen: Chosen):
        codes, inputs = tags.T
        second = held_out(_own_numbers(inputs, chosen.parts))
        group = np.where(codes < 0, 2, second).astype("int8")
        self.order = np.argsort(group, kind="stable")
        codes, inputs = codes[self.order], inputs[self.order]
        first, self.unlabelled = np.cumsum(np.bincount(group, minlength=3))[:2]
        self.choosing = Part(0, codes[:first], chosen)
        scoring = slice(first, self.unlabelled)
        self.scoring = Part(first, codes[scoring], chosen)
        unique, number = np.unique(inputs[scoring], return_inverse=True)
        self.inputs = number if len(unique) < len(number) else None


def _own_numbers(inputs: Array, parts: tuple[int, ...]) -> Array:
    """Convert numbers of inputs to numbers within their part."""
    if not parts:
        return inputs
    ends = np.cumsum(parts)
    at = np.searchsorted(ends, inputs, "right")
    return inputs - (ends - parts)[at]
