"""How well one number, a monosemantic scale or an activation, tells a label.

All that is asked of a detector follows from its values in order: for each
threshold, how many of them reach it (`selected`) and how many of those belong
to the label (`hits`). Values that tie are selected together.

Pure functions on the values of one neuron.

References:
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
    [Gurnee et al. 2023] Finding Neurons in a Haystack: Case Studies with
        Sparse Probing (arXiv 2305.01610).
"""

import functools
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_memel.utils.types import Array

# A curve is kept at so many ranks: at each of the first, where it moves most,
# and farther and farther apart up to the last.
RANKS = 256
_EACH = 64
# The bits of a float64 that a float32 leaves empty.
_TAG = (1 << 29) - 1
# Stands for 0: a tag on that would be a subnormal, which CPUs may flush. Less
# than any float32, so that it is lost in all others.
_ZERO = 2.0**-900


class Curve(NamedTuple):
    """A detector at some of its thresholds, from the highest value down.

    Attributes:
        threshold: Values that are thresholds, `(..., ranks)`.
        selected: How many values reach each, with ties.
        hits: How many of those are of the label.
    """

    threshold: Array
    selected: Array
    hits: Array


class Detection(NamedTuple):
    """How well the values of a neuron tell a label.

    Attributes:
        roc_auc: Area under the receiver operating characteristic; NaN if all
            values are of the label, or none.
        average_precision: Mean precision over the values of the label.
        ks_statistic: Kolmogorov-Smirnov distance between the values of the
            label and all values.
        curve: The thresholds that are kept.
    """

    roc_auc: float
    average_precision: float
    ks_statistic: float
    curve: Curve


@functools.lru_cache(maxsize=8)
def ranks(count: int) -> Array:
    """The ranks at which a curve of so many values is kept.

    Returns:
        `RANKS` whole numbers from 1 to `count`, the last of which repeat if
        there are fewer values.

    Example:

    >>> ranks(1000)[[0, 1, 63, 64, 150, 255]].tolist()
    [1, 2, 64, 65, 222, 1000]
    """
    each = np.arange(1, _EACH + 1)
    step = np.arange(1, RANKS - _EACH + 1) / (RANKS - _EACH)
    beyond = _EACH * (max(count, _EACH) / _EACH) ** step
    found = np.rint(np.concatenate([each, beyond])).astype("int64")
    return np.minimum(found, count)


def in_order(values: Array, tags: Array) -> tuple[Array, Array]:
    """Sorts values, each with a small whole number that goes along.

    One sort of float64: it has 29 bits that a float32 leaves empty, and a tag
    in them orders nothing but what ties.

    Args:
        values: float32 without NaN, `(n,)`.
        tags: Whole numbers from 0 below 2^29, or booleans, `(n,)`.

    Returns:
        The values, lowest first, as float64, and the tag of each. A value of 0
        becomes 2^-900, by which -0 and 0 tie.

    Example:

    >>> in_order(np.float32([3, -0.5, 2]), np.array([7, 8, 9]))
    (array([-0.5,  2. ,  3. ]), array([8, 9, 7]))
    """
    keys = values.astype("float64")
    keys += _ZERO
    bits = keys.view("int64")
    bits |= tags
    keys.sort()
    tags = bits & _TAG
    bits &= ~_TAG
    return keys, tags


def _ties(ordered: Array, at: Array) -> tuple[Array, Array]:
    """Where the values that tie with those at some places begin and end."""
    new = np.ones(len(ordered) + 1, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:-1])
    first = np.flatnonzero(new)
    if len(first) == len(new):
        return at, at + 1
    group = np.cumsum(new, dtype="int32")[at]
    return first[group - 1], first[group]


def detection(values: Array, positive: Array) -> Detection:
    """How well high values tell a label.

    Args:
        values: Values, not negative, `(n,)`. They are compared to 22 bits, a
            part in four million: one bit of a float32 says whose a value is
            while they are sorted.
        positive: Whether each is of the label, `(n,)`.

    Returns:
        `Detection`.

    Example:

    >>> found = detection(
    ...     np.array([9.0, 4.0, 4.0, 1.0]),
    ...     np.array([True, True, False, False]),
    ... )
    >>> found.roc_auc  # one of the four pairs ties
    0.875
    """
    number = len(values)
    bits = np.array(values, "float32").view("int32")
    bits &= ~1
    bits |= positive
    bits.sort()
    # What is asked of the whole curve changes only where there is a value of
    # the label.
    where = np.flatnonzero((bits & 1).astype(bool))
    bits &= ~1
    ordered = bits.view("float32")
    positives = len(where)
    average_precision = roc_auc = ks_statistic = np.nan
    if positives:
        begin, end = _ties(bits, where)
        its_begin, its_end = _ties(begin, np.arange(positives))
        # At least the value of each, and above it.
        selected, above = number - begin, number - end
        hits, hits_above = positives - its_begin, positives - its_end
        average_precision = np.mean(hits / selected)
        ks_statistic = max(
            np.max(np.abs(hits / positives - selected / number)),
            np.max(np.abs(hits_above / positives - above / number)),
        )
        if positives < number:
            # A negative that ties with a positive is half above it.
            false = (selected - hits) + (above - hits_above)
            roc_auc = 1 - np.sum(false) / 2 / positives / (number - positives)
    threshold = ordered[number - ranks(number)]
    begin = np.searchsorted(ordered, threshold)
    curve = Curve(
        threshold,
        number - begin,
        positives - np.searchsorted(where, begin),
    )
    return Detection(
        float(roc_auc), float(average_precision), float(ks_statistic), curve
    )


