"""compare: each arm meets each seed, and what is no score or arm is refused."""

import builtins
import concurrent.futures
import sys

import keras
import numpy as np
import pytest
from recorder import Recorder
from recorder import quiet
from recorder import score

from keras_memel import RunStore

pytestmark = pytest.mark.once


def test_every_arm_meets_every_seed_seed_by_seed():
    train = Recorder()
    found = quiet(train, ["plain", "good"], seeds=3)
    # A study that stops early has complete pairs, not one complete arm.
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
        score, ["a", "good", "b"], baseline="b",
        contrasts=iter([("good", "a")]), higher_is_better=False,
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
        ({"contrasts": ["ba"]}, "Argument `contrasts`.*Received: 'ba'"),
        ({"contrasts": "ba"}, "Argument `contrasts`.*Received: 'ba'"),
        ({"executor": 4}, "Argument `executor`.*Received: executor=4"),
    ],
)
def test_wrong_arguments_stop_before_the_first_run(arguments, message):
    train = Recorder()
    with pytest.raises(ValueError, match=message):
        quiet(train, **{"arms": ["a", "b"], **arguments})
    assert train.asked == []


def test_a_wrong_name_of_a_metric_stops_once_every_arm_has_a_score(tmp_path):
    train, wrong = Recorder(), {"Score": False}
    settings = {"store": tmp_path / "runs", "higher_is_better": wrong}
    with pytest.raises(ValueError, match=r"Received: \['Score'\]"):
        quiet(train, ["a", "b"], 3, **settings)
    assert train.asked == [("a", 0), ("b", 0)]
    assert len(RunStore(tmp_path / "runs").read()) == 2

    def fails(arm, seed):
        raise RuntimeError("no")

    with pytest.warns(UserWarning, match="2 of 2 runs failed"):
        quiet(fails, ["a", "b"], 1, higher_is_better=wrong)


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


def test_a_lambda_is_refused_for_a_process_pool_with_the_cure():
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        with pytest.raises(ValueError, match=r"`train`.*top level.*loky"):
            quiet(lambda arm, seed: 0.0, ["a", "b"], executor=executor)
        arms = {"a": lambda: 0, "b": 1}
        with pytest.raises(ValueError, match=r"`arms`.*top level"):
            quiet(score, arms, executor=executor)


def test_sys_exit_is_stored_and_the_study_goes_on():
    def train(arm, seed):
        if arm == "b":
            sys.exit(3)
        return 1.0

    with pytest.warns(UserWarning, match="2 of 4 runs failed"):
        found = quiet(train, ["a", "b"], 2)
    assert "SystemExit: 3" in found.failed[0]["error"]
