"""Does it help *my* model? Arms of a study, run on paired seeds.

train + arms + seeds --executor--> runs --store--> Comparison
"""

import concurrent.futures
import contextlib
import functools
import numbers
import os
import pickle
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
from keras_memel.evaluation.executors import results
from keras_memel.evaluation.identity import identify
from keras_memel.evaluation.looks import check_looks
from keras_memel.evaluation.looks import declared_looks
from keras_memel.evaluation.run_store import Run
from keras_memel.evaluation.run_store import RunStore
from keras_memel.utils import arguments
from keras_memel.utils.optional_imports import need

# What a line of the store takes, generously; the environment is most of it.
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
    """Train every arm with every seed, and compare arms seed by seed.

    A seed is a repetition of the whole experiment: `train` must derive from
    it the split of the data, the first weights, the order of the batches and
    whatever else is random, the same for *every* arm, so that the difference
    of two arms on a seed is the effect of the arm and not of luck. What the
    deltas then show, and by which tests, see `Comparison`.

    Args:
        train: `train(arm, seed)` trains and tests one network. It returns its
            score, or a dictionary of scores by the name of their metric; in
            that, `"correct"` may hold a vector of booleans, one a test
            example (was the answer right?), for `Comparison.mcnemar`.
        arms: What to compare: names, which `train` gets as they are, or a
            dictionary from names to what `train` gets in their place.
        seeds: Number of seeds, 0, 1, ...; or the seeds themselves. A verdict
            needs 10.
        baseline: The arm that each other one is compared with; the first of
            `arms` by default.
        contrasts: Further pairs `(arm, other)` to compare, `("MEmeL",
            "placebo")`. Holm's correction is over all pairs, so that pairs
            must be chosen before anything was seen.
        store: File that takes each run as soon as it is finished. A run that
            is there already is not run again: to go on after a stop, to add
            arms or seeds, call again. The store knows a run by its arm and
            seed; when `train` changes, so must the store. `None` keeps
            nothing.
        executor: `None` runs one after the other in this process; any
            `concurrent.futures.Executor` (a process pool, loky's, Dask's,
            mpi4py's) runs many at once, on many machines if it can. To a
            process pool, `train` must be a function of a module; most
            backends need it to start processes by `"spawn"`.
        higher_is_better: Or a dictionary of this by metric; a metric that is
            not in it counts as `True`. A name that is no metric stops the
            study once every arm has a score.
        retry_failed: Run again what failed and is stored with its error.
        progress: Show a bar with the time that is left.
        looks: Numbers of seeds at which you look at the verdicts, `(10, 20)`:
            call with 10 seeds, and again with 20 if you want to go on. Each
            look gets a part of the 5 % of wrong verdicts: p < 0.01 at the
            first of these, p < 0.045 at the second. Looks are declared by the
            first call and kept in the store; later calls may leave them out.
            By default one look is planned, at `seeds`.

    Returns:
        A `Comparison` of the runs of these arms and seeds. Its `notes` say if
        there are more seeds than were declared.

    A run that raises, or calls `sys.exit`, is stored with its traceback, and
    the study goes on. If a worker of a process pool dies, the pool is replaced
    by a new one of the same settings; the runs that were in it are repeated
    one by one, and a run that dies again, alone, is stored with an error. Each
    run is stored with the versions, backend and device of the process that
    made it, and the git revision of the folder of `train`, if there is one.

    Raises:
        ValueError: If an argument is not what is said above, or the store has
            runs of an arm of this name that `train` got something else for,
            or runs that were begun with other looks.
        TypeError: If `train` returns what is neither a number nor a
            dictionary of numbers by different names. The study stops, as
            every run would.
        OSError: If the store cannot be written, before the first run.
        ImportError: If SciPy, statsmodels or tqdm is missing.

    Warns:
        UserWarning: If runs failed, or the store has damaged lines.

    Example:

    >>> def train(arm, seed):
    ...     rng = np.random.default_rng(seed)
    ...     noise = rng.normal(size=2)  # of the split, and of the training
    ...     return 80 + 3 * noise[0] + (2 + noise[1] if arm == "ours" else 0)
    >>> comparison = compare(train, ["plain", "ours"], progress=False)
    >>> comparison.contrasts[0].verdict
    'better'
    """
    for module in ("scipy.stats", "statsmodels.stats.multitest"):
        need(module, "evidence", "`compare`")
    given = _check_arms(arms)
    described = {} if store is None else _describe(arms)
    _check_executor(executor, train, given)
    seeds = _check_seeds(seeds)
    if looks is not None:
        looks = check_looks(looks, len(seeds))
    # Wrong names are found here, not after the last run.
    make = functools.partial(
        Comparison,
        arms=list(given),
        baseline=baseline,
        # Twice, which an iterator would not be.
        contrasts=contrasts if isinstance(contrasts, str) else list(contrasts),
        higher_is_better=higher_is_better,
    )
    make([])

    kept = RunStore(store) if store is not None else None
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
        text = f"{len(runs)} of {len(wanted)} runs are in {store} already"
        bar.write(text, file=sys.stderr)
    with bar, contextlib.closing(_results(executor, tasks)) as finished:
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
                    # So is a wrong name of a metric: each arm has its own.
                    make(list(runs.values()))
            if "error" in run and progress:
                last = run["error"].strip().splitlines()[-1]
                text = f"{run['arm']}, seed {run['seed']}, failed: {last}"
                bar.write(text, file=sys.stderr)
    failed = [run for run in runs.values() if "error" in run]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(wanted)} runs failed; the comparison says "
            f"which. The first, {failed[0]['arm']} with seed "
            f"{failed[0]['seed']}:\n{failed[0]['error']}",
            stacklevel=2,
        )
    return make([runs[key] for key in wanted])


