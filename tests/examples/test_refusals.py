"""The scripts refuse bad arguments in one line, as examples/bad_arguments.md
says."""

import argparse
import ast
import runpy
import socket
import sys

import pytest
import refusals
from scripts import EXAMPLES
from scripts import example

pytestmark = [
    pytest.mark.once,
    # Backends and their libraries warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
]

# Packages that a script imports before it reads its arguments.
NEEDED = {
    "native/": "transformers",
    "paper/imagenet": "keras_hub",
    "paper/glue": "keras_hub",
    "paper/tables": "keras_hub",
    "paper/tune": "keras_tuner",
    "studies/common/sets": "keras_hub",
}
# Options of which no value is bad without data, runs or a network.
FREE = {"--preset", "--where", "--cifar10", "--minilm"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return refusals.places(tmp_path_factory.mktemp("places"))


@pytest.fixture(scope="module")
def rows():
    lines = refusals.PAGE.read_text(encoding="utf-8").splitlines()
    return lines[lines.index("|---|---|---|") + 1 :]


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty folder and home, without a network."""
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "KERAS_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refusals.forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", refusals.forbidden)


def need(script):
    for start, package in NEEDED.items():
        if script.startswith(start):
            pytest.importorskip(package)


def test_the_page_holds_each_case(rows):
    text = refusals.PAGE.read_text(encoding="utf-8")
    assert text == refusals.page(rows), "run tests/helpers/refusals.py"
    starts = [refusals.row(*case, "")[:-3] for case in refusals.CASES]
    assert len(rows) == len(starts)
    for row, start in zip(rows, starts, strict=True):
        assert row.startswith(start), "run tests/helpers/refusals.py"


@pytest.mark.parametrize("number", range(len(refusals.CASES)))
def test_a_bad_argument_is_refused_as_the_page_says(
    number, rows, places, tmp_path
):
    script, words = refusals.CASES[number]
    need(script)
    text = refusals.said(script, words, places)
    assert refusals.row(script, words, text) == rows[number]
    assert len(text) < 300
    assert not list(tmp_path.rglob("*"))


class Read(Exception):
    """Carries the parser of a script."""


def options(script, monkeypatch):
    """The options of a script that take a value."""

    def stop(parser, *_):
        raise Read(parser)

    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    except Read as read:
        actions = read.args[0]._actions
        return {a.option_strings[-1] for a in actions if a.nargs != 0}
    raise AssertionError(f"{script} reads no arguments")


TEXTS = {
    path.relative_to(EXAMPLES).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(EXAMPLES.rglob("*.py"))
}
SCRIPTS = [
    script
    for script, text in TEXTS.items()
    if "__main__" in text or script.startswith("distributed/")
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_option_of_each_script_has_a_bad_value(script, monkeypatch):
    need(script)
    tested = " ".join(refusals.BAD.get(script, []))
    missing = {
        option
        for option in options(script, monkeypatch) - FREE
        if f"{option}=" not in tested and f"{option} " not in tested
    }
    assert not missing


def test_control_c_ends_a_study_in_a_line(monkeypatch, capsys):
    training = example("studies.common.training")
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    training.parser("A study.")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Stopped. The same command resumes")
    sys.excepthook(ValueError, ValueError("why"), None)
    assert "ValueError: why" in capsys.readouterr().err


def starts_processes(text):
    return "ProcessPoolExecutor" in text or "import tables" in text


@pytest.mark.parametrize(
    "script",
    [script for script in SCRIPTS if starts_processes(TEXTS[script])],
)
def test_a_script_of_several_processes_gives_each_one_thread(script):
    """PyTorch reads the number when it is imported."""
    code = ast.parse(TEXTS[script]).body
    setting = "os.environ.setdefault('OMP_NUM_THREADS', '1')"
    (line,) = [node.lineno for node in code if ast.unparse(node) == setting]
    heavy = [
        node.lineno
        for node in code
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
        if name.split(".")[0] not in {*sys.stdlib_module_names, "numpy"}
    ]
    assert line < min(heavy, default=sys.maxsize)
