"""Run the arms of a study on paired seeds and store the runs.

train + arms + seeds --executor--> runs --store--> Comparison
"""

import collections
import concurrent.futures
import contextlib
import functools
import numbers
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_memel.evaluation.comparison import Comparison
from keras_memel.evaluation.environment import environment_of
from keras_memel.evaluation.environment import folder_of
from keras_memel.evaluation.executors import check_executor
from keras_memel.evaluation.executors import results
from keras_memel.evaluation.identity import identify
from keras_memel.evaluation.in_progress import MAX_CALLER_DEATHS
from keras_memel.evaluation.in_progress import RunsInProgress
from keras_memel.evaluation.in_progress import record_deaths
from keras_memel.evaluation.looks import check_looks
from keras_memel.evaluation.looks import declared_looks
from keras_memel.evaluation.run_store import Run
from keras_memel.evaluation.run_store import RunStore
from keras_memel.utils import arguments
from keras_memel.utils.optional_imports import need

# Upper estimate of the size of a run in the store, mostly its environment.
BYTES_PER_RUN = 1024


def compare(
    train: Callable[[Any, int], Any],
    arms: Sequence[str] | Mapping[str, Any],
    seeds: int | Iterable[int] = 10,
    baseline: str | None = None,
    contrasts: Iterable[tuple[str, str]] = (),
    store: str | os.PathLike[str] | None = None,
    executor: concurrent.futures.Executor | None = None,
    higher_is_better: bool | Mapping[str, bool] = True,
    retry_failed: bool = False,
    progress: bool = True,
    looks: Sequence[int] | None = None,
) -> Comparison:
    """Train every arm with every seed and compare the arms seed by seed.

    A seed is one repetition of the whole experiment. `train` must derive from
    it the data split, the initial weights, the batch order and every other
    random choice, identically for *all* arms. The difference between two arms
    on one seed then measures the effect of the arm. `Comparison` describes
    the tests of these differences.

    A run that raises or calls `sys.exit` is stored with its traceback, and
    the study continues. If a worker of a process pool dies, a new pool with
    the same settings replaces the pool. The runs in progress are repeated one
    by one, and a run whose worker dies again is stored with an error.
    If this process dies, call `compare` again: the store counts the deaths of
    the runs that were in progress in this process, or in a pool with a known
    number of workers. After three deaths in a row, a run is stored with an
    error. On Windows, deaths are not counted. Each run is stored with the
    versions, backend and device of its process and, if the folder of `train`
    has one, the git revision.

    Args:
        train: `train(arm, seed)` trains and tests one network. It returns a
            score, or a dictionary of scores by metric. The dictionary may
            also hold `"correct"`, a boolean vector with one entry per test
            example (true if the answer was correct), for
            `Comparison.mcnemar`.
        arms: Arms to compare: names, which `train` receives unchanged, or a
            dictionary from names to the objects that `train` receives.
        seeds: Number of seeds (0, 1, ...), or the seeds themselves. A verdict
            needs 10.
        baseline: Arm to compare every other arm with. Defaults to the first.
        contrasts: Additional pairs `(arm, other)`, such as
            `("MEmeL", "placebo")`. Choose them before you see any result:
            Holm's correction covers all pairs.
        store: File to append each finished run to. A stored run is not
            repeated, so call `compare` again to resume, or to add arms or
            seeds. Runs are identified by arm and seed: use a new file when
            `train` changes. `None` disables the store.
        executor: Any `concurrent.futures.Executor` (a process pool, loky,
            Dask, mpi4py) to run in parallel, on several machines if the
            executor supports them. `None` runs sequentially in this process.
            A process pool needs a `train` defined in a module and, for most
            backends, the start method `"spawn"`.
        higher_is_better: Boolean, or a dictionary of booleans by metric.
            Metrics that it omits count as `True`. An unknown metric raises
            as soon as every arm has a score.
        retry_failed: Whether to repeat stored runs that failed.
        progress: Whether to show a progress bar.
        looks: Numbers of seeds at which you inspect the verdicts. With
            `(10, 20)`, call with 10 seeds, then with 20 to continue. Each
            look spends a part of the 5 % of wrong verdicts: p < 0.01 at the
            first of these two, p < 0.045 at the second. The first call
            declares the looks and stores them; later calls may omit them. By
            default one look is planned, at `seeds`.

    Returns:
        A `Comparison` of the runs of these arms and seeds. Its `notes`
        report seeds beyond the declared looks, and stored seeds not compared.

    Raises:
        ValueError: If an argument is invalid, or the store holds runs of an
            arm for which `train` received another object, or runs that were
            started with other looks.
        TypeError: If `train` returns neither a number nor a dictionary of
            numbers by different names. The study stops, because every run
            would fail.
        OSError: If the store is not writable; raised before the first run.
        ImportError: If SciPy, statsmodels or tqdm is missing.

    Warns:
        UserWarning: If runs failed, or the store has damaged lines.

    Example:

    >>> def train(arm, seed):
    ...     rng = np.random.default_rng(seed)
    ...     noise = rng.normal(size=2)  # one for the split, one for training
    ...     return 80 + 3 * noise[0] + (2 + noise[1] if arm == "ours" else 0)
    >>> comparison = compare(train, ["plain", "ours"], progress=False)
    >>> comparison.contrasts[0].verdict
    'better'
    """
    for module in ("scipy.stats", "statsmodels.stats.multitest"):
        need(module, "evidence", "`compare`")
    given = _check_arms(arms)
    described = {} if store is None else _describe(arms)
    check_executor(executor, train, given)
    seeds = _check_seeds(seeds)
    if looks is not None:
        looks = check_looks(looks, len(seeds))
    # Wrong names raise here, not after the last run.
    make = functools.partial(
        Comparison,
        arms=list(given),
        baseline=baseline,
        # The pairs are read twice, which an iterator does not allow.
        contrasts=contrasts if isinstance(contrasts, str) else list(contrasts),
        higher_is_better=higher_is_better,
    )
    make([])

    kept = RunStore(store) if store is not None else None
    if kept:
        record_deaths(kept)
    stored = kept.read() if kept and kept.path.is_file() else []
    wanted = [(name, seed) for seed in seeds for name in given]
    looks = declared_looks(looks, stored, len(seeds))
    runs = _first_of_each(stored, wanted, described, retry_failed)
    todo = [key for key in wanted if key not in runs]
    if kept and todo:
        kept.check_writable(BYTES_PER_RUN * min(len(todo), 1024))
    folder = folder_of(train)
    tasks = [(train, *key, given[key[0]], folder) for key in todo]
    tqdm = need("tqdm", "evidence", "`compare`").tqdm
    scored = {run["arm"] for run in runs.values() if "scores" in run}
    unscored = set(given) - scored
    bar = tqdm(
        total=len(wanted),
        initial=len(runs),
        unit="run",
        disable=not progress,
    )
    if runs and progress:
        text = f"{store} contains {len(runs)} of {len(wanted)} runs"
        bar.write(text, file=sys.stderr)
    deaths = kept.deaths() if kept and todo else collections.Counter()
    with (
        bar,
        RunsInProgress(kept if todo else None) as in_progress,
        contextlib.closing(
            _results(executor, tasks, deaths, in_progress)
        ) as finished,
    ):
        for run in finished:
            if run["arm"] in described:
                run["argument"] = described[run["arm"]]
            if looks:
                run["looks"] = list(looks)
            if kept:
                kept.append(run)
            runs[run["arm"], run["seed"]] = run
            bar.update()
            if "scores" in run and run["arm"] in unscored:
                unscored.remove(run["arm"])
                if not unscored:
                    # A wrong metric raises here. Each arm has its own
                    # metrics, so all must have a score first.
                    make(list(runs.values()))
            if "error" in run and progress:
                last = run["error"].strip().splitlines()[-1]
                text = f"{run['arm']}, seed {run['seed']}, failed: {last}"
                bar.write(text, file=sys.stderr)
    failed = [run for run in runs.values() if "error" in run]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(wanted)} runs failed; `notes()` of the "
            f"comparison lists them. The first is {failed[0]['arm']} with "
            f"seed {failed[0]['seed']}:\n{failed[0]['error']}",
            stacklevel=2,
        )
    others = [run for run in stored if run["seed"] not in set(seeds)]
    return make([runs[key] for key in wanted] + others, seeds=seeds)


