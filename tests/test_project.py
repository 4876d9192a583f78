"""The files that describe the project agree with one another."""

import pathlib
import re
import tomllib

import keras_memel

ROOT = pathlib.Path(__file__).parents[1]
BACKENDS = {"jax", "tensorflow", "torch"}


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def project():
    return tomllib.loads(read("pyproject.toml"))["project"]


def test_the_version_is_the_same_everywhere():
    version = re.escape(keras_memel.__version__)
    assert re.search(rf"^version: {version}$", read("CITATION.cff"), re.M)
    assert re.search(rf"^## \[{version}\]", read("CHANGELOG.md"), re.M)
    assert project()["dynamic"] == ["version"]


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
