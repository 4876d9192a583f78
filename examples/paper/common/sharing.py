"""Share the seeds of a study among processes with one store."""

import contextlib
import pathlib

try:
    import fcntl
except ImportError:  # Windows, where one process runs a study
    fcntl = None


@contextlib.contextmanager
def claim(path, wait=False):
    """Acquire a lock that ends with its process; yield whether it succeeded.

    path: its file. wait: whether to wait until another process releases it.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is None:
            yield True
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def share(run, seeds, folder, at_once=1):
    """Call `run` with lists of seeds that no other process runs.

    The function returns when the store has the runs of all seeds. At the end it
    waits for other processes, and repeats the seeds of one that died.

    run: makes the runs that are missing in the store. folder: the folder of the
    locks, the same for all processes. at_once: the number of seeds in a list.
    """
    left = list(seeds)
    while left:
        with contextlib.ExitStack() as stack:
            mine = []
            for seed in left:
                lock = claim(folder / f"seed_{seed}.lock")
                if len(mine) < at_once and stack.enter_context(lock):
                    mine.append(seed)
            if not mine:
                print(
                    f"Another process runs seed {left[0]}: waiting for it.",
                    flush=True,
                )
                lock = claim(folder / f"seed_{left[0]}.lock", wait=True)
                stack.enter_context(lock)
                mine = left[:1]
            run(mine)
            left = [seed for seed in left if seed not in mine]
