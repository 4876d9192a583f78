"""examples/glue.py: the files of GLUE, its metrics, and the arms on them."""

import csv
import json
import math
import pathlib
import sys
import types

import keras
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from keras_memel import find
from keras_memel import inserted
from keras_memel import paper

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import glue
import glue_data
import glue_model
import glue_tasks

pytestmark = [
    pytest.mark.once,
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quick_compilation"),
]

TASKS = glue_tasks.TASKS
WORDS = ["a", "and", "dull", "film", "fine", "long", "the", "was"]

# Two rows of each file as GLUE has it: header, rows, and what they say.
PARSES = "\t".join(["( a film )"] * 4)
FILES = {
    "CoLA": {
        "train": (
            None,
            ['gj04\t1\t\tThe "film was fine', "gj04\t0\t*\tThe was fine"],
            [('The "film was fine',), ("The was fine",)],
            [1, 0],
        ),
        "test": (
            "index\tsentence",
            ["0\tThe film", "1\tThe was"],
            [("The film",), ("The was",)],
            None,
        ),
    },
    "SST-2": {
        "train": (
            "sentence\tlabel",
            ["a fine film \t1", "dull \t0"],
            [("a fine film ",), ("dull ",)],
            [1, 0],
        ),
    },
    "MRPC": {
        "train": (
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            ['1\t10\t11\t"Fine , "\tFine', "0\t12\t13\tlong\tdull"],
            [('"Fine , "', "Fine"), ("long", "dull")],
            [1, 0],
        ),
        "test": (
            "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
            ["0\t10\t11\tfine\tlong"],
            [("fine", "long")],
            None,
        ),
    },
    "STS-B": {
        "dev": (
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t"
            "sentence1\tsentence2\tscore",
            [
                "0\tmain\tMSRvid\t2012\t1\tnone\tnone\ta film\tfilms\t4.750",
                "1\tmain\tMSRvid\t2012\t2\tnone\tnone\tdull\tfine\t0.000",
            ],
            [("a film", "films"), ("dull", "fine")],
            [4.75, 0.0],
        ),
    },
    "QQP": {
        "train": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            ["7\t1\t2\tWas it fine ?\tWas it ?\t1", "8\t3\t4\t\tWas it ?\t0"],
            [("Was it fine ?", "Was it ?"), ("", "Was it ?")],
            [1, 0],
        ),
        "test": (
            "id\tquestion1\tquestion2",
            ["0\tWas it ?\tIt was ?"],
            [("Was it ?", "It was ?")],
            None,
        ),
    },
    "MNLI": {
        "train": (
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
            "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
            "sentence1\tsentence2\tlabel1\tgold_label",
            [
                f"0\t1\t1n\tfiction\t{PARSES}\ta film\tfine\tneutral\tneutral",
                f"1\t2\t2e\tfiction\t{PARSES}\tdull\tlong\tneutral\t"
                "contradiction",
            ],
            [("a film", "fine"), ("dull", "long")],
            [1, 2],
        ),
        "dev_mismatched": (
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
            "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
            "sentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\t"
            "gold_label",
            [
                f"0\t1\t1n\tletters\t{PARSES}\ta film\tfine\tneutral\t"
                "neutral\tneutral\tneutral\tneutral\tentailment"
            ],
            [("a film", "fine")],
            [0],
        ),
    },
    "QNLI": {
        "train": (
            "index\tquestion\tsentence\tlabel",
            ["0\tWas it ?\tIt was .\tentailment"]
            + ["1\tWas it ?\tA film .\tnot_entailment"],
            [("Was it ?", "It was ."), ("Was it ?", "A film .")],
            [0, 1],
        ),
    },
    "RTE": {
        "train": (
            "index\tsentence1\tsentence2\tlabel",
            ["0\ta film\tfine\tnot_entailment", "1\tdull\tlong\tentailment"],
            [("a film", "fine"), ("dull", "long")],
            [1, 0],
        ),
    },
}


