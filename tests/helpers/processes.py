"""Python processes that find the package and these tests where they are."""

import os
import pathlib
import socket
import subprocess
import sys

HERE = pathlib.Path(__file__).parent


def run(*arguments, check=True, cwd=None, timeout=600, **environment):
    """A process that has ended: its code, and what it printed.

    With `check` an end that is no success raises, and shows the errors.
    """
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=_environment(environment),
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0 or not check, done.stderr
    return done


def together(*commands, cwd=None, timeout=300):
    """Several processes that need one another; all have ended well."""
    running = [
        subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=cwd,
            env=_environment({}),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        for command in commands
    ]
    try:
        errors = [
            process.communicate(timeout=timeout)[1] for process in running
        ]
    finally:
        for process in running:
            process.kill()
    for process, error in zip(running, errors):
        assert process.returncode == 0, error


def free_ports(number):
    """Ports of the loopback address that no process listens at."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _environment(more):
    paths = [str(HERE.parents[1]), str(HERE), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "PYTHONPATH": path, **more}
