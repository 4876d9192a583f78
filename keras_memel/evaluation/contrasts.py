"""Compare two arms on paired seeds: deltas -> tests, interval, verdict.

SciPy and statsmodels compute all statistics that they offer.
"""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.evaluation.paired_tests import ALPHA
from keras_memel.evaluation.paired_tests import EXACT_SEEDS
from keras_memel.evaluation.paired_tests import equal_but_for
from keras_memel.evaluation.paired_tests import paired_test
from keras_memel.evaluation.paired_tests import rounding
from keras_memel.utils.optional_imports import need

# With fewer seeds, chance is often mistaken for an effect, and a bootstrap
# interval is too narrow.
ENOUGH_SEEDS = 10
# Power at which the minimum detectable effect is defined.
POWER = 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """Comparison of two arms, seed by seed, on one metric.

    Attributes:
        metric: Name of the score.
        arm: First arm. The score of `other` is subtracted from its score.
        other: Second arm.
        seeds: Seeds for which both arms have a finite score.
        deltas: Score of `arm` minus score of `other`, one per seed in `seeds`.
        mean: Mean of the deltas, NaN without deltas.
        low: Lower end of the interval of the mean, NaN below 10 deltas or if
            all are equal.
        high: Upper end of the interval.
        level: Corrected p below which there is a verdict. The interval covers
            `1 - level`: 95 %, unless looks were planned.
        p_sign_flip: Two-sided p of the sign flip, NaN below 2 deltas.
        p_bootstrap: Two-sided p of the studentized bootstrap, NaN below 2
            deltas, 1 if all are equal.
        p: Larger of the two. It is below `level` exactly if the interval
            excludes 0.
        p_holm: `p` with Holm's correction over the contrasts of the metric.
        detectable: Minimum detectable effect: the mean delta that this number
            of seeds shows in about three cases of four, given the standard
            deviation of these deltas. Infinite if the seeds cannot show any
            effect, however large.
        verdict: `"better"`, `"worse"` or `"not shown"`.
        why: Reason why a verdict is impossible, `""` if it is possible.

    Example:

    >>> runs = [
    ...     {"arm": arm, "seed": seed, "scores": {"loss": loss}}
    ...     for arm, losses in (("a", [0.5, 0.4]), ("b", [0.3, 0.3]))
    ...     for seed, loss in enumerate(losses)
    ... ]
    >>> contrast = Comparison(runs, higher_is_better=False).contrasts[0]
    >>> round(contrast.mean, 3), contrast.verdict, contrast.why
    (-0.15, 'not shown', 'a verdict needs 10 seeds')
    """

    metric: str
    arm: str
    other: str
    seeds: tuple[int, ...]
    deltas: np.ndarray
    mean: float
    low: float
    high: float
    level: float
    p_sign_flip: float
    p_bootstrap: float
    p: float
    p_holm: float
    detectable: float
    verdict: str
    why: str


def check_pairs(contrasts: Any) -> tuple[tuple[str, str], ...]:
    """Return the pairs of `contrasts`, or raise.

    Args:
        contrasts: Argument of `compare` or `Comparison`.

    Raises:
        ValueError: If an element is not a pair.
    """
    # Without this check, a string of two letters would pass as a pair.
    found: list[Any] = (
        [contrasts] if isinstance(contrasts, str) else list(contrasts)
    )
    for pair in found:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                "Argument `contrasts` must hold pairs `(arm, other)`. "
                f"Received: {pair!r} ({type(pair).__name__})"
            )
    return tuple((arm, other) for arm, other in found)


