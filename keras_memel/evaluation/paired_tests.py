"""Test the mean of paired differences: sign flip and studentized bootstrap.

deltas --> reference values --> p and interval of each test --> PairedTest

Each test computes a set of reference values of the mean. About as many of
them fall below the true mean as above it. The test rejects a mean that too
few reference values reach, and its interval contains the means that it does
not reject. SciPy has the p of the sign flip (`permutation_test`), but neither
its interval nor a studentized bootstrap.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Probability of a false rejection, and of an interval that misses the mean.
ALPHA = 0.05
# Up to n = 10 all resamples are used, 92,378 different ones; beyond, as many as
# `RESAMPLES` are drawn.
EXACT_RESAMPLES = 10
RESAMPLES = 99_999
# Up to n = 16 all 2^n - 1 subsets are used; beyond, as many as for n = 16 are
# drawn.
EXACT_SEEDS = 16
SUBSETS = 2**EXACT_SEEDS - 1
# Rows per matrix product, so that the matrix fits into the cache.
CHUNK = 4096


class Values(NamedTuple):
    """Reference values of a test, each known up to rounding.

    Attributes:
        lows: Lower end of each value.
        highs: Upper end of each value.
        weights: How often each value counts.
    """

    lows: np.ndarray
    highs: np.ndarray
    weights: np.ndarray


class PairedTest(NamedTuple):
    """Two tests of the mean of differences, and their common interval.

    Attributes:
        p_sign_flip: Two-sided p of the sign flip.
        p_bootstrap: Two-sided p of the equal-tailed studentized bootstrap.
        low: Lower end of the hull of both intervals.
        high: Upper end.
    """

    p_sign_flip: float
    p_bootstrap: float
    low: float
    high: float

    @property
    def p(self) -> float:
        """Larger p. It is below `level` exactly if the interval excludes 0."""
        return max(self.p_sign_flip, self.p_bootstrap)


def paired_test(
    deltas: Sequence[float] | np.ndarray,
    noise: float | np.ndarray = 0.0,
    level: float = ALPHA,
) -> PairedTest:
    """Test whether the mean of paired differences is 0.

    A mean is rejected if the sign flip *and* the studentized bootstrap reject
    it. The means that are not rejected fill the hull of both intervals. Hence
    `p < level` exactly if the interval excludes 0.

    Args:
        deltas: Differences, `(n,)`, finite.
        noise: Rounding error of each difference, as `rounding` returns it.
        level: Probability of a false rejection of each test.

    Returns:
        A `PairedTest`. Below 2 differences there is no test, and all values
        are NaN. If the differences are equal up to `noise`, the bootstrap
        cannot use their deviation: its p is 1 and the interval is unbounded.
        The interval is also unbounded if the sign flip cannot reject any
        mean, as below 6 differences.

    Raises:
        ValueError: If a difference or a `noise` is not finite.

    Example:

    >>> test = paired_test([3, 1, 2, 2, 4, 1, 3, 2, 1, 5])
    >>> print(test.p_sign_flip, test.p < 0.05, test.low > 0)
    0.001953125 True True
    """
    deltas = np.asarray(deltas, float)
    noise = np.broadcast_to(np.asarray(noise, float), deltas.shape)
    if not (np.isfinite(deltas).all() and np.isfinite(noise).all()):
        raise ValueError(
            "Arguments `deltas` and `noise` must be finite. Received: "
            f"deltas={deltas.tolist()}, noise={noise.tolist()}"
        )
    if len(deltas) < 2:
        return PairedTest(np.nan, np.nan, np.nan, np.nan)
    # Division by a power of two is exact, and then no square overflows.
    unit = 2.0 ** int(np.frexp(np.abs(deltas).max())[1])
    values = [test(deltas / unit, noise / unit) for test in TESTS]
    flip, bootstrap = map(p_value, values)
    lows, highs = zip(*(interval(part, level) for part in values), strict=True)
    return PairedTest(flip, bootstrap, unit * min(lows), unit * max(highs))


def rounding(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Compute how much rounding to float32 may change differences of scores.

    A score that is computed in float32 has an error of up to about two units
    in the last place, `2^-23` of its size. Each difference has its own bound,
    so that a diverged score of 1e15 does not hide the other differences.

    Args:
        ours: Scores of one arm, `(n,)`.
        theirs: Scores of the other arm, `(n,)`.

    Returns:
        Bound on the error of `ours - theirs`, `(n,)`; 0 where both are equal.

    Example:

    >>> bound = rounding([0.5, 1e15, 0.7], [0.25, 0.25, 0.7])
    >>> print(bound[0] < 1e-7, bound[1] > 1e8, bound[2])
    True True 0.0
    """
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    bound = np.finfo(np.float32).eps * (np.abs(ours) + np.abs(theirs))
    return np.where(ours == theirs, 0.0, bound)


