"""Measure how well a number, such as `phi` or an activation, detects a label.

All measures of a detector follow from its sorted values: for each threshold,
the number of values that reach it (`selected`) and the number of these that
have the label (`hits`). Tied values are selected together.

The functions are pure and work on the values of one neuron.

References:
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
    [Wilson and Hilferty 1931] The Distribution of Chi-Square (PNAS 17).
    [Mielke and Berry 2007] Permutation Methods: A Distance Function Approach.
"""

import functools
import math
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_memel.reports.ties import Ties
from keras_memel.reports.ties import ties
from keras_memel.utils.types import Array

# Number of ranks at which a curve is kept: each of the first `_EACH`, where it
# changes most, and then at growing distances up to the last.
RANKS = 256
_EACH = 64
# 95 % quantile of a Gaussian.
_ONE_SIDED = 1.6448536269514722


class Curve(NamedTuple):
    """Detector at some of its thresholds, from the highest value down.

    Attributes:
        threshold: Values that are thresholds, `(..., ranks)`.
        selected: Number of values that reach each threshold, with ties.
        hits: Number of these values that have the label.
    """

    threshold: Array
    selected: Array
    hits: Array


class Detection(NamedTuple):
    """Quality of the values of a neuron as a detector of a label.

    Attributes:
        roc_auc: Area under the receiver operating characteristic; NaN if all
            values have the label, or none has it.
        average_precision: Mean precision over the values with the label.
        ks_statistic: Kolmogorov-Smirnov distance between the values with the
            label and all values.
        roc_auc_null: ROC-AUC that 95 % of labels without any relation to the
            values do not exceed; NaN if no two values differ.
        p: Probability that such a label reaches this ROC-AUC.
        curve: Detector at the thresholds that are kept.
    """

    roc_auc: float
    average_precision: float
    ks_statistic: float
    roc_auc_null: float
    p: float
    curve: Curve


@functools.lru_cache(maxsize=8)
def ranks(count: int) -> Array:
    """Return the ranks at which a curve of `count` values is kept.

    Returns:
        `RANKS` integers from 1 to `count`. The last one repeats if there are
        fewer values.

    Example:

    >>> ranks(1000)[[0, 1, 63, 64, 150, 255]].tolist()
    [1, 2, 64, 65, 222, 1000]
    """
    each = np.arange(1, _EACH + 1)
    step = np.arange(1, RANKS - _EACH + 1) / (RANKS - _EACH)
    beyond = _EACH * (max(count, _EACH) / _EACH) ** step
    found = np.rint(np.concatenate([each, beyond])).astype("int64")
    return np.minimum(found, count)


def in_order(values: Array) -> tuple[Array, Array]:
    """Sort values, and return the original position of each.

    This is a radix sort of two digits of 16 bits, the lower first. NumPy sorts
    integers of 16 bits much faster than a float32, and keeps the order of ties.

    Args:
        values: float32 without NaN, `(n,)`.

    Returns:
        The values, lowest first, as float64, and the original position of
        each. Equal values keep their order; -0 becomes 0.

    Example:

    >>> in_order(np.float32([3, -0.5, 2, -0.5]))
    (array([-0.5, -0.5,  2. ,  3. ]), array([1, 3, 2, 0]))
    """
    values = values + np.float32(0)
    bits = values.view("int32")
    # As unsigned integers, these bits have the order of the values.
    bits = (bits ^ ((bits >> 31) | np.int32(-(2**31)))).view("uint32")
    order = np.argsort(bits.astype("uint16"), kind="stable")
    upper = (bits >> 16).astype("uint16")
    order = order.take(np.argsort(upper.take(order), kind="stable"))
    return values.take(order).astype("float64"), order


def _centered_ranks(tied: Ties) -> Array:
    """Compute ranks minus their mean; tied values share their mean rank."""
    first, number = tied.first, tied.first[-1]
    middle = (first[:-1] + first[1:] - number) / 2
    return middle if tied.run is None else middle.take(tied.run)


