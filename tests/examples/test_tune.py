"""tune.py: which settings are tried, resumed, shared and chosen."""

import json
import socket
import sys
import threading
import time
import types

import pytest
from glue_rows import Killed
from glue_rows import make_preset
from keras_tuner.src.distribute import oracle_chief
from scripts import example

from keras_memel import MEmeL

GLUE = "examples.paper.glue.train"
glue, tune = example("paper.glue.train"), example("paper.tune")

pytestmark = [
    pytest.mark.once,
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quick_compilation"),
]

GRID = [1, 5, 10, 50, 100]


class Family(types.ModuleType):
    """A family whose score is worked out by hand: best at 10, 50, middle:2."""

    def __init__(self):
        super().__init__("family")
        self.runs, self.seed = [], 3

    def parse(self, words):
        out = words[words.index("--out") + 1]
        return types.SimpleNamespace(
            out=out, seed=self.seed, where="middle:4", words=tuple(words)
        )

    def run(self, arm, seed, options):
        layer = MEmeL(**arm)
        k, delta = layer.selection.k, layer.inhibition.delta
        self.runs.append((k, delta, options.where, seed))
        score = 0.9 - abs(GRID.index(k) - 2) / 10
        score -= abs(GRID.index(int(delta)) - 3) / 100
        score -= 0.001 * (options.where != "middle:2")
        score += 0.0001 * seed
        return {"validation": score, "test": 1 - score}


@pytest.fixture
def family(monkeypatch):
    made = Family()
    monkeypatch.setitem(sys.modules, GLUE, made)
    return made


def test_the_papers_grid_is_tried_and_the_best_on_validation_named(
    family, tmp_path, capsys
):
    arguments = ["glue", "--task", "RTE", "--out", str(tmp_path)]
    best = tune.main(arguments)
    assert sorted(family.runs) == [
        (k, delta, "middle:4", 3) for k in GRID for delta in GRID
    ]
    score = pytest.approx(0.9 - 0.001 + 0.0003)
    assert best == {
        "k": 10,
        "delta": 50.0,
        "where": "middle:4",
        "validation": score,
    }
    printed = capsys.readouterr().out
    assert "25 settings of glue, 1 run(s) each" in printed
    # All of it is there: a second call runs nothing.
    del family.runs[:]
    assert tune.main(arguments) == best
    assert family.runs == []


def test_layers_are_chosen_too_and_seeds_averaged(family, tmp_path):
    words = "--k 10 100 --delta 50 --where middle:2 middle:4 --seeds 2"
    best = tune.main([*words.split(), "--out", str(tmp_path)])
    assert len(family.runs) == 8
    assert {seed for *_, seed in family.runs} == {3, 4}
    score = pytest.approx(0.9 + 0.00035)
    assert (best["k"], best["where"], best["validation"]) == (
        10,
        "middle:2",
        score,
    )


def test_a_number_of_settings_is_chosen_by_the_seed(family, tmp_path):
    for seed, name in ((3, "a"), (3, "b"), (4, "c")):
        family.seed = seed
        tune.main(["--trials", "7", "--out", str(tmp_path / name)])
    tried = [run[:3] for run in family.runs]
    assert len(set(tried[:7])) == 7
    assert tried[7:14] == tried[:7]
    assert set(tried[14:]) != set(tried[:7])


def test_a_killed_search_goes_on(family, tmp_path):
    run = family.run

    def killed(arm, seed, options):
        if len(family.runs) == 4:
            raise Killed
        return run(arm, seed, options)

    family.run = killed
    with pytest.raises(Killed):
        tune.main(["--out", str(tmp_path)])
    family.run = run
    best = tune.main(["--out", str(tmp_path)])
    assert len(family.runs) == 25  # No setting occurs twice.
    assert (best["k"], best["delta"]) == (10, 50)


