"""Everything that must pass: `pip install nox && nox`.

One session a backend, each in an environment that holds no other backend, so
that a test cannot lean on one that a user does not have; and another one for
models of keras_hub and exported files.
"""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
# All but the exports, which bring other backends along and take long: they
# run with `nox -s exports-jax exports-tensorflow exports-torch`.
nox.options.sessions = ["lint", "types", "tests-jax", "tests-tensorflow"]
nox.options.sessions += ["tests-torch"]

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


@nox.session(name="exports-jax", reuse_venv=False)
def exports_jax(session: nox.Session) -> None:
    run_export_tests(session, "jax")


@nox.session(name="exports-tensorflow", reuse_venv=False)
def exports_tensorflow(session: nox.Session) -> None:
    run_export_tests(session, "tensorflow")


@nox.session(name="exports-torch", reuse_venv=False)
def exports_torch(session: nox.Session) -> None:
    run_export_tests(session, "torch")


def run_tests(session: nox.Session, backend: str) -> None:
    session.install(*CONSTRAINTS, "-e", f".[{backend},dev]")
    install_keras_hub(session, backend)
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


# What keras_hub imports. Its own metadata asks for tensorflow-text as well,
# and so for TensorFlow, which it does without on other backends if it has
# grain.
KERAS_HUB = (
    "absl-py",
    "grain",
    "kagglehub",
    "packaging",
    "regex",
    "rich",
    "safetensors",
    "sentencepiece",
    "tokenizers",
)


def install_keras_hub(session: nox.Session, backend: str) -> None:
    if backend == "tensorflow":
        session.install(*CONSTRAINTS, "-e", f".[{backend},hub]")
    else:
        session.install(*CONSTRAINTS, *KERAS_HUB)
        session.install(*CONSTRAINTS, "--no-deps", "keras-hub")


# What Keras exports with, and what runs the files. On JAX it makes SavedModels
# by way of TensorFlow, and on PyTorch LiteRT files by litert-torch, which
# imports JAX.
CONVERTERS = {
    "jax": ("jax2onnx", "onnxruntime", "tensorflow"),
    "tensorflow": ("onnxruntime", "openvino", "scipy", "tf2onnx"),
    "torch": ("litert-torch", "onnxruntime", "onnxscript", "openvino"),
}


def run_export_tests(session: nox.Session, backend: str) -> None:
    session.install(*CONSTRAINTS, "-e", f".[{backend}]", *CONVERTERS[backend])
    session.install(*CONSTRAINTS, "hypothesis", "pytest")
    session.run(
        "pytest",
        "--fail-on-skip",  # a converter that is missing is a failure here
        # A version of anyio that litert-torch asks for has a pytest plugin
        # that warns.
        *("-p", "no:anyio"),
        "tests/test_insertion_export.py",
        env={"KERAS_BACKEND": backend},
    )
