"""Select parts of a model by patterns of paths or `"middle:N"`.

The rules are the same for every kind of model. A `Tree` describes the
differences.
"""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable
from typing import Any

_MIDDLE = re.compile(r"middle:(\d+)")

# Number of paths in a message if the nearest ones cannot be determined.
_MOST_PATHS = 20


@dataclasses.dataclass(frozen=True)
class Tree:
    """Parts of a model, and how a user names them.

    Attributes:
        sites: Objects with `path`, `layer` and `chain` (from the model down to
            the part), in the order of the model.
        name: Name of the model in messages.
        noun: Word for a part in messages.
        part: Class of the parts.
        kind: Function from a part to its class and the shapes of its weights.
            Siblings of one kind form a run. Siblings without weights do not
            end it.
        separator: String that joins the names of a path.
        hint: Function that returns a sentence to help if `"middle:N"` fails.
    """

    sites: list[Any]
    name: str
    noun: str
    part: type
    kind: Callable[[Any], tuple[type, tuple[Any, ...]]]
    separator: str = "/"
    hint: Callable[[], str] = str


def select(tree: Tree, where: Any, argument: str = "where") -> list[Any]:
    """Return the sites that `where` selects, in the order of the model.

    Args:
        tree: Parts of a model.
        where: As in `find`.
        argument: Name that the error message uses for `where`.

    Raises:
        ValueError: If `where`, or an entry of a list, selects no site. The
            message lists the nearest paths.
    """
    sites = tree.sites
    if isinstance(where, str):
        # A path that `find` has returned always selects its part.
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
            f"Argument `{argument}` must select at least one {tree.noun} of "
            f"{tree.name}; {_nearest(sites, where)}. "
            f"Received: {argument}={where!r}"
        )
    return found


def _nearest(sites: list[Any], where: Any) -> str:
    paths = [site.path for site in sites]
    if not paths:
        return "it contains none"
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
            if not kind[1]:  # such as additions, dropout or activations
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
            f"Argument `{argument}`='middle:N' selects N {tree.noun}s in the "
            f"middle of the longest run of equal {tree.noun}s. N must be "
            f"between 1 and the length of this run, {longest}. {tree.hint()}"
            f"Received: {argument}='middle:{number}'"
        )
    start = (len(best) - number) // 2
    return best[start : start + number]


def matches(path: str, pattern: str) -> bool:
    """Return whether the last names of a path match a pattern.

    `*`, `?` and `[...]` match within one name, and `**` matches any number of
    names. A pattern that starts with "/" must match the full path.

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
