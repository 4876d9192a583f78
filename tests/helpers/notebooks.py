"""Runs the notebooks of examples/, and stores what they show.

    KERAS_BACKEND=jax python tests/notebooks.py [NAME ...]    run and store
    KERAS_BACKEND=jax pytest tests/notebooks.py               run in small

Of the outputs pictures, results and what was printed are kept; not when a cell
ran, nor what was written to stderr. `nox -s notebooks-jax notebooks-tensorflow
notebooks-torch` runs them all in small; what is stored is checked without a run
by test_notebooks.py.
"""

import os
import pathlib
import sys

import nbclient
import nbformat
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))

# Of what carries messages between the processes; nothing of it is ours.
pytestmark = pytest.mark.filterwarnings("ignore")


def execute(name, small):
    """The notebook after a run from top to bottom in a new process."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    environment = dict(os.environ)
    # Pictures are to become outputs, as they do for a reader.
    environment.pop("MPLBACKEND", None)
    environment.pop("KERAS_MEMEL_SMALL", None)
    if small:
        environment["KERAS_MEMEL_SMALL"] = "1"
    client = nbclient.NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    return client.execute(env=environment)


def cleaned(notebook):
    """The notebook without what another run would have otherwise."""
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr"
            ]
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    return notebook


def pictures(notebook):
    """Kinds of the pictures of each cell."""
    return [
        [
            kind
            for output in cell.get("outputs", [])
            for kind in output.get("data", {})
            if kind.startswith("image/")
        ]
        for cell in notebook.cells
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_from_top_to_bottom(name):
    """A cell that raises would raise here."""
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    run = execute(name, small=True)
    assert pictures(run) == pictures(stored)
    nbformat.validate(cleaned(run))


def main():
    for name in sys.argv[1:] or NAMES:
        notebook = cleaned(execute(name, small=False))
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(name)


if __name__ == "__main__":
    main()
