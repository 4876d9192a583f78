"""The examples in the docstrings run, and every public name has one."""

import ast
import doctest
import importlib
import importlib.util
import inspect
import pathlib
import re
import textwrap

import keras
import numpy as np
import printed
import pytest
from keras import ops

import keras_memel

ROOT = pathlib.Path(keras_memel.__file__).parent
# A module of another backend is named after it, and cannot be imported here.
OTHERS = {"jax", "tensorflow", "torch"} - {keras.config.backend()}
if "jax" in OTHERS or not importlib.util.find_spec("flax"):
    OTHERS.add("nnx")
MODULES = [
    ".".join([ROOT.name, *path.relative_to(ROOT).with_suffix("").parts])
    for path in sorted(ROOT.rglob("*.py"))
    if path.stem.split("_")[0] not in OTHERS
]
MODULES = [name.removesuffix(".__init__") for name in MODULES]
EVERYWHERE = {"keras": keras, "np": np, "ops": ops}


def examples(name):
    """The doctests of everything that the module of that name defines."""
    module = importlib.import_module(name)
    public = {key: getattr(keras_memel, key) for key in keras_memel.__all__}
    names = {**public, **EVERYWHERE, **vars(module)}
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = finder.find(module, name, globs=names)
    return [t for t in found if t.examples and is_of_here(t.docstring)]


def is_of_here(text):
    """Return whether the examples of a docstring run on this backend, with the
    packages that are installed."""
    if re.search(f">>> import .*({'|'.join(OTHERS)})", text):
        return False
    imported = re.findall(r">>> import (\w+)", text)
    return all(importlib.util.find_spec(name) for name in imported)


@pytest.mark.once
@pytest.mark.parametrize(
    "name",
    [
        # Libraries with callbacks raise warnings when they are imported.
        pytest.param(name, marks=pytest.mark.filterwarnings("ignore"))
        if name.endswith(".callbacks")
        else name
        for name in MODULES
    ],
)
def test_examples_run(name):
    keras.backend.clear_session()  # The names of layers start at 0 again.
    runner = doctest.DocTestRunner(
        printed.OutputChecker(), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    for test in examples(name):
        number = len(test.examples)  # A run removes them.
        assert runner.run(test).attempted == number, test.name
    assert runner.failures == 0


@pytest.mark.quick
@pytest.mark.once
def test_every_public_example_is_one_that_runs():
    """The search for examples reaches every public object."""
    run = {test.name for name in MODULES for test in examples(name)}
    shown = {
        f"{found.__module__}.{found.__qualname__}"
        for found in public_code()
        if ">>>" in (inspect.getdoc(found) or "")
        and is_of_here(inspect.getdoc(found))
    }
    assert len(shown) > 30
    assert not shown - run


def public_objects():
    for name in keras_memel.__all__:
        found = getattr(keras_memel, name)
        members = vars(found) if inspect.ismodule(found) else {"": found}
        for key, member in members.items():
            ours = getattr(member, "__module__", "").startswith("keras_memel")
            if callable(member) and ours and not key.startswith("_"):
                yield pytest.param(member, id=f"{name}.{key}".rstrip("."))


def public_code():
    """Public functions and classes, and what these define for callers."""
    for parameter in public_objects():
        (found,) = parameter.values
        yield found
        for key, member in inspect.getmembers(found):
            if inspect.isclass(found) and not key.startswith("_"):
                member = getattr(member, "fget", member)
                module = getattr(member, "__module__", "") or ""
                if callable(member) and module.startswith("keras_memel"):
                    yield inspect.unwrap(member)


@pytest.mark.quick
@pytest.mark.parametrize("found", list(public_objects()))
def test_public_names_say_what_they_do(found):
    assert inspect.getdoc(found)
    if "serialize" not in found.__qualname__:
        assert ">>>" in inspect.getdoc(found), "no example"


def contains_raise(found):
    """Return whether a function, or the `__init__` of a class, raises."""
    found = vars(found).get("__init__") if inspect.isclass(found) else found
    # A dataclass has a generated `__init__` without a file.
    if not inspect.isfunction(found) or found.__code__.co_filename[0] == "<":
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(found)))
    return any(isinstance(node, ast.Raise) for node in ast.walk(tree))


@pytest.mark.quick
def test_public_code_that_raises_documents_its_errors():
    """A method documents them in its docstring or in that of its class."""
    documented, raising = set(), set()
    for found in public_code():
        name = f"{found.__module__}.{found.__qualname__}"
        if re.search(r"\bRaises:|\braises `", inspect.getdoc(found) or ""):
            documented.add(name)
        if contains_raise(found):
            raising.add(name)
    assert len(raising) > 10
    assert not {
        name
        for name in raising - documented
        if name.rpartition(".")[0] not in documented
    }
