"""examples/quickstart.py, end to end."""

import importlib.util
import json
import re
import sys

import keras
import matplotlib.image
import numpy as np
import processes
import pytest
from scripts import EXAMPLES
from scripts import load

pytestmark = pytest.mark.once

SCRIPT = EXAMPLES / "quickstart.py"
quickstart = load(SCRIPT)

# Arms, and what each is compared with.
PAIRS = [
    ("dropout 50 %", "plain"),
    ("placebo 10 %", "plain"),
    ("MEmeL 10 %", "plain"),
    ("MEmeL 10 %", "dropout 50 %"),
    ("MEmeL 10 %", "placebo 10 %"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Output, runs and folder of the script with 2 seeds, as users run it."""
    folder = tmp_path_factory.mktemp("quickstart") / "new" / "folder"
    options = ("--seeds", 2, "--epochs", 3, "--out", folder)
    done = processes.run(SCRIPT, *options)
    text = (folder / "quickstart.jsonl").read_text(encoding="utf-8")
    return done, [json.loads(line) for line in text.splitlines()], folder


def test_every_arm_runs_with_every_seed_and_leaves_a_line(finished):
    _, runs, _ = finished
    assert [(run["seed"], run["arm"]) for run in runs] == [
        (seed, arm) for seed in (0, 1) for arm in quickstart.ARMS
    ]
    for run in runs:
        assert run["argument"] == repr((run["arm"], 3))  # epochs
        assert run["environment"]["backend"] == keras.backend.backend()
        # 1,397 test images and 80 wrong labels.
        for key, number in (("accuracy", 1397), ("wrong_labels_learned", 80)):
            assert 0 <= run["scores"][key] <= 1
            hits = run["scores"][key] * number
            assert hits == pytest.approx(round(hits), abs=1e-6)


def test_the_networks_learn_something(finished):
    _, runs, _ = finished
    assert all(run["scores"]["accuracy"] > 0.5 for run in runs)


def test_the_arms_do_different_things(finished):
    _, runs, _ = finished
    seen = {run["scores"]["accuracy"] for run in runs if run["seed"] == 0}
    assert len(seen) > 1


def test_the_tables_say_what_the_runs_say(finished):
    done, runs, _ = finished
    accuracy = {
        (run["arm"], run["seed"]): run["scores"]["accuracy"] for run in runs
    }
    for arm, other in PAIRS:
        deltas = [
            100 * (accuracy[arm, seed] - accuracy[other, seed])
            for seed in (0, 1)
        ]
        row = re.search(
            rf"^\| {re.escape(f'{arm} vs. {other}')} \| (\S+) \| "
            r"(\S+) to (\S+) \|",
            done.stdout,
            re.M,
        )
        np.testing.assert_allclose(
            [float(number) for number in row.groups()],
            [sum(deltas) / 2, min(deltas), max(deltas)],
            atol=0.0501,
        )
    for arm in quickstart.ARMS:
        mean = 50 * (accuracy[arm, 0] + accuracy[arm, 1])
        row = re.search(rf"^\| {re.escape(arm)} \| (\S+) \|", done.stdout, re.M)
        assert float(row[1]) == pytest.approx(mean, abs=0.0501)


def test_two_seeds_show_nothing_and_the_output_says_so(finished):
    done, _, _ = finished
    assert done.stdout.count("not shown") == len(PAIRS)
    assert not re.search(r"better|worse|inf|nan", done.stdout)
    assert "a verdict needs 10 seeds" in done.stdout


def test_a_second_call_trains_nothing_and_other_epochs_are_refused(
    finished, monkeypatch, capsys
):
    done, _, folder = finished
    store = folder / "quickstart.jsonl"
    before = store.read_bytes()
    options = ["quickstart.py", "--seeds", "2", "--out", str(folder)]
    monkeypatch.setattr(quickstart, "build", None)  # training would fail
    monkeypatch.setattr(sys, "argv", [*options, "--epochs", "3"])
    quickstart.main()
    assert capsys.readouterr().out == done.stdout
    monkeypatch.setattr(sys, "argv", [*options, "--epochs", "4"])
    with pytest.raises(ValueError, match="pass another `store`"):
        quickstart.main()
    assert store.read_bytes() == before


def test_a_progress_bar_counts_the_runs(finished):
    done, runs, _ = finished
    assert f"{len(runs)}/{len(runs)}" in done.stderr


def test_the_figure_is_drawn(finished):
    _, _, folder = finished
    picture = matplotlib.image.imread(folder / "quickstart.png")[..., :3]
    assert picture.shape[0] > 300
    assert picture.shape[1] > 900
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20


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
        quickstart.train(("MEmeL 10 %", 2), seed=7) for _ in range(2)
    )
    assert first == second


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


def test_it_leaves_a_page_of_the_neurons(finished):
    _, _, folder = finished
    text = (folder / "neurons.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "<title>Quickstart: a network without MEmeL" in text
    assert len(text) > 100_000  # The page contains images.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds: must be at least 1. Received: 0"),
        (["--epochs", "0"], "--epochs: must be at least 1. Received: 0"),
        (["--epochs", "two"], "--epochs: invalid whole value: 'two'"),
        (["--out", "{file}"], "--out: must be a folder to write to."),
        (["--out", "{file}/below"], "--out: must be a folder to write to."),
    ],
)
def test_bad_arguments_are_refused_in_a_line(
    words, message, tmp_path, monkeypatch, capsys
):
    file = tmp_path / "file"
    file.write_text("no folder")
    words = [word.format(file=file) for word in words]
    monkeypatch.setattr(sys, "argv", ["quickstart.py", *words])
    with pytest.raises(SystemExit) as refusal:
        quickstart.main()
    assert refusal.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_control_c_ends_in_a_line(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "write_neurons", stop)
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="The same command resumes"):
        quickstart.main()
