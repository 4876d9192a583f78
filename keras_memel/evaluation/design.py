"""Check which arms, pairs and metrics a `Comparison` compares.

arms, baseline, contrasts --> pairs
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

from keras_memel.evaluation.contrasts import check_pairs
from keras_memel.evaluation.run_store import Run


def check_runs(runs: Iterable[Run]) -> None:
    """Raise if two runs have the same arm and seed."""
    seen = set()
    for run in runs:
        key = run["arm"], run["seed"]
        if key in seen:
            raise ValueError(
                "Argument `runs` must hold one run per arm and seed. "
                f"Received: several runs of {key}"
            )
        seen.add(key)


def baseline_of(arms: Sequence[str], baseline: str | None) -> str:
    """Return the arm to compare the others with, by default the first."""
    if len(arms) < 2:
        raise ValueError(
            "Argument `arms` must hold at least two arms. Received: "
            f"arms={arms}"
        )
    if baseline is None:
        return arms[0]
    _check("baseline", baseline, arms)
    return baseline


def pairs_of(
    arms: Sequence[str], baseline: str, contrasts: Iterable[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """Return the pairs with the baseline, followed by the other contrasts."""
    pairs = tuple((arm, baseline) for arm in arms if arm != baseline)
    pairs += check_pairs(contrasts)
    for pair in pairs:
        for name in pair:
            _check("contrasts", name, arms)
        if pair[0] == pair[1] or pairs.count(pair) > 1:
            raise ValueError(
                "Argument `contrasts` must hold pairs of different arms, "
                "each once, without the pairs with the baseline, which "
                f"are always compared. Received: {pair!r}"
            )
    return pairs


def check_directions(
    higher_is_better: bool | Mapping[str, bool], metrics: Sequence[str]
) -> None:
    """Raise if a direction belongs to a metric that no run has."""
    # Without any scores the names of metrics are unknown, and no verdict can
    # be wrong.
    if isinstance(higher_is_better, Mapping) and metrics:
        unknown = [m for m in higher_is_better if m not in metrics]
        if unknown:
            raise ValueError(
                "Argument `higher_is_better` must name metrics of "
                f"{metrics}. Received: {unknown}"
            )


def metric_of(
    metric: str | None, metrics: Sequence[str], runs: Sequence[Run]
) -> str:
    """Return the metric to show, by default the first."""
    if not metrics:
        failed = sum("error" in run for run in runs)
        raise ValueError(
            "Argument `runs` must hold at least one run with scores. "
            f"Received: {len(runs)} runs, of which {failed} failed. `notes()` "
            "lists their errors"
        )
    if metric is None:
        return metrics[0]
    if metric not in metrics:
        raise ValueError(
            f"Argument `metric` must be one of {metrics}. "
            f"Received: metric={metric!r}"
        )
    return metric


def _check(argument: str, name: str, arms: Sequence[str]) -> None:
    if name not in arms:
        raise ValueError(
            f"Argument `{argument}` must name arms of {arms}. "
            f"Received: {name!r}"
        )