def test_what_diverges_is_last_and_what_fails_is_named(
    family, tmp_path, capsys
):
    def run(arm, seed, options):
        layer = MEmeL(**arm)
        if layer.inhibition.delta == 100:
            raise FloatingPointError("diverged, it has")
        if layer.selection.k == 5:
            raise RuntimeError("out of memory")
        return {"validation": 0.1}

    family.run = run
    words = "--k 1 5 --delta 1 100 --out"
    best = tune.main([*words.split(), str(tmp_path)])
    assert (best["k"], best["delta"]) == (1, 1)
    printed = capsys.readouterr().out
    assert printed.count("diverged  k ") == 2
    assert "failed  k 5, delta 1.0, where middle:4, RuntimeError: out of" in (
        printed
    )


def test_two_workers_share_the_trials_of_a_chief(
    family, tmp_path, monkeypatch, capsys
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sleep = time.sleep
    # It looks once in a second, and at the end in 20.
    clock = types.SimpleNamespace(sleep=lambda seconds: sleep(seconds / 20))
    monkeypatch.setattr(oracle_chief, "time", clock)
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", str(port))
    found, by = {}, {}
    started = threading.Event()
    start_server = oracle_chief.start_server

    def start(oracle):
        started.set()
        start_server(oracle)

    monkeypatch.setattr(oracle_chief, "start_server", start)
    run = family.run

    both = threading.Barrier(2, timeout=60)

    def together(arm, seed, options):
        name = threading.current_thread().name
        by[name] = by.get(name, 0) + 1
        if by[name] == 1:
            both.wait()  # neither has had all of them before the other came
        return run(arm, seed, options)

    family.run = together
    words = ["--k", "1", "5", "10", "--delta", "1", "50", "--out"]

    def search(name):
        found[name] = tune.main([*words, str(tmp_path)])

    threads = {}
    for name in ("chief", "worker0", "worker1"):
        monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
        threads[name] = threading.Thread(
            target=search, args=(name,), name=name, daemon=True
        )
        threads[name].start()
        if name == "chief":
            assert started.wait(60)
        else:  # it has read its name
            while name not in by:
                assert threads[name].is_alive() or name in by
                sleep(0.01)
    for thread in threads.values():
        thread.join(60)
    assert len(family.runs) == 6
    assert len(set(family.runs)) == 6
    assert set(by) == {"worker0", "worker1"}
    assert (found["chief"]["k"], found["chief"]["delta"]) == (10, 50)
    assert found["worker0"] is found["worker1"] is None


def test_a_real_training_without_a_look_at_the_test_set(
    tmp_path, monkeypatch, capsys
):
    preset = make_preset(tmp_path / "preset", blocks=1)
    path = tmp_path / "own.tsv"
    path.write_text("the film was fine\t1\na dull film\t0\n" * 60, "utf-8")
    seen = []
    score = glue.glue_tasks.score

    def watched(task, answers, labels):
        seen.append(len(labels))
        return score(task, answers, labels)

    monkeypatch.setattr(glue.glue_tasks, "score", watched)
    words = "--k 8 --delta 1 --where transformer_layer_0"
    words += " --train 88 --validation 17 --test 15 --length 8 --batch 8"
    words += f" --epochs 1 --learning-rates 1e-2 --model {preset}"
    best = tune.main([*words.split(), f"--data={path}", f"--out={tmp_path}"])
    assert seen == [17]  # 17 is the size of the validation set.
    (file,) = tmp_path.rglob("result.json")
    scores = json.loads(file.read_text("utf-8"))["scores"]
    assert scores == {"validation": best["validation"]}
    # The last printed line is a command of glue.py.
    *_, line = capsys.readouterr().out.strip().splitlines()
    program, *rest = line.split()[1:]
    assert program == "examples/paper/glue/train.py"
    options = glue.parse(rest)
    assert (options.k, options.where) == (best["k"], "transformer_layer_0")
    assert "MEmeL-Tune" in options.arms


def test_the_plan_and_what_is_refused(family, tmp_path, capsys):
    assert tune.main(["--dry-run", "--out", str(tmp_path)]) is None
    assert "25 settings" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SystemExit):
        tune.main(["swin"])
    family.parse = lambda words: types.SimpleNamespace(out="", seed=0)
    with pytest.raises(SystemExit, match="leave --where out"):
        tune.main(["--where", "middle:2", "--out", str(tmp_path)])
