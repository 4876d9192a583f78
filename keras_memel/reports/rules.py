"""Find the rule "at least t" or "at most t" that detects a label best.

References:
    [Gurnee et al. 2023] Finding Neurons in a Haystack: Case Studies with
        Sparse Probing (arXiv 2305.01610).
"""

import functools
from typing import NamedTuple

import numpy as np

from keras_memel.reports.ties import ties
from keras_memel.utils.types import Array


class Groups:
    """Labels of a number of values.

    Args:
        value: Index of a value, at least 0 and below `number`, `(pairs,)`.
        label: A label of that value, `(pairs,)`. A value may have several
            labels, or none.
        number: Number of values.
        n_labels: Number of labels.
    """

    def __init__(self, value: Array, label: Array, number: int, n_labels: int):
        self.number, self.n_labels = number, n_labels
        # NumPy sorts int16 with a radix sort, which is faster.
        self._kind = "int16" if n_labels < 1 << 15 else "int32"
        order = np.argsort(label.astype(self._kind), kind="stable")
        self.value = value[order]
        # If each value has exactly one label, sorting is simpler.
        self._label = None
        if len(value) == number and (np.diff(value) == 1).all():
            self._label = label.astype(self._kind)
        counts = np.bincount(label, minlength=n_labels)
        (self.present,) = np.nonzero(counts)
        self.counts = counts
        # For each label, its place in `present`.
        self._slot = np.maximum(np.cumsum(counts > 0) - 1, 0)
        counts = counts[self.present]
        self.start = np.cumsum(counts) - counts
        # The counts are integers up to 2^24, exact in float32, which is faster.
        self.size = np.repeat(counts.astype("float32"), counts)
        # For each value: how many values of its label are up to it, and how
        # many from it on.
        up_to = np.arange(1, len(value) + 1) - np.repeat(self.start, counts)
        self.up_to = up_to.astype("float32")
        self.from_on = self.size + 1 - self.up_to
        self._shift = np.repeat(number * np.arange(len(counts)), counts)

    @functools.cached_property
    def baseline_f1(self) -> Array:
        """F1 of a rule that selects all values, `(labels,)`: 2 p / (1 + p)."""
        with np.errstate(invalid="ignore"):
            share = self.counts / np.float64(self.number)
        return np.where(self.counts > 0, 2 * share / (1 + share), np.nan)

    def mask(self, label: int) -> Array:
        """Return whether each value has a label, `(number,)`."""
        found = np.zeros(self.number, bool)
        at = np.searchsorted(self.present, label)
        if at < len(self.present) and self.present[at] == label:
            stop = self.start[at] + self.counts[label]
            found[self.value[self.start[at] : stop]] = True
        return found

    def places(self, order: Array) -> Array:
        """Return the positions of the values of each label, label by label.

        Args:
            order: Indices of the values, lowest value first, `(number,)`.

        Returns:
            Integers, `(pairs,)`, ascending within each label.
        """
        if self._label is not None:
            return np.argsort(self._label.take(order), kind="stable")
        position = np.empty(self.number, "int64")
        position[order] = np.arange(self.number)
        places = position[self.value] + self._shift
        places.sort()
        return places - self._shift

    def counts_between(
        self, places: Array, edges: Array, labels: Array
    ) -> Array:
        """Count the values of labels between edges.

        Args:
            places: Positions of the values of each label: `places`.
            edges: Positions, ascending, `(labels, edges)` or `(1, edges)`.
            labels: Numbers of labels, `(labels,)`.

        Returns:
            Counts, `(labels, edges - 1)`.
        """
        if not len(places):
            return np.zeros((len(labels), edges.shape[1] - 1), "int64")
        # A shift per label makes the positions of all labels ascend.
        rows = self.number * self._slot[labels][:, None]
        found = np.searchsorted(places + self._shift, rows + edges)
        counts: Array = found[:, 1:] - found[:, :-1]
        return counts * (self.counts[labels] > 0)[:, None]


