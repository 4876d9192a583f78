"""docs/*.md: the code runs, prints what is printed there, and lacks nothing.

`nox -s docs` tests the site by building it.
"""

import math
import re

import pages
import pytest
from pages import DOCS
from pages import PAGES
from pages import ROOT

import keras_memel
from keras_memel.monitoring import monitor

pytestmark = pytest.mark.once

# Run by test_docs_jax.py.
OF_JAX = "native_jax.md"
WITH_CODE = [
    name
    for name, blocks in PAGES.items()
    if name != OF_JAX and any(language == "python" for language, _ in blocks)
]

MARKS = {
    # keras_hub and what it stands on warn of many things that are not ours.
    "insert.md": [pytest.mark.filterwarnings("ignore")],
    "native.md": [pytest.mark.filterwarnings("ignore")],
    # How long a small network takes on a busy machine is no matter here.
    "monitor.md": [pytest.mark.filterwarnings("ignore:The MEmeL layers take")],
}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(name, [])) for name in WITH_CODE],
)
def test_the_code_of_a_page_runs_and_prints_what_it_says(
    name, capsys, monkeypatch
):
    # How long a small network takes on a busy machine is no matter here.
    monkeypatch.setattr(monitor, "_MOST_OVERHEAD", math.inf)
    pages.run(name, capsys)


def test_the_scripts_that_a_page_says_to_run_exist():
    commands = [
        text
        for blocks in PAGES.values()
        for language, text in blocks
        if language == "sh"
    ]
    scripts = re.findall(r"python (\S+\.py)", "\n".join(commands))
    assert len(scripts) >= 3
    for script in scripts:
        assert (ROOT / script).exists(), script


def test_the_pages_of_use_have_code():
    assert len(WITH_CODE) >= 7


def test_every_public_name_is_in_the_reference_once():
    text = "\n".join(
        path.read_text(encoding="utf-8") for path in DOCS.glob("api/*.md")
    )
    named = re.findall(r"^::: keras_memel\.(\w+)$", text, re.M)
    assert len(set(named)) == len(named)
    assert set(keras_memel.__all__) == set(named)
