"""Docstrings as Keras writes them, for mkdocstrings.

Griffe reads Google's sections. What ours have beside them becomes Markdown:
doctests, which stand at the margin; and sections of Keras' own, lists of
`name: what it is`.
"""

import re
from typing import Any

import griffe

HEADS = r"Call arguments|Notes|Output shape|References?|Weights|With labels"
SECTION = re.compile(
    rf"^(?P<head>(?:{HEADS})[^\n:]*):(?P<rest>[^\n]*)\n"
    r"(?P<body>(?:[ ]{4}[^\n]*\n|\n(?=[ ]{4}))*)",
    re.M,
)
DOCTEST = re.compile(r"^>>>[^\n]*\n(?:[^\n]+\n)*", re.M)
# A name, or some, at the margin of the section.
ITEM = re.compile(r"^[ ]{4}([\w*][\w, *]*): ", re.M)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called once for each object, whatever its kind."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """`text` with Google's sections as they are, and Markdown for the rest."""
    text = SECTION.sub(_section, f"{text}\n")
    text = re.sub(r"^Example:$", "**Example**", text, flags=re.M)
    return DOCTEST.sub(
        lambda found: f"```pycon\n{found[0]}```\n", text
    ).rstrip()


def _section(found: re.Match[str]) -> str:
    body = ITEM.sub(_item, found["body"])
    body = re.sub(r"^[ ]{4}", "", body, flags=re.M)
    rest = f"\n{found['rest'].strip()}\n" if found["rest"] else ""
    return f"**{found['head']}**\n{rest}\n{body}\n"


def _item(found: re.Match[str]) -> str:
    names = ", ".join(f"`{name.strip()}`" for name in found[1].split(","))
    return f"    - {names}: "
