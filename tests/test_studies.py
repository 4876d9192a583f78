"""The pages of the studies are what their stored runs say.

A study takes minutes to hours: here its stored runs are read, its page made
from them and compared, and a small part of it run again.
"""

import gc
import importlib
import json
import pathlib
import sys

import keras
import numpy as np
import pytest

from keras_memel import RunStore

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the same on every backend"
)
ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / "docs" / "studies"
RESULTS = ROOT / "examples" / "studies" / "results"


@pytest.fixture(scope="module")
def study():
    """A loader of the scripts, which import one another."""
    gc.freeze()  # see tests/test_evidence.py
    sys.path.insert(0, str(ROOT / "examples" / "studies"))
    yield importlib.import_module
    sys.path.pop(0)
    gc.unfreeze()


def made(name, script):
    if name == "validity":
        plain = json.loads(script.PLAIN.read_text(encoding="utf-8"))
        return script.page(stored_simulation(), plain)
    if name == "mechanism":
        return script.page(script.comparison())
    if name == "scale":
        return script.page(RunStore(script.STORE).read())
    comparisons = {share: script.comparison(share) for share in script.SHARES}
    return script.page(comparisons)


@pytest.mark.parametrize(
    "name", ["label_noise", "mechanism", "scale", "causality", "validity"]
)
def test_the_page_is_what_the_stored_runs_say(name, study):
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert made(name, study(name)) == text, f"run examples/studies/{name}.py"
    for picture in PAGES.glob(f"{name}.png"):
        assert picture.stat().st_size < 150_000


@pytest.mark.parametrize(
    "file", sorted(RESULTS.glob("[!v]*.jsonl")), ids=lambda file: file.stem
)
def test_every_arm_met_the_same_ten_seeds(file):
    runs = RunStore(file).read()
    arms = {run["arm"] for run in runs}
    assert sorted((run["arm"], run["seed"]) for run in runs) == sorted(
        (arm, seed) for arm in arms for seed in range(10)
    )
    assert len({run["environment"]["device"] for run in runs}) == 1


def stored_simulation():
    file = RESULTS / "validity.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_simulation_can_be_repeated(study):
    validity = study("validity")
    for number in (0, 1, 6):  # two laws, with and without an effect
        line = stored_simulation()[number]
        again = validity.simulate(
            line["law"], line["situation"], line["seeds"], range(8)
        )
        for key in ("wrong", "found", "covered"):
            assert again[key] == line[key][:8]


def simulated(situation, key, seeds=10):
    """Of the symmetric laws: what each repetition showed."""
    for line in stored_simulation():
        if line["situation"] == situation and line["seeds"] == seeds:
            yield line["law"], np.array([int(d) for d in line[key]]), line


def test_without_effect_at_most_one_study_of_twenty_has_a_verdict():
    for law, wrong, _ in simulated("5 arms, no effect", "wrong"):
        assert len(wrong) >= 400
        if "skewed" not in law:
            assert np.mean(wrong > 0) <= 0.05, law


def test_an_effect_of_one_deviation_is_found_in_seventy_percent():
    for law, found, _ in simulated("1 arm, effect of 1 deviation", "found"):
        if "skewed" not in law:
            assert np.mean(found > 0) >= 0.7, law


def test_the_detectable_effect_is_found_about_as_often_as_is_said():
    law, found, _ = next(simulated("1 arm, detectable effect", "found"))
    assert law == "Gaussian"
    assert 0.7 <= np.mean(found > 0) <= 0.85


@pytest.mark.parametrize("seeds", [10, 20])
def test_the_interval_covers_gaussian_and_shares_as_it_says(seeds):
    for law, covered, line in simulated("5 arms, no effect", "covered", seeds):
        if law == "Gaussian" or "images" in law:
            assert 0.93 <= np.mean(covered) / line["arms"] <= 0.97, law
