"""Fail if a public signature changes and CHANGELOG.md does not name it.

    python docs/generate/check_api.py --against origin/main

It compares the package in this folder with that of a commit, without
importing either. The new lines of CHANGELOG.md must name the object of each
breaking change: a removed name, or an argument that was renamed, removed,
moved or made required.
"""

import argparse
import pathlib
import re
import subprocess
import sys

import griffe

PACKAGE = "keras_memel"


def gained_lines(repository, against, file="CHANGELOG.md"):
    """Return the lines of the file that it lacked at the commit."""
    done = subprocess.run(
        ["git", "show", f"{against}:{file}"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,  # The file may be missing at the commit.
    )
    before = set(done.stdout.splitlines())
    text = pathlib.Path(repository, file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line not in before]


def exported(package):
    """Return a module that contains only the names in `__all__`."""
    module = griffe.Module(package.name, filepath=package.filepath)
    for element in package["__all__"].value.elements:
        found = package[element.strip("'\"")]
        found = found.final_target if found.is_alias else found
        if not found.is_module:  # Its public names are in `__all__` too.
            module.set_member(found.name, found)
    return module


def undocumented(repository, against, package=PACKAGE):
    """Return the breaking changes that the changelog does not name."""
    old = griffe.load_git(package, ref=against, repo=repository)
    new = griffe.load(package, search_paths=[repository])
    log = "\n".join(gained_lines(repository, against))
    return [
        breakage
        for breakage in griffe.find_breaking_changes(
            exported(old), exported(new)
        )
        if not re.search(rf"\b{re.escape(breakage.obj.name)}\b", log)
    ]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--against", default="origin/main", help="a commit")
    options = parser.parse_args(arguments)
    root = pathlib.Path(__file__).parents[2]
    found = undocumented(root, options.against)
    for breakage in found:
        print(breakage.explain(style=griffe.ExplanationStyle.ONE_LINE))
    if found:
        sys.exit("CHANGELOG.md must name each public object that changes.")


if __name__ == "__main__":
    main()
