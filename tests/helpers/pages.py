"""The pages of docs/ and their code."""

import pathlib
import re

import printed
import pytest

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The title of a block is the name of a file.
BLOCK = re.compile(
    r"^```(?:\w+ title=\")?([\w.]+)[^\n]*\n(.*?)^```", re.M | re.S
)


def read(folder):
    """Map the name of each page to its blocks: language (or file) and text."""
    return {
        path.name: BLOCK.findall(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.md"))
    }


PAGES = read(DOCS)
RECIPES = read(DOCS / "recipes")
# Packages that a page imports and an environment may lack.
_OPTIONAL = ("equinox", "flax", "keras_hub", "onnxruntime", "optax", "optuna")
_OPTIONAL += ("transformers",)
_IMPORTED = re.compile(r"^(?:import|from) (\w+)", re.M)


def run(name, capsys, pages=PAGES):
    """Run the code of a page, and compare what it prints with what follows."""
    namespace = {}
    output = None
    for language, text in pages[name]:
        if language == "python":
            for module in set(_IMPORTED.findall(text)) & set(_OPTIONAL):
                pytest.importorskip(module)
            exec(compile(text, name, "exec"), namespace)
            output = capsys.readouterr().out
        elif language == "text" and output is not None:
            wrong = printed.difference(output.strip(), text.strip())
            assert not wrong, f"{name}: {wrong}"
            output = None
        elif "." in language:
            pathlib.Path(language).write_text(text, encoding="utf-8")
