"""Convert docstrings in the style of Keras for mkdocstrings.

Griffe parses Google's sections. This extension converts the rest to Markdown:
doctests without indentation, and the sections of Keras, which are lists of
`name: description`.
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
# One or more names at the start of an entry of a section.
ITEM = re.compile(r"^[ ]{4}([\w*][\w, *]*): ", re.M)


class Docstrings(griffe.Extension):
    """Rewrite each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Convert the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """Convert all but Google's sections of `text` to Markdown."""
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