def contrast_all(
    metric: str,
    pairs: Sequence[tuple[str, str]],
    scores: Mapping[str, Mapping[int, float]],
    seeds: Sequence[int],
    higher_is_better: bool,
    level: float = ALPHA,
) -> list[Contrast]:
    """Compare pairs of arms on one metric, with Holm's correction over them.

    Args:
        metric: Name of the metric.
        pairs: Pairs `(arm, other)` to compare.
        scores: Finite scores, by arm and seed.
        seeds: All seeds of the study. Both arms should have a score for each.
        higher_is_better: Whether a higher score is better.
        level: Corrected p below which there is a verdict.

    Returns:
        One `Contrast` per pair, in the order of `pairs`.

    Example:

    >>> scores = {"a": dict.fromkeys(range(10), 1.0), "b": {}}
    >>> found = contrast_all("loss", [("a", "b")], scores, range(10), False)
    >>> found[0].why
    '10 of 10 seeds have no finite score for at least one arm'
    """
    multitest = need("statsmodels.stats.multitest", "evidence", "`Comparison`")
    found = [
        _contrast(metric, arm, other, scores[arm], scores[other], seeds, level)
        for arm, other in pairs
    ]
    # A pair without a p was still inspected, so it counts with p = 1.
    p = np.nan_to_num([contrast.p for contrast in found], nan=1.0)
    holm = multitest.multipletests(p, ALPHA, method="holm")[1]
    done = []
    for contrast, p_holm in zip(found, holm, strict=True):
        verdict = "not shown"
        if not contrast.why and p_holm < level:
            up = contrast.mean > 0
            verdict = "better" if up == higher_is_better else "worse"
        done.append(
            dataclasses.replace(
                contrast,
                p_holm=float(p_holm),
                detectable=_detectable(contrast.deltas, len(pairs), level),
                verdict=verdict,
            )
        )
    return done


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> tuple[int, int, float]:
    """Apply McNemar's exact test to two networks on the same test examples.

    Args:
        ours: Booleans, one per example: whether the first network is correct.
        theirs: Booleans of the second network.

    Returns:
        Number of examples on which only the first network is correct, number
        on which only the second is, and the two-sided binomial p.

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
    level: float,
) -> Contrast:
    """Compare one pair, except for fields that depend on the other pairs."""
    seeds = tuple(seed for seed in wanted if seed in ours and seed in theirs)
    paired = [np.array([arm[seed] for seed in seeds]) for arm in (ours, theirs)]
    deltas, noise = paired[0] - paired[1], rounding(*paired)
    number = len(deltas)
    # Differences that rounding alone can explain count as equal.
    enough = number >= ENOUGH_SEEDS
    equal = enough and bool(equal_but_for(noise, deltas))
    test = paired_test(deltas, noise, level)
    shown = enough and not equal
    why = ""
    if number < len(wanted):
        why = f"{len(wanted) - number} of {len(wanted)} seeds have no finite "
        why += "score for at least one arm"
    elif not enough:
        why = f"a verdict needs {ENOUGH_SEEDS} seeds"
    elif equal:
        why = "the deltas of all seeds are equal"
    return Contrast(
        metric=metric,
        arm=arm,
        other=other,
        seeds=seeds,
        deltas=deltas,
        mean=float(deltas.mean()) if number else math.nan,
        low=test.low if shown else math.nan,
        high=test.high if shown else math.nan,
        level=level,
        p_sign_flip=test.p_sign_flip,
        p_bootstrap=test.p_bootstrap,
        p=test.p,
        p_holm=math.nan,
        detectable=math.inf,
        verdict="not shown",
        why=why,
    )


def _detectable(deltas: np.ndarray, pairs: int, level: float) -> float:
    effect = detectable_effect(len(deltas), pairs, level)
    return (
        effect * float(np.std(deltas, ddof=1)) if effect < math.inf else effect
    )


def detectable_effect(seeds: int, pairs: int, level: float = ALPHA) -> float:
    """Return the mean delta that the seeds show with probability `POWER`.

    The mean delta is computed for the paired t-test. The level of this test is
    the highest p that the sign-flip test, whose p changes in steps of
    `2 / 2^n`, can reach below the level of the first step of Holm's procedure.
    A verdict also requires that the bootstrap agrees, which lowers the
    probability by a few points (docs/studies/validity.md).

    Args:
        seeds: Number of seeds.
        pairs: Number of pairs that are tested.
        level: Corrected p below which there is a verdict.

    Returns:
        Mean delta in standard deviations of the deltas. Infinite if no delta,
        however large, is sufficient.
    """
    power = need("statsmodels.stats.power", "evidence", "`Comparison`")
    level /= pairs
    if seeds <= EXACT_SEEDS:
        steps = 2.0 ** (seeds - 1)
        level = (math.ceil(level * steps) - 1) / steps
    if seeds < ENOUGH_SEEDS or level <= 0:
        return math.inf
    return float(
        power.TTestPower().solve_power(nobs=seeds, alpha=level, power=POWER)
    )
