"""Run all checks: `pip install nox && nox`.

Each backend has its own session, in an environment without the other backends,
so that no test depends on a backend that a user lacks. Exported files have
separate sessions.
"""

import pathlib
import re
import shutil
import tarfile
import zipfile

import nox

nox.needs_version = ">=2024.4.15"
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True
# The default omits slow sessions:
# - tests marked `once` on JAX and TensorFlow, which PyTorch's session runs
#   (`nox -s whole-jax whole-tensorflow`)
# - exports, which install other backends (`nox -s exports-jax
#   exports-tensorflow exports-torch`)
# - the package to publish (`nox -s package`)
# - the notebooks (`nox -s notebooks-jax ...`)
# - other versions of Keras (`nox -s keras-oldest-jax keras-newest-jax ...`)
# - tests with Hugging Face, timm and Lightning (`nox -s native-torch`)
# - `compare` with loky, Dask and Ray (`nox -s executors`)
# - the recipes of the documentation (`nox -t recipes`)
nox.options.sessions = ["lint", "docs", "tests-jax"]
nox.options.sessions += ["tests-tensorflow", "tests-torch"]

# The name of each backend in Keras, which is also the name of our extra, of its
# module and of its distribution.
BACKENDS = ("jax", "tensorflow", "torch")
CONSTRAINTS = ("-c", "constraints.txt")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types, and imports between the rooms of the package."""
    session.install(*CONSTRAINTS, "import-linter", "mypy", "ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "."})
    session.run("mypy")


@nox.session
def api(session: nox.Session) -> None:
    """Require a line in CHANGELOG.md for each changed public signature.

    The base is `origin/main`, or another commit: `nox -s api -- v0.1.0`.
    """
    session.install(*CONSTRAINTS, "griffelib")
    against = session.posargs[0] if session.posargs else "origin/main"
    session.run("python", "docs/generate/check_api.py", "--against", against)


@nox.session
def docs(session: nox.Session) -> None:
    # The build parses the package without importing it and needs no backend.
    extras = nox.project.load_toml("pyproject.toml")["project"]
    session.install(*CONSTRAINTS, *extras["optional-dependencies"]["docs"])
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", "build", "--strict", env=quiet)
    session.run("python", "docs/theme/check.py", "site")


@nox.session(name="tests-jax")
def tests_jax(session: nox.Session) -> None:
    run_tests(session, "jax")


@nox.session(name="tests-tensorflow")
def tests_tensorflow(session: nox.Session) -> None:
    run_tests(session, "tensorflow")


@nox.session(name="tests-torch")
def tests_torch(session: nox.Session) -> None:
    run_tests(session, "torch")


@nox.session(name="whole-jax")
def whole_jax(session: nox.Session) -> None:
    run_tests(session, "jax", whole=True)


@nox.session(name="whole-tensorflow")
def whole_tensorflow(session: nox.Session) -> None:
    run_tests(session, "tensorflow", whole=True)


@nox.session(name="native-torch")
def native_torch(session: nox.Session) -> None:
    """Test PyTorch modules of common libraries.

    The default omits this session: installing the libraries takes longer than
    the tests, and the default tests the same code on small modules, with
    activation checkpointing, masks and two processes.
    """
    session.install(*CONSTRAINTS, "-e", ".[torch,transformers,test]")
    session.install(*CONSTRAINTS, "lightning", "peft", "timm", "torchvision")
    session.run(
        "pytest",
        "--fail-on-skip",  # a library that is missing is a failure here
        *("tests/native", "tests/docs/test_docs.py"),
        # With the examples of the callbacks of the libraries.
        *("tests/docs/test_docstrings.py", "-k", "native or callbacks"),
        "--ignore-glob=tests/native/test_nnx*.py",  # of JAX
        *session.posargs,
        env={"KERAS_BACKEND": "torch", "MPLBACKEND": "agg"},
    )


@nox.session
def executors(session: nox.Session) -> None:
    """Test `compare` in the executors of loky, Dask and Ray."""
    session.install(*CONSTRAINTS, "-e", ".[jax,test]")
    session.install(*CONSTRAINTS, "distributed", "loky", "ray")
    session.run(
        "pytest",
        "--fail-on-skip",  # a library that is missing is a failure here
        "tests/evaluation/test_compare_executors.py",
        env={"KERAS_BACKEND": "jax"},
    )


@nox.session(name="exports-jax", reuse_venv=False)
def exports_jax(session: nox.Session) -> None:
    run_export_tests(session, "jax")


@nox.session(name="exports-tensorflow", reuse_venv=False)
def exports_tensorflow(session: nox.Session) -> None:
    run_export_tests(session, "tensorflow")


@nox.session(name="exports-torch", reuse_venv=False)
def exports_torch(session: nox.Session) -> None:
    run_export_tests(session, "torch")


@nox.session(reuse_venv=False)
def package(session: nox.Session) -> None:
    """Build the package, and run the quickstart with it.

    The backend is JAX, or another one: `nox -s package -- torch`.
    """
    backend = session.posargs[0] if session.posargs else "jax"
    session.install(*CONSTRAINTS, "build", "twine")
    folder = pathlib.Path("dist").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(folder))
    files = [str(file) for file in folder.iterdir()]
    session.run("twine", "check", "--strict", *files)
    check_contents(folder)
    (wheel,) = folder.glob("*.whl")
    session.install(*CONSTRAINTS, f"{wheel}[{backend},examples]")
    script = pathlib.Path("examples/quickstart.py").absolute()
    session.chdir(session.create_tmp())  # away from the sources
    here = "import keras_memel as k; assert 'site-packages' in k.__file__"
    env = {"KERAS_BACKEND": backend, "MPLBACKEND": "agg"}
    session.run("python", "-c", here, env=env)
    session.run(
        *("python", str(script), "--seeds", "1", "--epochs", "2"),
        *("--out", str(session.create_tmp())),
        env=env,
    )


def check_contents(folder: pathlib.Path) -> None:
    """Check that the files contain the package, and no dead link."""
    (wheel,) = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "keras_memel/py.typed",
        "keras_memel/reports/neuron_browser.html",
        "keras_memel/reports/browser_assets/page.css",
    ):
        assert wanted in names, f"{wanted} is not in the wheel"
    assert any(name.endswith("licenses/LICENSE") for name in names)
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"keras_memel"}, f"in the wheel: {tops}"
    (metadata,) = [name for name in names if name.endswith("/METADATA")]
    text = zipfile.ZipFile(wheel).read(metadata).decode()
    text = re.sub(r"(?ms)^```.*?^```$|`[^`\n]*`", "", text)
    relative = re.findall(
        r"""(?mx)
        \]\((?!https?://)[^)]*\)  # a link or a picture
        |^\[[^]]+\]:[ ](?!https?://).*  # the definition of a reference
        |(?:href|src)=.(?!https?://)[^ >]*
        """,
        text,
    )
    assert not relative, f"relative links in METADATA: {relative}"
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = [member.name.split("/")[1] for member in archive]
    assert not {"tests", "examples", "benchmarks", "docs"} & set(names)
    needed = {"LICENSE", "README.md", "package_metadata.py", "pyproject.toml"}
    assert needed <= set(names)
    assert source.stat().st_size < 500_000


def add_keras_session(age: str, backend: str) -> None:
    """Run every test with the oldest, the newest or the nightly Keras."""

    @nox.session(name=f"keras-{age}-{backend}", reuse_venv=False)
    def keras(session: nox.Session) -> None:
        lines = pathlib.Path("constraints.txt").read_text().splitlines()
        kept = [line for line in lines if not line.startswith("keras==")]
        if age == "oldest":
            project = nox.project.load_toml("pyproject.toml")["project"]
            (floor,) = [
                requirement.removeprefix("keras>=")
                for requirement in project["dependencies"]
                if requirement.startswith("keras>=")
            ]
            kept.append(f"keras=={floor}")
        file = pathlib.Path(session.create_tmp(), "constraints.txt")
        file.write_text("\n".join(kept))
        nightly = age == "nightly"
        run_tests(session, backend, ("-c", str(file)), True, nightly)


for age in ("oldest", "newest", "nightly"):
    for backend in BACKENDS:
        add_keras_session(age, backend)


def run_tests(
    session: nox.Session,
    backend: str,
    constraints: tuple[str, ...] = CONSTRAINTS,
    whole: bool = False,
    nightly: bool = False,
) -> None:
    """Run the tests, with coverage if all of them run."""
    # Flax installs Orbax, which the tests of checkpoints also need.
    also = "flax," if backend == "jax" else ""
    session.install(*constraints, "-e", f".[{backend},{also}test]")
    if backend == "jax":  # for the page on models of JAX
        session.install(*constraints, "equinox")
    install_keras_hub(session, backend, constraints)
    if nightly:  # It provides the module of keras under another name.
        session.run("pip", "uninstall", "--yes", "keras")
        session.install("--pre", "--no-deps", "keras-nightly")
    session.run(
        "python",
        "-c",
        "import keras; print('Keras', keras.__version__)",
        env={"KERAS_BACKEND": backend},
    )
    others = [other for other in BACKENDS if other != backend]
    session.run(
        "python",
        "-c",
        "from importlib.util import find_spec; "
        f"found = [b for b in {others} if find_spec(b)]; "
        f"assert not found, f'beside {backend}: {{found}}'",
    )
    # Measuring coverage takes a sixth of the time.
    watch = ["--cov", "--cov-report=term-missing"]
    session.run(
        "pytest",
        "--numprocesses=auto",
        "--dist=loadfile",  # A file builds its models once, not per worker.
        *(["--all"] if whole else []),
        *(watch if whole or backend == "torch" else []),
        *session.posargs,
        env={
            "KERAS_BACKEND": backend,
            "OTHER_BACKEND_1": others[0],
            "OTHER_BACKEND_2": others[1],
            "COVERAGE_FILE": f".coverage.{backend}",
            "MPLBACKEND": "agg",
        },
    )


# The imports of keras_hub. Its metadata also require tensorflow-text, and
# therefore TensorFlow. On other backends, it works without them if grain is
# installed.
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


def install_keras_hub(
    session: nox.Session, backend: str, constraints: tuple[str, ...]
) -> None:
    if backend == "tensorflow":
        session.install(*constraints, "-e", f".[{backend},hub]")
    else:
        session.install(*constraints, *KERAS_HUB)
        session.install(*constraints, "--no-deps", "keras-hub")


# Packages that Keras exports with, and that run the files. On JAX it exports
# SavedModels with TensorFlow, and on PyTorch LiteRT files with litert-torch,
# which imports JAX.
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
        # The pytest plugin of the anyio version that litert-torch requires
        # raises warnings.
        *("-p", "no:anyio"),
        "tests/insertion/test_export.py",
        env={"KERAS_BACKEND": backend},
    )


# What the recipes of the documentation use beside the extras of the tests and
# keras_hub. On JAX and TensorFlow those that are marked `once` run as well.
RECIPES = {
    "jax": ("jax2onnx", "onnxruntime", "optuna"),
    "tensorflow": ("onnxruntime", "optuna", "tf2onnx"),
    "torch": ("accelerate", "onnxruntime", "onnxscript", "optuna"),
}


def add_recipes_session(backend: str) -> None:
    """Every recipe of the documentation, with all that they need."""

    @nox.session(name=f"recipes-{backend}", tags=["recipes"])
    def recipes(session: nox.Session) -> None:
        also = ",transformers" if backend == "torch" else ""
        session.install(*CONSTRAINTS, "-e", f".[{backend}{also},test]")
        session.install(*CONSTRAINTS, *RECIPES[backend])
        install_keras_hub(session, backend, CONSTRAINTS)
        session.run(
            "pytest",
            "--fail-on-skip",  # a library that is missing is a failure here
            "tests/docs/test_recipes.py",
            *session.posargs,
            env={"KERAS_BACKEND": backend, "MPLBACKEND": "agg"},
        )


for backend in BACKENDS:
    add_recipes_session(backend)


def add_notebook_session(backend: str) -> None:
    """Run every notebook of the examples at a small size."""

    @nox.session(name=f"notebooks-{backend}")
    def notebooks(session: nox.Session) -> None:
        session.install(*CONSTRAINTS, "-e", f".[{backend},examples]")
        install_keras_hub(session, backend, CONSTRAINTS)
        session.install(*CONSTRAINTS, "hypothesis", "ipykernel", "nbclient")
        session.install(*CONSTRAINTS, "pytest")
        session.run(
            *("pytest", "tests/helpers/notebooks.py", "--durations=0"),
            *session.posargs,
            env={"KERAS_BACKEND": backend},
        )


for backend in BACKENDS:
    add_notebook_session(backend)
