"""compare in processes: of a pool, and killed in the middle of a run."""

import re
import signal

import numpy as np
import processes
import pytest
from recorder import Recorder
from recorder import quiet
from recorder import score

from keras_memel import RunStore

pytestmark = pytest.mark.once


def test_a_process_pool_stores_failures_and_where_they_were(tmp_path):
    # `fork` after a backend has started threads may hang: spawn, as users.
    script = tmp_path / "study.py"
    script.write_text(
        """
import concurrent.futures, multiprocessing, os, sys, warnings
from keras_memel import compare

def train(arm, seed):
    if seed == 1:
        raise RuntimeError(arm)
    return {"score": seed, "pid": os.getpid()}

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        compare(train, ["a", "b"], 2, store=sys.argv[1], executor=executor)
    print(os.getpid())
"""
    )
    store = tmp_path / "runs.jsonl"
    done = processes.run(script, store)
    runs = RunStore(store).read()
    assert len(runs) == 4
    pids = {run["scores"]["pid"] for run in runs if "scores" in run}
    assert float(done.stdout) not in pids
    errors = [run["error"] for run in runs if "error" in run]
    assert all("RuntimeError" in error for error in errors)
    assert len(errors) == 2
    # The progress bar counts all runs and shows the remaining time.
    assert re.search(r"4/4 \[.*<", done.stderr)
    assert "b, seed 1, failed: RuntimeError: b" in done.stderr


def test_kill_9_loses_nothing_that_was_finished(tmp_path):
    # Killed in the middle of the run of arm "good" with seed 3: from within,
    # so that the moment is known.
    script = tmp_path / "study.py"
    script.write_text(
        """
import os, signal, sys
from keras_memel import compare
from recorder import score

def train(arm, seed):
    if (arm, seed) == ("good", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return score(arm, seed)

compare(train, ["a", "good"], store=sys.argv[1])
"""
    )
    store = tmp_path / "runs.jsonl"
    done = processes.run(script, store, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [(run["arm"], run["seed"]) for run in RunStore(store).read()] == [
        ("a", 0), ("good", 0), ("a", 1), ("good", 1), ("a", 2), ("good", 2),
        ("a", 3),
    ]  # fmt: skip
    train = Recorder()
    resumed = quiet(train, ["a", "good"], store=store)
    assert len(train.asked) == 13
    whole = quiet(score, ["a", "good"])
    assert resumed.summary() == whole.summary()
    for ours, theirs in zip(resumed.contrasts, whole.contrasts, strict=True):
        np.testing.assert_array_equal(ours.deltas, theirs.deltas)
        assert (ours.low, ours.high) == (theirs.low, theirs.high)


def test_a_killed_worker_costs_its_own_run_only(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(
        """
import concurrent.futures, multiprocessing, os, sys, warnings
from keras_memel import compare

def train(arm, seed):
    if (arm, seed) == ("b", 1):
        os._exit(9)
    if (arm, seed) == ("a", 2):
        sys.exit("enough")
    return float(seed)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, context) as executor:
        compare(train, ["a", "b"], 3, store=sys.argv[1], executor=executor)
"""
    )
    store = tmp_path / "runs.jsonl"
    processes.run(script, store)
    runs = {(r["arm"], r["seed"]): r for r in RunStore(store).read()}
    assert len(runs) == 6
    failed = {key: r["error"] for key, r in runs.items() if "error" in r}
    assert failed.keys() == {("b", 1), ("a", 2)}
    assert "its worker died 2 times" in failed["b", 1]
    assert "SystemExit: enough" in failed["a", 2]
    # A second call starts no run.
    train = Recorder()
    with pytest.warns(UserWarning, match="2 of 6 runs failed"):
        quiet(train, ["a", "b"], 3, store=store)
    assert train.asked == []
