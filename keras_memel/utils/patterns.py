"""Which parts of a model a user means: patterns of paths, and `"middle:N"`.

The same rules for every kind of model: a `Tree` holds what differs.
"""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable
from typing import Any

_MIDDLE = re.compile(r"middle:(\d+)")

# Paths in a message where nothing says which are the nearest.
_MOST_PATHS = 20


@dataclasses.dataclass(frozen=True)
class Tree:
    """The parts of a model, and how a user names them.

    Attributes:
        sites: Objects with `path`, `layer` and `chain` (from the model down to
            the part), in the order of the model.
        name: What messages call the model.
        noun: What messages call a part.
        part: Class of the parts.
        kind: From a part to its class and the shapes of its weights. Siblings
            of one kind make a run; those without weights do not end one.
        separator: What joins the names of a path.
        hint: Returns a sentence that helps where `"middle:N"` fails.
    """

    sites: list[Any]
    name: str
    noun: str
    part: type
    kind: Callable[[Any], tuple[type, tuple[Any, ...]]]
    separator: str = "/"
    hint: Callable[[], str] = str


def select(tree: Tree, where: Any, argument: str = "where") -> list[Any]:
    """The sites that `where` names, in the order of the model.

    Args:
        tree: The parts of a model.
        where: As in `find`.
        argument: What the user calls `where`.

    Raises:
        ValueError: If it, or one entry of a list, names none; the message lists
            the nearest paths.
    """
    sites = tree.sites
    if isinstance(where, str):
        # What `find` has returned names its part, whatever is in it.
        found = [site for site in sites if site.path == where]
        if found:
            return found
        if middle := _MIDDLE.fullmatch(where):
            return _middle(tree, int(middle[1]), argument)
        pattern = where.replace(tree.separator, "/")
        found = [
            site
            for site in sites
            if matches(site.path.replace(tree.separator, "/"), pattern)
        ]
    elif isinstance(where, tree.part):
        found = [site for site in sites if site.layer is where]
    elif callable(where):
        found = [site for site in sites if where(site.layer)]
    elif isinstance(where, (list, tuple, set)) and where:
        wanted = {
            id(site)
            for entry in where
            for site in select(tree, entry, argument)
        }
        found = [site for site in sites if id(site) in wanted]
    else:
        raise ValueError(
            f"Argument `{argument}` must be a pattern of {tree.noun} paths, "
            f"'middle:N', a {tree.noun}, a predicate on {tree.noun}s, or a "
            "list of these. "
            f"Received: {argument}={where!r} ({type(where).__name__})"
        )
    if not found:
        raise ValueError(
            f"Argument `{argument}` must name at least one {tree.noun} of "
            f"{tree.name}; {_nearest(sites, where)}. "
            f"Received: {argument}={where!r}"
        )
    return found


def _nearest(sites: list[Any], where: Any) -> str:
    paths = [site.path for site in sites]
    if not paths:
        return "it has none inside"
    if not isinstance(where, str):
        more = ", ..." if len(paths) > _MOST_PATHS else ""
        return ", ".join(map(repr, paths[:_MOST_PATHS])) + more

    def likeness(site: Any) -> float:
        return max(
            difflib.SequenceMatcher(None, where, text).ratio()
            for text in (site.path, re.split(r"[/.]", site.path)[-1])
        )

    nearest = sorted(sites, key=likeness)[:-6:-1]
    return ", ".join(repr(site.path) for site in nearest)


def _middle(tree: Tree, number: int, argument: str) -> list[Any]:
    best: list[Any] = []
    by_parent: dict[int, list[Any]] = {}
    for site in tree.sites:
        by_parent.setdefault(id(site.chain[-2]), []).append(site)
    for siblings in by_parent.values():
        run: list[Any] = []
        previous = None
        for site in siblings:
            kind = tree.kind(site.layer)
            if not kind[1]:  # residual additions, dropout, activations
                continue
            run = [*run, site] if kind == previous else [site]
            previous = kind
            if len(run) > len(best):
                best = run
    if not 1 <= number <= len(best):
        longest = f"0: the model has no {tree.noun}s with weights"
        if best:
            longest = f"{len(best)} ({best[0].path} to {best[-1].path})"
        raise ValueError(
            f"Argument `{argument}` asks for the middle of the longest run of "
            f"equal {tree.noun}s; its length is {longest}. {tree.hint()}"
            f"Received: {argument}='middle:{number}'"
        )
    start = (len(best) - number) // 2
    return best[start : start + number]


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
