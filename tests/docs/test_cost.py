"""docs/cost.md is what the stored measurements say."""

import json

import printed
import pytest
from scripts import ROOT
from scripts import load

pytestmark = pytest.mark.once

cost = load(ROOT / "docs" / "generate" / "cost.py")


def test_the_page_is_that_of_the_stored_measurements():
    stored = (ROOT / "docs" / "cost.md").read_text(encoding="utf-8")
    wrong = printed.difference(cost.page(), stored)
    assert not wrong, f"{wrong}\nrun: python docs/generate/cost.py"


def test_a_table_has_a_row_a_setting_and_a_column_a_backend(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    for backend, ms in (("jax", 1.25), ("torch", 2.5)):
        row = {
            "backend": backend,
            "part": "k",
            "selection": "TopK(1)",
            "extra_ms": ms,
            "ratio_to_rate": ms / 1.25,
        }
        file = folder / f"scaling_{backend}.jsonl"
        file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    lines = cost.page(tmp_path).splitlines()
    assert "| selection | JAX | PyTorch |" in lines
    assert "| `TopK(1)` | 1.2 (1.00) | 2.5 (2.00) |" in lines


def test_memory_is_told_where_it_was_measured(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    for backend, peak_mb in (("jax", 12.4), ("torch", None)):
        row = {"backend": backend, "layer": "MEmeL()", "peak_mb": peak_mb}
        file = folder / f"overhead_{backend}.json"
        file.write_text(json.dumps([row]), encoding="utf-8")
    lines = cost.page(tmp_path).splitlines()
    assert "| layer | JAX |" in lines
    assert "| `MEmeL()` | 12 |" in lines