class Groups:
    """What `best_f1` asks of labels, and not of the neuron.

    Args:
        labels: Label of each value, in any order, `(n,)`.
        n_labels: Number of labels.
    """

    def __init__(self, labels: Array, n_labels: int):
        self.n_labels = n_labels
        counts = np.bincount(labels, minlength=n_labels)
        (self.present,) = np.nonzero(counts)
        counts = counts[self.present]
        self.start = np.cumsum(counts) - counts
        # Whole numbers up to 2^24, which float32 has; it is faster.
        self.size = np.repeat(counts.astype("float32"), counts)
        # Of the values of a label, how many are up to one, and from it on.
        up_to = np.arange(1, len(labels) + 1) - np.repeat(self.start, counts)
        self.up_to = up_to.astype("float32")
        self.from_on = self.size + 1 - self.up_to
        self._shift = np.repeat(len(labels) * np.arange(len(counts)), counts)

    def places(self, labels: Array) -> Array:
        """Where the values of each label are, label by label.

        Args:
            labels: Those labels, in the order of some values, `(n,)`.

        Returns:
            Whole numbers, `(n,)`, that rise within each label.
        """
        # Below 2^15 a radix sort: faster.
        small = self.n_labels < 1 << 15
        return np.argsort(
            labels.astype("int16" if small else "int32"), kind="stable"
        )

    def between(self, places: Array, edges: Array) -> Array:
        """How many of each label lie between edges, `(labels, ...)`."""
        number = len(places)
        rows = number * np.arange(len(self.present))[:, None]
        # With a shift for each, the places of all labels rise.
        found = np.searchsorted(places + self._shift, rows + edges)
        counts = np.zeros((self.n_labels, len(edges) - 1), "int64")
        counts[self.present] = np.diff(found, axis=1)
        return counts


def best_f1(ordered: Array, places: Array, groups: Groups) -> Array:
    """F1 of the best threshold on a neuron, for each label.

    The measure of sparse probing with one neuron [Gurnee et al. 2023]: of all
    rules "the value is at least t" and "at most t", the one whose F1 (harmonic
    mean of precision and recall) is highest on these very values.

    Args:
        ordered: Activations, lowest first, `(n,)`.
        places: Where those of each label are: `groups.places`.
        groups: Of the labels of these values.

    Returns:
        `(labels,)`, in [0, 1]; NaN for a label without values.

    Example:

    >>> labels = np.array([0, 1, 1, 2])
    >>> groups = Groups(labels, 3)
    >>> ordered = np.array([-1.0, 0.0, 0.0, 2.0])
    >>> best_f1(ordered, groups.places(labels), groups).round(2)
    array([1. , 0.8, 1. ])
    """
    begin, end = (side.astype("float32") for side in _ties(ordered, places))
    # Within a tie the count of hits is too low but for the last: the highest
    # F1 of a tie is the right one.
    end += groups.size
    below = np.divide(groups.up_to, end, out=end)
    np.subtract(np.float32(len(ordered)), begin, out=begin)
    begin += groups.size
    above = np.divide(groups.from_on, begin, out=begin)
    best = np.full(groups.n_labels, np.nan)
    best[groups.present] = 2 * np.maximum(
        np.maximum.reduceat(below, groups.start),
        np.maximum.reduceat(above, groups.start),
    )
    return best


def at_rank(curve: Curve, count: Array, rank: Array) -> Curve:
    """Curves where so many values are to be selected.

    Exact at the ranks that are kept, which are all up to 64; between two of
    them, which are at most 6 % apart, hits are interpolated.

    Args:
        curve: Curves of neurons, `(neurons, ranks)`.
        count: Number of values of each neuron, `(neurons,)`.
        rank: How many of them to select at least, `(neurons,)`.

    Returns:
        `Curve` of arrays `(neurons,)`; selected and hits are floats.
    """
    rank = np.clip(rank, 1, np.maximum(count, 1))
    rows = np.arange(len(rank))
    upper = np.minimum((curve.selected < rank[:, None]).sum(1), RANKS - 1)
    # Most neurons of a layer have one and the same number of values.
    counts, which = np.unique(count, return_inverse=True)
    kept = np.stack([ranks(int(n)) for n in counts])[which]
    lower = np.maximum(upper - 1, 0)
    high, low = curve.selected[rows, upper], curve.selected[rows, lower]
    # A tie that spans the rank, or a rank that is kept: no interpolation.
    exact = (upper == 0) | (kept[rows, upper] <= rank) | (high == low)
    exact |= curve.threshold[rows, upper] == curve.threshold[rows, lower]
    share = np.where(exact, 1.0, (rank - low) / np.maximum(high - low, 1))

    def between(values: Any) -> Any:
        return values[rows, lower] + share * (
            values[rows, upper] - values[rows, lower]
        )

    return Curve(*(between(values) for values in curve))
