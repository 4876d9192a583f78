"""compare: each run is made once, kept, and survives what may happen.

`test_run_store.py` tests the store itself.
"""

import concurrent.futures
import functools
import pathlib
import subprocess

import keras
import pytest
from recorder import Recorder
from recorder import quiet
from recorder import score
from scripts import HELPERS

import keras_memel
from keras_memel import RunStore
from keras_memel import compare
from keras_memel.evaluation import environment

pytestmark = pytest.mark.once


def test_a_second_call_runs_nothing_and_finds_the_same(tmp_path):
    store = tmp_path / "runs.jsonl"
    first = quiet(score, ["a", "good"], store=store)
    before = store.read_bytes()
    train = Recorder()
    second = quiet(train, ["a", "good"], store=store)
    assert train.asked == []
    assert store.read_bytes() == before
    assert second.runs == first.runs
    assert second.to_markdown() == first.to_markdown()


def test_more_arms_and_seeds_run_only_what_is_new(tmp_path):
    store = tmp_path / "runs.jsonl"
    quiet(score, ["a", "good"], 2, store=store)
    train = Recorder()
    found = quiet(train, ["a", "good", "b"], 3, store=store)
    assert train.asked == [("b", 0), ("b", 1), ("a", 2), ("good", 2), ("b", 2)]
    assert len(found.runs) == 9
    # Fewer arms leave the others out, and in the store.
    fewer = quiet(train, ["b", "good"], 1, store=store)
    assert fewer.arms == ("b", "good")
    assert len(fewer.runs) == 2
    assert len(RunStore(store).read()) == 9


def fails_at_one(arm, seed):
    if (arm, seed) == ("good", 1):
        raise RuntimeError("out of memory, it seems")
    return score(arm, seed)


def test_a_run_that_raises_is_stored_and_the_study_goes_on(tmp_path):
    store = tmp_path / "runs.jsonl"
    with pytest.warns(UserWarning, match=r"1 of 6 runs failed.*good.*seed 1"):
        found = quiet(fails_at_one, ["a", "good"], 3, store=store)
    stored = RunStore(store).read()
    assert len(stored) == 6
    (failed,) = (run for run in stored if "error" in run)
    assert (failed["arm"], failed["seed"]) == ("good", 1)
    assert "fails_at_one" in failed["error"]
    assert "out of memory, it seems" in found.summary()
    assert found.failed == (failed,)


def test_what_failed_is_run_again_only_if_asked(tmp_path):
    store = tmp_path / "runs.jsonl"
    with pytest.warns(UserWarning, match="failed"):
        quiet(fails_at_one, ["a", "good"], 3, store=store)
    train = Recorder()
    with pytest.warns(UserWarning, match="failed"):
        quiet(train, ["a", "good"], 3, store=store)
    assert train.asked == []
    found = quiet(train, ["a", "good"], 3, store=store, retry_failed=True)
    assert train.asked == [("good", 1)]
    assert found.failed == ()
    # The successful run now counts, although the failed one stays in the file.
    assert quiet(train, ["a", "good"], 3, store=store).failed == ()
    assert len(RunStore(store).read()) == 7


def test_of_two_runs_of_a_seed_the_first_counts(tmp_path):
    # Two processes on one store leave these runs.
    store = RunStore(tmp_path / "runs.jsonl")
    for value in (1.0, 2.0):
        for arm in ("a", "b"):
            scores = {"score": value}
            store.append({"arm": arm, "seed": 0, "scores": scores})
    found = quiet(score, ["a", "b"], 1, store=store.path)
    assert {run["scores"]["score"] for run in found.runs} == {1.0}


def test_an_arm_that_means_something_else_now_is_refused(tmp_path):
    store = tmp_path / "runs.jsonl"
    quiet(lambda rate, seed: rate, {"a": 0.1, "b": 0.2}, 1, store=store)
    with pytest.raises(ValueError, match=r"'b'.*runs, 0.2.*Received: 0.3"):
        quiet(lambda rate, seed: rate, {"a": 0.1, "b": 0.3}, 2, store=store)


def test_each_run_says_where_it_was_made(tmp_path):
    found = quiet(score, ["a", "b"], 1, store=tmp_path / "runs.jsonl")
    run = found.runs[0]
    where = run["environment"]
    backend = keras.backend.backend()
    assert where["backend"] == backend
    assert where["versions"]["keras"] == keras.__version__
    assert where["versions"]["keras_memel"] == keras_memel.__version__
    assert where["versions"].keys() == {
        "python", "keras", "keras_memel", "numpy", backend,
    }  # fmt: skip
    assert "cpu" in where["device"].lower()
    assert run["seconds"] >= 0