def write(folder, stem, header, rows, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [*([header] if header else []), *rows]
    path = folder / f"{stem}.tsv"
    path.write_bytes((end.join(lines) + end).encode())
    return path


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_each_official_file_is_read_as_it_is(name, end, tmp_path):
    for stem, (header, rows, texts, labels) in FILES[name].items():
        write(tmp_path / name, stem, header, rows, end)
        part, _, which = stem.partition("_")
        part = "validation" if part == "dev" else part
        read = glue_tasks.read(TASKS[name], tmp_path, part, which)
        assert read.texts == texts
        if labels is None:
            assert read.labels is None
        else:
            assert read.labels.tolist() == labels
            kind = "i" if TASKS[name].classes else "f"
            assert read.labels.dtype.kind == kind


def test_characters_that_python_takes_for_ends_of_lines_are_text(tmp_path):
    sentence = "a\u2028film\x0bwas\x85fine"
    write(tmp_path, "train", None, [f"gj04\t1\t\t{sentence}"])
    read = glue_tasks.read(TASKS["CoLA"], tmp_path, "train")
    assert read.texts == [(sentence,)]


MSR = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"


def write_msr(folder, held_out="12\t13\n"):
    rows = ["1\t10\t11\tfine\ta film", "0\t12\t13\tlong\tdull"]
    for part, lines in (("train", rows), ("test", rows[1:])):
        path = folder / f"msr_paraphrase_{part}.txt"
        # As Microsoft's, it begins with a mark and ends its lines twice.
        text = "\r\n".join(["\ufeff" + MSR, *lines, ""])
        path.write_bytes(text.encode())
    (folder / "dev_ids.tsv").write_text(held_out, "utf-8")


def test_the_files_of_microsoft_are_parted_as_glue_does(tmp_path):
    write_msr(tmp_path)
    task = TASKS["MRPC"]
    read = {
        part: glue_tasks.read(task, tmp_path, part)
        for part in ("train", "validation", "test")
    }
    assert read["train"].texts == [("fine", "a film")]
    assert read["train"].labels.tolist() == [1]
    for part in ("validation", "test"):
        assert read[part].texts == [("long", "dull")]
        assert read[part].labels.tolist() == [0]

    write_msr(tmp_path, held_out="12\t13\n98\t99\n")
    with pytest.raises(SystemExit, match=r"dev_ids.tsv, row 2: .*no such pair"):
        glue_tasks.read(task, tmp_path, "train")
    (tmp_path / "dev_ids.tsv").unlink()
    with pytest.raises(SystemExit, match=r"dev_ids.tsv cannot be read"):
        glue_tasks.read(task, tmp_path, "train")


BROKEN = {
    "a short row": (b"2\ta film", "row 3: expected 4 columns.*Received 2"),
    "a long row": (b"2\ta\tfilm\tentailment\tx", "row 3: .*Received 5"),
    "a blank row": (b"", "row 3: expected 4 columns.*Received 1"),
    "a wrong label": (b"2\ta\tfilm\t1", "row 3: the label must be entail.*'1'"),
    "no text": (b"2\t\t \tentailment", "row 3: there is no text"),
    "a byte": (b"2\ta\tf\xe9lm\tentailment", "row 3: byte 6, 0xe9, is not UTF"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_row_is_named_and_nothing_is_read(kind, tmp_path):
    line, message = BROKEN[kind]
    whole = b"0\ta film\tfine\tentailment"
    path = tmp_path / "train.tsv"
    lines = [b"index\tsentence1\tsentence2\tlabel", whole, line, whole]
    path.write_bytes(b"\n".join([*lines, b""]))
    with pytest.raises(SystemExit, match=rf"train\.tsv, {message}"):
        glue_tasks.read(TASKS["RTE"], tmp_path, "train")
    if kind != "a byte":  # in which no column can be trusted
        broken = []
        read = glue_tasks.read(TASKS["RTE"], tmp_path, "train", broken=broken)
        assert len(read) == 2
        assert [what.partition(": ")[0] for what in broken] == [
            f"{path}, row 3"
        ]


@pytest.mark.parametrize("label", ["5.01", "-1", "nan", "", "x"])
def test_a_score_that_is_none_is_named(label, tmp_path):
    header, rows, *_ = FILES["STS-B"]["dev"]
    rows = [rows[0], rows[1].removesuffix("0.000") + label]
    write(tmp_path, "dev", header, rows)
    with pytest.raises(SystemExit, match=r"dev\.tsv, row 3: .*from 0 to 5"):
        glue_tasks.read(TASKS["STS-B"], tmp_path, "validation")


def test_what_is_missing_is_named_with_both_ways(tmp_path, monkeypatch):
    task = TASKS["MNLI"]
    with pytest.raises(SystemExit, match=r"no folder at .*nowhere.*dev_mism"):
        glue_tasks.read(task, tmp_path / "nowhere", "train")
    with pytest.raises(SystemExit, match=r"dev_matched\.tsv cannot be read"):
        glue_tasks.read(task, tmp_path, "validation", "matched")
    path = write(tmp_path, "train", "index\tsentence1\tgold_label", ["0\ta\tb"])
    with pytest.raises(SystemExit, match=r"row 1: .*\['sentence2'\]"):
        glue_tasks.read(task, tmp_path, "train")
    path.write_text(FILES["MNLI"]["train"][0] + "\n", "utf-8")
    with pytest.raises(SystemExit, match=r"train\.tsv has no rows"):
        glue_tasks.read(task, tmp_path, "train")
    # The same as where it is not installed.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SystemExit, match=r"--data FOLDER.*tensorflow-datasets"):
        glue_tasks.read(task, None, "train")


def test_tensorflow_datasets_is_asked_for_the_right_set(monkeypatch):
    asked = []

    def data_source(name, split):
        asked.append((name, split))
        label = -1 if "test" in split else 2
        row = {"premise": b"a", "hypothesis": "film", "label": label, "idx": 0}
        return [row, row]

    source = types.SimpleNamespace(data_source=data_source)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", source)
    task = TASKS["MNLI"]
    read = glue_tasks.read(task, None, "validation", "matched")
    assert asked == [("glue/mnli", "validation_matched")]
    assert read.texts == [("a", "film")] * 2
    assert read.labels.tolist() == [2, 2]
    assert glue_tasks.read(task, None, "test", "matched").labels is None
    source.data_source = lambda *a, **k: [
        {"sentence1": "a", "sentence2": "film", "label": 2}
    ]
    with pytest.raises(SystemExit, match=r"glue/mrpc .*train, row 0"):
        glue_tasks.read(TASKS["MRPC"], None, "train")


def test_sentences_with_scores_or_labels(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text("a film\t2.5\nlong\t0\ndull\t-1\n", "utf-8")
    read = glue_tasks.read_sentences(path)
    assert read.texts == [("a film",), ("dull",)]
    assert read.labels.tolist() == [1, 0]
    path.write_text("sentence\tlabel\na film\t1\ndull\t0\n", "utf-8")
    read = glue_tasks.read_sentences(path)
    assert read.texts == [("a film",), ("dull",)]
    assert read.labels.tolist() == [1, 0]
    for line in ("no label", "a film\tgood", "a\tfilm\t1", " \t1", "a\tnan"):
        path.write_text(f"a film\t1\n{line}\n", "utf-8")
        with pytest.raises(SystemExit, match=r"own\.tsv, row 2: .*a tab"):
            glue_tasks.read_sentences(path)
    with pytest.raises(SystemExit, match=r"nowhere cannot be read.*--data"):
        glue_tasks.read_sentences(tmp_path / "nowhere")


# 2 hits, 1 miss, 1 false alarm, 4 rightly not.
ANSWERS = np.eye(2)[[1, 1, 0, 1, 0, 0, 0, 0]]
LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])


def test_metrics_are_those_worked_out_by_hand():
    def score(name, answers=ANSWERS, labels=LABELS):
        return glue_tasks.score(TASKS[name], answers, labels)

    matthews = (2 * 4 - 1 * 1) / math.sqrt(3 * 3 * 5 * 5)
    assert score("CoLA") == {"matthews": pytest.approx(matthews)}
    assert list(score("MRPC")) == ["f1", "accuracy"]  # the first decides
    for name in ("MRPC", "QQP"):
        assert score(name) == {"f1": pytest.approx(2 / 3), "accuracy": 0.75}
    for name in ("SST-2", "QNLI", "RTE"):
        assert score(name) == {"accuracy": 0.75}
    assert score("MNLI", np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 0])) == {
        "accuracy": 0.75
    }
    # Deviations -1.5 -.5 .5 1.5 and -3 -2 5 0; ranks 1 2 3 4 and 1 2 4 3.
    found = score("STS-B", np.array([[1], [2], [9], [4]]), np.arange(1.0, 5))
    pearson, spearman = 8 / math.sqrt(5 * 38), 1 - 6 * 2 / (4 * 15)
    assert list(found) == ["spearman", "pearson"]
    assert found["pearson"] == pytest.approx(pearson)
    assert found["spearman"] == pytest.approx(spearman)


