"""The example that analyzes a data set in parts."""

import shutil
import signal
import sys

import processes
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("pandas")

from examples import analyze_parts
from keras_memel import Report

pytestmark = pytest.mark.once


# Dies while it writes the third part.
DIES = """
import concurrent.futures
import os
import signal
import sys

import numpy as np

from examples import analyze_parts

class Here(concurrent.futures.ThreadPoolExecutor):
    def __init__(self, workers, context):
        super().__init__(1)

save, written = np.savez_compressed, []

def dies(file, **arrays):
    written.append(file)
    if len(written) == 3:
        file.write(b"PK, the beginning of a file")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, **arrays)

concurrent.futures.ProcessPoolExecutor = Here
np.savez_compressed = dies
sys.argv = ["analyze_parts", "--out", sys.argv[1]]
analyze_parts.main()
"""


def merged(folder):
    parts = [Report.load(folder / f"part_{n}.npz") for n in range(4)]
    found = parts[0]
    for one in parts[1:]:
        found = found.merge(one)
    return found


def test_a_killed_analysis_goes_on_to_the_same_report(
    tmp_path, monkeypatch, capsys
):
    import concurrent.futures

    class Here(concurrent.futures.ThreadPoolExecutor):
        def __init__(self, workers, context):
            super().__init__(1)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    done = processes.run("-c", DIES, killed, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert {one.name for one in killed.glob("part_*")} == {
        "part_0.npz",
        "part_1.npz",
    }
    before = (killed / "part_1.npz").read_bytes()
    whole.mkdir()
    shutil.copy(killed / "model.keras", whole)
    monkeypatch.setattr(concurrent.futures, "ProcessPoolExecutor", Here)
    for folder, said in (
        (killed, "2 parts analyzed, 2 found"),
        (whole, "4 parts analyzed, 0 found"),
    ):
        monkeypatch.setattr(sys, "argv", ["analyze", "--out", str(folder)])
        analyze_parts.main()
        assert said in capsys.readouterr().out
    assert (killed / "part_1.npz").read_bytes() == before
    found, expected = merged(killed), merged(whole)
    assert found.to_dataframe().equals(expected.to_dataframe())
    for name in ("histogram", "label_zeros", "top_input", "ms_curve"):
        left, right = (
            getattr(one["hidden"], name) for one in (found, expected)
        )
        assert (left == right).all(), name
    pages = [(one / "neurons.html").read_bytes() for one in (killed, whole)]
    assert pages[0] == pages[1]


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