def _results(
    executor: concurrent.futures.Executor | None,
    tasks: list[Any],
    deaths: Mapping[tuple[str, int], int],
    in_progress: RunsInProgress,
) -> Generator[Run, None, None]:
    """Yield each run when it is finished or given up."""
    alive = []
    for task in tasks:
        _, arm, seed, *_ = task
        if deaths[arm, seed] < MAX_CALLER_DEATHS:
            alive.append(task)
            continue
        why = f"The calling process died {deaths[arm, seed]} times in a row "
        why += "during this run. Pass `retry_failed=True` to repeat it"
        yield {"arm": arm, "seed": seed, "error": why}

    def started(running: Iterable[Any]) -> None:
        in_progress.note(task[1:3] for task in running)

    if executor is None:
        finished = _in_this_process(alive, started)
    else:
        # Another run may have caused the deaths, so a run that would be given
        # up after one more death starts alone.
        last = MAX_CALLER_DEATHS - 1
        suspects = {n for n, t in enumerate(alive) if deaths[t[1:3]] == last}
        finished = results(executor, _run, alive, suspects, started)
    for task, run, death in finished:
        if run is None:
            run = {"arm": task[1], "seed": task[2], "error": death}
        if "refused" in run:
            raise TypeError(run["refused"])
        yield run


