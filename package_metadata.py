"""The metadata of the package that depend on the address of the repository.

The readme links to files of the repository by relative links, which a package
index cannot follow. hatchling calls this hook, which reads the address from
`[tool.keras-memel]` in pyproject.toml. With an address, relative links become
absolute and the package names its addresses. Without one, a relative link
becomes its text, and a relative picture is omitted.
"""

import pathlib
import re
import tomllib
from urllib.parse import urljoin
from urllib.parse import urlsplit

from hatchling.metadata.plugin.interface import MetadataHookInterface

# The text of a link may contain spans of code and, once more, brackets: a
# picture that is a link. Possessive repeats (`*+`) never go back.
_INNER = r"(?:[^\[\]\\`]|\\.|`[^`]*`|`)*+"
_TEXT = rf"(?:[^\[\]\\`]|\\.|`[^`]*`|`|\[{_INNER}\](?:\([^()]*\))?)*+"
_TARGET = r"<[^<>\n]*>|[^\s()<>]+(?:\([^\s()]*\)[^\s()<>]*)*"
_TITLE = r"\"[^\"]*\"|'[^']*'|\([^()]*\)"

# Markdown as a sequence of what contains no link (blocks and spans of code,
# comments, escaped characters), of definitions, and of links and pictures.
_MARKDOWN = re.compile(
    rf"""
    (?P<verbatim>
        ^[ >]*(?P<fence>`{{3,}}(?=[^`\n]*$)|~{{3,}}).*\n
        (?s:.*?)
        (?:^[ >]*(?P=fence)[`~]*[ ]*$|\Z)
        |<!--(?s:.*?)-->
        |(?P<ticks>`++)(?:(?!\n[ >]*\n)(?s:.))+?(?<!`)(?P=ticks)(?!`)
        |`++
        |\\.
    )
    |(?P<definition>
        ^[ ]{{0,3}}\[(?P<name>(?!\^)[^\[\]\n]+)\]:
        [ \t]*(?P<defined>{_TARGET})(?:[ \t]+(?:{_TITLE}))?[ \t]*(?:\n|\Z)
    )
    |(?P<picture>!?)\[(?P<text>{_TEXT})\]
        (?:
            \([ ]*(?P<target>{_TARGET})(?P<title>\s+(?:{_TITLE}))?[ ]*\)
            |\[(?P<label>[^\[\]]*)\]
        )?
    """,
    re.MULTILINE | re.VERBOSE,
)


class PackageMetadata(MetadataHookInterface):
    """Provide the long description and the project's addresses."""

    def update(self, metadata):
        root = pathlib.Path(self.root)
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
        settings = tomllib.loads(text)["tool"]["keras-memel"]
        repository = settings["repository"]
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": long_description(
                (root / "README.md").read_text(encoding="utf-8"), repository
            ),
        }
        metadata["urls"] = {**project_urls(repository), **settings["urls"]}


def project_urls(repository):
    """Return the pages of a repository on GitHub, or none without it."""
    if not repository:
        return {}
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]*\w", repository):
        raise ValueError(
            "pyproject.toml: `repository` in [tool.keras-memel] must be empty "
            "or an address `https://github.com/OWNER/NAME`. "
            f"Received: {repository!r}"
        )
    return {
        "Repository": repository,
        "Documentation": f"{repository}/blob/main/docs/index.md",
        "Issues": f"{repository}/issues",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
    }


def long_description(readme, repository):
    """Return a readme whose links work outside of its repository.

    The forms are those of Markdown: links, pictures, pictures in links and
    references. Links to folders end in a slash. Fenced blocks and spans of code
    do not change. HTML is not parsed.

    Args:
        readme: The text of README.md.
        repository: `https://github.com/OWNER/NAME`, or an empty string.
    """
    definitions = {
        _key(found["name"]): found["defined"].strip("<>")
        for found in _MARKDOWN.finditer(readme)
        if found["definition"] and not _is_absolute(found["defined"])
    }
    return _rewritten(readme, repository, definitions, inside=False)


def _rewritten(markdown, repository, definitions, inside):
    """Rewrite links; within a link, an omitted picture becomes its text."""

    def rewrite(match):
        if match["verbatim"]:
            return match[0]
        if match["definition"]:
            # A link to it gets the target itself.
            return match[0] if _is_absolute(match["defined"]) else ""
        text = match["text"]
        if match["target"]:
            target, title = match["target"].strip("<>"), match["title"] or ""
        else:
            target = definitions.get(_key(match["label"] or text))
            title = ""
        if not match["picture"]:
            text = _rewritten(text, repository, definitions, inside=True)
        shown = f"{match['picture']}[{text}]"
        if target is None or _is_absolute(target):
            return shown + match[0][len(match["picture"] + match["text"]) + 2 :]
        if repository:
            target = _absolute(target, repository, bool(match["picture"]))
            return f"{shown}({target}{title})"
        return "" if match["picture"] and not inside else text

    return _MARKDOWN.sub(rewrite, markdown)


def _key(label):
    """Return a label as references compare it."""
    return " ".join(label.casefold().split())


def _is_absolute(target):
    parts = urlsplit(target.strip("<>"))
    return bool(parts.scheme or parts.netloc)


def _absolute(target, repository, is_picture):
    is_folder = urlsplit(target).path.endswith("/")
    kind = "raw" if is_picture else "tree" if is_folder else "blob"
    # A target may begin at the root of the repository, or be an anchor.
    page = f"{repository}/{kind}/main/README.md"
    return urljoin(page, target.lstrip("/")).replace(" ", "%20")
