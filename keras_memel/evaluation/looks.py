"""Plan looks: the numbers of seeds after which a study may be judged.

looks --spending function--> level of each look
"""

import functools
import math
import numbers
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.evaluation.contrasts import ENOUGH_SEEDS
from keras_memel.evaluation.paired_tests import ALPHA
from keras_memel.evaluation.run_store import Run
from keras_memel.utils.optional_imports import need

# Power of the spending function: it spends a fifth of ALPHA at half the seeds.
POWER = math.log2(5)
MOST_LOOKS = 5


@functools.lru_cache(maxsize=64)
def look_levels(looks: tuple[int, ...]) -> tuple[float, ...]:
    """Compute the p below which there is a verdict at each look.

    The looks up to n of N seeds spend `0.05 (n / N)^log2(5)`: this is the
    probability of a false verdict at any of them (Kim and DeMets 1987, who
    leave the power free). The sums of the first n seeds are assumed to be
    normal. Numerical integration follows those that no look rejects from look
    to look (Armitage, McPherson and Rowe 1969). Levels are rounded down to
    two digits. docs/studies/validity.md simulates looks with the tests of
    `Comparison` and other distributions.

    Args:
        looks: Numbers of seeds, ascending.

    Returns:
        One level per look.

    Example:

    >>> look_levels((10, 20)), look_levels((10, 15, 20))
    ((0.01, 0.045), (0.01, 0.02, 0.038))
    """
    stats = need("scipy.stats", "evidence", "`compare`")
    optimize = need("scipy.optimize", "evidence", "`compare`")
    if len(looks) == 1:
        return (ALPHA,)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    # Possible sums of the seeds, with the mass that no look rejected so far.
    sums, masses, before, spent = np.zeros(1), np.ones(1), 0, 0.0
    levels = []
    for look in looks:
        deviation = math.sqrt(look - before)
        more = ALPHA * (look / looks[-1]) ** POWER - spent
        state = (look, sums, masses, deviation, more)
        bound = float(optimize.brentq(_excess, 1.0, 8.0, args=state))
        levels.append(_down(2 * float(stats.norm.sf(bound))))
        far = bound * math.sqrt(look)
        steps = (far * nodes[:, None] - sums) / deviation
        density = stats.norm.pdf(steps) @ masses / deviation
        sums, masses = far * nodes, far * weights * density
        before, spent = look, spent + more
    return tuple(levels)


def _excess(
    bound: float,
    look: int,
    sums: np.ndarray,
    masses: np.ndarray,
    deviation: float,
    allowed: float,
) -> float:
    """Compute the first false verdicts at a look, minus the allowed rate."""
    stats = need("scipy.stats", "evidence", "`compare`")
    far = bound * math.sqrt(look)
    up = stats.norm.sf((far - sums) / deviation)
    down = stats.norm.sf((far + sums) / deviation)
    return float(masses @ (up + down)) - allowed


def check_looks(looks: Any, seeds: int) -> tuple[int, ...]:
    """Return `looks` as a tuple, or raise.

    Args:
        looks: Argument of the user.
        seeds: Number of seeds of this call.

    Raises:
        ValueError: If `looks` are not one to five ascending numbers of at
            least 10 seeds, or `seeds` is not among them.
    """
    found = tuple(looks) if isinstance(looks, Iterable) else ()
    whole = all(isinstance(look, numbers.Integral) for look in found)
    if (
        not 0 < len(found) <= MOST_LOOKS
        or not whole
        or list(found) != sorted(set(found))
        or found[0] < ENOUGH_SEEDS
    ):
        raise ValueError(
            f"Argument `looks` must be one to {MOST_LOOKS} ascending numbers "
            f"of at least {ENOUGH_SEEDS} seeds, such as (10, 20). Received: "
            f"looks={looks!r}"
        )
    found = tuple(int(look) for look in found)
    if seeds not in found:
        raise ValueError(
            "Argument `seeds` must be one of `looks`: call first with "
            f"{found[0]} seeds. Received: {seeds} seeds, looks={found}"
        )
    return found


def declared_looks(
    looks: Sequence[int] | None, stored: Sequence[Run], seeds: int
) -> tuple[int, ...]:
    """Return the looks that were declared before the first run, if any.

    Args:
        looks: Looks of this call. `None` uses those of the store or, if it
            is empty, one look at `seeds`.
        stored: Runs of the store.
        seeds: Number of seeds of this call.

    Raises:
        ValueError: If `looks` differ from those that the store began with.
    """
    if not stored:
        # Below 10 seeds no verdict is possible.
        default = (seeds,) if seeds >= ENOUGH_SEEDS else ()
        return default if looks is None else tuple(looks)
    before = next((tuple(r["looks"]) for r in stored if "looks" in r), ())
    if looks is not None and tuple(looks) != before:
        raise ValueError(
            "Argument `looks` must be declared before the first run. Received: "
            f"looks={tuple(looks)}, and a store of {len(stored)} runs that "
            f"were started with looks={before or None}. Pass another `store`, "
            "or omit `looks`"
        )
    return before


def level_of(looks: Sequence[int], seeds: int) -> float:
    """Return the level of the last look that a number of seeds reaches.

    Args:
        looks: Planned looks. Without looks the level is 0.05.
        seeds: Number of seeds.

    Example:

    >>> level_of((10, 20), 10), level_of((10, 20), 20), level_of((), 12)
    (0.01, 0.045, 0.05)
    """
    if not looks:
        return ALPHA
    reached = sum(look <= seeds for look in looks)
    return look_levels(tuple(looks))[max(0, reached - 1)]


def look_notes(looks: Sequence[int], seeds: int) -> list[str]:
    """Return the remarks that a reader of the verdicts needs.

    Args:
        looks: Planned looks.
        seeds: Number of seeds.

    Example:

    >>> look_notes((10, 20), 10)
    ['Look 1 of 2 (10, 20 seeds): a verdict needs p < 0.01']
    >>> look_notes((10,), 12)[0][:35]
    'The study has 12 seeds, but 10 were'
    """
    if not looks:
        return []
    declared = ", ".join(map(str, looks))
    if seeds not in looks:
        return [
            f"The study has {seeds} seeds, but {declared} were declared "
            "before the first run. Unplanned looks make wrong verdicts more "
            "frequent. Start a new store with `looks`"
        ]
    if len(looks) == 1:
        return []
    return [
        f"Look {list(looks).index(seeds) + 1} of {len(looks)} ({declared} "
        f"seeds): a verdict needs p < {level_of(looks, seeds):g}"
    ]


def _down(level: float) -> float:
    """Round down to two digits."""
    unit = 10.0 ** (math.floor(math.log10(level)) - 1)
    # The added 1e-4 of a unit is below the precision of the search.
    return float(f"{math.floor(level / unit + 1e-4) * unit:.2g}")
