"""The scripts of examples/ and benchmarks/, which no package holds."""

import importlib.util
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HELPERS = pathlib.Path(__file__).parent


def example(name):
    """A module of the examples, which import one another by their names."""
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


def load(path):
    """A script that is imported by nothing, from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
