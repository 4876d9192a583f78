"""docs/recipes/: the code runs, prints what is printed there, and needs what
the index says."""

import ast
import re

import pages
import pytest
from pages import DOCS
from pages import RECIPES
from pages import ROOT
from steps import BACKEND

NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
INDEX = (DOCS / "recipes" / "index.md").read_text(encoding="utf-8")
# Name of the page, packages and backends, by the table of the index.
ROWS = {
    name: (needs, backends)
    for name, needs, backends in re.findall(
        r"^\|.*\]\((\w+\.md)\) \| (.*) \| (.*) \|$", INDEX, re.M
    )
}
# These depend on the backend, or on what is installed beside it.
OF_THE_BACKEND = {"export.md", "hugging_face_trainer.md", "tensorboard.md"}
# Packages that a page needs without importing them itself.
CONVERTERS = {
    "jax": "jax2onnx",
    "tensorflow": "tf2onnx",
    "torch": "onnxscript",
}


def recipes():
    """The pages for this backend."""
    for name, (_, backends) in ROWS.items():
        if backends in ("all", NAMES[BACKEND]):
            once = [] if name in OF_THE_BACKEND else [pytest.mark.once]
            yield pytest.param(name, marks=once)


def quick(name):
    """Train with two seeds what the page trains with ten."""
    return [
        (k, text.replace("seeds=10", "seeds=2")) for k, text in RECIPES[name]
    ]


# Converters and models of others warn of many things that are not ours.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("name", list(recipes()))
def test_the_code_of_a_recipe_runs_and_prints_what_it_says(
    name, tmp_path, monkeypatch, capsys
):
    if name == "export.md":
        pytest.importorskip(CONVERTERS[BACKEND])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # for the files that a page writes
    monkeypatch.setitem(RECIPES, name, quick(name))
    pages.run(name, capsys, RECIPES)


@pytest.mark.once
def test_the_index_names_every_recipe():
    assert set(ROWS) == set(RECIPES) - {"index.md"}
    backends = {backends for _, backends in ROWS.values()}
    assert backends <= {"all", *NAMES.values()}


@pytest.mark.once
def test_every_recipe_has_code_and_is_short():
    for name, blocks in RECIPES.items():
        languages = [language for language, _ in blocks]
        assert name == "index.md" or "python" in languages, name
        text = (DOCS / "recipes" / name).read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 170, name


@pytest.mark.once
def test_the_session_installs_what_the_index_names():
    installed = sum(constant("noxfile.py", "RECIPES").values(), ())
    extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name, (needs, _) in ROWS.items():
        for package in re.findall(r"`([\w-]+)`", needs):
            assert package in installed or package in extras, (name, package)


def constant(file, name):
    """A constant of a file that cannot be imported here."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets) == name
    ]
    return found


@pytest.mark.once
def test_the_table_of_formats_is_that_of_the_tests_of_exports():
    text = (DOCS / "recipes" / "export.md").read_text(encoding="utf-8")
    table = text.partition("<!-- formats: begin -->")[2].partition("<!--")[0]
    header, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table.strip().splitlines()
    ]
    assert header == ["`format=`", *NAMES.values()]
    formats = {backend: [] for backend in NAMES}
    packages = {backend: set() for backend in NAMES}
    for kind, *cells in rows:
        for backend, cell in zip(NAMES, cells, strict=True):
            if cell != "no":
                formats[backend].append(kind.strip('`"'))
                packages[backend] |= set(re.findall(r"`([\w-]+)`", cell))
    tested = constant("tests/insertion/test_export.py", "FORMATS")
    converters = constant("noxfile.py", "CONVERTERS")
    for backend in NAMES:
        assert set(formats[backend]) == set(tested[backend])
        assert packages[backend] == set(converters[backend])
