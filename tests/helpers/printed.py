"""Printed numbers, compared as numbers: machines round the last digit each in
its own way."""

import doctest
import math
import re

# Neither a part of a word (x86, v2) nor of a version (3.15.1).
NUMBER = re.compile(
    r"(?<![\w.])(?:(?<!\d)[-+])?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"(?!\.?\w)"
)


def difference(found, expected):
    """Return where two texts differ, `""` if they say the same.

    Words and whole numbers must be equal. Numbers with decimals may differ by
    one unit of the last decimal printed.
    """
    for number, (ours, theirs) in enumerate(
        zip(found.splitlines(), expected.splitlines()), 1
    ):
        if not _same_line(ours, theirs):
            return f"line {number}: found\n{ours}\nexpected\n{theirs}"
    lengths = [len(text.splitlines()) for text in (found, expected)]
    if lengths[0] != lengths[1]:
        return "found {} lines, expected {}".format(*lengths)
    return ""


def _same_line(found, expected):
    if found == expected:
        return True
    if NUMBER.sub("#", found).split() != NUMBER.sub("#", expected).split():
        return False
    pairs = zip(NUMBER.findall(found), NUMBER.findall(expected), strict=True)
    return all(_same_number(*pair) for pair in pairs)


def _same_number(found, expected):
    units = [_unit(text) for text in (found, expected)]
    values = [float(text.replace(",", "")) for text in (found, expected)]
    # The tolerance is a little more than one unit, which floats cannot
    # represent exactly.
    return math.isclose(*values, rel_tol=0, abs_tol=1.001 * max(units))


def _unit(text):
    """The value of one unit of the last decimal, 0 for a whole number."""
    mantissa, _, exponent = text.lower().partition("e")
    decimals = mantissa.partition(".")[2]
    if not decimals:
        return 0.0
    return 10.0 ** (int(exponent or 0) - len(decimals))


class OutputChecker(doctest.OutputChecker):
    """A checker of doctests that compares numbers with `difference`."""

    def check_output(self, want, got, optionflags):
        return super().check_output(want, got, optionflags) or not difference(
            " ".join(got.split()), " ".join(want.split())
        )
