"""The GLUE example: arms are built, trained, resumed, scored, handed in."""

import csv
import json

import keras
import numpy as np
import pytest
from glue_rows import TASKS
from glue_rows import WORDS
from glue_rows import Killed
from glue_rows import make_preset
from glue_rows import write_task
from scripts import example

from keras_memel import find
from keras_memel import inserted
from keras_memel import paper

glue = example("paper.glue.train")
glue_data = example("paper.glue.data")
glue_model = example("paper.glue.model")

pytestmark = [
    pytest.mark.once,
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quick_compilation"),
]


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return make_preset(tmp_path_factory.mktemp("glue") / "preset", blocks=1)


def options(preset, data, *arguments):
    small = [
        "--length=8",
        "--batch=8",
        "--epochs=2",
        "--where=transformer_layer_0",
    ]
    return [f"--model={preset}", f"--data={data}", *small, *arguments]


def results(folder):
    """Return the results of each training by arm and learning rate."""
    found = {}
    for file in folder.rglob("result.json"):
        result = json.loads(file.read_text("utf-8"))
        name = "MEmeL" if result["settings"]["arm"] else "original"
        found[name, result["settings"]["rate"]] = result["scores"], file.parent
    return found


def test_both_sentences_are_tokenized(preset, tmp_path):
    write_task(tmp_path, "RTE")
    chosen = glue.parse(options(preset, tmp_path, "--task=RTE"))
    x, y = glue.load_data(chosen, 0).train
    ids = {word: 5 + i for i, word in enumerate(WORDS)}
    cls, sep = 2, 3
    # The first row is longer than 8: the longer text gives way.
    words = ["the", "film", "was"], ["a", "film"]
    first, second = ([ids[word] for word in text] for text in words)
    assert x["token_ids"][0].tolist() == [cls, *first, sep, *second, sep]
    assert x["segment_ids"][0].tolist() == [0] * 5 + [1] * 3
    assert x["padding_mask"].all()
    assert y.tolist() == [0, 1] * 24


def test_the_arms_train_and_the_table_says_what_they_did(
    preset, tmp_path, capsys, monkeypatch
):
    write_task(tmp_path, "RTE")
    arguments = options(
        preset,
        tmp_path,
        *("--task=RTE", "--arms", "MEmeL", "--learning-rates", "1e-2"),
        f"--out={tmp_path / 'out'}",
    )
    comparison = glue.main(arguments)

    printed = capsys.readouterr().out
    left = results(tmp_path / "out")
    assert {arm for arm, _ in left} == {"original", "MEmeL"}
    for run in comparison.runs:
        scores, folder = left[run["arm"], 1e-2]
        assert run["scores"] == scores
        with np.load(folder / "answers.npz") as answers:
            right = np.argmax(answers["validation"], -1) == np.arange(48) % 2
        # `not_entailment`, of what is dull, is class 1.
        assert scores["validation"] == pytest.approx(right.mean())
        assert (folder / "log.csv").is_file()
        assert not (folder / "checkpoint.npz").exists()
    # One of the values of 8 positions x 8 channels.
    assert printed.count("1.5625 % inhibited at the end") == 1
    assert "A verdict needs 10" in printed

    # All of it is there: nothing is trained again, also without the store.
    monkeypatch.setattr(glue, "build", None)
    assert glue.main(arguments).runs == comparison.runs
    for file in (tmp_path / "out").rglob("runs.jsonl"):
        file.unlink()
    again = glue.main(arguments)
    assert [run["scores"] for run in again.runs] == [
        run["scores"] for run in comparison.runs
    ]


def test_the_best_rate_on_validation_counts(preset, tmp_path, monkeypatch):
    write_task(tmp_path, "RTE")
    rates = ("--learning-rates", "1", "2", "3", "4")
    chosen = glue.parse(options(preset, tmp_path, "--task=RTE", *rates))

    def train(arm, seed, rate, data, options):
        if rate == 3:
            raise FloatingPointError("diverged")
        validation = {1: 0.5, 2: 0.7, 4: 0.7}[rate]
        scores = {"validation": validation, "test": rate / 10}
        return {"scores": scores, "folder": tmp_path}

    monkeypatch.setattr(glue, "train", train)
    # The first of two equal scores wins, although the other is better on the
    # test set.
    assert glue.run(None, 0, chosen) == {"validation": 0.7, "test": 0.2}
    chosen.learning_rates = [3.0]
    with pytest.raises(FloatingPointError, match="diverged"):
        glue.run(None, 0, chosen)


