"""Write the address of the repository where stored files contain it.

    python docs/generate/repository.py

pyproject.toml contains the address: `repository` in `[tool.keras-memel]`. With
an address, each notebook has a link that opens it in Colab, and installs the
package from the repository until its version is released. CITATION.cff names
the address. Without an address, the script removes the links.
"""

import json
import pathlib
import re
import textwrap
import tomllib

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def main():
    for path, text in made(address(), is_released()).items():
        path.write_text(text, encoding="utf-8", newline="\n")


def address():
    settings = tomllib.loads(read(ROOT / "pyproject.toml"))
    return settings["tool"]["keras-memel"]["repository"]


def is_released():
    """Tell whether the newest version of the changelog is released."""
    newest = re.search(r"^## \[.*", read(ROOT / "CHANGELOG.md"), re.M)[0]
    return "unreleased" not in newest


def made(repository, released):
    """Return the text of each file that contains the address."""
    files = {
        path: notebook(json.loads(read(path)), path.name, repository, released)
        for path in NOTEBOOKS
    }
    for path, change in (
        (ROOT / "CITATION.cff", citation),
        (ROOT / "docs" / "notebooks.md", page),
    ):
        files[path] = change(read(path), repository, released)
    return files


def notebook(content, name, repository, released):
    """Return a notebook with its link, and with the source of the package."""
    opening, installing = content["cells"][:2]
    lines = [
        line for line in opening["source"] if "[Open in Colab]" not in line
    ]
    if len(lines) < len(opening["source"]):
        del lines[2]  # the empty line that followed the link
    if repository:
        colab = repository.replace(
            "//github.com/", "//colab.research.google.com/github/"
        )
        url = f"{colab}/blob/main/examples/notebooks/{name}"
        lines[2:2] = [f"[Open in Colab]({url})\n", "\n"]
    opening["source"] = lines
    text = "".join(installing["source"])
    since = "" if repository or released else ", from release 0.1.0 on"
    text = re.sub(
        "^# .*", f"# Installs the package if it is missing{since}.", text
    )
    origin = f" @ git+{repository}" if repository and not released else ""
    text = re.sub(r'("keras-memel\[[\w,]+\]).*"', rf'\1{origin}"', text)
    installing["source"] = text.splitlines(keepends=True)
    return (
        json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    )


def citation(text, repository, released):
    """Return CITATION.cff with the address of the code."""
    text = re.sub(r"^repository-code: .*\n", "", text, flags=re.M)
    line = f'repository-code: "{repository}"\n' if repository else ""
    return re.sub(r"^(license: .*\n)", rf"\1{line}", text, flags=re.M)


def page(text, repository, released):
    """Return docs/notebooks.md with the way to open a notebook in Colab."""
    since = "" if repository or released else " (from release 0.1.0 on)"
    way = 'use its link "Open in Colab"' if repository else 'use "Upload"'
    paragraph = (
        "Each notebook runs from top to bottom on each of the three backends, "
        "and contains its output. The first cell with code installs the "
        f"package{since}, and the second chooses the backend. To open a "
        f"notebook in Colab, {way}."
    )
    title, _, rest = text.split("\n\n", 2)
    return "\n\n".join([title, textwrap.fill(paragraph, 84), rest])


def read(path):
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
