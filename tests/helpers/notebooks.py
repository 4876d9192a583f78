"""Run the notebooks of examples/, and store their outputs.

    KERAS_BACKEND=jax python tests/helpers/notebooks.py [NAME ...]
    KERAS_BACKEND=jax pytest tests/helpers/notebooks.py

The first command runs them at full size and stores pictures, results and
printed texts, without times and stderr. It also attaches the picture that a
notebook opens with, and writes it to docs/notebooks. The second command runs
them at a small size, as `nox -s notebooks-jax notebooks-tensorflow
notebooks-torch` does. test_notebooks.py checks the stored outputs without a
run.
"""

import base64
import io
import os
import pathlib
import sys

import nbclient
import nbformat
import pytest
from PIL import Image

FOLDER = pathlib.Path(__file__).parents[2] / "examples" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
THUMBNAILS = FOLDER.parents[1] / "docs" / "notebooks"
# Index of the PNG among the outputs that a notebook opens with.
OPENING = {
    "compare": 0,
    "insert_bert": 1,
    "language_neurons": 0,
    "nowcasting": 0,
    "quickstart": 2,
}

# Third-party packages that connect the processes raise warnings.
pytestmark = pytest.mark.filterwarnings("ignore")


def execute(name, small):
    """Return the notebook after a run from top to bottom in a new process."""
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    environment = dict(os.environ)
    # Without this setting, pictures become outputs.
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
    """Return the notebook without parts that differ between runs."""
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


def open_with_picture(notebook, name):
    """Attach an output to the first cell, and write it to `THUMBNAILS`."""
    found = [
        output["data"]["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    image = Image.open(io.BytesIO(base64.b64decode(found[OPENING[name]])))
    image = image.convert("RGB")
    image.thumbnail((600, 600))
    file = io.BytesIO()
    image.quantize(128).save(file, "png", optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    notebook.cells[0].attachments = {"opening.png": {"image/png": encoded}}
    THUMBNAILS.mkdir(exist_ok=True)
    (THUMBNAILS / f"{name}.png").write_bytes(file.getvalue())


def pictures(notebook):
    """Return the kinds of the pictures of each cell."""
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
    """An error in a cell raises here."""
    stored = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    run = execute(name, small=True)
    assert pictures(run) == pictures(stored)
    nbformat.validate(cleaned(run))


def main():
    for name in sys.argv[1:] or NAMES:
        notebook = cleaned(execute(name, small=False))
        open_with_picture(notebook, name)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(name)


if __name__ == "__main__":
    main()
