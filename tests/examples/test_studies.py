"""The pages of the studies are what their stored runs say.

A study takes minutes to hours: here its stored runs are read, its page made
from them and compared, and a small part of it run again.
"""

import sys

import keras
import numpy as np
import printed
import pytest
from scripts import EXAMPLES
from scripts import ROOT

import keras_memel
from keras_memel import RunStore

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the same on every backend"
)
PAGES = ROOT / "docs" / "studies"
PAGES_OF = sorted(page.stem for page in PAGES.glob("*.md"))
RESULTS = EXAMPLES / "studies" / "results"


@pytest.mark.parametrize("name", PAGES_OF)
def test_the_page_is_what_the_stored_runs_say(name, study):
    script = study(name)
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    wrong = printed.difference(script.page(script.stored()), text)
    assert not wrong, f"{wrong}\nrun examples/studies/{name}.py"
    for picture in PAGES.glob(f"{name}.png"):
        assert picture.stat().st_size < 150_000


def test_all_results_are_what_the_stored_runs_say(study):
    results = study("results")
    assert {*results.STUDIES, *results.OTHER_PAGES} == {
        "quickstart",
        *PAGES_OF,
    }
    found = results.everything()
    for path, made in (
        ("RESULTS.md", results.page(found)),
        ("docs/when_to_use.md", results.advice(found)),
    ):
        text = (ROOT / path).read_text(encoding="utf-8")
        wrong = printed.difference(made, text)
        assert not wrong, f"{wrong}\nrun examples/studies/results.py"


def test_a_claim_that_the_runs_do_not_bear_out_raises(study):
    pages = study("common.pages")
    runs = [
        {"arm": arm, "seed": seed, "scores": {"%": seed % 3 + 9 * (arm == "b")}}
        for arm in "ab"
        for seed in range(10)
    ]
    runs[0]["scores"]["%"] += 1
    found = keras_memel.Comparison(runs)
    pages.check(found, {"%": {("b", "a"): "better"}})
    with pytest.raises(AssertionError, match=r"b less a .* 'not shown'.*bet"):
        pages.check(found, {"%": {("b", "a"): "not shown"}})


def test_the_stores_stay_small():
    stores = [*RESULTS.iterdir()]
    assert sum(file.stat().st_size for file in stores) < 3_000_000


def test_sets_are_read_from_files(study, tmp_path):
    sets = study("common.sets")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (5, 28, 28), "uint8")
    np.savez(tmp_path / "f.npz", x_train=images, y_train=np.arange(5))
    examples, labels, groups = sets.fashion_mnist(tmp_path / "f.npz")
    assert examples.shape == (5, 196)
    np.testing.assert_allclose(
        examples[2, 1], images[2, :2, 2:4].mean() / 255, rtol=1e-6
    )
    assert groups is None
    series = [rng.normal(size=(250, 6)), rng.normal(size=(120, 6))]
    recorded = {"X": series, "y": np.array([3, 1]), "subject": [7, 8]}
    np.save(tmp_path / "watch.npy", recorded)
    examples, labels, groups = sets.watch(tmp_path / "watch.npy")
    assert examples.shape == (3, 25 * 6)
    assert labels.tolist() == [3, 3, 1]
    assert groups.tolist() == [7, 7, 8]
    with pytest.raises(SystemExit, match=r"--data FILE.*sets.py --model"):
        sets.sentences()


