"""Two arms on paired seeds: deltas -> interval, test, verdict.

No statistics are written here that SciPy or statsmodels have.
"""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_memel.utils.optional_imports import need

# With fewer, luck passes for effect, and a bootstrap interval for more than
# it is.
ENOUGH_SEEDS = 10
# Of the test, and what the interval may miss.
ALPHA = 0.05
# Of the minimum detectable effect.
POWER = 0.8
# Up to here all 2^n flips of n signs are counted; beyond, as many are drawn.
EXACT_SEEDS = 16
RESAMPLES = 9999


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """One arm less another, seed by seed, on one metric.

    Attributes:
        metric: Name of the score.
        arm: The arm, from whose score that of `other` is subtracted.
        other: The arm that it is compared with.
        seeds: The seeds that both arms finished with a finite score.
        deltas: Score of `arm` less score of `other`, one a seed of `seeds`.
        mean: Mean of the deltas, NaN without any.
        low: Lower end of the 95 % interval of the mean, NaN if there is none.
        high: Upper end.
        p: Two-sided p of the sign-flip test, NaN below 2 deltas.
        p_holm: The same with Holm's correction over the contrasts of the
            metric.
        detectable: The minimum detectable effect: the mean delta that so many
            seeds show in about three cases of four, given the deviation of
            these deltas. Infinite where no effect, however large, can be
            shown.
        verdict: `"better"`, `"worse"` or `"not shown"`.
        why: Why there can be no verdict, `""` if there can.

    Example:

    >>> runs = [
    ...     {"arm": arm, "seed": seed, "scores": {"loss": loss}}
    ...     for arm, losses in (("a", [0.5, 0.4]), ("b", [0.3, 0.3]))
    ...     for seed, loss in enumerate(losses)
    ... ]
    >>> contrast = Comparison(runs, higher_is_better=False).contrasts[0]
    >>> round(contrast.mean, 3), contrast.verdict, contrast.why
    (-0.15, 'not shown', 'a verdict takes 10 seeds')
    """

    metric: str
    arm: str
    other: str
    seeds: tuple[int, ...]
    deltas: np.ndarray
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    detectable: float
    verdict: str
    why: str


def contrast_all(
    metric: str,
    pairs: Sequence[tuple[str, str]],
    scores: Mapping[str, Mapping[int, float]],
    seeds: Sequence[int],
    higher_is_better: bool,
) -> list[Contrast]:
    """Every pair of arms on one metric, with Holm's correction over them.

    Args:
        metric: Name of the metric.
        pairs: Which arm is compared with which.
        scores: The finite scores, by arm and seed.
        seeds: The seeds that should be there.
        higher_is_better: What "better" means.

    Returns:
        A `Contrast` a pair, in their order.

    Example:

    >>> scores = {"a": dict.fromkeys(range(10), 1.0), "b": {}}
    >>> found = contrast_all("loss", [("a", "b")], scores, range(10), False)
    >>> found[0].why
    '10 of 10 seeds lack a finite score of both arms'
    """
    multitest = need("statsmodels.stats.multitest", "evidence", "`Comparison`")
    found = [
        _contrast(metric, arm, other, scores[arm], scores[other], seeds)
        for arm, other in pairs
    ]
    # A pair without a p is still one that was looked at.
    p = np.nan_to_num([contrast.p for contrast in found], nan=1.0)
    holm = multitest.multipletests(p, ALPHA, method="holm")[1]
    done = []
    for contrast, p_holm in zip(found, holm, strict=True):
        verdict = "not shown"
        excluded = contrast.low > 0 or contrast.high < 0
        if not contrast.why and excluded and p_holm < ALPHA:
            up = contrast.mean > 0
            verdict = "better" if up == higher_is_better else "worse"
        done.append(
            dataclasses.replace(
                contrast,
                p_holm=float(p_holm),
                detectable=_detectable(contrast.deltas, len(pairs)),
                verdict=verdict,
            )
        )
    return done


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, float]:
    """McNemar's exact test of two networks on the same test examples.

    Args:
        ours: Booleans, one an example: did the first network answer right?
        theirs: The same of the second.

    Returns:
        How many examples only the first gets right, how many only the second,
        and the two-sided binomial p.

    Example:

    >>> mcnemar(np.array([True] * 5), np.array([False] * 5))
    (5, 0, 0.0625)
    """
    tables = need(
        "statsmodels.stats.contingency_tables", "evidence", "`Comparison`"
    )
    table = [
        [np.sum(ours & theirs), np.sum(ours & ~theirs)],
        [np.sum(~ours & theirs), np.sum(~ours & ~theirs)],
    ]
    p = float(tables.mcnemar(table, exact=True).pvalue)
    return int(table[0][1]), int(table[1][0]), p


