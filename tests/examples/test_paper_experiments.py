"""The page on the paper's experiments, from runs that tables.py stored."""

import json

import numpy as np
import pytest
from scripts import example

from keras_memel import RunStore

paper, plan = example("studies.paper_experiments"), example("paper.plan")
tables = example("paper.tables")

pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with all runs of two families, made by tables.py."""
    patch = pytest.MonkeyPatch()
    out = tmp_path_factory.mktemp("tables")
    for name in ("nowcasting", "glue"):
        family = plan.FAMILIES[name]._replace(module="noisy_family")
        patch.setitem(plan.FAMILIES, name, family)
    words = ["--families", "nowcasting", "glue", f"--out={out}"]
    tables.main([*words, "--wrong", "0", "0.2"])
    # The revision of a test is that of a folder which is being worked on.
    for file in out.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line["environment"]["revision"] = 40 * "a"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    yield out
    patch.undo()


@pytest.fixture
def copied(made, tmp_path):
    """The same runs, to be changed."""
    for file in made.glob("*.jsonl"):
        (tmp_path / file.name).write_text(file.read_text())
    return tmp_path


def options(folder):
    found = paper.options_of(folder)
    assert found.families == ["nowcasting", "glue"]
    return found


def row(text, section, start):
    part = text.split(section, 1)[1]
    lines = [x for x in part.splitlines() if x.startswith(f"| {start} |")]
    return [cell.strip() for cell in lines[0].strip("|").split("|")][1:]


def test_the_page_is_made_from_the_runs(made):
    found = paper.stored(options(made))
    names = ["nowcasting", "glue", "glue_wrong_20"]
    assert [condition.name for condition in found] == names
    text = paper.page(found, options(made))
    # MEmeL gains 4 points on sentences and loses 10 % of B-MSE; L2E nothing.
    rain, mae, right, wrong = row(text, "difference", "MEmeL vs. original")
    runs = RunStore(made / "glue.jsonl").read()
    by = {(r["arm"], r["seed"]): r["scores"]["test"] for r in runs}
    ours = np.mean([by["MEmeL", s] - by["original", s] for s in range(10)])
    assert right == f"{100 * ours:+.2f} better"
    assert rain.startswith("+")
    assert rain.endswith("worse")
    assert wrong.endswith("better")
    assert mae.endswith("worse")
    assert "not shown" in row(text, "difference", "L2E vs. original")[2]
    assert (
        "**MEmeL vs. original: worse (ConvGRU), better (MiniLM; MiniLM, 20 % "
        "wrong). MEmeL-Tune vs." in text
    )
    # Published: 80.2 - 79.6 points, 309.94 of 309.96.
    first = row(text, "What the size", "MiniLM: MEmeL, points")
    assert first[0] == "+0.60"
    assert float(first[3]) > 0
    rain = row(text, "What the size", "ConvGRU: MEmeL, % of the B-MSE")
    assert rain[0] == "-0.01"
    assert "ConvGRU, MEmeL: 0.01 published" in text
    assert row(text, "step lower", "RD")[0] == "2 better"
    assert row(text, "step lower", "L2E")[0] == "3 better"
    assert row(text, "step lower", "MEmeL-Tune")[0] == "100 better"
    assert row(text, "step lower", "dropout")[0].endswith("not shown")
    assert row(text, "values are mono", "before training")[1] == "1 worse"
    assert row(text, "network need", "top 1 vs. random 1")[1].endswith("worse")
    assert "and not here: Swin; Swin, 20 % wrong." in text
    assert "b_mae" in text
    assert "k 10, delta 10" in text
    assert "revision aaaaaaa." in text
    assert "No run was repeated yet." in text
    plot = paper.figure(found)
    titles = [axes.get_title(loc="left") for axes in plot.axes]
    assert titles[1].startswith("MiniLM")


def test_no_page_is_written_while_runs_are_missing(
    copied, tmp_path, monkeypatch
):
    written = []
    monkeypatch.setattr(
        paper.pages, "write", lambda *page: written.append(page)
    )
    lines = (copied / "glue.jsonl").read_text().splitlines()
    kept = [x for x in lines if not ('"arm": "L2E"' in x and '"seed": 7' in x)]
    (copied / "glue.jsonl").write_text("\n".join(kept) + "\n")
    (copied / "nowcasting_length.jsonl").unlink()
    with pytest.raises(SystemExit) as refusal:
        paper.main([f"--runs={copied}", "--families", "nowcasting", "glue"])
    assert (
        "glue: glue.jsonl lacks 1 of 90 runs, such as L2E with seed 7"
        in str(refusal.value)
    )
    assert "nowcasting_length.jsonl lacks 6 of 6" in str(refusal.value)
    assert "glue_wrong_20" not in str(refusal.value)
    assert not written
    with pytest.raises(SystemExit, match="imagenet_wrong_20"):
        paper.main([f"--runs={copied}", "--families", "imagenet"])
    with pytest.raises(SystemExit, match=r"No runs\. Pass --runs FOLDER"):
        paper.main([f"--runs={copied / 'none'}"])
    assert not written
    assert not list(copied.glob("*.locks"))


def test_a_share_of_wrong_labels_can_be_left_out(copied, monkeypatch):
    written = {}
    monkeypatch.setattr(
        paper.pages,
        "write",
        lambda name, text, plot: written.update({name: text}),
    )
    paper.main([f"--runs={copied}", "--families", "glue", "--wrong", "0"])
    (copied / "glue_wrong_20.jsonl").unlink()
    text = written["paper_experiments"]
    assert "ConvGRU; MiniLM, 20 % wrong; Swin; Swin, 20 % wrong." in text
    found = paper.stored(paper.options_of(copied))
    assert [condition.name for condition in found] == ["nowcasting", "glue"]


def test_runs_of_other_settings_or_without_a_revision_are_refused(copied):
    text = (copied / "glue.jsonl").read_text()
    dirty = text.replace(40 * "a", 40 * "a" + "-dirty", 1)
    (copied / "glue.jsonl").write_text(dirty)
    with pytest.raises(SystemExit, match="original with seed 0 has no clean"):
        paper.stored(options(copied))
    other = text.replace("--epochs=2", "--epochs=3")
    (copied / "glue.jsonl").write_text(other)
    with pytest.raises(SystemExit, match=r"glue\.jsonl has other settings"):
        paper.stored(options(copied))


def test_repeated_runs_are_compared_to_the_digit(copied, capsys):
    words = [f"--runs={copied}", "--families", "nowcasting", "glue"]
    paper.main([*words, "--repeat=2"])
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    assert [x["condition"].split("_")[0] for x in lines] == (
        2 * ["nowcasting"] + 2 * ["glue"]
    )
    assert [x["largest"] for x in lines] == [0.0] * 4
    (said,) = paper.repeated(options(copied))
    assert said.startswith("4 of 4 runs that were drawn at random and trained")
    for name in ("nowcasting", "glue", "glue_wrong_20"):
        path = copied / f"{name}.jsonl"
        runs = [json.loads(x) for x in path.read_text().splitlines()]
        for run in runs:
            run["scores"]["share_after"] += 1e-15
        path.write_text("".join(json.dumps(run) + "\n" for run in runs))
    with pytest.raises(SystemExit, match="Not all numbers are the same"):
        paper.main([*words, "--repeat=1"])
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert line["score"] == "share_after"
    assert 0 < line["largest"] < 2e-15
    (said,) = paper.repeated(options(copied))
    assert said.startswith("4 of 6 runs")
    assert "share_after)" in said


def test_an_answer_that_changed_is_a_difference(copied):
    options_ = options(copied)
    found = paper.stored(options_)
    condition, (comparison, _) = list(found.items())[1]
    run = dict(comparison.runs[0])
    assert paper.again(condition, run, options_)["largest"] == 0
    last = "1" if run["correct"][-1] == "0" else "0"
    run["correct"] = run["correct"][:-1] + last
    found = paper.again(condition, run, options_)
    assert (found["score"], found["largest"]) == ("correct", 1)
