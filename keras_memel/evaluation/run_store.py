"""Store the runs of a study in a file of JSON lines, one line per run.

No finished run is lost: each line is appended in one write under a lock, and
flushed to the disk before the next run starts. If a power failure damages a
line, all other runs of the file can still be read.
"""

import collections
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
    """Store runs in a file that several processes can append to at once.

    Each line is a JSON object with at least `arm` and `seed`, and either
    `scores` (numbers by metric) or `error`. A score that is not finite is
    written as a string such as `"nan"`, because JSON cannot represent it.
    `compare` adds `looks`, the numbers of seeds that were declared before the
    first run. A line with `death` is not a run. It records that the process
    that called `compare` died while this run was in progress.

    Args:
        path: Path of the file. The first write creates the file and its
            folders.

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
        """Return all runs in the order in which they finished.

        Returns:
            One dictionary per run, with the keys described in the class. The
            list is empty if the file does not exist.

        Raises:
            OSError: If the file exists but cannot be read.

        Warns:
            UserWarning: If lines do not contain a valid run. The warning
                lists these lines. They are skipped and remain in the file.
        """
        lines, damaged = self._lines()
        if damaged:
            warnings.warn(
                f"Lines {damaged} of {self.path} do not contain a valid run, "
                "for example because a write was interrupted. They are "
                "skipped: call `compare` again to repeat their runs.",
                stacklevel=2,
            )
        return [line for line in lines if "death" not in line]

    def deaths(self) -> collections.Counter[tuple[str, int]]:
        """Count deaths of the calling process, by arm and seed of the run.

        Deaths before the last result of a run (scores or an error) are not
        counted.

        Returns:
            Counter from `(arm, seed)` to the number of deaths.

        Raises:
            OSError: If the file exists but cannot be read.

        Example:

        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> store = RunStore(pathlib.Path(folder.name) / "runs.jsonl")
        >>> store.append({"arm": "plain", "seed": 0, "death": {}})
        >>> store.deaths()["plain", 0], store.read()
        (1, [])
        >>> folder.cleanup()
        """
        deaths: collections.Counter[tuple[str, int]] = collections.Counter()
        for line in self._lines()[0]:
            key = line["arm"], line["seed"]
            if "death" in line:
                deaths[key] += 1
            else:
                del deaths[key]  # A Counter ignores missing keys.
        return deaths

    def _lines(self) -> tuple[list[Run], list[int]]:
        """Return the valid lines and the numbers of the damaged ones."""
        try:
            with self._locked(os.O_RDONLY) as file:
                data = _read_all(file)
        except FileNotFoundError:
            return [], []
        lines, damaged = [], []
        for number, line in enumerate(data.split(b"\n"), start=1):
            if line.strip():
                try:
                    lines.append(_decode(line))
                except (ValueError, KeyError, TypeError, AttributeError):
                    damaged.append(number)
        return lines, damaged

    def append(self, run: Run) -> None:
        """Add a run and flush it to the disk.

        Args:
            run: A dictionary with the keys described in the class.

        Raises:
            OSError: If the run cannot be written completely. The file is
                then unchanged.
            TypeError: If JSON cannot represent a value of the run.
            ValueError: If a number outside of `scores` is not finite.
        """
        self._write(_encode(run))

    def check_writable(self, room: int) -> None:
        """Raise if `room` bytes cannot be written to the file.

        The method writes blanks and removes them, because the free space that
        a file system reports considers neither quotas nor permissions.

        Args:
            room: Number of bytes.

        Raises:
            OSError: `PermissionError`, `IsADirectoryError` or another
                subclass, with the path and a remedy.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(b" " * room + b"\n", keep=False)
        except OSError as error:
            raise OSError(
                error.errno,
                f"The store is not writable ({error.strerror}), so no run was "
                f"started. Pass a `store` with room for {room:,} bytes",
                str(self.path),
            ) from error

    def _write(self, data: bytes, keep: bool = True) -> None:
        with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
            end = os.lseek(file, 0, os.SEEK_END)
            if end:
                # The previous writer may have died within its line.
                os.lseek(file, end - 1, os.SEEK_SET)
                data = data if os.read(file, 1) == b"\n" else b"\n" + data
            whole = False
            try:
                written = os.write(file, data)
                os.fsync(file)
                whole = written == len(data)
            finally:
                if not (whole and keep):
                    # A device such as /dev/full has no length to restore.
                    with contextlib.suppress(OSError):
                        os.ftruncate(file, end)
            if not whole:
                raise OSError(
                    errno.ENOSPC,
                    f"only {written:,} of {len(data):,} bytes were written",
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
            os.close(file)  # Closing also unlocks the file.


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
    if "error" not in run and "death" not in run:
        run["scores"] = {
            metric: float(score) for metric, score in run["scores"].items()
        }
    return run
