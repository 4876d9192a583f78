"""compare: runs each arm and seed once, keeps every run, and is not fooled."""

import builtins
import concurrent.futures
import functools
import gc
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_memel
from keras_memel import RunStore
from keras_memel import compare
from keras_memel import evidence

pytestmark = pytest.mark.once

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(autouse=True, scope="module")
def frozen():
    # statsmodels' Holm collects garbage at each call, which takes half a
    # second of looking through a backend.
    gc.freeze()
    yield
    gc.unfreeze()


def score(arm, seed):
    noise = np.random.default_rng([seed, len(arm)]).normal()
    return 10.0 * seed + 0.1 * noise + (3.0 if arm == "good" else 0.0)


class Recorder:
    """A trainer that knows what it was asked."""

    def __init__(self, returned=score):
        self.asked = []
        self.returned = returned

    def __call__(self, arm, seed):
        self.asked.append((arm, seed))
        return self.returned(arm, seed)


# Of processes, which import Keras and a backend: slow, and the same on each.
on_one_backend = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the same on every backend"
)
quiet = functools.partial(compare, progress=False)


def test_every_arm_meets_every_seed_seed_by_seed():
    train = Recorder()
    found = quiet(train, ["plain", "good"], seeds=3)
    # A study that stops early has pairs, not one arm whole.
    assert train.asked == [
        (arm, seed) for seed in range(3) for arm in ("plain", "good")
    ]
    assert found.seeds == (0, 1, 2)
    assert [run["scores"] for run in found.runs] == [
        {"score": score(*key)} for key in train.asked
    ]


def test_seeds_may_be_named_and_arms_carry_what_train_gets():
    train = Recorder(lambda rate, seed: rate * seed)
    quiet(train, {"none": 0.0, "some": 0.5}, seeds=[7, np.int64(3)])
    assert train.asked == [(0.0, 7), (0.5, 7), (0.0, 3), (0.5, 3)]


def test_baseline_contrasts_and_direction_reach_the_comparison():
    found = quiet(
        score, ["a", "good", "b"], baseline="b", contrasts=[("good", "a")],
        higher_is_better=False,
    )  # fmt: skip
    assert found.pairs == (("a", "b"), ("good", "b"), ("good", "a"))
    assert {c.verdict for c in found.contrasts if c.arm == "good"} == {"worse"}


@pytest.mark.parametrize(
    "convert", [np.float32, keras.ops.convert_to_tensor, int]
)
def test_a_score_may_be_any_number(convert):
    found = quiet(lambda arm, seed: {"a": convert(2), "b": 1.5}, ["x", "y"], 1)
    assert found.runs[0]["scores"] == {"a": 2.0, "b": 1.5}


@pytest.mark.parametrize(
    ("returned", "received"),
    [(None, "NoneType"), ({}, "dict"), ("0.9", "str"), ([0.9], "list"),
     ({"a": None}, "dict"), ({"correct": [True]}, "dict")],
)  # fmt: skip
def test_what_is_no_score_stops_the_study(returned, received, tmp_path):
    train = Recorder(lambda arm, seed: returned)
    with pytest.raises(TypeError, match=rf"must return.*\({received}\)"):
        quiet(train, ["a", "b"], store=tmp_path / "runs.jsonl")
    assert len(train.asked) == 1


@pytest.mark.parametrize("correct", [[1, 0], [[True]], True])
def test_answers_must_be_a_vector_of_booleans(correct):
    def train(arm, seed):
        return {"accuracy": 1.0, "correct": correct}

    with pytest.raises(TypeError, match="vector of booleans"):
        quiet(train, ["a", "b"])


def test_answers_are_kept_for_mcnemar(tmp_path):
    def train(arm, seed):
        right = np.array([True, True, arm == "b", seed == 0])
        return {"accuracy": right.mean(), "correct": right}

    store = tmp_path / "runs.jsonl"
    for _ in range(2):  # from memory, then from the file
        table = quiet(train, ["a", "b"], 2, store=store).mcnemar()
        assert list(table["only_arm"]) == [1, 1]
        assert list(table["only_other"]) == [0, 0]
    assert RunStore(store).read()[0]["correct"] == "1101"


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
    # From now on the good one counts, though the failed one stays.
    assert quiet(train, ["a", "good"], 3, store=store).failed == ()
    assert len(RunStore(store).read()) == 7


