"""The examples in the docstrings run, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil

import keras
import numpy as np
import pytest
from keras import ops

import keras_memel

OTHERS = {"jax", "tensorflow", "torch"} - {keras.config.backend()}
MODULES = ["keras_memel"] + [
    module.name
    for module in pkgutil.walk_packages(keras_memel.__path__, "keras_memel.")
    if module.name.rpartition(".")[2] not in OTHERS
]
EVERYWHERE = {"keras": keras, "np": np, "ops": ops}


@pytest.mark.once
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    keras.backend.clear_session()  # so that names are as printed
    module = importlib.import_module(name)
    public = {key: getattr(keras_memel, key) for key in keras_memel.__all__}
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in finder.find(
        module, name, globs={**public, **EVERYWHERE, **vars(module)}
    ):
        runner.run(test)
    assert runner.failures == 0


def public_objects():
    for name in keras_memel.__all__:
        found = getattr(keras_memel, name)
        members = vars(found) if inspect.ismodule(found) else {"": found}
        for key, member in members.items():
            ours = getattr(member, "__module__", "").startswith("keras_memel")
            if callable(member) and ours and not key.startswith("_"):
                yield pytest.param(member, id=f"{name}.{key}".rstrip("."))


@pytest.mark.parametrize("found", list(public_objects()))
def test_public_names_say_what_they_do(found):
    assert inspect.getdoc(found)
    if "serialize" not in found.__qualname__:
        assert ">>>" in inspect.getdoc(found), "no example"
