"""printed.py: which texts say the same, and which do not."""

import doctest

import printed
import pytest

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("| +3.734 to +4.802 |", "| +3.735 to +4.802 |"),
        ("p = 0.049,  10 seeds", "p = 0.05, 10 seeds"),
        ("-0.0 to 0.1", "+0.0 to 0.2"),
        ("1,234.5 ms", "1,234.6 ms"),
        ("1.20e-04", "1.21e-04"),
        ("9.99", "10.00"),
        ("jax 0.10.2, 2.13.0+cpu.", "jax 0.10.2, 2.13.0+cpu."),
    ],
)
def test_a_unit_of_the_last_decimal_is_rounding(found, expected):
    assert not printed.difference(found, expected)
    assert not printed.difference(expected, found)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("+3.734 to +4.802", "+3.736 to +4.802"),
        ("+3.7 better", "+3.7 worse"),
        ("-0.3", "0.3"),
        ("10 seeds", "11 seeds"),
        ("1,234", "1,235"),
        ("1.20e-04", "1.20e-05"),
        ("0.1", "nan"),
        ("0.1 0.2", "0.1"),
        ("jax 0.10.2", "jax 0.10.3"),
        ("3.15.1", "3.14.1"),
        ("2 % of x86", "2 % of x64"),
        ("a\nb", "a"),
    ],
)
def test_anything_else_is_a_difference(found, expected):
    assert printed.difference(found, expected)
    assert printed.difference(expected, found)


def test_a_difference_names_its_line():
    text = printed.difference("a\nb 1.5\n", "a\nb 2.5\n")
    assert text == "line 2: found\nb 1.5\nexpected\nb 2.5"


def test_a_docstring_may_round_its_last_digit():
    check = printed.OutputChecker().check_output
    flags = doctest.NORMALIZE_WHITESPACE
    assert check("array([0.12, 0.5])\n", "array([0.13,\n  0.5])\n", flags)
    assert not check("array([0.12, 0.5])\n", "array([0.14, 0.5])\n", flags)
    assert not check("(3, 4)\n", "(3, 5)\n", flags)