def test_of_two_runs_of_a_seed_the_first_counts(tmp_path):
    # As two processes on one store leave them.
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
    with pytest.raises(ValueError, match=r"'b'.*made with 0.2.*Received: 0.3"):
        quiet(lambda rate, seed: rate, {"a": 0.1, "b": 0.3}, 2, store=store)
    # An object that shows its address cannot be told from another.
    for _ in range(2):
        arms = {"c": object(), "d": object()}
        quiet(lambda arm, seed: 0.0, arms, 1, store=store)


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
    # Where nox puts temporary files, a repository may be around them.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    assert "revision" not in evidence._environment(str(tmp_path / "plain"))
    git = functools.partial(
        subprocess.run, cwd=tmp_path, check=True, capture_output=True, text=True
    )
    git(["git", "init"])
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    (tmp_path / "file").write_text("")
    git(["git", "add", "file"])
    git(["git", *author, "commit", "-m", "first", "--no-gpg-sign"])
    revision = git(["git", "rev-parse", "HEAD"]).stdout.strip()
    assert evidence._environment(str(tmp_path))["revision"] == revision
    evidence._environment.cache_clear()
    (tmp_path / "file").write_text("changed")
    changed = evidence._environment(str(tmp_path))["revision"]
    assert changed == f"{revision}-dirty"
    assert evidence._folder(score) == str(pathlib.Path(__file__).parent)
    partial = functools.partial(score, "a")
    assert evidence._folder(partial) == str(pathlib.Path(__file__).parent)
    assert evidence._folder(Recorder()) == str(pathlib.Path(__file__).parent)


def test_an_executor_gives_what_one_process_gives(tmp_path):
    alone = quiet(score, ["a", "good"])
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        many = quiet(
            score, ["a", "good"], executor=executor, store=tmp_path / "runs"
        )
    assert many.to_markdown() == alone.to_markdown()
    assert [(r["arm"], r["seed"]) for r in many.runs] == [
        (r["arm"], r["seed"]) for r in alone.runs
    ]
    assert len(RunStore(tmp_path / "runs").read()) == 20


@on_one_backend
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
    done = run_script(script, store)
    runs = RunStore(store).read()
    assert len(runs) == 4
    pids = {run["scores"]["pid"] for run in runs if "scores" in run}
    assert float(done.stdout) not in pids
    errors = [run["error"] for run in runs if "error" in run]
    assert all("RuntimeError" in error for error in errors)
    assert len(errors) == 2
    # A progress bar, of all runs, with the time that is left.
    assert re.search(r"4/4 \[.*<", done.stderr)
    assert "b, seed 1, failed: RuntimeError: b" in done.stderr


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
    # What a worker did not live to tell is no result of its run.
    assert all("error" not in run for run in RunStore(store).read())


def run_script(script, *arguments, check=True):
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=check,
    )


@on_one_backend
def test_kill_9_loses_nothing_that_was_finished(tmp_path):
    # Killed in the middle of the run of arm "good" with seed 3: from within,
    # so that the moment is known.
    script = tmp_path / "study.py"
    script.write_text(
        f"""
import os, signal, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from test_evidence import score
from keras_memel import compare

def train(arm, seed):
    if (arm, seed) == ("good", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return score(arm, seed)

compare(train, ["a", "good"], store=sys.argv[1])
"""
    )
    store = tmp_path / "runs.jsonl"
    done = run_script(script, store, check=False)
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


def test_a_half_written_line_is_survived_and_its_run_made_again(tmp_path):
    store = tmp_path / "runs.jsonl"
    whole = quiet(score, ["a", "good"], store=store)
    store.write_bytes(store.read_bytes()[:-50])
    train = Recorder()
    with pytest.warns(UserWarning, match="hold no run"):
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"arms": "ab"}, "Argument `arms`.*Received: arms='ab'"),
        ({"arms": ["a"]}, "Argument `arms`.*at least two"),
        ({"arms": ["a", "a"]}, "Argument `arms`.*different"),
        ({"arms": [1, 2]}, "Argument `arms`"),
        ({"arms": {"a", "b"}}, "Argument `arms`"),
        ({"seeds": 0}, "Argument `seeds`.*Received: seeds=0"),
        ({"seeds": 2.5}, "Argument `seeds`.*Received: seeds=2.5"),
        ({"seeds": [1, 1]}, "Argument `seeds`.*different"),
        ({"baseline": "c"}, "Argument `baseline`.*Received: 'c'"),
        ({"contrasts": [("a", "c")]}, "Argument `contrasts`.*Received: 'c'"),
    ],
)
def test_wrong_arguments_stop_before_the_first_run(arguments, message):
    train = Recorder()
    with pytest.raises(ValueError, match=message):
        quiet(train, **{"arms": ["a", "b"], **arguments})
    assert train.asked == []


@pytest.mark.parametrize("missing", ["scipy", "statsmodels", "tqdm"])
def test_a_missing_library_names_the_extra(missing, monkeypatch):
    for module in list(sys.modules):
        if module.partition(".")[0] == missing:
            monkeypatch.delitem(sys.modules, module)
    usual = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == missing:
            raise ImportError(f"No module named {name!r}")
        return usual(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(sys.modules, missing, None)
    train = Recorder()
    with pytest.raises(ImportError, match=rf"{missing}.*keras-memel\[evidence"):
        quiet(train, ["a", "b"])
    assert train.asked == []
