"""Run tasks in an executor whose workers may die.

tasks --executor, renewed when it breaks--> (task, result, death)
"""

import collections
import concurrent.futures
import pickle
import traceback
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

# Number of deaths of its worker after which a task is given up.
MAX_DEATHS = 2


def results(
    executor: concurrent.futures.Executor,
    function: Callable[..., Any],
    tasks: list[Any],
    alone: Collection[int] = (),
    started: Callable[[Iterable[Any]], None] = lambda running: None,
) -> Generator[tuple[Any, Any, str], None, None]:
    """Yield each task with its result when the task finishes.

    The executor holds at most one task per worker, if its number of workers
    is known. When it breaks, only these tasks can be the cause. They are then
    repeated one by one in a new executor.

    Args:
        executor: Executor to use. It is not shut down, but an executor that
            replaces it is.
        function: Function to call with the parts of each task.
        tasks: Tuples of arguments.
        alone: Positions of the tasks to run first, one by one.
        started: Function to call with all tasks that are running whenever
            they change. It is not called if the number of workers is unknown,
            because tasks may then wait in the executor.

    Yields:
        The task; its result, or `None`; the cause of its death, or `""`.

    Raises:
        concurrent.futures.BrokenExecutor: If the executor breaks and cannot
            be replaced.
    """
    suspected = set(alone)
    waiting, suspects = (
        collections.deque(
            (number, task)
            for number, task in enumerate(tasks)
            if (number in suspected) == suspect
        )
        for suspect in (False, True)
    )
    deaths: collections.Counter[int] = collections.Counter()
    running: dict[Any, tuple[int, Any]] = {}
    ours = None
    try:
        while waiting or suspects or running:
            broken: BaseException | None = None
            workers = getattr(executor, "_max_workers", None) or len(tasks)
            # While suspects remain, they run one by one.
            queue, room = (suspects, 1) if suspects else (waiting, workers)
            busy = any(number in suspected for number, _ in running.values())
            while queue and len(running) < room and not busy:
                number, task = queue.popleft()
                try:
                    future = executor.submit(function, *task)
                except concurrent.futures.BrokenExecutor as error:
                    queue.appendleft((number, task))
                    broken = error
                    break
                running[future] = number, task
                busy = queue is suspects
            if getattr(executor, "_max_workers", None):
                started([task for _, task in running.values()])
            done: set[Any] = set()
            if running and broken is None:
                done = concurrent.futures.wait(
                    running, return_when=concurrent.futures.FIRST_COMPLETED
                ).done
            for future in done:
                number, task = running.pop(future)
                try:
                    result = future.result()
                except concurrent.futures.BrokenExecutor as error:
                    broken = error
                    running[future] = number, task
                except Exception:
                    # The worker or the connection to it failed. It was not
                    # the function, which returns its errors.
                    yield task, None, traceback.format_exc()
                else:
                    yield task, result, ""
            if broken is None:
                continue
            # Some results may have arrived before the executor broke.
            concurrent.futures.wait(running)
            for future, (number, task) in list(running.items()):
                if not future.cancelled() and future.exception() is None:
                    yield task, future.result(), ""
                    continue
                deaths[number] += 1
                suspected.add(number)
                if deaths[number] < MAX_DEATHS:
                    suspects.append((number, task))
                else:
                    yield (
                        task,
                        None,
                        (
                            "Not started again, because its worker died "
                            f"{MAX_DEATHS} times. The last error: {broken!r}"
                        ),
                    )
            running.clear()
            renewed = _renew(executor)
            if renewed is None:
                raise broken
            if ours is not None:
                ours.shutdown(wait=False)
            executor = ours = renewed
    finally:
        for future in running:
            future.cancel()
        if ours is not None:
            ours.shutdown(cancel_futures=True)


def _renew(
    executor: concurrent.futures.Executor,
) -> concurrent.futures.Executor | None:
    """Return a copy of a broken process pool, or `None` for other types."""
    if type(executor) is not concurrent.futures.ProcessPoolExecutor:
        return None
    settings = vars(executor)
    return concurrent.futures.ProcessPoolExecutor(
        settings["_max_workers"],
        settings["_mp_context"],
        settings["_initializer"],
        settings["_initargs"],
    )


def check_executor(executor: Any, train: Any, arms: Mapping[str, Any]) -> None:
    """Raise if `compare` cannot run `train` in the executor.

    Args:
        executor: Argument of `compare`.
        train: Function that each run calls.
        arms: Objects to call it with, by name.

    Raises:
        ValueError: If `executor` is not an executor, or is a process pool
            that cannot receive `train` or `arms`.
    """
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
