"""examples/finetune_bert.py on a tiny preset, and what it says if it cannot."""

import importlib.util
import pathlib
import re
import sys

import pytest

pytestmark = [
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quick_compilation"),
]

FILE = pathlib.Path(__file__).parents[1] / "examples" / "finetune_bert.py"
SMALL = ["--train=64", "--test=16", "--epochs=6"]
WORDS = ["a", "and", "dull", "film", "fine", "long", "the", "was"]


def load():
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """Scores, of which those of 0 take no side."""
    lines = [f"the film was {word}" for word in ("fine", "dull", "long")]
    scores = [f"{line}\t{1 - i}\n" for i, line in enumerate(lines)]
    path = tmp_path / "train.tsv"
    path.write_text("".join(40 * scores), encoding="utf-8")
    return path


@pytest.fixture
def preset(tmp_path):
    hub = pytest.importorskip("keras_hub").models
    tokenizer = hub.BertTokenizer(
        vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    )
    model = hub.BertTextClassifier(
        backbone=hub.BertBackbone(
            vocabulary_size=5 + len(WORDS),
            num_layers=4,
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
    model.save_to_preset(tmp_path / "preset")
    return tmp_path / "preset"


def test_each_arm_trains_and_inhibits(preset, data, capsys):
    load().main([f"--model={preset}", f"--data={data}", "--length=8"] + SMALL)

    printed = capsys.readouterr().out
    right = re.findall(r"seed 0  (\w+) +([\d.]+) % right", printed)
    assert [arm for arm, _ in right] == ["plain", "MEmeL", "L2E"]
    rates = re.findall(r"([\d.]+) % inhibited at the end", printed)
    # One value of 8 positions x 8 channels; padding is not counted.
    assert float(rates[0]) == pytest.approx(100 / (6 * 8), rel=0.01)
    assert float(rates[1]) > 0
    deltas = re.findall(r"(\w+) +mean [+-][\d.]+  each: ([+-][\d.]+)", printed)
    shares = {arm: float(share) for arm, share in right}
    for arm, delta in deltas:
        expected = shares[arm] - shares["plain"]
        assert float(delta) == pytest.approx(expected, abs=0.11)
    assert len(deltas) == 2


def test_a_missing_preset_is_named_with_both_ways(tmp_path, data):
    pytest.importorskip("keras_hub")
    with pytest.raises(SystemExit, match=r"No model .*nowhere") as error:
        load().main(
            [f"--model={tmp_path / 'nowhere'}", f"--data={data}", *SMALL]
        )
    assert "--model FOLDER" in str(error.value)
    assert "--model NAME" in str(error.value)


def test_missing_sentences_are_named_with_both_ways(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"no file at --data .*nowhere"):
        load().main([f"--data={tmp_path / 'nowhere'}"])
    # The same as where it is not installed.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SystemExit, match=r"--data FILE.*tensorflow-datasets"):
        load().main([])


@pytest.mark.parametrize("line", ["no label", "a film\tgood"])
def test_a_line_without_a_label_is_refused(line, tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(SystemExit, match="a sentence, a tab"):
        load().main([f"--data={path}"])


def test_too_few_steps_for_the_late_start_are_refused(data):
    with pytest.raises(SystemExit, match="which make 10 steps"):
        load().main([f"--data={data}", "--train=320"])


def test_too_few_sentences_are_refused(preset, data):
    with pytest.raises(SystemExit, match="Received: 80"):
        load().main([f"--model={preset}", f"--data={data}"])
