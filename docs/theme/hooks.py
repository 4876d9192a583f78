"""MkDocs hooks: version, links into the repository, notebooks, scripts.

The name of the site contains the version of the package. The header links to
the repository if pyproject.toml contains its address.

Pages link to files of the repository by relative links, `../examples/x.py`,
which work wherever the repository is read. The site does not contain the
repository, so each linked file becomes a page, `source/...`. A link to a
missing file is unchanged, and fails the strict build.

A notebook becomes a page of its cells with their outputs.

The comment `<!-- scripts: a.py b.py -->` becomes a list of scripts with the
first lines of their docstrings; a name may be a pattern.

A line of text does not end between a number and its "%".
"""

import ast
import json
import pathlib
import posixpath
import re
import tomllib

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?(?=\))")
LANGUAGES = {
    ".cff": "yaml",
    ".csv": "text",
    ".json": "json",
    ".jsonl": "json",
    ".py": "python",
    ".toml": "toml",
    ".tsv": "text",
    ".txt": "text",
    ".yml": "yaml",
}
CODE = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>|<[^>]*>)", re.S)
# Only the beginning of a long file of results is shown.
MOST_LINES = 600


def on_config(config):
    """Add the version of the package, and the address of the repository."""
    text = (ROOT / "keras_memel/utils/version.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', text, re.M)[1]
    config.site_name = f"{config.site_name} {version}"
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    repository = tomllib.loads(text)["tool"]["keras-memel"]["repository"]
    if repository:
        config.repo_url = repository
        config.repo_name = "/".join(repository.split("/")[-2:])
    return config


def on_files(files, config):
    """Add a page for each file of the repository that a page links to."""
    for page in [file for file in files if file.is_documentation_page()]:
        for match in LINK.finditer(_filled(page.content_string)):
            path = _outside(page.src_uri, match[1])
            if path is None:
                continue
            uri = _page_of(path)
            if files.get_file_from_path(uri) is None:
                text = _page(path)
                files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Insert lists, and change links to point to these pages."""

    def replace(match):
        path = _outside(page.file.src_uri, match[1])
        if path is None:
            return match[0]
        start = posixpath.dirname(page.file.src_uri) or "."
        return posixpath.relpath(_page_of(path), start) + (match[2] or "")

    return LINK.sub(replace, _filled(markdown))


def on_page_content(html, page, config, files):
    """Keep each number and its "%" on one line, except in code."""
    parts = CODE.split(html)  # Every second part is code or a tag.
    parts[::2] = [re.sub(r"(?<=\d) %", "&nbsp;%", text) for text in parts[::2]]
    return "".join(parts)


def _filled(markdown):
    """Replace the comments `<!-- scripts: ... -->` with lists."""
    return re.sub(r"<!-- scripts: (.*?) -->", _scripts, markdown)


def _scripts(match):
    """Return a table of scripts and the first lines of their docstrings."""
    lines = ["| script | |", "|---|---|"]
    for pattern in match[1].split():
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            text = ast.get_docstring(ast.parse(path.read_text("utf-8")))
            first = (text or "").split("\n\n")[0].replace("\n", " ")
            lines.append(f"| [`{name}`](../{name}) | {first} |")
    return "\n".join(lines)


def _outside(uri, target):
    """Return the target of a link, if it is a file outside of docs/."""
    path = posixpath.normpath(
        posixpath.join("docs", posixpath.dirname(uri), target)
    )
    if uri.startswith("source/") or path.startswith(("docs/", "../")):
        return None
    return path if (ROOT / path).exists() else None


def _page_of(path):
    # The name loses the dot of .github, since MkDocs ignores hidden files.
    return f"source/{path.removeprefix('.')}.md"


def _page(path):
    """Return Markdown that shows a file, or the names in a folder."""
    lines = [f"# {posixpath.basename(path)}", "", f"`{path}`", ""]
    found = ROOT / path
    if found.is_dir():
        names = sorted(p.name for p in found.iterdir() if p.is_file())
        return "\n".join([*lines, *(f"- {name}" for name in names)])
    if found.suffix == ".ipynb":
        return _notebook(json.loads(found.read_text(encoding="utf-8")), path)
    if found.suffix in (".gif", ".keras", ".npz", ".png"):
        return "\n".join([*lines, f"{found.stat().st_size:,} bytes."])
    shown = found.read_text(encoding="utf-8").splitlines()
    if len(shown) > MOST_LINES:
        lines += [f"The first {MOST_LINES} of {len(shown):,} lines:", ""]
        shown = shown[:MOST_LINES]
    # The fence is longer than any fence inside the file.
    language = LANGUAGES.get(found.suffix, "text")
    return "\n".join([*lines, f"``````{language}", *shown, "``````", ""])


def _notebook(notebook, path):
    """Return Markdown of all cells, with their texts and pictures."""
    parts = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for name, kinds in cell.get("attachments", {}).items():
                source = source.replace(f"attachment:{name}", _data(kinds))
            parts.append(source)
            continue
        parts.append(f"``````python\n{source}\n``````")
        for output in cell["outputs"]:
            kinds = output.get("data", {})
            text = output.get("text", kinds.get("text/plain", ""))
            if any(kind.startswith("image/") for kind in kinds):
                parts.append(f"![Output of cell {number}]({_data(kinds)})")
            else:
                text = "".join(text).rstrip()
                parts.append(f"``````text\n{text}\n``````")
    parts.insert(1, f"`{path}`")
    return "\n\n".join([*parts, ""])


def _data(kinds):
    """Return the picture of an output as a data URL."""
    (kind,) = [kind for kind in kinds if kind.startswith("image/")]
    data = "".join("".join(kinds[kind]).split())
    return f"data:{kind};base64,{data}"
