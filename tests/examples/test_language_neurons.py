"""The example of language neurons, in small, from a file to its pages."""

import math
import sys

import numpy as np
import pytest
from scripts import example

from keras_memel.monitoring import monitor

pytestmark = pytest.mark.once

pytest.importorskip("matplotlib")
pytest.importorskip("matplotlib")


@pytest.fixture
def language_neurons(monkeypatch):
    script = example("language_neurons")
    for name, value in (("LENGTH", 8), ("CHARACTERS", 32), ("WIDTH", 8)):
        monkeypatch.setattr(script, name, value)
    monkeypatch.setattr(script, "BLOCKS", 1)
    # The other arm is a part of this one.
    monkeypatch.delitem(script.ARMS, "plain")
    return script


def sentences(path):
    """Two languages that share no letter."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(60):
            for language, letters in (("ab", "abcde"), ("xy", "vwxyz")):
                text = "".join(random.choice(list(letters), 24))
                file.write(f"{text}\t{language}\n")


def test_it_finds_neurons_of_languages_and_shows_them(
    language_neurons, tmp_path, monkeypatch, capsys, quick_compilation
):
    # How long a tiny network takes on a busy machine is no matter here.
    monkeypatch.setattr(monitor, "_MOST_OVERHEAD", math.inf)
    sentences(tmp_path / "data.tsv")
    out = tmp_path / "out"
    arguments = [
        *("--data", tmp_path / "data.tsv", "--out", out, "--languages", 2),
        *("--each", 60, "--epochs", 1, "--look", 40),
    ]
    monkeypatch.setattr(sys, "argv", ["example", *map(str, arguments)])
    language_neurons.main()
    told = capsys.readouterr().out
    report = language_neurons.keras_memel.Report.load(out / "memel.npz")
    _, labels, names = language_neurons.read(tmp_path / "data.tsv", 2, 60)
    assert report.labels == tuple(names) == ("ab", "xy")
    # Each character of each sentence that is looked at has its language.
    counts = report.layers["neurons_0"].label_count
    np.testing.assert_array_equal(counts[0], 8 * np.bincount(labels[:40]))
    assert "memel  held-out loss" in told
    assert (out / "memel.html").stat().st_size > 100_000
    assert {path.stem for path in out.glob("*.png")} == {
        "memel_best_neuron",
        "memel_distribution",
        "memel_false_killing_rate",
        "memel_labels",
        "memel_training",
    }


def test_missing_data_says_where_to_get_it(language_neurons, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["example", "--data", "nowhere.tsv"])
    with pytest.raises(SystemExit, match=r"sentences\.csv of Tatoeba.*nowhere"):
        language_neurons.main()


def test_data_that_leave_nothing_to_train_on_are_refused(
    language_neurons, tmp_path, monkeypatch
):
    path = tmp_path / "data.tsv"
    sentences(path)
    monkeypatch.setattr(sys, "argv", ["example", "--data", str(path)])
    with pytest.raises(SystemExit, match=r"sentences, 120, .*--look 2000"):
        language_neurons.main()
    path.write_text("too short\tab\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"data\.tsv has no line with a"):
        language_neurons.main()
