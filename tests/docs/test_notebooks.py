"""The notebooks of examples/ as they are stored; `notebooks.py` runs them."""

import base64
import io
import json
import pathlib
import re

import numpy as np
import pytest

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
# These texts depend on the machine or on the run.
NOT_STORED = re.compile(
    r"/(home|root|tmp|usr|var|opt|mnt|work|Users)/|site-packages|\\x1b"
    r"|\d+ ?m?s/step|━|\w+Warning:|Traceback"
)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


def code(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook):
    return [output for cell in code(notebook) for output in cell["outputs"]]


def test_there_are_five():
    assert [path.stem for path in FILES] == [
        "compare",
        "insert_bert",
        "language_neurons",
        "nowcasting",
        "quickstart",
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_notebook_is_small(path):
    assert path.stat().st_size < 400_000


def test_it_begins_with_a_title_and_what_installs_the_package(notebook):
    first, second = notebook["cells"][:2]
    assert "".join(first["source"]).startswith("# ")
    assert second["cell_type"] == "code"
    source = "".join(second["source"])
    extras = re.search(r'%pip install -q "keras-memel\[([\w,]+)\]"', source)
    assert {"jax", "examples"} <= set(extras[1].split(","))


def test_it_opens_with_a_small_picture_of_its_outputs(notebook, request):
    """The first cell shows it, and so does docs/notebooks.md."""
    pillow = pytest.importorskip("PIL.Image")
    first = notebook["cells"][0]
    lines = "".join(first["source"]).splitlines()
    assert re.match(r"!\[.+\]\(attachment:opening.png\)$", lines[-1])
    assert len(lines) <= 12  # It must be on the first screen.
    data = base64.b64decode(first["attachments"]["opening.png"]["image/png"])
    assert len(data) < 60_000
    (name,) = [p.stem for p in FILES if p.stem in request.node.name]
    file = ROOT / "docs" / "notebooks" / f"{name}.png"
    assert file.read_bytes() == data
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert f"](notebooks/{name}.png)" in page
    opening = pillow.open(io.BytesIO(data)).convert("RGB")
    differences = []
    for output in outputs(notebook):
        png = output.get("data", {}).get("image/png")
        if png is not None:
            shown = pillow.open(io.BytesIO(base64.b64decode("".join(png))))
            shown = shown.convert("RGB").resize(opening.size)
            difference = np.asarray(shown, float) - np.asarray(opening, float)
            differences.append(np.abs(difference).mean())
    assert min(differences) < 3


def test_the_backend_is_chosen_before_keras_is_imported(notebook):
    sources = ["".join(cell["source"]) for cell in code(notebook)]
    text = "\n".join(sources)
    chosen = text.index('os.environ.setdefault("KERAS_BACKEND"')
    assert chosen < text.index("import keras")
    # One cell reads what makes a run small.
    assert sum("KERAS_MEMEL_SMALL" in source for source in sources) == 1


def test_every_cell_was_run_once_and_in_order(notebook):
    counts = [cell["execution_count"] for cell in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_there_is_no_error_and_no_noise_in_what_is_stored(notebook):
    for output in outputs(notebook):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"
        told = [output.get("text", "")]
        told += [
            text
            for kind, text in output.get("data", {}).items()
            if not kind.startswith("image/")
        ]
        for text in told:
            assert not NOT_STORED.search("".join(text))


def test_its_pictures_are_stored_and_each_is_read_out(notebook):
    found = 0
    cells = notebook["cells"]
    for cell, after in zip(cells, cells[1:] + [None]):
        for output in cell.get("outputs", []):
            for kind, data in output.get("data", {}).items():
                if kind.startswith("image/"):
                    start = base64.b64decode("".join(data))[:4]
                    assert start in (b"\x89PNG", b"GIF8")
                    assert after["cell_type"] == "markdown"
                    assert not "".join(after["source"]).startswith("#")
                    found += 1
    assert found > 0


@pytest.mark.parametrize(
    ("name", "said", "shown"),
    [
        ("compare", "by 0.6 points", "-0.61"),
        ("compare", "has p = 0.020", "0.020 0.53 worse"),
        ("compare", "but p = 0.078", "0.078 0.60 not shown"),
        ("insert_bert", "asked for: 1.9 %", "inhibited_rate: 1.9%"),
        ("insert_bert", "than the plain one, 63 %", "test accuracy: 63.2%"),
        ("insert_bert", "against 77 %", "test accuracy: 77.0%"),
        ("language_neurons", "Neuron 127", "127 0.158 16.4"),
        ("language_neurons", "ROC-AUC of 0.985", "9.09 0.985"),
        ("language_neurons", "is nine times what it is", "rus 1 9.09"),
        ("language_neurons", "one in six is above 0.7", "trained: 16.0%"),
        ("nowcasting", "25 and 26 against 31", "persistence 31.36"),
        ("nowcasting", "25 and 26 against 31", "plain 26.07"),
        ("nowcasting", "25 and 26 against 31", "MEmeL 25.04"),
        ("nowcasting", "one is a little above it", "MEmeL 25.04 0.542"),
        ("nowcasting", "above it and one below", "plain 26.07 0.526"),
    ],
)
def test_a_figure_of_the_text_is_one_that_was_printed(name, said, shown):
    """Who stores a new run reads the text again where this fails."""
    (path,) = (path for path in FILES if path.stem == name)
    notebook = json.loads(path.read_text(encoding="utf-8"))
    texts = [
        "".join(cell["source"])
        for cell in notebook["cells"]
        if cell["cell_type"] == "markdown"
    ]
    printed = ["".join(output.get("text", "")) for output in outputs(notebook)]
    assert said in " ".join(" ".join(texts).split())
    assert shown in " ".join(" ".join(printed).split())
