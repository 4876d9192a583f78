"""Test the mean of paired differences: sign flip and studentized bootstrap.

deltas --> reference values --> p and interval of each test --> PairedTest

Each test computes a set of reference values of the mean. About as many of
them fall below the true mean as above it. The test rejects a mean that too
few reference values reach, and its interval contains the means that it does
not reject. SciPy has the p of the sign flip (`permutation_test`), but neither
its interval nor a studentized bootstrap.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Probability of a false rejection, and of an interval that misses the mean.
ALPHA = 0.05
RESAMPLES = 9999
# Up to n = 16 all 2^n - 1 subsets are used; beyond, as many as for n = 16 are
# drawn.
EXACT_SEEDS = 16
SUBSETS = 2**EXACT_SEEDS - 1
# Rows per matrix product, so that the matrix fits into the cache.
CHUNK = 4096

# Lower and upper ends of the reference values, which are known up to rounding.
Values = tuple[np.ndarray, np.ndarray]


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
    between any two neighbours with probability `2^-n`, exactly.

    Args:
        deltas: Differences, `(n,)`.
        noise: Bound on the error of each difference, `(n,)`.

    Returns:
        Values minus and plus their rounding error, `(2^n - 1,)` each. Beyond
        n = 16 the shape is `(65535,)`, from subsets drawn with a fixed seed.
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
    return lows, highs


def bootstrap_t(deltas: np.ndarray, noise: np.ndarray) -> Values:
    """Compute the reference values of the equal-tailed bootstrap-t.

    The values are `mean - t* se`, with `t* = (mean* - mean) / se*` from 9,999
    resamples (fixed seed). Their quantiles are the ends of the bootstrap-t
    interval (Efron and Tibshirani 1993, section 12.5). The bootstrap keeps
    its level better than the sign flip for skewed differences, and worse for
    heavy tails.

    For a resample without deviation `t*` is not defined. It is omitted, just
    as a sample without deviation gets no verdict.

    Args:
        deltas: Differences, `(n,)`, at least 2.
        noise: Bound on the error of each difference, `(n,)`.

    Returns:
        Values minus and plus their rounding error, `(9999,)` each or fewer.
    """
    deltas, noise = _in_order(deltas, noise)
    number = len(deltas)
    if equal_but_for(noise, deltas):
        return np.array([-np.inf]), np.array([np.inf])
    drawn = resamples(number)
    values = deltas[drawn]
    # With two passes, one difference of 1e15 does not cost the others digits.
    means = values.mean(0)
    errors = (values - means).std(0, ddof=1) / np.sqrt(number)
    mean, error = deltas.mean(), deltas.std(ddof=1) / np.sqrt(number)

    shares = resample_shares(number)
    squares = np.stack([noise, noise**2], 1)
    noise_of_means, squares_of_resamples = (shares @ squares).T
    noise_of_mean = float(noise.mean())
    # The error of a deviation is at most the deviation of the errors.
    noise_of_errors = np.sqrt(squares_of_resamples / (number - 1))
    noise_of_error = np.sqrt(np.mean(noise**2) / (number - 1))

    shifts = means - mean
    noise_of_shifts = noise_of_means + noise_of_mean
    suspects = np.flatnonzero(errors <= 2 * noise.max())
    equal = np.zeros(RESAMPLES, bool)
    equal[suspects] = equal_but_for(
        noise[drawn[:, suspects]], values[:, suspects]
    )
    equal |= errors == 0  # The deviation may be too small for a float.
    safe = np.where(equal, 1.0, errors)
    # The bounds are of first order in the noise.
    points = mean - shifts / safe * error
    room = noise_of_mean + noise_of_shifts / safe * error
    room += np.abs(shifts) / safe * noise_of_error
    room += np.abs(shifts) / safe * error * noise_of_errors / safe
    return (points - room)[~equal], (points + room)[~equal]


TESTS = (sign_flip, bootstrap_t)


def p_value(values: Values) -> float:
    """Compute the two-sided p of a mean of 0.

    Args:
        values: Lower and upper ends of M reference values.

    Returns:
        `2 (1 + k) / (M + 1)`, at most 1. `k` is the number of values that
        are not above 0 or the number that are not below 0, whichever is
        smaller.

    Example:

    >>> values = np.array([1.0, 2.0, -1.0] + [3.0] * 16)
    >>> p_value((values, values))
    0.2
    """
    lows, highs = values
    below, above = np.count_nonzero(lows <= 0), np.count_nonzero(highs >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (len(lows) + 1)))


def interval(values: Values, level: float = ALPHA) -> tuple[float, float]:
    """Compute the interval of the means that `p_value` does not reject.

    Args:
        values: Lower and upper ends of M reference values.
        level: p below which a mean is rejected.

    Returns:
        Lower and upper end, both included; infinite if M is too small for
        any p below `level`.

    Example:

    >>> values = np.arange(1.0, 100.0)
    >>> interval((values, values))
    (2.0, 98.0)
    """
    lows, highs = values
    number = len(lows)
    # Find the smallest count that `p_value` does not reject.
    p = 2 * np.arange(1, number + 2) / (number + 1)
    count = int(np.searchsorted(p, level))
    if count == 0:
        return -np.inf, np.inf
    low = np.partition(lows, count - 1)[count - 1]
    high = np.partition(highs, number - count)[number - count]
    return float(low), float(high)


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


@functools.lru_cache(maxsize=4)
def resamples(number: int) -> np.ndarray:
    """Draw the positions of the differences of each resample, `(n, 9999)`.

    The seed is fixed. Half of the resamples mirror the others, as in
    `drawn_subsets`.
    """
    rng = np.random.default_rng(0)
    half = rng.integers(0, number, (number, RESAMPLES // 2))
    sample = np.arange(number)[:, None]
    return np.concatenate([half, number - 1 - half, sample], axis=1)


@functools.lru_cache(maxsize=4)
def resample_shares(number: int) -> np.ndarray:
    """Compute the share of each difference in each resample, `(9999, n)`."""
    drawn = resamples(number)
    return np.stack([(drawn == place).mean(0) for place in range(number)], 1)
