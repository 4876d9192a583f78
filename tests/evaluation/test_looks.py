"""Planned looks: levels, declaration in the store, and notes."""

import math

import numpy as np
import pytest
import scipy.stats
from recorder import Recorder
from recorder import quiet
from recorder import score

from keras_memel import Comparison
from keras_memel import RunStore
from keras_memel.evaluation.looks import look_levels

pytestmark = pytest.mark.once


def test_one_look_has_the_whole_level():
    assert look_levels((17,)) == (0.05,)


def test_two_looks_have_the_levels_that_are_documented():
    assert look_levels((10, 20)) == (0.01, 0.045)


PLANS = [(10, 20), (10, 15, 20), (10, 11), (10, 40), (10, 12, 14, 16, 20)]


@pytest.mark.parametrize("looks", PLANS)
def test_the_levels_spend_what_is_said(looks):
    levels = look_levels(looks)
    # Partial sums of normal noise, drawn: no formula of the code.
    rng = np.random.default_rng(0)
    sums = np.cumsum(rng.normal(size=(200_000, looks[-1])), axis=1)
    z = np.stack([sums[:, n - 1] / math.sqrt(n) for n in looks], axis=1)
    wrong = 2 * scipy.stats.norm.sf(np.abs(z)) < levels
    for number, look in enumerate(looks, 1):
        allowed = 0.05 * (look / looks[-1]) ** math.log2(5)
        seen = np.mean(wrong[:, :number].any(axis=1))
        # Rounded down to two digits: nearly all of it, and no more.
        assert seen <= allowed + 4 * math.sqrt(allowed / 200_000)
        assert seen >= 0.9 * allowed - 4 * math.sqrt(allowed / 200_000)


@pytest.mark.parametrize("looks", PLANS)
def test_levels_have_two_digits_and_stay_below_the_whole(looks):
    for level in look_levels(looks):
        assert 0 < level < 0.05
        assert float(f"{level:.2g}") == level


def runs_of(deltas, looks=None):
    return [
        {"arm": arm, "seed": seed, "scores": {"score": float(value)}}
        | ({"looks": list(looks)} if looks else {})
        for arm, values in (("a", np.zeros(len(deltas))), ("b", deltas))
        for seed, value in enumerate(values)
    ]


# p = 0.046, which is enough alone and not at the first of two looks.
BORDERLINE = np.array([1.3, 0.9, -0.3, 1.6, 1.1, 0.2, 1.2, 1.0, -0.2, 0.8])


def test_a_verdict_takes_the_level_of_its_look():
    alone = Comparison(runs_of(BORDERLINE)).contrasts[0]
    first = Comparison(runs_of(BORDERLINE, (10, 20))).contrasts[0]
    assert 0.01 < alone.p < 0.05
    assert first.p == alone.p
    assert (alone.level, first.level) == (0.05, 0.01)
    assert (alone.verdict, first.verdict) == ("better", "not shown")
    # The interval is that of the level: wider, and it holds 0.
    assert first.low <= 0 < alone.low
    assert first.detectable > alone.detectable
    # The last look spends more.
    deltas = np.tile(BORDERLINE, 2)
    last = Comparison(runs_of(deltas, (10, 20))).contrasts[0]
    assert last.level == 0.045
    assert last.verdict == "better"


def test_tables_name_the_level_of_the_interval():
    for looks, seeds, level in [
        (None, 10, "95 %"), ((10, 20), 10, "99 %"), ((10, 20), 20, "95.5 %"),
    ]:  # fmt: skip
        found = Comparison(runs_of(np.resize(BORDERLINE, seeds), looks))
        assert f"| {level} interval |" in found.to_markdown()


def test_notes_say_at_which_look_one_is():
    found = Comparison(runs_of(BORDERLINE, (10, 20)))
    assert found.looks == (10, 20)
    note = "Look 1 of 2 (10, 20 seeds): a verdict needs p < 0.01"
    assert note in found.notes()
    assert note in found.summary()
    assert Comparison(runs_of(BORDERLINE, (10,))).notes() == []


