"""The pages of docs/ and their code."""

import pathlib
import re

import printed
import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.M | re.S)
PAGES = {
    path.name: BLOCK.findall(path.read_text(encoding="utf-8"))
    for path in sorted(DOCS.glob("*.md"))
}
# What a page imports and an environment may lack.
_OPTIONAL = ("equinox", "flax", "keras_hub", "optax", "transformers")
_IMPORTED = re.compile(r"^(?:import|from) (\w+)", re.M)


def run(name, capsys):
    """Run the code of a page, and compare what it prints with what follows."""
    namespace = {}
    output = None
    for language, text in PAGES[name]:
        if language == "python":
            for module in set(_IMPORTED.findall(text)) & set(_OPTIONAL):
                pytest.importorskip(module)
            exec(compile(text, name, "exec"), namespace)
            output = capsys.readouterr().out
        elif language == "text" and output is not None:
            assert not printed.difference(output.strip(), text.strip())
            output = None