def test_the_revision_is_that_of_the_folder_of_train(tmp_path, monkeypatch):
    # The temporary files of nox may be inside a repository.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    assert "revision" not in environment.environment_of(str(tmp_path / "plain"))
    git = functools.partial(
        subprocess.run, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    git(["git", "init"])
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("")
    git(["git", "add", "file"])
    git(["git", *author, "commit", "-m", "first", "--no-gpg-sign"])
    revision = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    assert environment.environment_of(str(tmp_path))["revision"] == revision
    environment.environment_of.cache_clear()
    (tmp_path / "file").write_text("changed")
    changed = environment.environment_of(str(tmp_path))["revision"]
    assert changed == f"{revision}-dirty"
    assert environment.folder_of(score) == str(HELPERS)
    partial = functools.partial(score, "a")
    assert environment.folder_of(partial) == str(HELPERS)
    assert environment.folder_of(Recorder()) == str(HELPERS)


def test_a_broken_executor_stops_the_study_and_keeps_what_is_done(tmp_path):
    store = tmp_path / "runs.jsonl"

    class Breaks(concurrent.futures.Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = concurrent.futures.Future()
            if args[2] < 2:
                future.set_result(fn(*args, **kwargs))
            else:
                error = concurrent.futures.BrokenExecutor("a worker died")
                future.set_exception(error)
            return future

    with pytest.raises(concurrent.futures.BrokenExecutor, match="died"):
        quiet(score, ["a", "b"], 3, store=store, executor=Breaks())
    # The death of a worker is not stored as the result of its run.
    assert all("error" not in run for run in RunStore(store).read())


def test_a_half_written_line_is_survived_and_its_run_made_again(tmp_path):
    store = tmp_path / "runs.jsonl"
    whole = quiet(score, ["a", "good"], store=store)
    store.write_bytes(store.read_bytes()[:-50])
    train = Recorder()
    with pytest.warns(UserWarning, match="do not contain a valid run"):
        resumed = quiet(train, ["a", "good"], store=store)
    assert train.asked == [("good", 9)]
    assert resumed.summary() == whole.summary()


def test_an_unwritable_store_stops_before_the_first_run(tmp_path):
    train = Recorder()
    with pytest.raises(OSError, match="no run was started"):
        quiet(train, ["a", "b"], store=tmp_path)
    full = pathlib.Path("/dev/full")
    if full.exists():
        (tmp_path / "runs.jsonl").symlink_to(full)
        with pytest.raises(OSError, match=r"No space left.*no run"):
            quiet(train, ["a", "b"], store=tmp_path / "runs.jsonl")
    assert train.asked == []


def test_a_second_call_says_what_is_there_already(tmp_path, capsys):
    store = tmp_path / "runs.jsonl"
    compare(score, ["a", "good"], 2, store=store)
    assert "already" not in capsys.readouterr().err
    compare(score, ["a", "good"], 3, store=store)
    shown = capsys.readouterr().err
    assert f"{store} contains 4 of 6 runs" in shown


def test_a_disk_that_fills_loses_no_finished_run(tmp_path):
    resource = pytest.importorskip("resource")
    store = tmp_path / "runs.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def train(arm, seed):
        if seed == 3:  # room for half a line
            room = store.stat().st_size + 20
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        return score(arm, seed)

    try:
        with pytest.raises(OSError, match="bytes were written"):
            quiet(train, ["a", "good"], store=store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = RunStore(store).read()
    assert len(kept) == 6
    again = Recorder()
    resumed = quiet(again, ["a", "good"], store=store)
    assert len(again.asked) == 14
    assert list(resumed.runs[:6]) == kept
    assert resumed.summary() == quiet(score, ["a", "good"]).summary()


def test_notes_say_that_the_store_holds_more_seeds(tmp_path):
    store = tmp_path / "runs.jsonl"
    whole = quiet(score, ["a", "good"], 12, store=store, looks=(10, 12))
    assert not any("stored" in note for note in whole.notes())
    fewer = quiet(score, ["a", "good"], 10, store=store)
    note = "12 seeds are stored, and only 10 of them are compared"
    assert any(text.startswith(note) for text in fewer.notes())
    assert note in fewer.summary()
    assert fewer.seeds == tuple(range(10))
    assert fewer.seeds_left_out == (10, 11)
    # Seeds of arms that are not compared do not count.
    quiet(score, ["a", "b"], 20, store=tmp_path / "other.jsonl")
    found = quiet(score, ["c", "b"], 10, store=tmp_path / "other.jsonl")
    assert found.seeds_left_out == tuple(range(10, 20))
    found = quiet(score, ["c", "d"], 10, store=tmp_path / "other.jsonl")
    assert found.seeds_left_out == ()
