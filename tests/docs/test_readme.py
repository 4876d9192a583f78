"""README.md: its code runs, its numbers are those of the stored runs."""

import json
import re
import tomllib

import printed
import pytest
from scripts import ROOT
from scripts import load

from keras_memel import RunStore

README = (ROOT / "README.md").read_text(encoding="utf-8")
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_blocks_of_code_run_one_after_the_other(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for number, block in enumerate(blocks("python")):
        assert block.count("seeds=10") == (number == 2)
        quick = block.replace("seeds=10", "seeds=1")
        exec(compile(quick, "README.md", "exec"), namespace)
    shown = capsys.readouterr().out
    assert "roc_auc" in shown  # printed by `summary`
    assert "MEmeL vs. dropout" in shown  # printed by `compare`
    page = (tmp_path / "neurons.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")


def test_it_is_short():
    assert len(README.splitlines()) <= 110


def test_continuous_integration_runs_the_command_of_the_readme():
    quickstart, everything = [block.strip() for block in blocks("sh")]
    assert everything in (ROOT / ".ci" / "run").read_text().splitlines()
    (script,) = re.findall(r"examples/\S+\.py", quickstart)
    assert (ROOT / script).exists()


def test_the_badges_are_true():
    """The picture and the alternative text of each badge are correct."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = project["requires-python"].removeprefix(">=")
    (keras,) = [d for d in project["dependencies"] if d.startswith("keras>=")]
    keras = keras.removeprefix("keras>=")
    backends = list(BACKENDS)
    assert set(backends) <= set(project["optional-dependencies"])
    terms = project["license"]
    badges = r"!\[([^]]*)\]\(https://img\.shields\.io/badge/(.*?)-blue\)"
    assert re.findall(badges, README) == [
        (f"Python {python} or later", f"python-{python}%2B"),
        (f"Keras {keras} or later", f"keras-{keras}%2B"),
        (
            f"Backends: {', '.join(BACKENDS.values())}",
            f"backends-{'%20%7C%20'.join(backends)}",
        ),
        (f"License: {terms}", f"license-{terms.replace('-', '--')}"),
    ]


# All Markdown files of the repository, with those of the golden traces.
MARKDOWN = [
    page
    for folder in ("*", "docs/**/*", "examples/**/*", "tests/**/*")
    for page in sorted(ROOT.glob(f"{folder}.md"))
]


@pytest.mark.parametrize(
    "page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_the_files_that_a_page_cites_exist(page):
    """Files are cited as targets of links and as paths in the text."""
    text = page.read_text(encoding="utf-8")
    cited = re.findall(r"\]\((?!\w+:)([^)#]+)", text)
    cited += re.findall(r"(?<![\w/])(?:\.\.?/)+[\w./-]*\w", text)
    for target in cited:
        assert page.parent.joinpath(target).exists(), target


def test_the_pages_of_the_repository_cite_files():
    for name in ("README.md", "CONTRIBUTING.md", "examples/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert len(re.findall(r"\]\((?!\w+:)[^)#]+", text)) >= 2, name


def test_the_page_of_the_examples_names_each_that_can_be_run():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for file in (ROOT / "examples").glob("*.py"):
        if "__main__" in file.read_text(encoding="utf-8"):
            assert f"({file.name})" in page, file.name


@pytest.mark.once
def test_what_it_says_of_the_evidence_is_what_the_runs_say(study):
    results = study("results")
    found = results.everything()
    wrong = printed.difference(results.with_evidence(README, found), README)
    assert not wrong, f"{wrong}\nrun: python examples/studies/results.py"
    # The sentences above the table.
    head, _, *rows = results.evidence(found)
    tasks = sum(int(number) for number in re.findall(r"(\d+) tasks", head))
    assert f"The counts come from {tasks} tasks" in README
    _, placebo, dropout = (row.split("|")[2:4] for row in rows)
    assert not any("0 better" not in cell for cell in placebo + dropout)
    assert all(row.split("|")[3].strip().startswith("0 better") for row in rows)
    detection = (ROOT / "docs/studies/detection.md").read_text("utf-8")
    cnn = detection.partition("## CNN")[2].partition("| accuracy |")[2]
    lost = re.search(r"RD vs. trained \| -(\d+)", cnn)
    assert f"lost {lost[1]} points" in README


@pytest.mark.once
def test_what_it_says_of_the_cost_is_what_was_measured():
    found = [
        row["to_peer"]
        for backend in BACKENDS
        for row in json.loads(
            (ROOT / f"benchmarks/results/peers_{backend}.json").read_text()
        )
        if (row["inputs"], row["layer"]) == ("tokens", "rate")
    ]
    assert len(found) == 3
    said = f'`MEmeL("rate", axis=-1)` adds {min(found):.2f} to {max(found):.2f}'
    assert f"{said} times what the faster of" in README


@pytest.mark.once
def test_a_missing_marker_raises(study):
    with pytest.raises(ValueError, match="evidence: begin"):
        study("results").with_evidence("no marker", {})


@pytest.mark.once
def test_the_page_of_the_quickstart_is_what_the_stored_runs_say():
    made = load(ROOT / "docs" / "generate" / "quickstart.py").page()
    text = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    wrong = printed.difference(made, text)
    assert not wrong, f"{wrong}\nrun: python docs/generate/quickstart.py"


@pytest.mark.parametrize(
    ("folder", "backend"),
    [(".", "jax"), ("tensorflow", "tensorflow"), ("torch", "torch")],
)
def test_the_stored_runs_are_complete(folder, backend):
    file = ROOT / "examples" / "results" / folder / "quickstart.jsonl"
    runs = RunStore(file).read()
    assert {run["environment"]["backend"] for run in runs} == {backend}
    assert not any("error" in run for run in runs)
    arms = {run["arm"] for run in runs}
    assert len(arms) == 4
    assert len(runs) == 40
    assert {(run["arm"], run["seed"]) for run in runs} == {
        (arm, seed) for arm in arms for seed in range(10)
    }


def test_the_figure_is_small():
    assert (ROOT / "docs" / "quickstart.png").stat().st_size < 150_000
