"""The studies and single examples refuse bad arguments in one line.

test_paper_refusals.py tests the scripts of examples/paper, and
test_quickstart.py the quickstart.
"""

import subprocess
import sys

import pytest
from scripts import EXAMPLES
from scripts import ROOT
from scripts import example
from scripts import load

pytestmark = pytest.mark.once

STUDIES = (
    *("causality", "detection", "domains", "encourage", "grokking"),
    *("label_noise", "mechanism", "pretraining", "scale"),
)


def refused(main, words, monkeypatch, capsys):
    """The last line of what a program says of its arguments."""
    monkeypatch.setattr(sys, "argv", ["program", *words])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as refusal:
        main()
    assert refusal.value.code not in (0, None)
    said = f"{capsys.readouterr().err}{refusal.value}"
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_refuses_no_seeds(name, monkeypatch, capsys):
    main = example(f"studies.{name}").main
    said = refused(main, ["--seeds", "0"], monkeypatch, capsys)
    assert "--seeds: must be at least 1. Received: 0" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs=0"], "--epochs must be at least 1. Received: 0"),
        (["--each=0"], "--each must be at least 1. Received: 0"),
        (["--look=-1"], "--look must be at least 1. Received: -1"),
        (["--languages=0"], "--languages must be at least 1. Received: 0"),
        (["--out={file}"], "--out must be a folder to write to."),
        (["--out={folder}"], "Sentences are missing. Pass --data FILE"),
        (["--out={folder}", "--data={file}"], "has no line with a language"),
    ],
)
def test_language_neurons_refuses(
    words, message, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "file"
    file.write_text("no sentences")
    words = [w.format(file=file, folder=tmp_path / "new") for w in words]
    main = load(EXAMPLES / "language_neurons.py").main
    assert message in refused(main, words, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("script", "word"), [("bert_trainer", "epochs"), ("neox_l2e", "steps")]
)
def test_the_native_examples_refuse(script, word):
    pytest.importorskip("transformers")
    file = EXAMPLES / "native" / f"{script}.py"
    done = subprocess.run(
        [sys.executable, file, f"--{word}=0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert f"--{word} must be at least 1. Received: 0" in last


def test_control_c_ends_a_study_in_a_line(monkeypatch, capsys):
    training = example("studies.common.training")
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    training.parser("A study.")
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("Stopped. The same command resumes")
    sys.excepthook(ValueError, ValueError("why"), None)
    assert "ValueError: why" in capsys.readouterr().err
