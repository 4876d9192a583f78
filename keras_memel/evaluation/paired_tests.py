"""Test the mean of paired differences: sign flip and studentized bootstrap.

deltas --> reference values --> p and interval of each test --> PairedTest

Both tests are written as a set of reference values of the mean, of which
about the same number falls below and above the true one. A test rejects a mean
that too few reference values reach, and its interval holds the means that it
does not reject. SciPy has the p of the sign flip (`permutation_test`), but
neither its interval nor a studentized bootstrap.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Probability of a false rejection, and that the interval misses the mean.
ALPHA = 0.05
RESAMPLES = 9999
# All 2^n - 1 subsets up to n = 16; beyond, as many are drawn.
EXACT_SEEDS = 16
SUBSETS = 2**EXACT_SEEDS - 1
# Rows of one matrix product, so that the matrix stays in the cache.
CHUNK = 4096

# Lower and upper end of each reference value, which is known up to rounding.
Values = tuple[np.ndarray, np.ndarray]


class PairedTest(NamedTuple):
    """Two tests of the mean of differences, and what neither rejects.

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
        """The larger p: below `level` exactly if the interval excludes 0."""
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
        deltas: The differences, `(n,)`, finite.
        noise: Rounding error of each difference, as `rounding` gives it.
        level: Probability of a false rejection of each test.

    Returns:
        A `PairedTest`. Below 2 differences there is no test: all are NaN. If
        the differences are equal but for `noise`, they have no deviation that
        the bootstrap could use: its p is 1 and the interval is unbounded. So
        it is where the sign flip can reject no mean, as below 6 differences.

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
    # A power of two rounds nothing, and lets no square overflow.
    unit = 2.0 ** int(np.frexp(np.abs(deltas).max())[1])
    values = [test(deltas / unit, noise / unit) for test in TESTS]
    flip, bootstrap = map(p_value, values)
    lows, highs = zip(*(interval(part, level) for part in values), strict=True)
    return PairedTest(flip, bootstrap, unit * min(lows), unit * max(highs))


def rounding(
    ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray
) -> np.ndarray:
    """Compute how much rounding to float32 may change differences of scores.

    A score that is computed in float32 is wrong by up to about two units of
    the last place, `2^-23` of its size. Each difference has its own bound, so
    that a diverged score of 1e15 does not hide the other differences.

    Args:
        ours: Scores of one arm, `(n,)`.
        theirs: Scores of the other.

    Returns:
        The bound on the error of `ours - theirs`, `(n,)`; 0 where both are
        equal.

    Example:

    >>> bound = rounding([0.5, 1e15, 0.7], [0.25, 0.25, 0.7])
    >>> print(bound[0] < 1e-7, bound[1] > 1e8, bound[2])
    True True 0.0
    """
    ours, theirs = np.asarray(ours, float), np.asarray(theirs, float)
    bound = np.finfo(np.float32).eps * (np.abs(ours) + np.abs(theirs))
    return np.where(ours == theirs, 0.0, bound)


def equal_but_for(noise: np.ndarray, deltas: np.ndarray) -> np.ndarray:
    """Tell whether rounding alone explains that differences are not equal.

    Args:
        noise: Bound on the error of each, `(n, ...)`.
        deltas: The differences, `(n, ...)`, compared along the first axis.

    Returns:
        Booleans, without the first axis.

    Example:

    >>> bool(equal_but_for(np.full(2, 0.1), np.array([1.0, 1.15])))
    True
    """
    return np.asarray((deltas - noise).max(0) <= (deltas + noise).min(0))


