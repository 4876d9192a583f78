"""tables.py: which number stands where, what is run, and by whom."""

import importlib
import json
import threading

import pytest
from scripts import example

from keras_memel import paper

paper_tables, plan = example("paper.tables"), example("paper.plan")
arms, sharing = example("paper.common.arms"), example("paper.common.sharing")
longrun = example("paper.common.longrun")

# Few seeds, and no more: `compare` says so.
pytestmark = [pytest.mark.once, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def study(monkeypatch, tmp_path):
    """tables.py with a counted family in the place of glue's, and its calls."""
    family = plan.FAMILIES["glue"]._replace(module="counted_family")
    monkeypatch.setitem(plan.FAMILIES, "glue", family)

    def call(*arguments):
        text = paper_tables.main(
            ["--families", "glue", f"--out={tmp_path}", *arguments]
        )
        path = tmp_path / "calls.txt"
        calls = path.read_text().splitlines() if path.is_file() else []
        path.unlink(missing_ok=True)
        return text, [line.split(" ", 1) for line in calls]

    return call


def row(text, start, table):
    part = next(p for p in text.split("## ") if p.startswith(table))
    lines = [li for li in part.splitlines() if li.startswith(f"| {start} |")]
    assert len(lines) == 1, lines
    return [cell.strip() for cell in lines[0].strip("|").split("|")]


def test_published_and_own_numbers_stand_side_by_side(study, tmp_path):
    text, calls = study("--seeds=2", "--wrong", "0", "0.2")
    assert "no reproduction" in text
    original = row(text, "original", "Table 1")
    assert original[1:4] == ["79.6", "50.50", ""]
    assert row(text, "naive (b)", "Table 1")[1:4] == ["79.8", "49.50", "-1.00"]
    ours = row(text, "MEmeL", "Table 1")
    assert ours[1:5] == ["80.2", "51.50", "+1.00", "+1.00 to +1.00"]
    assert ours[-1] == "not shown"  # two seeds are no evidence
    # 10 values and 10, or 100 values and 1, by validation: the first of equals.
    assert "MEmeL-Tune: k 10, delta 10" in text
    assert row(text, "MEmeL-Tune", "Table 1")[2] == "150.50"
    assert row(text, "MEmeL vs. placebo", "Table 1")[3] == "+1.00"
    assert row(text, "MEmeL, kept on", "Table 6")[2] == "56.50"
    assert row(text, "RD", "Table 4")[2] == "10.00"
    assert row(text, "before training", "Values with phi")[2] == "1.00"
    assert row(text, "top 1", "Values held")[2:4] == ["40.00", "-10.00"]
    assert "| MEmeL vs. original | 0.0 | 4.0 |" in text
    assert "Table 1: MiniLM" in text
    assert "wrong labels" in text
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    # Each of the two conditions has nine arms with two seeds, and 12 settings
    # with two other seeds.
    assert len(calls) == 2 * (2 * 9 + 2 * 12)
    for seed, what in calls:
        assert ("--wrong=0.2" in what) == ("wrong" in what)
        assert int(seed) in (0, 1, *plan.TUNING_SEEDS)
    # The arm that keeps MEmeL on trains in the same way: it needs no run.
    assert len({tuple(call) for call in calls}) == len(calls)


def test_finished_runs_are_not_run_again(study, tmp_path):
    first, calls = study("--seeds=1", "--wrong=0")
    assert len(calls) == 9 + 24
    _, calls = study("--seeds=2", "--wrong=0")
    assert [seed for seed, _ in calls] == ["1"] * 9
    _, calls = study("--seeds=1", "--first-seed=5", "--wrong=0")
    assert [seed for seed, _ in calls] == ["5"] * 9
    assert study("--seeds=1", "--wrong=0") == (first, [])
    for line in (tmp_path / "glue.jsonl").read_text().splitlines():
        run = json.loads(line)
        assert run["correct"][:6] == "111111"
        assert "revision" in run["environment"]
        if run["arm"] == "original":
            assert "--learning-rates=2e-4" in run["argument"]


def test_a_small_study_chooses_nothing(study):
    text, calls = study("--small")
    assert len(calls) == 9
    assert "--train=416" in calls[0][1]
    assert "Chosen by validation: MEmeL-Tune: k 1, delta 10" in text
    with pytest.raises(ValueError, match="pass another `store`"):
        study("--seeds=1", "--wrong=0")


def test_a_pool_of_processes_makes_the_same_runs(study, tmp_path):
    _, calls = study("--small", "--workers=2", "--seeds=2")
    assert sorted(seed for seed, _ in calls) == ["0"] * 9 + ["1"] * 9
    text, calls = study("--small", "--seeds=2")
    assert calls == []
    assert row(text, "MEmeL", "Table 1")[2] == "51.50"


def test_the_plan_counts_what_is_left_and_runs_nothing(study, capsys):
    text, calls = study("--dry-run")
    assert text is None
    assert calls == []
    printed = capsys.readouterr().out
    assert "glue: 90 runs of 9 arms and 10 seeds, 24 to choose" in printed
    assert "glue_wrong_20: 90 runs" in printed
    assert "0 finished; 130 s per run (expected), 4.1 hours left" in printed
    assert "dropout: rate 0.05; rate 0.1; rate 0.2; rate 0.4" in printed
    study("--seeds=1", "--wrong=0")
    study("--dry-run", "--wrong=0")
    assert "33 finished; 0 s per run (measured)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=0"], "--seeds must be at least 1. Received: 0"),
        (["--first-seed=-1"], "--first-seed must be at least 0"),
        (["--workers=0"], "--workers must be at least 1"),
        (["--wrong", "1"], "at least 0 and below 1. Received: 1.0"),
        (["--first-seed=995"], "choose settings: leave them out"),
        (["--glue=--broken"], "No data: pass --data FILE"),
    ],
)
def test_arguments_are_refused_before_anything_is_run(
    study, tmp_path, capsys, arguments, message
):
    with pytest.raises(SystemExit) as refusal:
        study(*arguments)
    assert message in f"{capsys.readouterr().err} {refusal.value}"
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_cannot_be_written_is_refused(study, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match=r"--out .*file"):
        study(f"--out={tmp_path / 'file'}")


