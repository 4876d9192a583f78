"""Check that the colors of the page have the contrast of WCAG 2.2."""

import importlib.resources
import itertools
import re

import pytest

pytestmark = [pytest.mark.once, pytest.mark.quick]

CSS = importlib.resources.files("keras_memel.reports") / "browser_assets"
STYLE = (CSS / "page.css").read_text(encoding="utf-8")
TEXT = ("ink", "quiet", "link", "pos", "neg", "mark")
BEHIND = ("bg", "panel", "chosen", "hover")


def colors():
    """Map the name of a variable to its light and its dark color."""
    found = re.findall(
        r"--(\w+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", STYLE
    )
    return {name: (light, dark) for name, light, dark in found}


def luminance(color):
    shares = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in shares
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula_is_that_of_wcag():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    # #767676 is known as the lightest gray that passes on white.
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("text", "behind"), [*itertools.product(TEXT, BEHIND)])
def test_text_stands_out(theme, text, behind):
    found = colors()
    assert contrast(found[text][theme], found[behind][theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("shade", ["posfill", "negfill"])
def test_shaded_tokens_can_be_read(theme, shade):
    """The strongest shade has the lowest contrast."""
    found = colors()
    assert contrast(found["ink"][theme], found[shade][theme]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_controls_and_marks_can_be_seen(theme):
    """Borders of controls and bars need a contrast of 3 only, unlike text."""
    found = colors()
    for name in ("edge", "mute", "pos", "neg", "link"):
        assert contrast(found[name][theme], found["bg"][theme]) >= 3, name


def test_every_color_of_text_is_one_of_those():
    used = set(re.findall(r"[; {]color: var\(--(\w+)\)", STYLE))
    # A pressed button swaps the colors of text and page.
    assert used - {"bg"} <= set(TEXT)
    assert set(re.findall(r"background: var\(--(\w+)\)", STYLE)) <= {
        *BEHIND,
        "ink",
    }
