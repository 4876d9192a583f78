"""The example that analyzes a data set in parts."""

import sys

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("pandas")

from examples import analyze_parts
from keras_memel import Report

pytestmark = pytest.mark.once


def test_parts_are_merged_and_missing_ones_made(tmp_path, monkeypatch, capsys):
    """In this process: two others would take seconds to start."""
    import concurrent.futures

    class Here(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, workers, context):
            super().__init__(1)

    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Here)
    out = tmp_path / "parts"
    monkeypatch.setattr(sys, "argv", ["analyze_parts", "--out", str(out)])
    analyze_parts.main()
    first = capsys.readouterr().out
    assert "4 parts analyzed, 0 found" in first
    assert "1,797 inputs, 64 neurons" in first
    page = (out / "neurons.html").read_text(encoding="utf-8")
    (out / "part_2.npz").unlink()
    analyze_parts.main()
    second = capsys.readouterr().out
    assert "1 parts analyzed, 3 found" in second
    assert (out / "neurons.html").read_text(encoding="utf-8") == page
    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert Report.load(out / "part_2.npz").inputs == 1797 * 3 // 4 - 1797 // 2