def sign_flip(deltas: np.ndarray, noise: np.ndarray) -> Values:
    """Compute the reference values of the sign-flip test: means of subsets.

    Flipping the signs of a subset `S` takes the sum of `d - mu` at least as
    far from 0 as it is if `sum_S (d - mu)` is not above 0 (for a positive
    sum), that is, if the mean of `S` is at most `mu`. So the test (Fisher
    1935) rejects a `mu` that too few of the `2^n - 1` means of non-empty
    subsets reach, and these are typical values of the true mean (Hartigan
    1969): if the differences are symmetric about it and independent, it falls
    between any two neighbours with probability `2^-n`, exactly.

    Args:
        deltas: The differences, `(n,)`.
        noise: Bound on the error of each, `(n,)`.

    Returns:
        The values, minus and plus their rounding error: `(2^n - 1,)` each;
        beyond n = 16, `(65535,)` from subsets drawn with a fixed seed.
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
    # A subset that was drawn empty flips nothing: it counts on both sides.
    with np.errstate(divide="ignore", invalid="ignore"):
        lows, highs = (sums - errors) / sizes, (sums + errors) / sizes
    if number > EXACT_SEEDS:
        lows[sizes == 0], highs[sizes == 0] = -np.inf, np.inf
    return lows, highs


def bootstrap_t(deltas: np.ndarray, noise: np.ndarray) -> Values:
    """Compute the reference values of the equal-tailed bootstrap-t.

    With `t* = (mean* - mean) / se*` of 9,999 resamples (fixed seed), they are
    `mean - t* se`: their quantiles are the ends of the bootstrap-t interval
    (Efron and Tibshirani 1993, section 12.5). It keeps its level where
    differences are skewed better than the sign flip, and worse where tails
    are heavy.

    A resample without deviation has no `t*`, and is left out: a sample without
    deviation has no verdict either.

    Args:
        deltas: The differences, `(n,)`, at least 2.
        noise: Bound on the error of each, `(n,)`.

    Returns:
        The values, minus and plus their rounding error: `(9999,)` each, or
        fewer.
    """
    deltas, noise = _in_order(deltas, noise)
    number = len(deltas)
    if equal_but_for(noise, deltas):
        return np.array([-np.inf]), np.array([np.inf])
    drawn = resamples(number)
    values = deltas[drawn]
    # In two passes: a difference of 1e15 leaves the others their digits.
    means = values.mean(0)
    errors = (values - means).std(0, ddof=1) / np.sqrt(number)
    mean, error = deltas.mean(), deltas.std(ddof=1) / np.sqrt(number)

    shares = resample_shares(number)
    squares = np.stack([noise, noise**2], 1)
    noise_of_means, squares_of_resamples = (shares @ squares).T
    noise_of_mean = float(noise.mean())
    # Of a deviation: at most that of the errors.
    noise_of_errors = np.sqrt(squares_of_resamples / (number - 1))
    noise_of_error = np.sqrt(np.mean(noise**2) / (number - 1))

    shifts = means - mean
    noise_of_shifts = noise_of_means + noise_of_mean
    suspects = np.flatnonzero(errors <= 2 * noise.max())
    equal = np.zeros(RESAMPLES, bool)
    equal[suspects] = equal_but_for(
        noise[drawn[:, suspects]], values[:, suspects]
    )
    equal |= errors == 0  # but for what is too small for a float
    safe = np.where(equal, 1.0, errors)
    # To first order in the noise.
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
        `2 (1 + k) / (M + 1)`, at most 1, with `k` the number of values that
        are not above 0, or not below it, whichever is smaller.

    Example:

    >>> values = np.array([1.0, 2.0, -1.0] + [3.0] * 16)
    >>> p_value((values, values))
    0.2
    """
    lows, highs = values
    below, above = np.count_nonzero(lows <= 0), np.count_nonzero(highs >= 0)
    return float(min(1.0, 2 * (1 + min(below, above)) / (len(lows) + 1)))


def interval(values: Values, level: float = ALPHA) -> tuple[float, float]:
    """Compute the ends of the means that `p_value` does not reject.

    Args:
        values: Lower and upper ends of M reference values.
        level: p below which a mean is rejected.

    Returns:
        Lower and upper end, which belong to the interval; infinite if M is
        too small for any p below `level`.

    Example:

    >>> values = np.arange(1.0, 100.0)
    >>> interval((values, values))
    (2.0, 98.0)
    """
    lows, highs = values
    number = len(lows)
    # The smallest count that is not rejected, by the formula of `p_value`.
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

    The order of the seeds then changes nothing.
    """
    deltas = np.asarray(deltas, float)
    noise = np.broadcast_to(np.asarray(noise, float), deltas.shape)
    order = np.lexsort((noise, deltas))
    deltas, noise = deltas[order], noise[order]
    unit = len(deltas) * np.finfo(float).eps
    return deltas, noise + unit * np.abs(deltas)


def _subset_sums(values: np.ndarray) -> np.ndarray:
    """Sums of all 2^n subsets, that of the empty one first."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


@functools.lru_cache(maxsize=4)
def drawn_subsets(number: int) -> np.ndarray:
    """Draw subsets with a fixed seed: booleans `(65535, n)`.

    Half of them mirror the others, and one is the whole: to compare B with A
    in place of A with B mirrors the sorted differences, and gives the same p.
    """
    rng = np.random.default_rng(0)
    half = rng.integers(0, 2, (SUBSETS // 2, number), dtype=np.int8)
    whole = np.ones((1, number), np.int8)
    return np.concatenate([half, half[:, ::-1], whole]).astype(bool)


@functools.lru_cache(maxsize=4)
def resamples(number: int) -> np.ndarray:
    """Positions of the differences of each resample, `(n, 9999)`.

    Drawn with a fixed seed; mirrored as `drawn_subsets` are.
    """
    rng = np.random.default_rng(0)
    half = rng.integers(0, number, (number, RESAMPLES // 2))
    sample = np.arange(number)[:, None]
    return np.concatenate([half, number - 1 - half, sample], axis=1)


@functools.lru_cache(maxsize=4)
def resample_shares(number: int) -> np.ndarray:
    """Share of each difference in each resample, `(9999, n)`."""
    drawn = resamples(number)
    return np.stack([(drawn == place).mean(0) for place in range(number)], 1)