def test_a_share_that_no_set_has_is_refused(study, monkeypatch, capsys):
    domains = study("domains")
    monkeypatch.setattr(domains, "write", lambda: None)
    arguments = ["domains", "--only", "watch", "--share", "0.4"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        domains.main()
    assert "--share 0.4" in capsys.readouterr().err


def test_tuning_looks_at_validation_alone_and_breaks_ties_downwards(study):
    common = study("common.training")
    arms = {"plain": ("plain", 0), "a": ("RD", 0.1), "b": ("RD", 0.2)}
    scores = {"plain": (0.5, 0.5), "a": (0.7, 0.1), "b": (0.7, 0.9)}
    runs = [
        {"arm": arm, "seed": 0, "scores": {"validation": v, "accuracy": t}}
        for arm, (v, t) in scores.items()
    ]
    best = common.tuned(runs, arms)[1]
    assert (best["arm"], best["rate"]) == ("RD", 0.1)
    runs[2]["scores"]["validation"] = 0.71
    assert common.tuned(runs, arms)[1]["rate"] == 0.2


def test_a_run_that_never_jumps_counts_as_the_whole_time(study):
    grokking = study("grokking")
    looks = grokking.STEPS // grokking.LOOK
    assert grokking.steps_until([0.1] * looks) == grokking.STEPS
    assert grokking.steps_until([0.1, 0.95, 0.2]) == 2 * grokking.LOOK
    sums = grokking.Sums(3)
    parts = [sums.taught, sums.validation, sums.test]
    assert sorted(np.concatenate(parts)) == list(range(grokking.PRIME**2))
    where = grokking.PRIME + 5
    assert (sums.left[where], sums.right[where]) == (1, 5)
    assert sums.labels[where] == 6


def test_the_loop_of_grokking_is_that_of_fit(
    study, monkeypatch, quick_compilation
):
    grokking = study("grokking")
    for name, value in {"PRIME": 5, "WIDTH": 4, "LOOK": 12}.items():
        monkeypatch.setattr(grokking, name, value)
    monkeypatch.setattr(grokking, "_COMPILED", {})
    sums = grokking.Sums(0)
    arm = ("RD", 0.3)  # from the 11th step on

    def fresh():
        model = grokking.build(arm, 0)
        model.optimizer.build(model.trainable_variables)
        return model

    model = fresh()
    advance, ask = grokking.compiled(arm, model, sums)
    inputs, labels = sums.inputs(sums.taught), sums.labels[sums.taught]
    state = grokking.state_of(model)
    before = np.array(ask(state)[0])
    state = advance(state, inputs, labels)
    fitted = fresh()
    fitted.fit(
        [np.tile(x, 12) for x in inputs],
        np.tile(labels, 12),
        len(labels),
        shuffle=False,
        verbose=0,
    )
    expected = grokking.state_of(fitted)[0]
    for ours, theirs in zip(state[0], expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    logits = fitted(sums.inputs(), training=False)
    np.testing.assert_allclose(ask(state)[0], logits, rtol=1e-3, atol=1e-5)
    assert not np.allclose(before, logits, atol=1e-3)


def test_an_input_that_never_changes_is_0(study):
    examples = np.column_stack([np.arange(4.0), np.full(4, np.float32(0.1))])
    found = study("common.sets")._standardized(examples.astype("float32"))
    np.testing.assert_array_equal(found[:, 1], 0.0)
    assert found[:, 0].std() == pytest.approx(1.0)


def test_detection_is_by_chance_where_there_is_nothing(study):
    detection = study("detection")
    rng = np.random.default_rng(0)
    labels = np.arange(2000) % 10
    noise = rng.normal(size=(2, 2000, 4))
    found = detection.detection(*noise, labels, labels)
    assert abs(found[detection.AUC] - 0.5) < 0.03
    # A unit that falls far on one digit: phi tells it, its height does not.
    noise[:, labels == 7] -= 5.0
    found = detection.detection(*noise, labels, labels)
    assert found[detection.AUC] > 0.99
    assert found[detection.VALUE] < 0.6
    assert found[detection.hits(0.05)] > 0.9


@pytest.mark.parametrize(
    "file", sorted(RESULTS.glob("[!v]*.jsonl")), ids=lambda file: file.stem
)
def test_every_arm_met_the_same_seeds_and_at_least_ten(file):
    runs = RunStore(file).read()
    arms = {run["arm"] for run in runs}
    seeds = range(1 + max(run["seed"] for run in runs))
    assert len(seeds) >= 10
    assert sorted((run["arm"], run["seed"]) for run in runs) == sorted(
        (arm, seed) for arm in arms for seed in seeds
    )
    assert len({run["environment"]["device"] for run in runs}) == 1


def test_the_simulation_can_be_repeated(study):
    validity = study("validity")
    for number in (0, 1, 6):  # two laws, with and without an effect
        line = validity.stored()[0][number]
        again = validity.simulate(
            line["law"], line["situation"], line["seeds"], range(8)
        )
        for key in ("wrong", "found", "covered"):
            assert again[key] == line[key][:8]


def simulated(study, situation, key, seeds=10):
    """Of the symmetric laws: what each repetition showed."""
    for line in study("validity").stored()[0]:
        if line["situation"] == situation and line["seeds"] == seeds:
            yield line["law"], np.array([int(d) for d in line[key]]), line


def test_without_effect_at_most_one_study_of_twenty_has_a_verdict(study):
    for law, wrong, _ in simulated(study, "5 arms, no effect", "wrong"):
        assert len(wrong) >= 400
        if "skewed" not in law:
            assert np.mean(wrong > 0) <= 0.05, law


def test_an_effect_of_one_deviation_is_found_in_seventy_percent(study):
    for law, found, _ in simulated(
        study, "1 arm, effect of 1 deviation", "found"
    ):
        if "skewed" not in law:
            assert np.mean(found > 0) >= 0.7, law


def test_the_detectable_effect_is_found_about_as_often_as_is_said(study):
    law, found, _ = next(simulated(study, "1 arm, detectable effect", "found"))
    assert law == "Gaussian"
    assert 0.7 <= np.mean(found > 0) <= 0.85


@pytest.mark.parametrize("seeds", [10, 20])
def test_the_interval_covers_gaussian_and_shares_as_it_says(seeds, study):
    for law, covered, line in simulated(
        study, "5 arms, no effect", "covered", seeds
    ):
        if law == "Gaussian" or "images" in law:
            assert 0.93 <= np.mean(covered) / line["arms"] <= 0.97, law
