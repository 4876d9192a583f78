"""The scripts of examples/ and benchmarks/, which no package holds."""

import importlib.util
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
HELPERS = pathlib.Path(__file__).parent


def example(name):
    """A module of the package of examples, by its name below `examples`."""
    return importlib.import_module(f"examples.{name}")


def load(path):
    """A script that is imported by nothing, from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
