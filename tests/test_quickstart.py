"""examples/quickstart.py, end to end, and what its verdicts rest on."""

import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "quickstart.py"


def load_script():
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


quickstart = load_script()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Output, runs and folder of the script with 2 seeds, as users run it."""
    folder = tmp_path_factory.mktemp("quickstart") / "new" / "folder"
    options = ["--seeds", "2", "--epochs", "3", "--out", str(folder)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = (folder / "quickstart.jsonl").read_text(encoding="utf-8")
    return done, [json.loads(line) for line in text.splitlines()], folder


def test_every_arm_runs_with_every_seed_and_leaves_a_line(finished):
    _, runs, _ = finished
    assert [(run["seed"], run["arm"]) for run in runs] == [
        (seed, arm) for seed in (0, 1) for arm in quickstart.ARMS
    ]
    for run in runs:
        assert run["epochs"] == 3
        assert run["backend"] == keras.backend.backend()
        assert run["versions"]["keras"] == keras.__version__
        assert run["versions"].keys() > {"python", run["backend"], "numpy"}
        # 1,397 test images and 80 wrong labels.
        for key, number in (("accuracy", 1397), ("wrong_labels_learned", 80)):
            assert 0 <= run[key] <= 1
            hits = run[key] * number
            assert hits == pytest.approx(round(hits), abs=1e-6)


def test_the_networks_learn_something(finished):
    _, runs, _ = finished
    assert all(run["accuracy"] > 0.5 for run in runs)


def test_the_arms_do_different_things(finished):
    _, runs, _ = finished
    assert len({run["accuracy"] for run in runs if run["seed"] == 0}) > 1


def test_the_tables_say_what_the_runs_say(finished):
    done, runs, _ = finished
    accuracy = {(run["arm"], run["seed"]): run["accuracy"] for run in runs}
    for arm, other in quickstart.COMPARISONS:
        deltas = [
            100 * (accuracy[arm, seed] - accuracy[other, seed])
            for seed in (0, 1)
        ]
        row = f"| {arm} less {other} | {sum(deltas) / 2:+.1f} |"
        row += f" {min(deltas):+.1f} to {max(deltas):+.1f} |"
        assert row in done.stdout
    for arm in quickstart.ARMS:
        mean = 50 * (accuracy[arm, 0] + accuracy[arm, 1])
        assert f"| {arm} | {mean:.1f} |" in done.stdout


def test_two_seeds_show_nothing_and_the_output_says_so(finished):
    done, _, _ = finished
    assert done.stdout.count("not shown") == len(quickstart.COMPARISONS)
    assert not re.search(r"better|worse|inf|nan", done.stdout)
    assert "Too few seeds" in done.stdout


def test_a_progress_bar_counts_the_runs(finished):
    done, runs, _ = finished
    assert f"{len(runs)}/{len(runs)}" in done.stderr


def test_the_figure_shows_every_arm(finished):
    _, _, folder = finished
    picture = matplotlib.image.imread(folder / "quickstart.png")[..., :3]
    assert picture.shape[0] > 300
    assert picture.shape[1] > 900
    for arm in quickstart.ARMS:
        colour = matplotlib.colors.to_rgb(quickstart.COLOURS[arm])
        distance = np.abs(picture - colour).max(axis=-1)
        assert np.count_nonzero(distance < 0.02) > 100, arm


def first_weights(arm, seed):
    layers = quickstart.build(arm, seed).layers
    dense = [layer for layer in layers if isinstance(layer, keras.layers.Dense)]
    return [weight for layer in dense for weight in layer.get_weights()]


def test_an_arm_changes_nothing_but_its_layers():
    plain, *others = (first_weights(arm, seed=3) for arm in quickstart.ARMS)
    assert len(plain) == 6
    for weights in others:
        for ours, theirs in zip(plain, weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert np.any(plain[0] != first_weights("plain", seed=4)[0])


def test_the_same_seed_gives_the_same_run():
    first, second = (
        quickstart.run("MEmeL 10 %", seed=7, epochs=2) for _ in range(2)
    )
    assert first == second


def invented(effects, seeds):
    # Runs in which an arm has, beside a common noise of the seed, its effect.
    rng = np.random.default_rng(0)
    return [
        {
            "arm": arm,
            "seed": seed,
            "accuracy": 0.8 + noise + effects[arm] + 0.002 * rng.normal(),
            "wrong_labels_learned": 0.5,
        }
        for seed, noise in enumerate(0.05 * rng.normal(size=seeds))
        for arm in quickstart.ARMS
    ]


EFFECTS = {
    "plain": 0.0,
    "dropout 50 %": 0.03,
    "placebo 10 %": 0.0,
    "MEmeL 10 %": -0.03,
}


def verdicts(runs):
    rows = quickstart.compare(runs)
    return {(row["arm"], row["other"]): row["verdict"] for row in rows}


def test_verdicts_follow_the_deltas():
    assert verdicts(invented(EFFECTS, seeds=10)) == {
        ("dropout 50 %", "plain"): "better",
        ("placebo 10 %", "plain"): "not shown",
        ("MEmeL 10 %", "plain"): "worse",
        ("MEmeL 10 %", "dropout 50 %"): "worse",
        ("MEmeL 10 %", "placebo 10 %"): "worse",
    }


def test_nine_seeds_are_too_few_for_any_effect():
    seen = verdicts(invented(EFFECTS, seeds=9))
    assert set(seen.values()) == {"not shown"}


def test_p_values_are_those_of_sign_flips_after_holm():
    runs = invented(EFFECTS, seeds=10)
    signs = 1 - 2 * ((np.arange(2**10)[:, None] >> np.arange(10)) & 1)
    raw = []
    for arm, other in quickstart.COMPARISONS:
        delta = quickstart.column(runs, arm) - quickstart.column(runs, other)
        flipped = np.abs(signs @ delta)
        raw.append(np.mean(flipped >= abs(delta.sum()) - 1e-9))
    order = np.argsort(raw, kind="stable")
    factors = len(raw) - np.arange(len(raw))
    holm = np.empty(len(raw))
    holm[order] = np.maximum.accumulate(np.array(raw)[order] * factors)
    np.testing.assert_allclose(
        [row["p"] for row in quickstart.compare(runs)], np.minimum(holm, 1.0)
    )


@pytest.mark.parametrize("configured", ["jax", "tensorflow", "torch", None])
def test_an_installed_backend_is_chosen(configured, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    if configured:
        config = json.dumps({"backend": configured})
        (tmp_path / "keras.json").write_text(config, encoding="utf-8")
    chosen = quickstart.choose_backend()
    assert importlib.util.find_spec(chosen)
    if configured and importlib.util.find_spec(configured):
        assert chosen == configured


def test_no_backend_at_all_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install jax"):
        quickstart.choose_backend()
