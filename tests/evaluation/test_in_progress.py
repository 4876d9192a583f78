"""Deaths of the process that calls `compare`, across calls."""

import concurrent.futures
import os
import threading
import time

import processes
import pytest
from recorder import Recorder
from recorder import quiet
from recorder import score

from keras_memel import RunStore
from keras_memel.evaluation import executors
from keras_memel.evaluation.in_progress import RunsInProgress
from keras_memel.evaluation.in_progress import record_deaths

pytest.importorskip("fcntl")
pytestmark = pytest.mark.once


@pytest.fixture
def store(tmp_path):
    # A glob would interpret the brackets of this name.
    found = RunStore(tmp_path / "runs [1].jsonl")
    found.append({"arm": "a", "seed": 0, "scores": {"score": 1.0}})
    return found


def names(store):
    return sorted(path.name for path in store.path.parent.iterdir())


def die(in_progress):
    """Free the lock and leave the file, as the kernel does."""
    os.close(in_progress._file)


def test_runs_in_progress_at_a_death_are_recorded_once(store):
    in_progress = RunsInProgress(store)
    in_progress.note([("a", 1), ("a longer name", 1)])
    in_progress.note([("b", 1)])
    die(in_progress)
    for _ in range(2):
        record_deaths(store)
        assert store.deaths() == {("b", 1): 1}
    assert names(store) == [store.path.name]
    # A death is no run.
    assert [run["arm"] for run in store.read()] == ["a"]


def test_a_call_that_lives_or_has_ended_is_no_death(store):
    with RunsInProgress(store) as in_progress:
        in_progress.note([("b", 1)])
        record_deaths(store)
        assert len(names(store)) == 2
    record_deaths(store)
    assert store.deaths() == {}
    assert names(store) == [store.path.name]


@pytest.mark.parametrize("line", [b"", b'{"pid": 1, "ru'])
def test_a_file_without_a_whole_line_names_no_run(store, line):
    path = store.path.with_name(f"{store.path.name}.abc.running")
    path.write_bytes(line)
    record_deaths(store)
    assert store.deaths() == {}
    assert names(store) == [store.path.name]


def test_deaths_before_the_last_result_do_not_count(store):
    death = {"arm": "b", "seed": 1, "death": {"pid": 1}}
    for line in (death, death, {"arm": "b", "seed": 1, "error": "no"}, death):
        store.append(line)
    assert store.deaths() == {("b", 1): 1}


def test_a_study_runs_where_no_file_can_be_made_beside_the_store(tmp_path):
    missing = RunStore(tmp_path / "missing" / "runs.jsonl")
    with RunsInProgress(missing) as in_progress:
        in_progress.note([("a", 0)])
    assert not missing.path.parent.exists()


def test_an_error_or_control_c_is_no_death(tmp_path):
    store = RunStore(tmp_path / "runs.jsonl")

    def stopped(arm, seed):
        raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            quiet(stopped, ["a", "b"], 2, store=store.path)
    assert names(store) == ["runs.jsonl"]
    assert len(quiet(score, ["a", "b"], 2, store=store.path).runs) == 4
    assert store.deaths() == {}


def test_a_run_that_kills_its_caller_three_times_is_given_up(tmp_path):
    script = tmp_path / "study.py"
    # Three calls die in separate processes. A fork imports Keras only once.
    script.write_text(
        """
import os, signal, sys, warnings
from keras_memel import compare
from recorder import score

def train(arm, seed):
    if (arm, seed) == ("good", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return score(arm, seed)

def call():
    compare(train, ["a", "good"], 3, store=sys.argv[1], progress=False)

warnings.simplefilter("ignore")
for _ in range(3):
    child = os.fork()
    if child == 0:
        call()
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
call()
"""
    )
    store = RunStore(tmp_path / "runs.jsonl")
    done = processes.run(script, store.path)
    assert done.stdout.split() == ["-9"] * 3
    runs = store.read()
    # No run that was finished is repeated.
    keys = [(run["arm"], run["seed"]) for run in runs]
    assert keys[:3] == [("a", 0), ("good", 0), ("a", 1)]
    assert sorted(keys) == [(a, s) for a in ("a", "good") for s in range(3)]
    (failed,) = [run for run in runs if "error" in run]
    assert (failed["arm"], failed["seed"]) == ("good", 1)
    assert "died 3 times in a row" in failed["error"]
    assert names(store) == ["runs.jsonl", "study.py"]
    # It is run again only if asked, and then its deaths count from 0.
    train = Recorder()
    with pytest.warns(UserWarning, match="1 of 6 runs failed"):
        quiet(train, ["a", "good"], 3, store=store.path)
    assert train.asked == []
    quiet(train, ["a", "good"], 3, store=store.path, retry_failed=True)
    assert train.asked == [("good", 1)]
    assert store.deaths() == {}


def killed(store, number, *keys):
    for _ in range(number):
        for arm, seed in keys:
            store.append({"arm": arm, "seed": seed, "death": {"pid": 1}})


def test_two_deaths_run_a_run_alone_in_a_pool_and_first(tmp_path):
    store = RunStore(tmp_path / "runs.jsonl")
    killed(store, 2, ("a", 2), ("b", 2))
    killed(store, 1, ("a", 1))
    busy, most, order = set(), {}, []
    lock = threading.Lock()

    def train(arm, seed):
        with lock:
            busy.add((arm, seed))
            order.append((arm, seed))
            most[arm, seed] = len(busy)
        time.sleep(0.05)
        with lock:
            for key in busy:
                most[key] = max(most[key], len(busy))
            busy.remove((arm, seed))
        return seed

    with concurrent.futures.ThreadPoolExecutor(3) as executor:
        quiet(train, ["a", "b"], 4, store=store.path, executor=executor)
    assert set(order[:2]) == {("a", 2), ("b", 2)}
    assert most["a", 2] == most["b", 2] == 1
    assert max(most.values()) > 1  # the others share the pool


def test_a_pool_says_which_tasks_are_running():
    seen = []

    def started(tasks):
        seen.append(len(list(tasks)))

    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        tasks = [(number,) for number in range(5)]
        list(executors.results(executor, abs, tasks, (), started))
    assert max(seen) == 2

    class Unknown(concurrent.futures.ThreadPoolExecutor):
        @property
        def _max_workers(self):
            return None

        @_max_workers.setter
        def _max_workers(self, number):
            pass

        def submit(self, function, *args):
            future = concurrent.futures.Future()
            future.set_result(function(*args))
            return future

    seen.clear()
    list(executors.results(Unknown(2), abs, tasks, (), started))
    assert seen == []


def test_two_calls_at_once_share_a_store(tmp_path):
    store = RunStore(tmp_path / "runs.jsonl")

    def call(_):
        return quiet(score, ["a", "good"], store=store.path)

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        ours, theirs = threads.map(call, range(2))
    assert ours.to_markdown() == theirs.to_markdown()
    assert ours.failed == theirs.failed == ()
    assert {(run["arm"], run["seed"]) for run in store.read()} == {
        (arm, seed) for arm in ("a", "good") for seed in range(10)
    }
    assert names(store) == ["runs.jsonl"]
    assert store.deaths() == {}