class Rules(NamedTuple):
    """Rules with one threshold per label: "at least t" or "at most t".

    Attributes:
        threshold: Thresholds, `(labels,)`; NaN for a label without values.
        above: Whether the rule is "at least", `(labels,)`.
        f1: F1 of the rule on the values that chose it, `(labels,)`.
    """

    threshold: Array
    above: Array
    f1: Array


def best_rules(ordered: Array, places: Array, groups: Groups) -> Rules:
    """Choose the threshold with the highest F1 for each label.

    This is the measure of sparse probing with one neuron [Gurnee et al.
    2023]. F1 is the harmonic mean of precision and recall. Among rules with
    the same F1, "at least" precedes "at most", and then the lowest threshold
    is chosen.

    Args:
        ordered: Activations, lowest first, `(n,)`.
        places: Positions of the values of each label: `groups.places`.
        groups: Labels of these values.

    Returns:
        `Rules`.

    Example:

    >>> groups = Groups(np.arange(4), np.array([0, 1, 1, 2]), 4, 3)
    >>> ordered = np.array([-1.0, 0.0, 0.0, 2.0])
    >>> rules = best_rules(ordered, groups.places(np.arange(4)), groups)
    >>> rules.f1.round(2)
    array([1. , 0.8, 1. ])
    >>> rules.threshold, rules.above
    (array([-1.,  0.,  2.]), array([False,  True,  True]))
    """
    found = Rules(
        np.full(groups.n_labels, np.nan),
        np.zeros(groups.n_labels, bool),
        np.full(groups.n_labels, np.nan),
    )
    if not len(places):
        return found
    begin, end = ties(ordered).around(places)
    begin, end = begin.astype("float32"), end.astype("float32")
    # Within a tie, only the last count of hits is complete; the others are too
    # low. The highest F1 of a tie is therefore that of the rule.
    end += groups.size
    below = np.divide(groups.up_to, end, out=end)
    np.subtract(np.float32(len(ordered)), begin, out=begin)
    begin += groups.size
    above = np.divide(groups.from_on, begin, out=begin)
    best = [np.maximum.reduceat(side, groups.start) for side in (below, above)]
    higher = best[1] >= best[0]
    counts = groups.counts[groups.present]
    side = np.where(np.repeat(higher, counts), above, below)
    highest = np.maximum(*best)
    reached = np.flatnonzero(side == np.repeat(highest, counts))
    first = reached[np.searchsorted(reached, groups.start)]
    found.threshold[groups.present] = ordered[places[first]]
    found.above[groups.present] = higher
    found.f1[groups.present] = 2 * highest
    return found


def f1_of_rules(
    rules: Rules, ordered: Array, places: Array, groups: Groups
) -> Array:
    """Compute the F1 of rules on values that did not choose them.

    Args:
        rules: Result of `best_rules`.
        ordered: Activations, lowest first, `(n,)`.
        places: Positions of the values of each label: `groups.places`.
        groups: Labels of these values.

    Returns:
        F1, `(labels,)`, in [0, 1]; NaN for a label without a rule or a value.

    Example:

    >>> groups = Groups(np.arange(3), np.array([0, 0, 1]), 3, 2)
    >>> rules = Rules(np.array([1.0, 4.0]), np.array([False, True]), None)
    >>> order = np.arange(3)
    >>> f1_of_rules(rules, np.array([0.0, 3, 5]), groups.places(order), groups)
    array([0.66666667, 1.        ])
    """
    number = len(ordered)
    cut = np.where(
        rules.above,
        np.searchsorted(ordered, rules.threshold, "left"),
        np.searchsorted(ordered, rules.threshold, "right"),
    )
    first = np.where(rules.above, cut, 0)
    stop = np.where(rules.above, number, cut)
    found = np.full(groups.n_labels, np.nan)
    known = (groups.counts > 0) & ~np.isnan(rules.threshold)
    (labels,) = np.nonzero(known)
    edges = np.stack([first, stop], axis=1)[labels]
    hits = groups.counts_between(places, edges, labels)[:, 0]
    selected = (stop - first)[labels]
    found[labels] = 2 * hits / (selected + groups.counts[labels])
    return found
