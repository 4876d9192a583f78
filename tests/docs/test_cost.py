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


def measured(backend, layer, setting="layer alone", **measures):
    return {
        "backend": backend,
        "setting": setting,
        "layer": layer,
        "shape": [32, 128, 768],
        "versions": {"keras": "3.15.1", backend: "1.0"},
        **measures,
    }


def test_time_has_a_row_per_layer_and_a_column_per_backend(tmp_path):
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    slow = {"extra_ms": 10.0, "ratio_to_batchnorm": 2.0}
    rows = {
        "jax": [
            measured("jax", "MEmeL()", extra_ms=1.25, ratio_to_batchnorm=0.5),
            measured("jax", "MEmeL()", "transformer", extra_percent=1.04),
        ],
        "torch": [  # no transformer
            measured("torch", "MEmeL()", **slow),
            measured("torch", "Dropout(0.1)", **slow),
        ],
    }
    for backend, measurements in rows.items():
        file = folder / f"overhead_{backend}.json"
        file.write_text(json.dumps(measurements), encoding="utf-8")
    lines = cost.page(tmp_path).splitlines()
    assert "| layer | JAX | PyTorch |" in lines
    assert "| `MEmeL()` | 1.2 (0.50) | 10.0 (2.00) |" in lines
    assert "| `Dropout(0.1)` |  | 10.0 (2.00) |" in lines
    assert lines.count("| layer | JAX |") == 1
    assert "| `MEmeL()` | 1.0 |" in lines
    assert "Two cores, jax 1.0, keras 3.15.1, torch 1.0." in lines


def test_ratios_to_peers_and_limit_have_a_row_each(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    peers = load(ROOT / "benchmarks" / "peers.py")
    times = {
        "none": [0.001],
        "copy": [0.002],
        "BatchNormalization()": [0.011],
        "Dropout(0.1)": [0.009],
        "MEmeL()": [0.013],
        "rate": [0.005],
        "TopK(10)": [0.007],
        "TopK(100)": [0.009],
    }
    rows = peers.ratios("tokens", (32, 128, 768), times)
    for row in rows:
        row["backend"] = "jax"
    folder = tmp_path / "benchmarks" / "results"
    folder.mkdir(parents=True)
    text = json.dumps(rows)
    (folder / "peers_jax.json").write_text(text, encoding="utf-8")
    lines = cost.page(tmp_path).splitlines()
    assert "Tokens, `(32, 128, 768)`:" in lines
    assert "| rate / peer | 0.50 |" in lines  # 4 ms of 8
    assert "| rate / limit | 0.94 |" in lines  # 4 ms of 4.25
    assert "| `MEmeL()` / peer | 1.50 |" in lines
    assert "| `TopK(10)` / rate | 1.50 |" in lines
    assert "| `TopK(100)` / rate | 2.00 |" in lines