def _in_this_process(
    tasks: list[Any], started: Callable[[Iterable[Any]], None]
) -> Generator[tuple[Any, Any, str], None, None]:
    """Execute the runs in order, and yield as `executors.results` does."""
    for task in tasks:
        started([task])
        yield task, _run(*task), ""


def _run(
    train: Callable[[Any, int], Any],
    arm: str,
    seed: int,
    argument: Any,
    folder: str,
) -> Run:
    """Execute one run in the process that the executor chose."""
    run: Run = {"arm": arm, "seed": seed}
    start = time.perf_counter()
    try:
        returned = train(argument, seed)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # `sys.exit` raises `SystemExit`.
        run["error"] = traceback.format_exc()
    else:
        try:
            run.update(_scores(returned))
        except TypeError as error:
            # The caller raises it: an executor would count it as a death.
            return {"refused": str(error)}
    run["seconds"] = round(time.perf_counter() - start, 3)
    run["environment"] = environment_of(folder)
    return run


def _scores(returned: Any) -> Run:
    """Convert the return value of `train` to the stored form."""
    found = returned if isinstance(returned, Mapping) else {"score": returned}
    scores = dict(found)
    correct = scores.pop("correct", None)
    names = [str(name) for name in scores]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise TypeError(
            "`train(arm, seed)` must return scores with different names, which "
            f"are compared as text. Received: {returned!r}, with more than "
            f"one {twice[0]!r}"
        )
    try:
        run: Run = {"scores": {str(k): float(v) for k, v in scores.items()}}
    except (TypeError, ValueError):
        scores = {}
    if not scores or any(isinstance(v, str) for v in scores.values()):
        raise TypeError(
            "`train(arm, seed)` must return a number, or a dictionary from "
            f"names to one or more numbers. Received: {returned!r} "
            f"({type(returned).__name__})"
        )
    if correct is not None:
        correct = np.asarray(correct)
        if correct.ndim != 1 or correct.dtype != bool:
            raise TypeError(
                "`train(arm, seed)` must return 'correct' as a vector of "
                "booleans, one per test example. Received: an array of shape "
                f"{correct.shape} and dtype {correct.dtype}"
            )
        run["correct"] = "".join("01"[int(right)] for right in correct)
    return run


def _first_of_each(
    stored: list[Run],
    wanted: list[tuple[str, int]],
    described: Mapping[str, str],
    retry_failed: bool,
) -> dict[tuple[str, int], Run]:
    """Return the stored run of each arm and seed.

    If two processes execute the same run, the first one that does not fail
    counts, so that a result does not change after it was seen.
    """
    runs: dict[tuple[str, int], Run] = {}
    keys = set(wanted)
    for run in stored:
        key = run["arm"], run["seed"]
        if key not in keys:
            continue
        now = described.get(run["arm"])
        if now is not None and run.get("argument", now) != now:
            raise ValueError(
                f"Argument `arms` must map {run['arm']!r} to the object of "
                f"its stored runs, {run['argument']}. Rename the arm, or pass "
                f"another `store`. Received: {now}"
            )
        if key not in runs or "error" in runs[key]:
            runs[key] = run
    if retry_failed:
        runs = {key: run for key, run in runs.items() if "error" not in run}
    return runs


def _check_arms(arms: Any) -> dict[str, Any]:
    good = isinstance(arms, Mapping | Sequence) and not isinstance(arms, str)
    names = list(arms) if good else []
    good = good and len(set(map(str, names))) == len(names) >= 2
    if not good or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "Argument `arms` must be a list of at least two different names, "
            f"or a dictionary with such keys. Received: arms={arms!r}"
        )
    return dict(arms) if isinstance(arms, Mapping) else {n: n for n in names}


def _describe(arms: Any) -> dict[str, str]:
    """Describe the content of the object of each arm as text."""
    if not isinstance(arms, Mapping):
        return {}
    described = {}
    for name, argument in arms.items():
        try:
            described[name] = identify(argument)
        except TypeError as error:
            raise ValueError(
                "Argument `arms` must map names to objects that a store can "
                "identify: numbers, text, arrays, Keras objects or functions "
                "of a module. Build others in `train`, or pass only names. "
                f"Received: {name!r}, which is or contains {error}"
            ) from error
    return described


def _check_seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, numbers.Integral):
        expected = "a number of at least 1, or a list of seeds"
        return list(range(arguments.integer("seeds", seeds, expected, 1)))
    found = list(seeds) if isinstance(seeds, Iterable) else []
    whole = all(isinstance(seed, numbers.Integral) for seed in found)
    if not found or not whole or len(set(found)) != len(found):
        raise ValueError(
            "Argument `seeds` must be a number of seeds, or a list of "
            f"different integers. Received: seeds={seeds!r}"
        )
    return [int(seed) for seed in found]