def detection(
    values: Array, positive: Array, inputs: Array | None = None
) -> Detection:
    """Compute how well high values detect a label.

    The ROC-AUC is the Mann-Whitney statistic. Its p-value comes from a
    one-sided test. Values of one input may depend on each other, and so may
    their labels. Let `r` be the centered rank and `y` the centered label of a
    value. If they are unrelated, the variance of `T = sum y r` is

        C / (C - 1) * (s sum_j r_j^2 + c sum_(j != k of one input) r_j r_k)

    with `C` inputs, `s` the variance of `y`, and `c` its mean covariance
    between two values of one input, at least 0. With one value per input it
    is the variance of the Mann-Whitney test. With one label per input it is
    the variance under permutations of the inputs.

    A neuron that is 0 on most inputs has many tied ranks. For a rare label `T`
    is then skewed, and a normal distribution would understate p many times.
    The p-value is therefore the larger one of a normal distribution and a
    Pearson type III distribution with the variance and skewness of `T`, as
    usual for permutation tests [Mielke and Berry 2007]. Its tail is computed
    by the cube root of [Wilson and Hilferty 1931]. The third moment of `T` is

        s (1 - 2 m) ((1 - c / s) sum_j r_j^3 + c / s sum_i R_i^3)

    with `m` the share of the label, and `R_i` the sum of `r` over input `i`.

    Args:
        values: Values, not negative, `(n,)`. They are compared as float32.
        positive: Whether each value has the label, `(n,)`.
        inputs: Number of the input of each value, from 0, `(n,)`. With `None`
            each value has its own input.

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
    values = values.astype("float32")
    # The scale of sorted activations falls and then rises. This sort merges
    # two such runs.
    order = np.argsort(values, kind="stable")
    ordered = values.take(order)
    tied = ties(ordered)
    own = positive.take(order)
    # The measures change only at values with the label.
    where = np.flatnonzero(own)
    positives = len(where)
    average_precision = roc_auc = ks_statistic = roc_auc_null = p = np.nan
    if positives:
        begin, end = tied.around(where)
        its_begin, its_end = ties(begin).around(np.arange(positives))
        # Count the values that reach each value, and those above it.
        selected, above = number - begin, number - end
        hits, hits_above = positives - its_begin, positives - its_end
        average_precision = (hits / selected).sum() / positives
        ks_statistic = max(
            np.abs(hits / positives - selected / number).max(),
            np.abs(hits_above / positives - above / number).max(),
        )
    if 0 < positives < number:
        centered = _centered_ranks(tied)
        excess = centered.take(where).sum()
        pairs = positives * (number - positives)
        roc_auc = 0.5 + excess / pairs
        whose = None if inputs is None else inputs.take(order)
        spread, skewness = _null_moments(centered, where, whose)
        if spread > 0:
            most = 0.5 + _highest_of_noise(skewness) * spread / pairs
            roc_auc_null = min(1.0, most)
            p = _upper_tail(excess / spread, skewness)
    threshold = ordered[number - ranks(number)]
    begin = np.searchsorted(ordered, threshold)
    curve = Curve(
        threshold,
        number - begin,
        positives - np.searchsorted(where, begin),
    )
    return Detection(
        float(roc_auc),
        float(average_precision),
        float(ks_statistic),
        roc_auc_null,
        p,
        curve,
    )


def _null_moments(
    centered: Array, where: Array, inputs: Array | None
) -> tuple[float, float]:
    """Compute the moments of the rank sum of an unrelated label.

    Args:
        centered: Centered rank of each value, `(n,)`.
        where: Positions of the values with the label.
        inputs: As in `detection`.

    Returns:
        Standard deviation and skewness.
    """
    number = len(centered)
    share = len(where) / number
    variance = share * (1 - share)
    square = centered * centered
    spread = square.sum()
    cube = square @ centered
    covariance = within = cubes = 0.0
    several = number
    if inputs is not None:
        sizes = np.bincount(inputs)
        several = np.count_nonzero(sizes)
        if several < 2:
            return 0.0, 0.0
        pairs = float(sizes @ sizes) - number
        if pairs:
            its = np.bincount(inputs.take(where), minlength=len(sizes))
            totals = its - share * sizes
            covariance = (totals @ totals - number * variance) / pairs
            covariance = min(max(covariance, 0.0), variance)
        totals = np.bincount(inputs, centered)
        within = totals @ totals - spread
        cubes = (totals**3).sum() - cube
    found = variance * spread + covariance * within
    found = math.sqrt(several / (several - 1) * max(found, 0.0))
    third = (1 - 2 * share) * (variance * cube + covariance * cubes)
    return found, float(third / found**3) if found > 0 else 0.0


# Below this skewness a normal distribution is exact to many digits.
_SYMMETRIC = 1e-6


def _upper_tail(deviation: float, skewness: float) -> float:
    """Compute the probability of at least this standardized deviation."""
    normal = 0.5 * math.erfc(deviation / math.sqrt(2))
    if skewness < _SYMMETRIC:
        return normal
    root = 2 / skewness  # of the shape of a gamma distribution
    cubic = max(1 + deviation / root, 0.0) ** (1 / 3)
    gaussian = 3 * root * (cubic - 1 + 1 / (9 * root**2))
    return max(normal, 0.5 * math.erfc(gaussian / math.sqrt(2)))


def _highest_of_noise(skewness: float) -> float:
    """Return the deviation whose `_upper_tail` is 5 %."""
    if skewness < _SYMMETRIC:
        return _ONE_SIDED
    root = 2 / skewness
    cubic = 1 - 1 / (9 * root**2) + _ONE_SIDED / (3 * root)
    return max(_ONE_SIDED, root * (cubic**3 - 1))


def holm(p: Array) -> Array:
    """Correct p-values for their number, as in Holm (1979).

    If you select all tests with a corrected p-value of at most `a`, the
    probability of one or more false selections is at most `a`, for any
    dependence between the tests.

    Args:
        p: p-values, `(n,)`; NaN where a test is missing.

    Returns:
        Corrected p-values, `(n,)`; NaN where a test is missing.

    Example:

    >>> holm(np.array([0.01, np.nan, 0.04, 0.03])).round(2)
    array([0.03,  nan, 0.06, 0.06])
    """
    (known,) = np.nonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p[order]
    found = np.full(len(p), np.nan)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found


def at_rank(curve: Curve, count: Array, rank: Array) -> Curve:
    """Evaluate curves where a given number of values is selected.

    The result is exact at kept ranks, which include all ranks up to 64.
    Between two kept ranks, at most 6 % apart, hits are interpolated.

    Args:
        curve: Curves of neurons, `(neurons, ranks)`.
        count: Number of values of each neuron, `(neurons,)`.
        rank: Minimum number of values to select, `(neurons,)`.

    Returns:
        `Curve` of arrays `(neurons,)`; selected and hits are floats.
    """
    rank = np.clip(rank, 1, np.maximum(count, 1))
    rows = np.arange(len(rank))
    upper = np.minimum((curve.selected < rank[:, None]).sum(1), RANKS - 1)
    kept = _kept_ranks(count)
    lower = np.maximum(upper - 1, 0)
    high, low = curve.selected[rows, upper], curve.selected[rows, lower]
    # A kept rank, or a tie that spans the rank, needs no interpolation.
    exact = (upper == 0) | (kept[rows, upper] <= rank) | (high == low)
    exact |= curve.threshold[rows, upper] == curve.threshold[rows, lower]
    share = np.where(exact, 1.0, (rank - low) / np.maximum(high - low, 1))

    def between(values: Any) -> Any:
        return values[rows, lower] + share * (
            values[rows, upper] - values[rows, lower]
        )

    return Curve(*(between(values) for values in curve))


def quantile(thresholds: Array, count: Array, rank: Array) -> Array:
    """Return the values at ranks from the top.

    The result is exact at kept ranks, which include all ranks up to 64.
    Between two kept ranks, at most 6 % apart, values are interpolated.

    Args:
        thresholds: Values at the kept ranks, highest first, `(neurons,
            ranks)`.
        count: Number of values of each neuron, `(neurons,)`.
        rank: Rank to evaluate, 1 for the highest, `(neurons,)`.

    Returns:
        Values, `(neurons,)`; NaN for a neuron without values.
    """
    rank = np.clip(rank, 1, np.maximum(count, 1))
    rows = np.arange(len(rank))
    kept = _kept_ranks(count)
    upper = np.minimum((kept < rank[:, None]).sum(1), RANKS - 1)
    lower = np.maximum(upper - 1, 0)
    high, low = kept[rows, upper], kept[rows, lower]
    share = np.where(high > low, (rank - low) / np.maximum(high - low, 1), 1.0)
    first, last = thresholds[rows, lower], thresholds[rows, upper]
    # A kept rank is returned unchanged: infinity cannot be interpolated.
    between = np.where(share < 1, first + share * (last - first), last)
    return np.asarray(np.where(count > 0, between, np.nan))


def _kept_ranks(count: Array) -> Array:
    # Most neurons of a layer have the same number of values.
    counts, which = np.unique(count, return_inverse=True)
    return np.stack([ranks(int(n)) for n in counts])[which]