def test_the_arms_and_their_budgets():
    assert {name: arms.FIXED[name] for name in paper.arms} == paper.arms
    assert {*arms.FIXED, *arms.TUNED} == set(arms.NAMES)
    assert {len(settings) for settings in arms.TUNED.values()} == {4}
    ours, placebo = arms.TUNED["MEmeL-Tune"], arms.TUNED["placebo-Tune"]
    for name, arm in ours.items():
        assert placebo[name]["selection"].k == arm["selection"].k
        assert placebo[name]["inhibition"].delta == arm["inhibition"].delta
        assert {**placebo[name], "selection": 0, "inhibition": 0} == {
            **arm,
            "selection": 0,
            "inhibition": 0,
        }
    assert arms.FIXED["placebo"]["selection"].k == 1
    assert arms.FIXED["L2E"] is paper.l2e


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("family", plan.FAMILIES)
def test_the_commands_of_the_plan_are_those_of_the_programs(family, small):
    if family != "nowcasting":
        pytest.importorskip("keras_hub")
    module = importlib.import_module(plan.FAMILIES[family].module)
    for condition in plan.conditions([family], plan.WRONG):
        words = plan.command(condition, small, epochs=3)
        options = module.parse([*words, "--diagnose"])
        assert options.epochs == 3
        assert options.diagnose
        assert getattr(options, "wrong", 0.0) == condition.wrong


def test_two_processes_share_the_seeds_and_one_takes_over(tmp_path):
    made, lock, both = [], threading.Lock(), threading.Barrier(2, timeout=60)
    store = set()

    def run(name):
        def work(mine):
            if name not in [n for n, _ in made]:
                with lock:
                    made.append((name, mine[0]))
                both.wait()  # neither is through before the other came
                if name == "dies":
                    raise MemoryError
            store.update(mine)

        try:
            sharing.share(work, range(6), tmp_path)
        except MemoryError:
            return

    threads = [
        threading.Thread(target=run, args=(name,), daemon=True)
        for name in ("dies", "lives")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    # Both started with different seeds, and all runs were completed.
    assert len({seed for _, seed in made}) == 2
    assert store == set(range(6))


def test_a_claim_is_held_once_and_until_its_end(tmp_path):
    with sharing.claim(tmp_path / "locks" / "a") as first:
        assert first
        with sharing.claim(tmp_path / "locks" / "a") as second:
            assert not second
    with sharing.claim(tmp_path / "locks" / "a") as third:
        assert third


def test_control_c_ends_with_one_line(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        longrun.start(main)
    assert end.value.code == 130
    assert capsys.readouterr().err.strip().splitlines() == [
        "Stopped. The same command goes on from here."
    ]
