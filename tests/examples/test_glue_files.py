"""The GLUE example: each file of GLUE is read as it is, or its row named."""

import sys
import types

import pytest
from glue_rows import FILES
from glue_rows import TASKS
from glue_rows import write
from scripts import example

glue_tasks = example("paper.glue.tasks")

pytestmark = pytest.mark.once


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
        # Like Microsoft's file, it starts with a byte order mark and has
        # Windows line ends.
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
    if kind != "a byte":  # After such a byte, no column is reliable.
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