def _results(
    executor: concurrent.futures.Executor | None, tasks: list[Any]
) -> Generator[Run, None, None]:
    """Each run as soon as it is finished, or given up."""
    if executor is None:
        finished = ((task, _run(*task), "") for task in tasks)
    else:
        finished = results(executor, _run, tasks)
    for task, run, death in finished:
        if run is None:
            run = {"arm": task[1], "seed": task[2], "error": death}
        if "refused" in run:
            raise TypeError(run["refused"])
        yield run


def _run(
    train: Callable[[Any, int], Any],
    arm: str,
    seed: int,
    argument: Any,
    folder: str,
) -> Run:
    """One run, in the process that the executor chose."""
    run: Run = {"arm": arm, "seed": seed}
    start = time.perf_counter()
    try:
        returned = train(argument, seed)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException:  # `sys.exit` too
        run["error"] = traceback.format_exc()
    else:
        try:
            run.update(_scores(returned))
        except TypeError as error:
            # Not raised here: to an executor it would be a death.
            return {"refused": str(error)}
    run["seconds"] = round(time.perf_counter() - start, 3)
    run["environment"] = environment_of(folder)
    return run


def _scores(returned: Any) -> Run:
    """What `train` returned, as it is stored."""
    found = returned if isinstance(returned, Mapping) else {"score": returned}
    scores = dict(found)
    correct = scores.pop("correct", None)
    names = [str(name) for name in scores]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise TypeError(
            "`train(arm, seed)` must return scores by different names; they "
            f"are compared as text. Received: {returned!r}, with more than "
            f"one {twice[0]!r}"
        )
    try:
        run: Run = {"scores": {str(k): float(v) for k, v in scores.items()}}
    except (TypeError, ValueError):
        scores = {}
    if not scores or any(isinstance(v, str) for v in scores.values()):
        raise TypeError(
            "`train(arm, seed)` must return a number, or a dictionary of at "
            f"least one number by name. Received: {returned!r} "
            f"({type(returned).__name__})"
        )
    if correct is not None:
        correct = np.asarray(correct)
        if correct.ndim != 1 or correct.dtype != bool:
            raise TypeError(
                "'correct' in what `train` returns must be a vector of "
                "booleans, one a test example. Received: an array of shape "
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
    """The stored run of each arm and seed.

    Of several (two processes may have made the same) the first that did not
    fail, so that a result once seen does not change.
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
                f"The store holds runs of the arm {run['arm']!r} that were "
                f"made with {run['argument']}. Rename the arm, or pass "
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
    if len(set(map(str, names))) != len(names) or len(names) < 2:
        good = False
    if not good or not all(isinstance(name, str) for name in names):
        raise ValueError(
            "Argument `arms` must be at least two different names, or a "
            f"dictionary by name. Received: arms={arms!r}"
        )
    return dict(arms) if isinstance(arms, Mapping) else {n: n for n in names}


def _describe(arms: Any) -> dict[str, str]:
    """What the user passed for each arm, as text of its content."""
    if not isinstance(arms, Mapping):
        return {}
    described = {}
    for name, argument in arms.items():
        try:
            described[name] = identify(argument)
        except TypeError as error:
            raise ValueError(
                f"Argument `arms`: a store cannot recognise {name!r}, since "
                f"it is or holds {error}. Pass a config (numbers, text, "
                "arrays, Keras objects, functions of a module) and build the "
                "rest in `train`, or pass names alone"
            ) from error
    return described


def _check_executor(executor: Any, train: Any, arms: Mapping[str, Any]) -> None:
    if executor is None:
        return
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(
            "Argument `executor` must be None or a concurrent.futures."
            "Executor, such as ProcessPoolExecutor(4). Received: "
            f"executor={executor!r} ({type(executor).__name__})"
        )
    if type(executor) is not concurrent.futures.ProcessPoolExecutor:
        return
    for argument, value in (("train", train), ("arms", dict(arms))):
        try:
            pickle.dumps(value)
        except Exception as error:
            raise ValueError(
                f"Argument `{argument}` must be importable or picklable for a "
                "process pool: define functions and classes at the top level "
                "of a module, or use loky, which sends lambdas too. "
                f"Received: {value!r} ({error})"
            ) from error


def _check_seeds(seeds: Any) -> list[int]:
    if isinstance(seeds, numbers.Integral):
        expected = "at least 1, or the seeds themselves"
        return list(range(arguments.integer("seeds", seeds, expected, 1)))
    found = list(seeds) if isinstance(seeds, Iterable) else []
    whole = all(isinstance(seed, numbers.Integral) for seed in found)
    if not found or not whole or len(set(found)) != len(found):
        raise ValueError(
            "Argument `seeds` must be a number of seeds, or different whole "
            f"numbers. Received: seeds={seeds!r}"
        )
    return [int(seed) for seed in found]
