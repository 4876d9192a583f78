"""The paired tests by brute force, in whole numbers: nothing is rounded.

For deltas that are integers. No code is shared with the library; resamples can
be passed in, where all of them are too many.
"""

import collections
import itertools
from fractions import Fraction


def sign_flip_p(deltas):
    """Share of all flips of signs with a sum at least as far from 0."""
    seen = abs(sum(deltas))
    flips = itertools.product((1, -1), repeat=len(deltas))
    sums = [abs(sum(s * d for s, d in zip(signs, deltas))) for signs in flips]
    return Fraction(sum(total >= seen for total in sums), len(sums))


def sign_flip_rejects(deltas, mean, level):
    """Return whether the test rejects that the deltas have this mean."""
    mean = Fraction(mean)
    return sign_flip_p([d - mean for d in deltas]) < Fraction(str(level))


def subset_means(deltas):
    """Return the means of all non-empty subsets in ascending order."""
    means = [
        Fraction(sum(chosen), size)
        for size in range(1, len(deltas) + 1)
        for chosen in itertools.combinations(deltas, size)
    ]
    return sorted(means)


def squared_t(shift, values):
    """t^2 with the sign of t, but for a factor that depends on n alone."""
    number, total = len(values), sum(values)
    variance = number * sum(v * v for v in values) - total**2
    if variance == 0:
        return None
    return Fraction(shift * abs(shift), variance)


def all_resamples(deltas):
    """Every resample in every order, n^n: how often each is met."""
    orders = itertools.product(deltas, repeat=len(deltas))
    return collections.Counter(tuple(sorted(order)) for order in orders)


def bootstrap_p(deltas, resamples):
    """Two-sided p of the studentized bootstrap.

    Args:
        deltas: Integers.
        resamples: How often each resample, a tuple of deltas, is met.
    """
    total = sum(deltas)
    observed = squared_t(total, deltas)
    if deltas.count(deltas[0]) == len(deltas):
        return Fraction(1)
    above = below = kept = 0
    for values, times in resamples.items():
        t = squared_t(sum(values) - total, values)
        if t is not None:
            kept += times
            above += times * (t >= observed)
            below += times * (t <= observed)
    return min(Fraction(1), Fraction(2 * (1 + min(above, below)), kept + 1))
