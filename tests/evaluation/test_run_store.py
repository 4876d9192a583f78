"""RunStore: no finished run is lost, whatever happens to the machine."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from keras_memel import RunStore
from keras_memel.evaluation import run_store

pytestmark = [pytest.mark.once, pytest.mark.quick]

# This device of Linux behaves like a full disk.
FULL = pathlib.Path("/dev/full")


def run(seed, **more):
    return {"arm": "plain", "seed": seed, "scores": {"loss": 0.5}, **more}


@pytest.fixture
def store(tmp_path):
    return RunStore(tmp_path / "new" / "folder" / "run_store.jsonl")


def ready(store):
    store.check_writable(1000)
    return store


def test_what_is_appended_is_read_in_its_order(store):
    many = [run(seed) for seed in (3, 1, 2)]
    ready(store)
    for one in many:
        store.append(one)
    assert store.read() == many
    assert len(store.path.read_text().splitlines()) == 3


def test_no_file_holds_no_runs(store):
    assert store.read() == []


def test_the_check_leaves_the_file_as_it_was(store):
    ready(store).append(run(0))
    before = store.path.read_bytes()
    store.check_writable(100_000)
    assert store.path.read_bytes() == before


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_survives_in_strict_json(store, score):
    ready(store).append({**run(0), "scores": {"loss": score}})

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(store.path.read_text(), parse_constant=refuse)
    assert str(store.read()[0]["scores"]["loss"]) == str(score)


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_half_written_last_line_costs_its_run_only(store, cut):
    ready(store)
    for seed in (0, 1):
        store.append(run(seed))
    whole = store.path.read_bytes()
    end = whole.index(b"\n") + 1
    # -1: the line is whole, and only its end of line is missing.
    store.path.write_bytes(whole[: end + cut] if cut > 0 else whole[:-1])
    if cut > 0:
        with pytest.warns(UserWarning, match=r"Lines \[2\] .* do not"):
            assert store.read() == [run(0)]
    else:
        assert store.read() == [run(0), run(1)]
    store.append(run(2))
    if cut > 0:
        with pytest.warns(UserWarning, match=r"\[2\]"):
            assert store.read() == [run(0), run(2)]
    else:
        assert store.read() == [run(0), run(1), run(2)]


@pytest.mark.parametrize(
    "line",
    ["[1, 2]", '{"arm": 3, "seed": 0, "scores": {}}', '{"seed": 0}', "\\xff",
     '{"arm": "a", "seed": 0}', '{"arm": "a", "seed": 0, "scores": [1]}'],
)  # fmt: skip
def test_a_line_that_is_no_run_is_named(store, line):
    ready(store).append(run(0))
    with open(store.path, "ab") as file:
        file.write(line.encode() + b"\n")
    with pytest.warns(UserWarning, match=r"\[2\]"):
        assert store.read() == [run(0)]


# The module alone, without Keras and a backend, whose import takes seconds.
CHILD = f"""
import importlib.util, resource, sys
spec = importlib.util.spec_from_file_location("store", {run_store.__file__!r})
run_store = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run_store)
store = run_store.RunStore(sys.argv[1])
def run(arm, seed, pad=""):
    return dict(arm=arm, seed=seed, scores=dict(loss=0.5), pad=pad)
"""


def child(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD + script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_several_processes_may_write_at_once(store):
    ready(store)
    script = """
for seed in range(40):
    store.append(run(sys.argv[2], seed, "x" * 5000))
"""
    arms = ("a", "b", "c")
    writers = [child(script, store.path, arm) for arm in arms]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    seen = [(run["arm"], run["seed"]) for run in store.read()]
    assert len(seen) == 120
    for arm in arms:
        assert [s for a, s in seen if a == arm] == list(range(40))


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_is_found_before_the_first_run(tmp_path):
    (tmp_path / "run_store.jsonl").symlink_to(FULL)
    with pytest.raises(OSError, match=r"No space left.*no run was started"):
        RunStore(tmp_path / "run_store.jsonl").check_writable(1)


def test_a_folder_is_no_store(tmp_path):
    with pytest.raises(IsADirectoryError, match="no run was started"):
        RunStore(tmp_path).check_writable(1)


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="no run was started"):
        RunStore(tmp_path / "file" / "run_store.jsonl").check_writable(1)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_forbidden_file_is_found_before_the_first_run(store):
    ready(store).path.chmod(0o400)
    with pytest.raises(PermissionError, match="no run was started"):
        store.check_writable(1)


def test_a_disk_that_fills_keeps_all_whole_lines_and_no_half(store):
    ready(store)
    # A real disk that fills in the middle of a line behaves like this: the
    # kernel writes the part that fits and returns its length.
    script = """
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for seed in range(100):
    try:
        store.append(run("plain", seed))
    except OSError as error:
        print(seed, error)
        break
"""
    printed, _ = child(script, store.path).communicate()
    stopped = int(printed.split()[0])
    assert stopped > 5
    assert "bytes were written" in printed
    assert [run["seed"] for run in store.read()] == list(range(stopped))
    assert store.path.read_bytes().endswith(b"\n")
