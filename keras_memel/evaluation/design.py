"""Check which arms, pairs and metrics a `Comparison` compares.

arms, baseline, contrasts --> pairs
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from keras_memel.evaluation.contrasts import check_pairs
from keras_memel.evaluation.run_store import Run


def one_of_each(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Leave out failed runs that were repeated, as `compare` does.

    Raises:
        ValueError: If several runs of an arm and seed have scores.
    """
    found: dict[tuple[str, int], Run] = {}
    for run in runs:
        key = run["arm"], run["seed"]
        if key in found and "error" in run:
            continue
        if key in found and "error" not in found[key]:
            raise ValueError(
                "Argument `runs` must hold one run with scores per arm and "
                f"seed. Received: several runs of {key}"
            )
        found[key] = run
    return tuple(found.values())


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
        turned = pair[::-1]
        if pair[0] == pair[1] or pairs.count(pair) + pairs.count(turned) > 1:
            raise ValueError(
                "Argument `contrasts` must hold pairs of different arms, "
                "each once in either order, without the pairs with the "
                f"baseline, which are always compared. Received: {pair!r}"
            )
    return pairs


def check_directions(
    higher_is_better: bool | Mapping[str, bool], metrics: Sequence[str]
) -> None:
    """Raise if a direction is no boolean, or of a metric that no run has."""
    given = [higher_is_better]
    if isinstance(higher_is_better, Mapping):
        given = list(higher_is_better.values())
    if not all(isinstance(one, (bool, np.bool_)) for one in given):
        raise ValueError(
            "Argument `higher_is_better` must be a boolean, or a dictionary of "
            f"booleans by metric. Received: {higher_is_better!r}"
        )
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
