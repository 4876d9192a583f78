"""Detect which runs were in progress when the calling process died.

call --writes, locks--> file next to the store --without its lock--> deaths
"""

import contextlib
import glob
import json
import os
import socket
import time
import uuid
from collections.abc import Iterable
from types import TracebackType

from keras_memel.evaluation.run_store import RunStore

try:
    import fcntl
except ImportError:  # Windows, where deaths are not counted
    fcntl = None  # type: ignore[assignment]

# Number of deaths in a row of the process that called `compare` after which a
# run is given up. `executors` counts deaths of workers.
MAX_CALLER_DEATHS = 3
SUFFIX = ".running"


class RunsInProgress:
    """List of the runs in progress of one call, in a file next to the store.

    The file is locked. The operating system frees the lock when the process
    dies in any way, so that a later call can detect the death. A call that
    ends, with or without an error, removes its file.

    Args:
        store: Store of the runs. With `None`, on Windows, and where the file
            cannot be created, deaths are not counted.

    Example:

    >>> with RunsInProgress(None) as in_progress:
    ...     in_progress.note([("plain", 0)])
    """

    def __init__(self, store: RunStore | None):
        self._file: int | None = None
        if store is None or fcntl is None:
            return
        name = f"{store.path.name}.{uuid.uuid4().hex[:8]}"
        self._path = store.path.with_name(name + SUFFIX)
        new = store.path.with_name(f"{name}.new")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with contextlib.suppress(OSError):
            file = os.open(new, flags, 0o644)
            try:
                # The file is locked before another call can find its name.
                fcntl.flock(file, fcntl.LOCK_EX)
                os.rename(new, self._path)
            except OSError:
                os.close(file)
                os.unlink(new)
                raise
            self._file = file

    def note(self, keys: Iterable[tuple[str, int]]) -> None:
        """Write which runs are now in progress.

        Args:
            keys: Arm and seed of each run.
        """
        if self._file is None:
            return
        line = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "runs": [[arm, seed] for arm, seed in keys],
        }
        data = json.dumps(line).encode() + b"\n"
        # A failed write only loses a count, so the study must continue.
        with contextlib.suppress(OSError):
            os.pwrite(self._file, data, 0)
            os.ftruncate(self._file, len(data))
            os.fsync(self._file)

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)
            os.close(self._file)
            self._file = None

    def __enter__(self) -> "RunsInProgress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def record_deaths(store: RunStore) -> None:
    """Append the runs of calls that died to the store, as deaths.

    Args:
        store: Store of the runs. Files of living calls are not changed.
    """
    if fcntl is None:
        return
    pattern = f"{glob.escape(store.path.name)}.*{SUFFIX}"
    for path in sorted(store.path.parent.glob(pattern)):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            # The lock fails if the call lives, or if another call reads its
            # file.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(file.fileno()).st_nlink:
                continue  # Another call has read the file.
            try:
                died = json.loads(file.readline() or b'{"runs": []}')
            except ValueError:  # The call died while it wrote the first line.
                died = {"runs": []}
            for arm, seed in died.pop("runs"):
                store.append({"arm": arm, "seed": seed, "death": died})
            path.unlink()
