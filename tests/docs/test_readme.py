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
EMPTY = "".join(
    f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n"
    for name in ("quickstart", "speed")
)


readme = load(ROOT / "docs" / "generate" / "readme.py")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_each_block_of_code_runs_by_itself(number, capsys):
    namespace = {}
    exec(compile(blocks("python")[number], "README.md", "exec"), namespace)
    if number == 0:  # the example of the first page ends in what it shows
        seen = re.search(r"([\d.]+)% inhibited", capsys.readouterr().out)
        # One value of each sample, of 256.
        assert float(seen[1]) == pytest.approx(100 / 256, rel=0.05)


def test_the_example_stands_before_anything_else():
    assert len(blocks("python")) > 1
    assert "model.add(MEmeL())" in blocks("python")[0]


def test_continuous_integration_runs_the_command_of_the_readme():
    quickstart, everything = [block.strip() for block in blocks("sh")]
    assert everything in (ROOT / ".ci" / "run").read_text().splitlines()
    (script,) = re.findall(r"examples/\S+\.py", quickstart)
    assert (ROOT / script).exists()


def test_the_badges_are_true():
    """What is drawn, and what is said where no picture is shown."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = project["requires-python"].removeprefix(">=")
    (keras,) = [d for d in project["dependencies"] if d.startswith("keras>=")]
    keras = keras.removeprefix("keras>=")
    backends = list(readme.BACKENDS)
    assert set(backends) <= set(project["optional-dependencies"])
    licence = project["license"]
    badges = r"!\[([^]]*)\]\(https://img\.shields\.io/badge/(.*)-blue\)"
    assert re.findall(badges, README) == [
        (f"Python {python} or later", f"python-{python}%2B"),
        (f"Keras {keras} or later", f"keras-{keras}%2B"),
        (
            f"Backends: {', '.join(readme.BACKENDS.values())}",
            f"backends-{'%20%7C%20'.join(backends)}",
        ),
        (f"Licence: {licence}", f"licence-{licence.replace('-', '--')}"),
    ]


# Of the repository, and of the golden traces, which cited a file of another.
MARKDOWN = [
    page
    for folder in ("*", "docs/**/*", "examples/**/*", "tests/**/*")
    for page in sorted(ROOT.glob(f"{folder}.md"))
]


@pytest.mark.parametrize(
    "page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_the_files_that_a_page_cites_exist(page):
    """Both as the targets of links and as paths in the text."""
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


def test_what_it_says_of_the_studies_is_what_their_pages_say():
    """Those are made from the stored runs."""
    page = (ROOT / "docs" / "when_to_use.md").read_text(encoding="utf-8")
    row = r"better in (\d+), worse in (\d+), not shown in \d+ of (\d+)"
    counts = {
        other: [[int(n) for n in cell] for cell in re.findall(row, cells)]
        for other, cells in re.findall(
            r"^\| (plain|placebo|dropout) (.*)$", page, re.M
        )
    }
    (better, _, wrong), (none, worse, right) = counts["plain"]
    (never, by_placebo, _), _ = counts["placebo"]
    (nor, by_dropout, _), _ = counts["dropout"]
    assert none == never == nor == 0
    words = ["", "one", "two", "three", "four", "five", "six", "seven", "eight"]
    said = " ".join(README.split())
    for sentence in (
        f"Over the {words[wrong]} with wrong labels, Reverse Deactivation was "
        f"better than plain training in {words[better]}, never better than its "
        f"placebo (worse in {words[by_placebo]}), and never better than "
        f"dropout (worse in {words[by_dropout]}).",
        f"Over the {words[right]} with right labels it was never better than "
        f"plain training, and worse in {words[worse]};",
    ):
        assert sentence in said
    detection = (ROOT / "docs/studies/detection.md").read_text("utf-8")
    cnn = detection.partition("## CNN")[2].partition("| accuracy |")[2]
    lost = re.search(r"RD less trained \| -(\d+)", cnn)
    assert f"lost {lost[1]} points" in said


@pytest.mark.once
def test_the_results_are_those_of_the_stored_runs():
    wrong = printed.difference(readme.render(README), README)
    assert not wrong, f"{wrong}\nrun: python docs/generate/readme.py"


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
    file = ROOT / "examples" / "results" / "quickstart.png"
    assert file.stat().st_size < 150_000


def test_without_files_a_section_stays_as_it_is(tmp_path):
    assert readme.render(EMPTY, tmp_path) == EMPTY


def test_a_missing_or_doubled_marker_raises():
    with pytest.raises(ValueError, match="quickstart: begin"):
        readme.render("no markers at all")
    with pytest.raises(ValueError, match="Expected one"):
        readme.render(EMPTY + EMPTY)


def measured(backend, layer, setting="layer alone", **measures):
    return {
        "backend": backend,
        "setting": setting,
        "layer": layer,
        "shape": [32, 128, 768],
        "versions": {"keras": "3.15.1", backend: "1.0"},
        **measures,
    }


def test_the_speed_table_puts_a_layer_a_row_and_a_backend_a_column(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    rows = {
        "jax": [
            measured(
                "jax", "MEmeL()", extra_ms=1.25, ratio_to_batchnorm=0.5
            ),
            measured("jax", "MEmeL()", "transformer", extra_percent=1.04),
        ],
        # No transformer.
        "torch": [
            measured(
                "torch", "MEmeL()", extra_ms=10.0, ratio_to_batchnorm=2.0
            ),
            measured(
                "torch", "Dropout(0.1)", extra_ms=24.9, ratio_to_batchnorm=1.2
            ),
        ],
    }  # fmt: skip
    for backend, measurements in rows.items():
        file = folder / f"overhead_{backend}.json"
        file.write_text(json.dumps(measurements), encoding="utf-8")
    text = readme.render(EMPTY, tmp_path)
    lines = text.splitlines()
    assert "old" in lines  # no runs of the quickstart here
    assert text.count("old") == 1
    assert "| layer | JAX | PyTorch |" in lines
    assert "| `MEmeL()` | 1.2 (0.50) | 10.0 (2.00) |" in lines
    assert "| `Dropout(0.1)` |  | 24.9 (1.20) |" in lines
    assert lines.count("| layer | JAX |") == 1
    assert "| `MEmeL()` | 1.0 |" in lines
    assert "jax 1.0, keras 3.15.1, torch 1.0." in text
    assert readme.render(text, tmp_path) == text
