"""Everything that must pass: `pip install nox && nox`.

One session a backend, each in an environment that holds no other backend, so
that a test cannot lean on one that a user does not have; and another one for
models of keras_hub and exported files.
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


# With what comes after the core: models of keras_hub, then files for other
# runtimes. Made anew each time, since the converters bring other backends.
@nox.session(name="hub-jax", reuse_venv=False)
def hub_jax(session: nox.Session) -> None:
    run_hub_tests(session, "jax")


@nox.session(name="hub-tensorflow", reuse_venv=False)
def hub_tensorflow(session: nox.Session) -> None:
    run_hub_tests(session, "tensorflow")


@nox.session(name="hub-torch", reuse_venv=False)
def hub_torch(session: nox.Session) -> None:
    run_hub_tests(session, "torch")


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
# What Keras exports with, and what runs the files. On JAX it makes SavedModel
# and OpenVINO files by way of TensorFlow, and on PyTorch LiteRT files by
# litert-torch, which imports JAX.
CONVERTERS = {
    "jax": ("jax2onnx", "onnxruntime", "openvino", "tensorflow"),
    "tensorflow": ("onnxruntime", "openvino", "scipy", "tf2onnx"),
    "torch": ("litert-torch", "onnxruntime", "onnxscript", "openvino"),
}


def run_hub_tests(session: nox.Session, backend: str) -> None:
    tools = ("hypothesis", "pytest", "pytest-xdist")
    package = ("-e", f".[{backend}]")
    if backend == "tensorflow":
        session.install(*CONSTRAINTS, "-e", f".[{backend},hub]", *tools)
    else:
        session.install(*CONSTRAINTS, *package, *tools, *KERAS_HUB)
        session.install(*CONSTRAINTS, "--no-deps", "keras-hub")
    refuse_others(session, backend)
    # Nothing that is needed may be missing here: a skip is a failure.
    pytest = ("pytest", "--fail-on-skip", "--numprocesses=auto")
    env = {"KERAS_BACKEND": backend}
    files = ("tests/test_insertion_hub.py", "tests/test_finetune_bert.py")
    session.run(*pytest, *files, env=env)
    session.install(*CONSTRAINTS, *package, *CONVERTERS[backend])
    # A version of anyio that litert-torch asks for has a pytest plugin that
    # warns.
    session.run(
        *pytest, "-p", "no:anyio", "tests/test_insertion_export.py", env=env
    )


def refuse_others(session: nox.Session, backend: str) -> list[str]:
    """Fails if there is another backend, and returns their names."""
    others = [other for other in BACKENDS if other != backend]
    session.run(
        "python",
        "-c",
        "from importlib.util import find_spec; "
        f"found = [b for b in {others} if find_spec(b)]; "
        f"assert not found, f'beside {backend}: {{found}}'",
    )
    return others


def run_tests(session: nox.Session, backend: str) -> None:
    session.install(*CONSTRAINTS, "-e", f".[{backend},dev]")
    others = refuse_others(session, backend)
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
