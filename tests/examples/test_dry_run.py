"""`--dry-run` of every example: it prints the plan, and needs no data."""

import os
import runpy
import socket
import sys

import keras
import pytest
from scripts import EXAMPLES
from scripts import ROOT

pytestmark = [
    pytest.mark.once,
    # Backends and their libraries warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
]

SCRIPTS = [
    path.relative_to(EXAMPLES).as_posix()
    for path in sorted(EXAMPLES.rglob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
    or path.parent.name == "distributed"
]
# Arguments that some scripts require.
WORDS = {
    "paper/glue/train.py": ["--task", "RTE"],
    "paper/nowcasting/train.py": ["--small"],
    "paper/tune.py": ["--task", "RTE"],
    "studies/common/sets.py": ["--model", "some_bert", "--out", "some.npz"],
}
CASES = [(script, WORDS.get(script, [])) for script in SCRIPTS]
CASES += [
    (f"paper/{script}.py", ["--small"])
    for script in ("glue/train", "imagenet/train", "tune")
]


def forbidden(*args, **kwargs):
    raise AssertionError("A dry run reads no network and trains nothing.")


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """An empty folder and home, without a network; the environment is put
    back."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "KERAS_HOME", "HF_HOME", "XDG_CACHE_HOME"):
        os.environ[name] = str(tmp_path)
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, forbidden)
    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    monkeypatch.setattr(keras.Model, "fit", forbidden)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def results():
    """When each stored run and page was written."""
    folders = ("examples", "docs")
    return {
        path: path.stat().st_mtime_ns
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".jsonl", ".md", ".png")
    }


@pytest.mark.parametrize(("script", "words"), CASES)
def test_it_prints_the_plan_and_does_nothing(
    script, words, alone, monkeypatch, capsys
):
    if script.startswith("native/"):
        pytest.importorskip("transformers")
    before = results()
    monkeypatch.setattr(sys, "argv", [script, *words, "--dry-run"])
    code = None
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    except SystemExit as end:
        code = end.code
    assert code in (None, 0), code
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 2
    assert list(alone.iterdir()) == []
    assert results() == before


def test_a_study_counts_the_runs_that_are_left(alone, monkeypatch, capsys):
    script = str(EXAMPLES / "studies" / "mechanism.py")
    monkeypatch.setattr(sys, "argv", [script, "--dry-run", "--seeds", "11"])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    arms = runpy.run_path(script)["ARMS"]
    # Ten seeds are stored.
    assert f"{11 * len(arms)} runs, {len(arms)} not stored" in printed
    assert "docs/studies/mechanism.md" in printed
