"""Everything that must pass: `pip install nox && nox`.

One session a backend, each in an environment that holds no other backend, so
that a test cannot lean on one that a user does not have.
"""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

# Keras's name of each backend, which is that of our extra, of its module and
# of its distribution.
BACKENDS = ("jax", "tensorflow", "torch")
CONSTRAINTS = ("-c", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    session.install(*CONSTRAINTS, "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    session.install(*CONSTRAINTS, "mypy")
    session.run("mypy")


@nox.session(name="tests-jax")
def tests_jax(session: nox.Session) -> None:
    run_tests(session, "jax")


@nox.session(name="tests-tensorflow")
def tests_tensorflow(session: nox.Session) -> None:
    run_tests(session, "tensorflow")


@nox.session(name="tests-torch")
def tests_torch(session: nox.Session) -> None:
    run_tests(session, "torch")


def run_tests(session: nox.Session, backend: str) -> None:
    session.install(*CONSTRAINTS, "-e", f".[{backend},dev]")
    others = [other for other in BACKENDS if other != backend]
    session.run(
        "python",
        "-c",
        "from importlib.util import find_spec; "
        f"found = [b for b in {others} if find_spec(b)]; "
        f"assert not found, f'beside {backend}: {{found}}'",
    )
    session.run(
        "pytest",
        "--numprocesses=auto",
        "--cov",
        "--cov-report=term-missing",
        *session.posargs,
        env={
            "KERAS_BACKEND": backend,
            "OTHER_BACKEND_1": others[0],
            "OTHER_BACKEND_2": others[1],
            "COVERAGE_FILE": f".coverage.{backend}",
            "MPLBACKEND": "agg",
        },
    )