def test_metrics_are_those_of_scikit_learn_and_scipy(rng):
    labels = rng.integers(0, 2, 200)
    outputs = rng.normal(size=(200, 2)) + np.eye(2)[labels]
    answers = np.argmax(outputs, -1)
    for name, metric, function in (
        ("CoLA", "matthews", sklearn.metrics.matthews_corrcoef),
        ("QQP", "f1", sklearn.metrics.f1_score),
        ("QQP", "accuracy", sklearn.metrics.accuracy_score),
    ):
        found = glue_tasks.score(TASKS[name], outputs, labels)[metric]
        assert found == pytest.approx(function(labels, answers))
    # Steps of 0.2, so that there are ties.
    scores = np.round(5 * rng.uniform(size=200)) / 5
    guesses = scores + rng.normal(size=200)
    found = glue_tasks.score(TASKS["STS-B"], guesses[:, None], scores)
    assert found["spearman"] == pytest.approx(
        scipy.stats.spearmanr(scores, guesses)[0]
    )
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, guesses)[0, 1])


def test_an_answer_that_is_always_the_same_is_worth_nothing():
    never = np.eye(2)[[0] * 8]
    assert glue_tasks.score(TASKS["CoLA"], never, LABELS) == {"matthews": 0.0}
    assert glue_tasks.score(TASKS["QQP"], never, LABELS)["f1"] == 0.0
    same = glue_tasks.score(TASKS["STS-B"], np.ones((8, 1)), np.arange(8.0))
    assert same == {"spearman": 0.0, "pearson": 0.0}
    with pytest.raises(FloatingPointError, match="diverged"):
        glue_tasks.score(TASKS["CoLA"], np.nan * never, LABELS)