def _contrast(
    metric: str,
    arm: str,
    other: str,
    ours: Mapping[int, float],
    theirs: Mapping[int, float],
    wanted: Sequence[int],
) -> Contrast:
    """One pair, before what depends on how many there are."""
    seeds = tuple(seed for seed in wanted if seed in ours and seed in theirs)
    deltas = np.array([ours[seed] - theirs[seed] for seed in seeds])
    number = len(deltas)
    # What differs by rounding alone is equal.
    largest = max(map(abs, [*ours.values(), *theirs.values()]), default=0.0)
    noise = 8 * np.finfo(float).eps * largest
    enough = number >= ENOUGH_SEEDS
    equal = enough and np.ptp(deltas) <= noise
    low = high = math.nan
    if enough and not equal:
        low, high = _interval(deltas)
    why = ""
    if number < len(wanted):
        why = f"{len(wanted) - number} of {len(wanted)} seeds lack a finite "
        why += "score of both arms"
    elif not enough:
        why = f"a verdict takes {ENOUGH_SEEDS} seeds"
    elif equal:
        why = "the deltas of all seeds are equal"
    elif math.isnan(low):
        why = "these deltas have no BCa interval"
    return Contrast(
        metric=metric,
        arm=arm,
        other=other,
        seeds=seeds,
        deltas=deltas,
        mean=float(deltas.mean()) if number else math.nan,
        low=low,
        high=high,
        p=_sign_flip_p(deltas, largest) if number > 1 else math.nan,
        p_holm=math.nan,
        detectable=math.inf,
        verdict="not shown",
        why=why,
    )


def _interval(deltas: np.ndarray) -> tuple[float, float]:
    """Ends of the 95 % interval of the mean, NaN where BCa has none."""
    stats = need("scipy.stats", "evidence", "`Comparison`")
    number = len(deltas)
    quantile = stats.t.ppf(1 - ALPHA / 2, number - 1)
    tail = stats.norm.sf(math.sqrt(number / (number - 1)) * quantile)
    with warnings.catch_warnings():
        # Said in words by `Contrast.why`.
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        interval = stats.bootstrap(
            (deltas,),
            np.mean,
            confidence_level=1 - 2 * tail,
            n_resamples=RESAMPLES,
            method="BCa",
            rng=0,
        ).confidence_interval
    return float(interval.low), float(interval.high)


def _sign_flip_p(deltas: np.ndarray, largest: float) -> float:
    """Two-sided p of the mean, over the flips of the signs of the deltas.

    Scores that are shares, as accuracies are, make ties: flips with the mean
    that was seen, which count. Differences of floats break them (0.8 - 0.7
    is not 0.9 - 0.8), and p comes out too small; hence the rounding, to
    digits that scores as large as `largest` do have.
    """
    stats = need("scipy.stats", "evidence", "`Comparison`")
    return float(
        stats.permutation_test(
            (deltas / (largest or 1.0),),
            lambda flipped, axis: np.round(np.mean(flipped, axis), 12),
            permutation_type="samples",
            n_resamples=2**EXACT_SEEDS,
            batch=2**12,
            vectorized=True,
            rng=0,
        ).pvalue
    )


def _detectable(deltas: np.ndarray, pairs: int) -> float:
    effect = detectable_effect(len(deltas), pairs)
    return (
        effect * float(np.std(deltas, ddof=1)) if effect < math.inf else effect
    )


def detectable_effect(seeds: int, pairs: int) -> float:
    """The mean delta that so many seeds show with the probability `POWER`.

    That of the paired t-test, at the highest level that the sign-flip test can
    reach below that of the first step of Holm's procedure: its p goes in steps
    of `2 / 2^n`. That the interval must agree takes a few points of
    probability away (docs/studies/validity.md).

    Args:
        seeds: Number of seeds.
        pairs: Number of pairs that are tested.

    Returns:
        In deviations of the deltas; infinite where no delta, however large,
        would do.
    """
    power = need("statsmodels.stats.power", "evidence", "`Comparison`")
    level = ALPHA / pairs
    if seeds <= EXACT_SEEDS:
        steps = 2.0 ** (seeds - 1)
        level = (math.ceil(level * steps) - 1) / steps
    if seeds < ENOUGH_SEEDS or level <= 0:
        return math.inf
    return float(
        power.TTestPower().solve_power(nobs=seeds, alpha=level, power=POWER)
    )
