"""Patterns of paths, whose `*` stays within a name."""

import fnmatch


def matches(path: str, pattern: str) -> bool:
    """Whether the last parts of a path fit a pattern.

    `*`, `?` and `[...]` stay within one name, `**` stands for any number of
    names; a pattern that starts with "/" must fit the whole path.

    Example:

    >>> matches("backbone/block_1/dense", "block_*/dense")
    True
    >>> matches("backbone/block_1/dense", "block_*")
    False
    """
    parts = pattern.strip("/").split("/")
    if not pattern.startswith("/"):
        parts = ["**", *parts]
    return _fits(path.split("/"), parts)


def _fits(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[i:], parts[1:]) for i in range(len(names) + 1))
    return (
        bool(names)
        and fnmatch.fnmatchcase(names[0], parts[0])
        and _fits(names[1:], parts[1:])
    )
