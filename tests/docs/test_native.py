"""The table of docs/native.md is what the stored measurements say."""

import pytest
from scripts import ROOT
from scripts import load

pytestmark = pytest.mark.once

native = load(ROOT / "docs" / "generate" / "native.py")


def test_the_table_is_that_of_the_stored_measurements():
    stored = (ROOT / "docs" / "native.md").read_text(encoding="utf-8")
    assert native.page() == stored, "run: python docs/generate/native.py"