@pytest.mark.parametrize(
    ("looks", "seeds", "level"),
    [((10,), 12, 0.05), ((10, 20), 12, 0.01), ((10, 20), 25, 0.045),
     ((20,), 10, 0.05)],
)  # fmt: skip
def test_notes_say_if_there_are_other_seeds_than_declared(looks, seeds, level):
    found = Comparison(runs_of(np.resize(BORDERLINE, seeds), looks))
    assert found.contrasts[0].level == level
    declared = ", ".join(map(str, looks))
    (note,) = found.notes()
    assert note.startswith(f"The study has {seeds} seeds, but {declared}")


def test_notes_say_that_metrics_are_not_corrected_for():
    runs = [
        run | {"scores": {"accuracy": run["scores"]["score"], "loss": 1.0}}
        for run in runs_of(BORDERLINE)
    ]
    found = Comparison(runs, higher_is_better={"loss": False})
    start = "There are 2 metrics and no correction"
    assert any(note.startswith(start) for note in found.notes())
    assert not any("metrics" in note for note in found.notes("accuracy"))
    assert "metrics" not in str(Comparison(runs_of(BORDERLINE)).notes())


def test_looks_are_declared_by_the_first_call_and_kept(tmp_path):
    store = tmp_path / "runs.jsonl"
    first = quiet(score, ["a", "good"], 10, store=store, looks=(10, 20))
    assert {tuple(run["looks"]) for run in RunStore(store).read()} == {(10, 20)}
    assert first.contrasts[0].level == 0.01
    train = Recorder()
    second = quiet(train, ["a", "good"], 20, store=store)
    assert len(train.asked) == 20
    assert second.looks == (10, 20)
    assert second.contrasts[0].level == 0.045
    third = quiet(train, ["a", "good"], 20, store=store, looks=[10, 20])
    assert third.runs == second.runs
    more = quiet(train, ["a", "good"], 21, store=store)
    start = "The study has 21 seeds, but 10, 20"
    assert any(note.startswith(start) for note in more.notes())


def test_without_looks_the_seeds_of_the_first_call_are_declared(tmp_path):
    store = tmp_path / "runs.jsonl"
    first = quiet(score, ["a", "good"], 10, store=store)
    assert first.looks == (10,)
    assert first.contrasts[0].level == 0.05
    assert first.notes() == []
    more = quiet(score, ["a", "good"], 12, store=store)
    assert more.looks == (10,)
    (note,) = more.notes()
    assert note.startswith("The study has 12 seeds, but 10 were declared")


def test_a_trial_of_few_seeds_declares_nothing(tmp_path):
    store = tmp_path / "runs.jsonl"
    quiet(score, ["a", "good"], 2, store=store)
    found = quiet(score, ["a", "good"], 10, store=store)
    assert found.looks == ()
    assert found.notes() == []


def test_looks_that_were_not_declared_first_are_refused(tmp_path):
    for number, before in enumerate([None, (10, 12)]):
        store = tmp_path / f"{number}.jsonl"
        quiet(score, ["a", "good"], 10, store=store, looks=before)
        with pytest.raises(ValueError, match=r"before the first run.*\(10, 20"):
            quiet(score, ["a", "good"], 20, store=store, looks=(10, 20))


@pytest.mark.parametrize(
    "looks", [(), (20, 10), (5, 10), (10, 10), (10, 15.5), 10, "10",
              tuple(range(10, 16))],
)  # fmt: skip
def test_wrong_looks_are_refused(looks):
    with pytest.raises(ValueError, match=r"Argument `looks` must be one to 5"):
        quiet(score, ["a", "good"], 10, looks=looks)


def test_seeds_must_be_one_of_the_looks():
    with pytest.raises(ValueError, match=r"`seeds` must be one of `looks`.*10"):
        quiet(score, ["a", "good"], 12, looks=(10, 20))


def test_metrics_of_the_same_name_are_refused():
    def train(arm, seed):
        return {1: 0.5, "1": 0.6}

    with pytest.raises(TypeError, match=r"different names.*more than one '1'"):
        quiet(train, ["a", "b"], 1)
