"""The files that describe the project agree with one another."""

import ast
import importlib
import pathlib
import re
import sys
import tomllib

import pytest

import keras_memel

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = {"jax", "tensorflow", "torch"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_the_version_is_the_same_everywhere():
    version = re.escape(keras_memel.__version__)
    assert re.search(rf"^version: {version}$", read("CITATION.cff"), re.M)
    assert re.search(rf"^## \[{version}\]", read("CHANGELOG.md"), re.M)
    assert "version" in project()["dynamic"]


def test_the_core_depends_on_no_backend():
    assert not any(
        requirement.startswith(tuple(BACKENDS))
        for requirement in project()["dependencies"]
    )
    assert project()["optional-dependencies"].keys() > BACKENDS


def test_every_public_name_exists():
    assert keras_memel.__all__ == sorted(keras_memel.__all__)
    for name in keras_memel.__all__:
        assert hasattr(keras_memel, name)


@pytest.mark.quick
def test_dir_shows_the_public_names_only():
    public = {*keras_memel.__all__, "__version__"}
    if hasattr(keras_memel, "TorchMEmeL"):
        public.add("TorchMEmeL")
    assert set(dir(keras_memel)) == public
    # A room is an attribute of the package as soon as it is imported.
    assert hasattr(keras_memel, "layers")


@pytest.mark.quick
@pytest.mark.parametrize(
    "name", ["inhibitions", "paper", "plots", "selections", "sync"]
)
def test_public_modules_can_be_imported(name):
    module = importlib.import_module(f"keras_memel.{name}")
    assert getattr(keras_memel, name) is module
    assert name in dir(keras_memel)


@pytest.mark.parametrize("folder", ["examples", "benchmarks"])
def test_what_scripts_import_of_the_package_is_there(folder):
    """Some of them take minutes, and no test runs them."""
    nodes = [
        node
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module.split(".")[0] == "keras_memel"
    ]
    assert nodes
    for node in nodes:
        module = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(module, alias.name):
                # The name is a submodule, or it does not exist.
                importlib.import_module(f"{node.module}.{alias.name}")


def outside_imports(path):
    """Yield the top-level names that a module imports when it is imported."""
    todo = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The body of a class or of a condition runs at import.
            todo += ast.iter_child_nodes(node)


def test_importing_the_package_imports_nothing_heavy():
    """pandas, SciPy, matplotlib and others come with what needs them."""
    light = {"keras", "keras_memel", "numpy", *sys.stdlib_module_names}
    for path in (ROOT / "keras_memel").rglob("*.py"):
        allowed = set(light)
        if path.name in ("sync.py", "in_torch.py"):
            allowed |= BACKENDS
        if path.parent.name == "kernels":
            allowed.add(path.stem)
        if path.parent.name == "native" and path.name.startswith("torch_"):
            allowed.add("torch")  # Only PyTorch modules need these files.
        if path.parent.name == "native" and path.name.startswith("nnx_"):
            allowed |= {"flax", "jax"}
        assert set(outside_imports(path)) <= allowed, path.name


@pytest.mark.once
@pytest.mark.quick
def test_the_quick_check_covers_every_room(request):
    """`pytest -m quick`; the helpers of `utils/` are tested by what calls
    them."""
    rooms = {path.parent.name for path in ROOT.glob("keras_memel/*/*.py")}
    rooms -= {"utils"}
    items = request.session.items
    collected = {item.path.parent.name for item in items}
    if not rooms <= collected:
        pytest.skip("only a part of the tests was collected")
    quick = {
        item.path.parent.name
        for item in items
        if item.get_closest_marker("quick")
    }
    assert rooms <= quick


@pytest.mark.once
def test_what_backends_do_not_type_is_named_in_one_file():
    """`Tensor`, `Array` and the like, in `utils/types.py`."""
    for path in (ROOT / "keras_memel").rglob("*.py"):
        if path.name == "types.py":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign | ast.AnnAssign):
                value = node.value
                named = isinstance(value, ast.Name) and value.id == "Any"
                assert not named, f"{path.name}: {ast.unparse(node)}"


@pytest.mark.once
def test_the_map_for_contributors_names_files_and_rooms_that_exist():
    text = read("docs/contributing.md")
    package = ROOT / "keras_memel"
    table = text.split("| you want to | open |")[1].split("\n\n")[0]
    rows = [line.split("|")[2] for line in table.splitlines()[2:]]
    assert len(rows) >= 10
    for row in rows:
        files = re.findall(r"`([^`]+)`", row)
        assert files, row
        for file in files:
            assert (package / file).is_file(), file
    rooms = set(re.findall(r"^\| `(\w+)/` \|", text, re.M))
    assert rooms == {path.parent.name for path in package.glob("*/__init__.py")}
