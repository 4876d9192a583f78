"""Python processes that find the package and these tests where they are."""

import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def run(*arguments, check=True, cwd=None, timeout=600, **environment):
    """A process that has ended: its code, and what it printed.

    With `check` an end that is no success raises, and shows the errors.
    """
    paths = [str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done
