"""Compare the runs of a study: paired deltas, tests, interval, verdict.

runs --by metric, pair of arms--> Contrast --> tables, plot
"""

import dataclasses
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from keras_memel.evaluation import design
from keras_memel.evaluation import tables
from keras_memel.evaluation.contrasts import Contrast
from keras_memel.evaluation.contrasts import contrast_all
from keras_memel.evaluation.looks import level_of
from keras_memel.evaluation.mcnemar import mcnemar_table
from keras_memel.evaluation.notes import notes_of
from keras_memel.evaluation.run_store import Run
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Axes


class Comparison:
    """Compare the arms of a study, seed by seed.

    For each metric and pair of arms, the deltas are the differences between the
    two scores, one per seed. With n seeds:

    - The sign flip: p is the share of all `2^n` choices of signs for which
      the mean is at least as far from 0 (Fisher 1935). It is exact up to
      n = 16. Beyond that, it uses 65,535 random choices (fixed seed).
    - The studentized bootstrap: `t = mean / se`, with the standard error
      `se`, and `t*` is the same statistic of a resample of the deltas minus
      their mean. p is twice the smaller share of `t*` on either side of `t`
      (Efron and Tibshirani 1993, section 12.5). Up to n = 10 it uses all
      `n^n` resamples (Fisher and Hall 1991), beyond that 99,999 random ones
      (fixed seed).
    - `p` is the larger of the two. The interval of the mean contains the
      means that are not rejected by both tests at 0.05: the hull of the
      bootstrap-t interval and of the interval from means of subsets that
      inverts the sign flip (Hartigan 1969). Hence p < 0.05 exactly if the
      interval excludes 0.
    - Holm's correction of `p` (`statsmodels`) covers all pairs of a metric,
      but not several metrics: choose your metric before you see any result.
    - The verdict is "better" or "worse" if the corrected p is below 0.05, and
      "not shown" otherwise. "Not shown" does not prove that the arm is
      without effect: see `detectable`.

    Sums that differ only by rounding to float32 count as equal.

    A verdict needs at least 10 seeds. A missing run, a failed run or a NaN
    score also prevents it, because the seeds on which an arm succeeds do not
    represent the others. Equal deltas for all seeds prevent it, too. They occur
    when `train` ignores its seed.

    If the arm has no effect at all, it can be exchanged with the baseline on
    each seed, and the sign flip is exact for any noise and any n. If the arm
    changes the noise but not the mean, wrong verdicts are about as rare for
    symmetric deltas, and too frequent for skewed deltas. No test of a mean is
    valid with 10 seeds if one seed in ten is an extreme outlier.
    The simulations in docs/studies/validity.md estimate how often verdicts are
    wrong, effects are found and intervals are right.

    The looks are read from the first of `runs` in which `compare` stored them.

    Args:
        runs: Dictionaries with `arm`, `seed` and `scores` or `error`, as
            `compare` creates and `RunStore.read` returns them.
        arms: Names of the arms in the order to use. Defaults to all arms in
            the order of the runs.
        baseline: Arm to compare every other arm with. Defaults to the first.
        contrasts: Additional pairs `(arm, other)`.
        higher_is_better: Boolean, or a dictionary of booleans by metric.
            Metrics that it omits count as `True`.
        seeds: Seeds to compare. Defaults to all; `notes` reports others.

    Raises:
        ValueError: If there are fewer than two arms, an argument names an
            unknown arm, a pair occurs twice, an arm has two runs with
            scores of one seed, or `higher_is_better` is no boolean or names
            a metric that no run has (if any run has scores).
        ImportError: If SciPy, statsmodels, or for some methods pandas, is
            missing: `pip install 'keras-memel[evidence]'`; for `plot`,
            `[plot]`.

    Example:

    >>> runs = [
    ...     {"arm": arm, "seed": seed, "scores": {"%": score}}
    ...     for arm, scores in (
    ...         ("a", [81, 79, 84, 80, 76, 82, 83, 81, 78, 80]),
    ...         ("b", [88, 87, 89, 86, 86, 91, 88, 88, 87, 90]),
    ...     )
    ...     for seed, score in enumerate(scores)
    ... ]
    >>> comparison = Comparison(runs)
    >>> print(comparison.contrasts[0].verdict, comparison.contrasts[0].p)
    better 0.001953125
    >>> print(comparison.to_markdown())
    | % | mean | lowest to highest | 95 % interval | p | detectable | verdict |
    |---|--:|--:|--:|--:|--:|---|
    | b vs. a | +7.6 | +5.0 to +10.0 | +6.2 to +8.9 | 0.002 | 1.9 | better |

    References:
        - Fisher (1935), The Design of Experiments, section 21.
        - Hartigan (1969), Using Subsample Values as Typical Values.
        - Fisher and Hall (1991), Bootstrap Algorithms for Small Samples.
        - Efron and Tibshirani (1993), An Introduction to the Bootstrap.
        - Holm (1979), A Simple Sequentially Rejective Multiple Test Procedure.
    """

    def __init__(
        self,
        runs: Iterable[Run],
        arms: Sequence[str] | None = None,
        baseline: str | None = None,
        contrasts: Iterable[tuple[str, str]] = (),
        higher_is_better: bool | Mapping[str, bool] = True,
        seeds: Iterable[int] | None = None,
    ):
        found = list(runs)
        names = list(dict.fromkeys(run["arm"] for run in found))
        self.arms = tuple(names if arms is None else arms)
        found = [run for run in found if run["arm"] in self.arms]
        stored = {run["seed"] for run in found}
        wanted = stored if seeds is None else set(seeds)
        chosen = (run for run in found if run["seed"] in wanted)
        self.runs = design.one_of_each(chosen)
        self.seeds_left_out = tuple(sorted(stored - wanted))
        self.baseline = design.baseline_of(self.arms, baseline)
        self.pairs = design.pairs_of(self.arms, self.baseline, contrasts)
        self.higher_is_better = higher_is_better
        self.seeds = tuple(dict.fromkeys(run["seed"] for run in self.runs))
        self.looks: tuple[int, ...] = next(
            (tuple(run["looks"]) for run in self.runs if "looks" in run), ()
        )
        self.failed = tuple(run for run in self.runs if "error" in run)
        self.metrics: tuple[str, ...] = tuple(
            dict.fromkeys(m for run in self.runs for m in run.get("scores", ()))
        )
        design.check_directions(higher_is_better, self.metrics)

    @cached_property
    def contrasts(self) -> tuple[Contrast, ...]:
        """Contrasts of all pairs on all metrics, grouped by metric.

        They are empty if no run has scores.
        """
        return tuple(
            contrast
            for metric in self.metrics
            for contrast in contrast_all(
                metric,
                self.pairs,
                {arm: self._by_seed(metric, arm) for arm in self.arms},
                self.seeds,
                self._up(metric),
                level_of(self.looks, len(self.seeds)),
            )
        )

    def _of(self, metric: str) -> list[Contrast]:
        return [c for c in self.contrasts if c.metric == metric]

    def _up(self, metric: str) -> bool:
        up = self.higher_is_better
        return up.get(metric, True) if isinstance(up, Mapping) else up

    def _by_seed(self, metric: str, arm: str) -> dict[int, float]:
        return {
            run["seed"]: run["scores"][metric]
            for run in self.runs
            if run["arm"] == arm
            and math.isfinite(run.get("scores", {}).get(metric, math.nan))
        }

    def notes(self, metric: str | None = None) -> list[str]:
        """Return the remarks that you need to interpret the numbers.

        Args:
            metric: Metric to report on. Remarks that concern only other metrics
                are omitted. `None` reports on all metrics.

        Returns:
            Sentences on failed runs, missing verdicts, looks, seeds that are
            left out, several metrics, and different environments.

        Example:

        >>> runs = [{"arm": a, "seed": 0, "scores": {"f1": 1}} for a in "ab"]
        >>> print(Comparison(runs).notes()[0])
        No verdict, because a verdict needs 10 seeds: any pair
        """
        return notes_of(self, metric)

    def scores(self, metric: str | None = None) -> Any:
        """Return a table of the scores, one row per seed, one column per arm.

        Args:
            metric: Name of the metric. Defaults to the first.

        Returns:
            `pandas.DataFrame`, NaN where a run has no finite score.

        Raises:
            ValueError: If `metric` is not a metric of the runs.
            ImportError: If pandas is missing.

        Example:

        >>> runs = [
        ...     {"arm": arm, "seed": seed, "scores": {"f1": seed + ord(arm)}}
        ...     for arm in "ab" for seed in range(3)
        ... ]
        >>> Comparison(runs).scores()["b"].tolist()
        [98.0, 99.0, 100.0]
        """
        pandas = need("pandas", "evidence", "`Comparison.scores`")
        metric = self._metric(metric)
        columns = {arm: self._by_seed(metric, arm) for arm in self.arms}
        frame = pandas.DataFrame(columns, index=list(self.seeds), dtype=float)
        return frame.rename_axis("seed")

    def to_dataframe(self) -> Any:
        """Return the fields of all contrasts, with one row per contrast.

        Returns:
            `pandas.DataFrame`. Each row holds `deltas` as one array and
            `seeds` as one tuple.

        Raises:
            ImportError: If pandas is missing.

        Example:

        >>> runs = [
        ...     {"arm": arm, "seed": seed, "scores": {"f1": seed + ord(arm)}}
        ...     for arm in "ab" for seed in range(3)
        ... ]
        >>> table = Comparison(runs).to_dataframe()
        >>> table[["arm", "other", "mean"]].values.tolist()
        [['b', 'a', 1.0]]
        """
        pandas = need("pandas", "evidence", "`Comparison.to_dataframe`")
        names = [field.name for field in dataclasses.fields(Contrast)]
        rows = [[getattr(c, name) for name in names] for c in self.contrasts]
        return pandas.DataFrame(rows, columns=names)

    def to_markdown(
        self,
        metric: str | None = None,
        scale: float = 1.0,
        labels: Mapping[str, str] | None = None,
    ) -> str:
        r"""Return a table of the contrasts of one metric, in Markdown.

        Characters that Markdown would interpret are escaped.

        Args:
            metric: Name of the metric. Defaults to the first.
            scale: Factor of the numbers. 100 converts shares to percentage
                points.
            labels: Names to show for arms, by their name in the runs.

        Returns:
            Lines of Markdown, one row per pair. A cell is empty if its number
            is undefined, as the interval is with fewer than 10 seeds.

        Raises:
            ValueError: If `metric` is not a metric of the runs, or `labels`
                contains an arm that is not compared.

        Example:

        >>> runs = [
        ...     {"arm": arm, "seed": seed, "scores": {"f1": seed + ord(arm)}}
        ...     for arm in "ab" for seed in range(3)
        ... ]
        >>> table = Comparison(runs).to_markdown(labels={"b": "a|b", "a": "a"})
        >>> print(table.splitlines()[-1].split(" | ")[0])
        | a\|b vs. a
        """
        tables.check_labels(labels, self.arms)
        return tables.markdown(self._of(self._metric(metric)), scale, labels)

    def summary(
        self, scale: float = 1.0, labels: Mapping[str, str] | None = None
    ) -> str:
        """Return a table per metric for a terminal, with `notes` below.

        Args:
            scale: Factor of the numbers.
            labels: Names to show for arms, by their name in the runs.

        Returns:
            Lines of text; only the notes if no run has scores. `print` of a
            `Comparison` shows the summary with `scale=1`.

        Raises:
            ValueError: If `labels` contains an arm that is not compared.

        Example:

        >>> runs = [
        ...     {"arm": arm, "seed": seed, "scores": {"f1": seed + ord(arm)}}
        ...     for arm in "ab" for seed in range(3)
        ... ]
        >>> print(Comparison(runs).summary().splitlines()[3])
        3 paired seeds; higher is better.
        """
        tables.check_labels(labels, self.arms)
        parts = []
        for metric in self.metrics:
            direction = "higher" if self._up(metric) else "lower"
            parts += [
                tables.text(self._of(metric), scale, labels),
                f"{len(self.seeds)} paired seeds; {direction} is better.\n",
            ]
        return "\n".join([*parts, *self.notes()]).rstrip()

    def __str__(self) -> str:
        return self.summary()

    def _metric(self, metric: str | None) -> str:
        return design.metric_of(metric, self.metrics, self.runs)

    def plot(
        self,
        metric: str | None = None,
        scale: float = 1.0,
        ax: Axes | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Axes:
        """Draw one dot per seed, and the mean with its interval, per contrast.

        Blue means "better", orange "worse", gray "not shown". Fonts and sizes
        follow `matplotlib.rcParams`. For a paper, set for example
        `{"pdf.fonttype": 42, "font.family": "serif"}`.

        Args:
            metric: Name of the metric. Defaults to the first.
            scale: Factor of the numbers.
            ax: `matplotlib.axes.Axes` to draw into. Defaults to new axes.
            labels: Names to show for arms, by their name in the runs.

        Returns:
            The axes.

        Raises:
            ValueError: If `metric` is not a metric of the runs, or `labels`
                contains an arm that is not compared.
            ImportError: If matplotlib is missing.

        Example:

        >>> runs = [
        ...     {"arm": arm, "seed": seed, "scores": {"f1": seed + ord(arm)}}
        ...     for arm in "ab" for seed in range(3)
        ... ]
        >>> axes = Comparison(runs).plot(scale=100)
        >>> axes.get_xlabel()
        'difference in f1'
        """
        need("matplotlib.pyplot", "plot", "`Comparison.plot`")
        tables.check_labels(labels, self.arms)
        return tables.plot(self._of(self._metric(metric)), scale, ax, labels)

    def mcnemar(self) -> Any:
        """Apply McNemar's exact test to each pair of networks.

        The test needs runs that hold `correct`, and omits others. It tests
        whether *these two networks* differ on the population of the
        test examples. Whether their recipes differ depends on seeds, not on
        examples (Dietterich 1998). The table therefore has one row per seed,
        no pooling and no verdict.

        Returns:
            `pandas.DataFrame` with `arm`, `other`, `seed`, `only_arm` and
            `only_other` (numbers of examples on which only one of the two is
            correct), and `p` (`statsmodels`, binomial, two-sided).

        Raises:
            ValueError: If two runs of a seed were tested on different numbers
                of examples.
            ImportError: If pandas or statsmodels is missing.

        Example:

        >>> runs = [
        ...     {"arm": arm, "seed": 0, "scores": {"f1": 1}, "correct": correct}
        ...     for arm, correct in (("a", "0011"), ("b", "1111"))
        ... ]
        >>> table = Comparison(runs).mcnemar()
        >>> table[["only_arm", "only_other", "p"]].values.tolist()
        [[2.0, 0.0, 0.5]]
        """
        return mcnemar_table(self.runs, self.pairs, self.seeds)