def equal_but_for(noise: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Detect differences that are equal up to rounding errors.

    Args:
        noise: Bound on the error of each difference, `(n, ...)`.
        deltas: Differences, `(n, ...)`, compared along the first axis.

    Returns:
        Booleans, without the first axis.

    Example:

    >>> bool(equal_but_for(np.full(2, 0.1), np.array([1.0, 1.15])))
    True
    """
    return np.asarray((deltas - noise).max(0) <= (deltas + noise).min(0))


def sign_flip(deltas: np.ndarray, noise: np.ndarray) -> Values:
    """Compute the reference values of the sign-flip test: means of subsets.

    Take a positive sum of `d - mu`. Flipping the signs of a subset `S` leaves
    it at least as far from 0 if `sum_S (d - mu)` is not above 0, that is, if
    the mean of `S` is at most `mu`. The test (Fisher 1935) therefore rejects
    a `mu` that too few of the `2^n - 1` means of non-empty subsets reach.
    These means are typical values of the true mean (Hartigan 1969): if the
    differences are independent and symmetric about the true mean, it falls
    between any two neighbors with probability `2^-n`, exactly. Ties count in
    full (docs/studies/validity.md compares other ways).

    Args:
        deltas: Differences, `(n,)`.
        noise: Bound on the error of each difference, `(n,)`.

    Returns:
        `Values` of weight 1, `(2^n - 1,)`. Beyond n = 16 the shape is
        `(65535,)`, from subsets drawn with a fixed seed.
    """
    deltas, noise = _in_order(deltas, noise)
    number = len(deltas)
    if number <= EXACT_SEEDS:
        columns = (deltas, noise, np.ones(number))
        sums, errors, sizes = (_subset_sums(part)[1:] for part in columns)
    else:
        matrix = np.stack([deltas, noise, np.ones(number)], 1)
        drawn = drawn_subsets(number)
        parts = [
            drawn[start : start + CHUNK] @ matrix
            for start in range(0, SUBSETS, CHUNK)
        ]
        sums, errors, sizes = np.concatenate(parts).T
    # An empty drawn subset flips no sign, so it counts on both sides.
    with np.errstate(divide="ignore", invalid="ignore"):
        lows, highs = (sums - errors) / sizes, (sums + errors) / sizes
    if number > EXACT_SEEDS:
        lows[sizes == 0], highs[sizes == 0] = -np.inf, np.inf
    return Values(lows, highs, np.ones(len(lows)))


def bootstrap_t(deltas: np.ndarray, noise: np.ndarray) -> Values:
    """Compute the reference values of the equal-tailed bootstrap-t.

    The values are `mean - t* se`, with `t* = (mean* - mean) / se*` of each
    resample. Their quantiles are the ends of the bootstrap-t interval (Efron
    and Tibshirani 1993, section 12.5). The bootstrap keeps its level better
    than the sign flip for skewed differences, and worse for heavy tails.

    Up to n = 10 all `n^n` resamples are enumerated (Fisher and Hall 1991).
    Resamples that differ in their order alone are one value, whose weight is
    the number of orders. The p then has no sampling error. Beyond n = 10,
    99,999 resamples are drawn with a fixed seed.

    For a resample without deviation `t*` is not defined. It is omitted, just
    as a sample without deviation gets no verdict.

    Args:
        deltas: Differences, `(n,)`, at least 2.
        noise: Bound on the error of each difference, `(n,)`.

    Returns:
        `Values`, one per resample with a deviation.
    """
    deltas, noise = _in_order(deltas, noise)
    number = len(deltas)
    if equal_but_for(noise, deltas):
        return Values(np.array([-np.inf]), np.array([np.inf]), np.ones(1))
    shares, weights = resamples(number)
    # With two passes, one difference of 1e15 does not cost the others digits.
    means = shares @ deltas
    squares = (deltas - means[:, None]) ** 2
    variances = np.einsum("rn,rn->r", shares, squares)
    errors = np.sqrt(variances / (number - 1))
    # `fsum` rounds once: exchanging the arms changes the sign alone.
    mean = math.fsum(deltas) / number
    error = deltas.std(ddof=1) / np.sqrt(number)

    noises = np.stack([noise, noise**2], 1)
    noise_of_means, squares_of_resamples = (shares @ noises).T
    noise_of_mean = float(noise.mean())
    # The error of a deviation is at most the deviation of the errors.
    noise_of_errors = np.sqrt(squares_of_resamples / (number - 1))
    noise_of_error = np.sqrt(np.mean(noise**2) / (number - 1))

    shifts = means - mean
    noise_of_shifts = noise_of_means + noise_of_mean
    suspects = np.flatnonzero(errors <= 2 * noise.max())
    # The deviation is too small for a float, or is explained by the noise.
    equal = errors == 0
    present = shares[suspects] > 0
    lowest = np.where(present, deltas + noise, np.inf).min(1)
    equal[suspects] |= np.where(present, deltas - noise, -np.inf).max(1) <= (
        lowest
    )
    safe = np.where(equal, 1.0, errors)
    # The bounds are of first order in the noise.
    points = mean - shifts / safe * error
    room = noise_of_mean + noise_of_shifts / safe * error
    room += np.abs(shifts) / safe * noise_of_error
    room += np.abs(shifts) / safe * error * noise_of_errors / safe
    kept = ~equal
    return Values((points - room)[kept], (points + room)[kept], weights[kept])


TESTS = (sign_flip, bootstrap_t)


def p_value(values: Values) -> float:
    """Compute the two-sided p of a mean of 0.

    Args:
        values: Reference values, M with their weights.

    Returns:
        `2 (1 + k) / (M + 1)`, at most 1. `k` is the number of values that
        are not above 0 or the number that are not below 0, whichever is
        smaller.

    Example:

    >>> values = np.array([1.0, 2.0, -1.0, 3.0])
    >>> p_value(Values(values, values, weights=np.array([1, 1, 1, 16])))
    0.2
    """
    below = values.weights[values.lows <= 0].sum()
    above = values.weights[values.highs >= 0].sum()
    return float(min(1.0, _p(min(below, above), values.weights.sum())))


def _p(count: float, number: float) -> float:
    return 2 * (1 + count) / (number + 1)


def interval(values: Values, level: float = ALPHA) -> tuple[float, float]:
    """Compute the interval of the means that `p_value` does not reject.

    Args:
        values: Reference values, M with their weights.
        level: p below which a mean is rejected.

    Returns:
        Lower and upper end, both included; infinite if M is too small for
        any p below `level`.

    Example:

    >>> values = np.arange(1.0, 100.0)
    >>> interval(Values(values, values, np.ones(99)))
    (2.0, 98.0)
    """
    number = values.weights.sum()
    # Find the smallest count that `p_value` does not reject.
    count = max(0, math.floor(level * (number + 1) / 2) - 2)
    while _p(count, number) < level:
        count += 1
    if count == 0:
        return -np.inf, np.inf
    low = _smallest(values.lows, values.weights, count)
    high = -_smallest(-values.highs, values.weights, count)
    return low, high


def _smallest(values: np.ndarray, weights: np.ndarray, count: float) -> float:
    """Return the `count`-th smallest value, each as often as it weighs."""
    order = np.argsort(values)
    place = np.searchsorted(np.cumsum(weights[order]), count)
    return float(values[order[place]])


def _in_order(
    deltas: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sort, and add the rounding of sums in float64 to the noise.

    The result then does not depend on the order of the seeds.
    """
    deltas = np.asarray(deltas, float)
    noise = np.broadcast_to(np.asarray(noise, float), deltas.shape)
    order = np.lexsort((noise, deltas))
    deltas, noise = deltas[order], noise[order]
    unit = len(deltas) * np.finfo(float).eps
    return deltas, noise + unit * np.abs(deltas)


def _subset_sums(values: np.ndarray) -> np.ndarray:
    """Compute the sums of all 2^n subsets, starting with the empty subset."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


@functools.lru_cache(maxsize=4)
def drawn_subsets(number: int) -> np.ndarray:
    """Draw subsets with a fixed seed: booleans `(65535, n)`.

    Half of them mirror the others, and one is the whole set. Comparing B with
    A instead of A with B mirrors the sorted differences, so that both
    comparisons have the same p.
    """
    rng = np.random.default_rng(0)
    half = rng.integers(0, 2, (SUBSETS // 2, number), dtype=np.int8)
    whole = np.ones((1, number), np.int8)
    return np.concatenate([half, half[:, ::-1], whole]).astype(bool)


@functools.lru_cache(maxsize=2)
def resamples(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the resamples of n differences, and how often each counts.

    Returns:
        Share of each difference in each resample, `(R, n)`, and the weights
        `(R,)`. Up to n = 10 these are all different resamples, weighted by the
        number of their orders. Beyond, 99,999 are drawn with a fixed seed,
        mirrored as `drawn_subsets` are, and each weighs 1.

    Example:

    >>> shares, weights = resamples(2)
    >>> shares.tolist(), weights.tolist()
    ([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], [1.0, 2.0, 1.0])
    """
    if number <= EXACT_RESAMPLES:
        chosen = np.array(
            list(itertools.combinations_with_replacement(range(number), number))
        )
        counts = np.stack([(chosen == x).sum(1) for x in range(number)], 1)
        factorials = np.array([math.factorial(x) for x in range(number + 1)])
        orders = factorials[number] // factorials[counts].prod(1)
        return counts / number, orders.astype(float)
    rng = np.random.default_rng(0)
    equal = np.full(number, 1 / number)
    half = rng.multinomial(number, equal, RESAMPLES // 2)
    sample = np.ones((1, number), int)
    counts = np.concatenate([half, half[:, ::-1], sample])
    return counts / number, np.ones(RESAMPLES)
