"""Two arms on paired seeds: deltas -> tests, interval, verdict.

No statistics are written here that SciPy or statsmodels have.
"""

import dataclasses
import math
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_memel.evaluation.paired_tests import ALPHA
from keras_memel.evaluation.paired_tests import EXACT_SEEDS
from keras_memel.evaluation.paired_tests import equal_but_for
from keras_memel.evaluation.paired_tests import paired_test
from keras_memel.evaluation.paired_tests import rounding
from keras_memel.utils.optional_imports import need

# With fewer, luck passes for effect, and a bootstrap interval for more than
# it is.
ENOUGH_SEEDS = 10
# Of the minimum detectable effect.
POWER = 0.8


@dataclasses.dataclass(frozen=True, eq=False)
class Contrast:
    """One arm vs. another, seed by seed, on one metric.

    Attributes:
        metric: Name of the score.
        arm: The arm, from whose score that of `other` is subtracted.
        other: The arm that it is compared with.
        seeds: The seeds that both arms finished with a finite score.
        deltas: Score of `arm` minus score of `other`, one per seed of `seeds`.
        mean: Mean of the deltas, NaN without any.
        low: Lower end of the interval of the mean, NaN below 10 deltas or if
            all are equal.
        high: Upper end.
        level: The p below which there is a verdict; the interval is one of
            `1 - level`: 95 %, unless looks were planned.
        p_sign_flip: Two-sided p of the sign flip, NaN below 2 deltas.
        p_bootstrap: Two-sided p of the studentized bootstrap, NaN below 2
            deltas, 1 if all are equal.
        p: The larger of both. It is below `level` exactly if the interval
            excludes 0.
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
    level: float
    p_sign_flip: float
    p_bootstrap: float
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
    level: float = ALPHA,
) -> list[Contrast]:
    """Every pair of arms on one metric, with Holm's correction over them.

    Args:
        metric: Name of the metric.
        pairs: Which arm is compared with which.
        scores: The finite scores, by arm and seed.
        seeds: The seeds that should be there.
        higher_is_better: What "better" means.
        level: The corrected p below which there is a verdict.

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
        _contrast(metric, arm, other, scores[arm], scores[other], seeds, level)
        for arm, other in pairs
    ]
    # A pair without a p is still one that was looked at.
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
    level: float,
) -> Contrast:
    """One pair, before what depends on how many there are."""
    seeds = tuple(seed for seed in wanted if seed in ours and seed in theirs)
    paired = [np.array([arm[seed] for seed in seeds]) for arm in (ours, theirs)]
    deltas, noise = paired[0] - paired[1], rounding(*paired)
    number = len(deltas)
    # Differences that rounding alone explains are equal.
    enough = number >= ENOUGH_SEEDS
    equal = enough and bool(equal_but_for(noise, deltas))
    test = paired_test(deltas, noise, level)
    shown = enough and not equal
    why = ""
    if number < len(wanted):
        why = f"{len(wanted) - number} of {len(wanted)} seeds lack a finite "
        why += "score of both arms"
    elif not enough:
        why = f"a verdict takes {ENOUGH_SEEDS} seeds"
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
    """The mean delta that so many seeds show with the probability `POWER`.

    That of the paired t-test, at the highest level that the sign-flip test can
    reach below that of the first step of Holm's procedure: its p goes in steps
    of `2 / 2^n`. That the bootstrap must agree takes a few points of
    probability away (docs/studies/validity.md).

    Args:
        seeds: Number of seeds.
        pairs: Number of pairs that are tested.
        level: The corrected p below which there is a verdict.

    Returns:
        In deviations of the deltas; infinite where no delta, however large,
        would do.
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