def make_preset(folder, blocks):
    hub = pytest.importorskip("keras_hub").models
    tokenizer = hub.BertTokenizer(
        vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    )
    model = hub.BertTextClassifier(
        backbone=hub.BertBackbone(
            vocabulary_size=5 + len(WORDS),
            num_layers=blocks,
            num_heads=2,
            hidden_dim=8,
            intermediate_dim=16,
            max_sequence_length=8,
        ),
        num_classes=2,
        preprocessor=hub.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=8
        ),
    )
    model.save_to_preset(folder)
    return folder


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    return make_preset(tmp_path_factory.mktemp("glue") / "preset", blocks=1)


def write_task(folder, name, stems=("train", "dev"), rows=48):
    """A task that can be learned: what is fine is true."""
    header, examples, *_ = FILES[name].get(stems[0]) or FILES[name]["dev"]
    columns = header.split("\t")
    task = TASKS[name]
    for stem in stems:
        lines = []
        for i in range(rows):
            row = dict(zip(columns, examples[0].split("\t")))
            row[task.texts[0]] = f"the film was {['fine', 'dull'][i % 2]}"
            row[task.texts[1]] = f"{WORDS[i % 8]} film"
            labels = task.classes or ("5.0", "0.5")
            row[task.label] = labels[i % 2]
            if stem.startswith("test"):
                del row[task.label]
            lines.append("\t".join(row.values()))
        write(folder / name, stem, "\t".join(row), lines)
    return folder


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


def options(preset, data, *arguments):
    small = [
        "--length=8",
        "--batch=8",
        "--epochs=2",
        "--where=transformer_layer_0",
    ]
    return [f"--model={preset}", f"--data={data}", *small, *arguments]


def results(folder):
    """What each training left, by its arm and learning rate."""
    found = {}
    for file in folder.rglob("result.json"):
        result = json.loads(file.read_text("utf-8"))
        name = "MEmeL" if result["settings"]["arm"] else "original"
        found[name, result["settings"]["rate"]] = result["scores"], file.parent
    return found


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
    assert "A verdict takes 10" in printed

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
    # Of equals the first, though the other is better on the test set.
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
    # Only what the first token sees of the others reaches the answer.
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


class Killed(BaseException):
    """As a signal, nothing catches it."""


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
    assert set(whole) == {"validation", "test"}

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

    assert "MRPC" in refused()  # no task: they are named
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