def test_a_regression_and_its_submission(preset, tmp_path):
    write_task(tmp_path, "STS-B", ("train", "dev", "test"), rows=32)
    chosen = glue.parse(
        options(
            preset,
            tmp_path,
            *("--task=STS-B", "--submit", f"--out={tmp_path / 'out'}"),
            *("--learning-rates", "1e-2"),
        )
    )
    scores = glue.run(None, 0, chosen)
    assert scores["validation"] == scores["validation_spearman"]
    assert set(scores) == {
        *("validation", "validation_spearman", "validation_pearson"),
    }
    (file,) = (tmp_path / "out").rglob("STS-B.tsv")
    header, *rows = file.read_text("utf-8").splitlines()
    assert header == "index\tprediction"
    assert [int(row.split("\t")[0]) for row in rows] == list(range(32))
    answers = np.array([float(row.split("\t")[1]) for row in rows])
    with np.load(file.with_name("answers.npz")) as kept:
        expected = np.clip(kept["test"][:, 0], 0, 5)
    np.testing.assert_allclose(answers, expected, atol=5e-4)


def test_a_memel_that_is_kept_on_answers_too(tmp_path):
    # The answer depends only on the first token, which attends to the others.
    preset = make_preset(tmp_path / "preset", blocks=2)
    write_task(tmp_path, "RTE")
    chosen = glue.parse(
        options(preset, tmp_path, "--task=RTE", f"--out={tmp_path / 'out'}")
    )
    data = glue.load_data(chosen, 0)
    answers, losses = [], []
    for kept_on in (False, True):
        arm = {**paper.kdd2024, "at_inference": kept_on}
        folder = glue.train(arm, 0, 1e-2, data, chosen)["folder"]
        with np.load(folder / "answers.npz") as file:
            answers.append(file["validation"])
        rows = list(csv.DictReader((folder / "log.csv").open()))
        losses.append([row["loss"] for row in rows])
    assert losses[0] == losses[1]  # it trains in the same way
    assert np.abs(answers[0] - answers[1]).max() > 1e-6


def test_matched_and_mismatched(tmp_path):
    tokens = keras.Input((1,), name="token_ids")
    # It answers with its token.
    outputs = keras.layers.Lambda(lambda x: keras.ops.one_hot(x[:, 0], 3))
    model = keras.Model({"token_ids": tokens}, outputs(tokens))
    x = {"token_ids": np.array([[0], [1], [2], [2]], "int32")}
    data = glue_data.Data(
        TASKS["MNLI"],
        train=(),
        validation={
            "matched": (x, np.array([0, 1, 2, 0])),
            "mismatched": (x, np.array([0, 0, 0, 0])),
        },
        test={"matched": (x, None), "mismatched": (x, None)},
    )
    scores, answers = glue.evaluate(model, data, batch=3)
    assert scores == {
        "validation": 0.75,
        "validation_matched_accuracy": 0.75,
        "validation_mismatched_accuracy": 0.25,
    }
    np.savez(tmp_path / "answers.npz", **answers)
    glue.submit(TASKS["MNLI"], tmp_path)
    for name in ("MNLI-m.tsv", "MNLI-mm.tsv"):
        rows = (tmp_path / name).read_text("utf-8").splitlines()
        assert [row.split("\t")[1] for row in rows] == [
            *("prediction", "entailment", "neutral"),
            *("contradiction", "contradiction"),
        ]


def test_a_killed_run_resumes_to_the_same_numbers(
    preset, tmp_path, monkeypatch
):
    path = tmp_path / "own.tsv"
    path.write_text("the film was fine\t1\na dull film\t0\n" * 40, "utf-8")

    def parse(name):
        return glue.parse(
            options(
                preset,
                path,
                *("--train=48", "--validation=16", "--test=16"),
                *("--learning-rates", "1e-2", "--save-every=2"),
                f"--out={tmp_path / name}",
            )
        )

    arm = {**paper.kdd2024, "late_start": 2}
    whole = glue.run(arm, 3, parse("whole"))
    assert set(whole) == {"validation", "test", "correct"}
    assert np.mean(whole["correct"]) == whole["test"]

    fit = glue.longrun.fit

    def killed(*args, **kwargs):
        def stop(batch, logs):
            if stop.steps == 9:  # the fourth of the second epoch
                raise Killed
            stop.steps += 1

        stop.steps = 0
        callback = keras.callbacks.LambdaCallback(on_train_batch_begin=stop)
        fit(*args, callbacks=[callback], **kwargs)

    monkeypatch.setattr(glue.longrun, "fit", killed)
    with pytest.raises(Killed):
        glue.run(arm, 3, parse("killed"))
    assert not list((tmp_path / "killed").rglob("result.json"))
    monkeypatch.setattr(glue.longrun, "fit", fit)
    assert glue.run(arm, 3, parse("killed")) == whole
    answers = [
        np.load(file)["validation"]
        for name in ("whole", "killed")
        for file in (tmp_path / name).rglob("answers.npz")
    ]
    np.testing.assert_array_equal(*answers)


