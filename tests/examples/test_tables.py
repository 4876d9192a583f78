"""tables.py: which number stands where, and what is run."""

import sys
import types

import pytest
from scripts import example

from keras_memel import MEmeL
from keras_memel import paper

paper_tables = example("paper.tables")
GLUE = "examples.paper.glue.train"

# Few seeds, and no more: `compare` says so.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def calls(monkeypatch):
    """A family whose scores can be told by heart, in the place of glue's."""
    seen = []

    def run(arm, seed, options):
        seen.append((arm, seed, options))
        # Original 50 %, MEmeL 60 %, delta of 0 and -1 less; and ten times
        # better with each value of a sample.
        layer = MEmeL(**(arm or {}))
        gain = 0.1 * layer.selection.k * layer.inhibition.delta if arm else 0
        on = 0.05 if layer.at_inference else 0.0
        score = 0.5 + gain + on + 0.01 * seed
        return {"validation": score / 2, "test": score}

    module = types.SimpleNamespace(parse=lambda command: command, run=run)
    monkeypatch.setitem(sys.modules, GLUE, module)
    return seen


def row(text, start):
    lines = [li for li in text.splitlines() if li.startswith(f"| {start}")]
    assert len(lines) == 1, lines
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_published_and_own_numbers_stand_side_by_side(calls, tmp_path):
    command = ["--families", "glue", "--seeds=2", f"--out={tmp_path}"]
    command += ["--grid", "1,2", "1,3"]
    text = paper_tables.main(command)

    table_1, table_6 = text.split("## Table 6")
    assert "no reproduction" in table_1
    assert "MiniLM" in table_1
    assert "BERT-base" in table_1
    assert row(table_1, "original")[1:4] == ["79.6", "50.50", ""]
    assert row(table_1, "naive (b)")[1:4] == ["79.8", "40.50", "-10.00 -10.00"]
    assert row(table_1, "MEmeL |")[1:4] == ["80.2", "60.50", "+10.00 +10.00"]
    # The better of the grid, by validation.
    best = row(table_1, "MEmeL-Tune (tuned 1,3)")
    assert best[1:4] == ["80.5", "80.50", "+30.00 +30.00"]
    assert best[4] == "not shown"  # two seeds are no evidence
    assert row(table_6, "MEmeL, kept on")[2] == "65.50"
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text


def test_finished_runs_are_not_run_again(calls, tmp_path):
    command = ["--families", "glue", f"--out={tmp_path}"]
    first = paper_tables.main([*command, "--seeds=1"])
    assert len(calls) == 6
    paper_tables.main([*command, "--seeds=2"])
    assert len(calls) == 12
    assert {seed for _, seed, _ in calls[6:]} == {1}
    assert paper_tables.main([*command, "--seeds=1"]) == first
    assert len(calls) == 12


def test_small_runs_are_told_from_others(calls, tmp_path):
    command = ["--families", "glue", f"--out={tmp_path}", "--seeds=1"]
    paper_tables.main([*command, "--glue=--epochs=1"])
    (options,) = {tuple(options) for _, _, options in calls}
    assert options == ("--small", f"--out={tmp_path / 'glue'}", "--epochs=1")
    with pytest.raises(ValueError, match="pass another `store`"):
        paper_tables.main([*command, "--small"])


def test_what_is_trained_are_the_arms_of_the_paper():
    options = paper_tables.parse(["--grid", "all"])
    arms = paper_tables.arms(options)
    assert len(arms) == 4 + 1 + 25
    assert {name: arms[name] for name in paper.arms} == paper.arms
    kept = arms["MEmeL, kept on"]
    assert kept == {**paper.kdd2024, "at_inference": True}
    tuned = MEmeL(**arms["tuned 50,100"])
    assert (tuned.selection.k, tuned.inhibition.delta) == (50, 100)
