"""The runs of a study, in a file of JSON lines, one a run.

Written so that no finished run is lost: a line is appended in one write under
a lock, and flushed to the disk before the next run starts. Read so that a file
with a damaged line, from a machine that lost power, gives all its other runs.
"""

import contextlib
import errno
import json
import math
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

try:
    import fcntl
except ImportError:  # Windows, where a store has one writer at a time
    fcntl = None  # type: ignore[assignment]

Run = dict[str, Any]


class RunStore:
    """A file of runs, to which several processes may append at once.

    Each line is a JSON object with at least `arm` and `seed`, and either
    `scores` (numbers by the name of their metric) or `error`. A score that is
    not finite is written as a string, `"nan"`, since JSON has no word for it.
    `compare` adds `looks`, the numbers of seeds that were declared before the
    first run.

    Args:
        path: The file. It and its folders are made when first written to.

    Example:

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> store = RunStore(pathlib.Path(folder.name) / "runs.jsonl")
    >>> store.append({"arm": "plain", "seed": 0, "scores": {"loss": 0.5}})
    >>> store.read()
    [{'arm': 'plain', 'seed': 0, 'scores': {'loss': 0.5}}]
    >>> folder.cleanup()
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)

    def read(self) -> list[Run]:
        """All runs, in the order in which they finished; `[]` if no file.

        Warns:
            UserWarning: Names the lines that hold no run. They are skipped,
                and stay in the file.
        """
        try:
            with self._locked(os.O_RDONLY) as file:
                data = _read_all(file)
        except FileNotFoundError:
            return []
        runs, damaged = [], []
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip():
                try:
                    runs.append(_decode(line))
                except (ValueError, KeyError, TypeError, AttributeError):
                    damaged.append(number)
        if damaged:
            warnings.warn(
                f"{self.path} has lines that hold no run, as a write that was "
                f"cut short leaves them: {damaged}. They are skipped; their "
                "runs are missing.",
                stacklevel=2,
            )
        return runs

    def append(self, run: Run) -> None:
        """Add a run; it is on the disk when this returns.

        Raises:
            OSError: If it cannot be written whole. The file then is as it was.
        """
        self._write(_encode(run))

    def check_writable(self, room: int) -> None:
        """Raise if the file cannot be written, or has not this much room.

        Writes blanks and takes them away again: free space, as a file system
        reports it, knows neither quotas nor permissions.

        Args:
            room: Number of bytes.

        Raises:
            OSError: `PermissionError`, `IsADirectoryError`, ... as it may be,
                with the path and what to do.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(b" " * room + b"\n", keep=False)
        except OSError as error:
            raise OSError(
                error.errno,
                f"The store cannot be written ({error.strerror}), and so no "
                f"run was started. Pass a `store` that can take {room:,} "
                "bytes",
                str(self.path),
            ) from error

    def _write(self, data: bytes, keep: bool = True) -> None:
        with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
            end = os.lseek(file, 0, os.SEEK_END)
            if end:
                # The writer before may have died in the middle of its line.
                os.lseek(file, end - 1, os.SEEK_SET)
                data = data if os.read(file, 1) == b"\n" else b"\n" + data
            whole = False
            try:
                written = os.write(file, data)
                os.fsync(file)
                whole = written == len(data)
            finally:
                if not (whole and keep):
                    # A device, such as /dev/full, has no length to go back to.
                    with contextlib.suppress(OSError):
                        os.ftruncate(file, end)
            if not whole:
                raise OSError(
                    errno.ENOSPC,
                    f"only {written:,} of {len(data):,} bytes could be written",
                    str(self.path),
                )

    @contextlib.contextmanager
    def _locked(self, flags: int) -> Iterator[int]:
        file = os.open(self.path, flags | getattr(os, "O_BINARY", 0), 0o644)
        try:
            if fcntl is not None:
                reading = flags == os.O_RDONLY
                fcntl.flock(file, fcntl.LOCK_SH if reading else fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)  # which unlocks it, too


def _read_all(file: int) -> bytes:
    parts = []
    while part := os.read(file, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _encode(run: Run) -> bytes:
    run = dict(run)
    if "scores" in run:
        run["scores"] = {
            metric: score if math.isfinite(score) else str(score)
            for metric, score in run["scores"].items()
        }
    return json.dumps(run, allow_nan=False).encode() + b"\n"


def _decode(line: bytes) -> Run:
    run: Run = json.loads(line)
    if not isinstance(run["arm"], str) or not isinstance(run["seed"], int):
        raise TypeError("not a run")
    if "error" not in run:
        run["scores"] = {
            metric: float(score) for metric, score in run["scores"].items()
        }
    return run