def test_padding_does_not_count_and_the_blocks_are_the_papers(tmp_path):
    chosen = glue.parse(
        options(make_preset(tmp_path / "preset", 12), tmp_path, "--task=RTE")
    )
    chosen.where = glue.PAPER["where"]
    model = glue.build({**paper.kdd2024, "late_start": 0}, chosen, 2)
    hosts = [path.rpartition("/")[2] for path in inserted(model)]
    assert hosts == [f"transformer_layer_{i}" for i in range(4, 8)]
    assert len(find(model, "transformer_layer_*")) == 12

    padding = (np.arange(8) < np.array([[3], [5], [8]])).astype("int32")
    x = {"token_ids": 5 * padding, "padding_mask": padding}
    x["segment_ids"] = 0 * padding
    model(x, training=True)
    for memel in inserted(model).values():
        count = keras.ops.convert_to_numpy(memel.count)
        np.testing.assert_array_equal(count[:, 0], padding.sum(0))


def test_the_arms_of_a_seed_share_their_weights(preset, tmp_path):
    chosen = glue.parse(options(preset, tmp_path, "--task=RTE"))
    heads = []
    for arm in (None, paper.kdd2024):
        keras.utils.set_random_seed(4)
        model = glue.build(arm, chosen, 3)
        heads.append(model.trainable_weights[-2].numpy())
    assert heads[0].shape == (8, 3)
    np.testing.assert_array_equal(*heads)


def test_the_learning_rate_rises_and_falls_in_lines():
    schedule = glue_model.WarmUpThenDecay(peak=2.0, steps=100)
    rates = [float(schedule(step)) for step in (0, 4, 9, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0.2, 1.0, 2.0, 2.0, 1.0, 0.0], rtol=1e-6)
    config = keras.optimizers.schedules.serialize(schedule)
    copy = keras.optimizers.schedules.deserialize(config)
    assert float(copy(4)) == 1.0


def test_the_plan_is_printed_and_nothing_is_run(preset, tmp_path, capsys):
    write_task(tmp_path, "RTE")
    out = tmp_path / "out"
    glue.main(
        options(preset, tmp_path, "--task=RTE", "--dry-run", f"--out={out}")
    )
    printed = capsys.readouterr().out
    assert "6 an epoch, 2 epochs: 12" in printed
    assert "naive (a), naive (b), MEmeL" in printed
    assert f"preset    {preset}" in printed
    assert not out.exists()


def test_what_cannot_be_run_is_refused(preset, tmp_path, capsys):
    write_task(tmp_path, "RTE")

    def refused(*arguments):
        with pytest.raises(SystemExit) as error:
            glue.main([*arguments, f"--out={tmp_path / 'out'}"])
        return f"{error.value} {capsys.readouterr().err}"

    assert "MRPC" in refused()  # Without a task, the error lists the tasks.
    assert "tune.py" in refused("--task=RTE", "--arms", "MEmeL-Tune")
    assert "tune.py" in refused("--task=RTE", "--k=5")
    own = tmp_path / "own.tsv"
    own.write_text("a fine film\t1\na dull film\t0\n" * 5, "utf-8")
    none = ["--train=6", "--validation=0", "--test=2"]
    assert "10 sentences" in refused(f"--data={own}", *none)
    tuned = ["--k=5", "--delta=10"]
    assert "need MEmeL-Tune" in refused("--task=RTE", *tuned, "--arms", "MEmeL")
    assert "leave --task out" in refused("--small", "--task=RTE")
    few = options(preset, tmp_path, "--task=RTE", "--epochs=1", "--arms")
    few += ["MEmeL"]
    assert "6 steps of training" in refused(*few)
    path = tmp_path / "own.tsv"
    path.write_text("a film\t1\ndull\t0\n", "utf-8")
    assert "Received: 2" in refused(*options(preset, path))
    path.write_text("a film\t1\ndull\t0\n" * 1001, "utf-8")
    nowhere = refused(*options(tmp_path / "nowhere", path))
    assert "--model FOLDER" in nowhere
    assert "--model NAME" in nowhere
