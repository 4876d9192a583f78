"""Every script of examples/paper refuses bad arguments before any work."""

import numpy as np
import pytest
from scripts import example

pytestmark = pytest.mark.once

PROGRAMS = ("glue.train", "imagenet.train", "nowcasting.train")
# Bad arguments of all three programs, and the message for each.
EVERY = {
    "--epochs=0": "--epochs must be at least 1. Received: 0",
    "--batch=-1": "--batch must be at least 1. Received: -1",
    "--seed=-1": "--seed must be at least 0. Received: -1",
    "--save-every=0": "--save-every must be at least 1. Received: 0",
    "--k=0": "--k must be at least 1. Received: 0",
    "--out={file}": "--out must be a folder that can be written",
    "--out={file}/below": "--out must be a folder that can be written",
    "--epochs=two": "invalid int value: 'two'",
    "--precision=half": "invalid choice: 'half'",
}
OWN = {
    "glue.train": {
        "--seeds=0": "--seeds must be at least 1. Received: 0",
        "--train=0": "--train must be at least 1. Received: 0",
        "--length=0": "--length must be at least 1. Received: 0",
        "--learning-rates=0": "--learning-rates must be above 0. Received: 0",
        "--wrong=1": "--wrong must be at least 0 and below 1",
    },
    "imagenet.train": {
        "--seeds=0": "--seeds must be at least 1. Received: 0",
        "--test=0": "--test must be at least 1. Received: 0",
        "--workers=0": "--workers must be at least 1. Received: 0",
        "--warmup=-1": "--warmup must be at least 0. Received: -1",
        "--wrong=-0.1": "--wrong must be at least 0 and below 1",
        "--data={file}": "Cannot read {file}, which must be an .npz file",
        "--data={npy}": "Cannot read {npy}, which must be an .npz file",
    },
    "nowcasting.train": {
        "--steps=0": "--steps must be at least 1. Received: 0",
        "--finetune-epochs=-1": "--finetune-epochs must be at least 0",
        "--data={file}-not": "There is none at --data {file}-not",
        "--data={empty}": "The folder at --data {empty} is empty",
        "--data={nan}": "`precipitation` is NaN everywhere in {nan}",
    },
    "tune": {
        "--trials=0": "--trials must be at least 1. Received: 0",
        "--seeds=0": "--seeds must be at least 1. Received: 0",
        "--epochs=0": "--epochs must be at least 1. Received: 0",
    },
}
TABLE = [
    (program, words, message)
    for program in (*PROGRAMS, "tune")
    for words, message in (
        {**(EVERY if program in PROGRAMS else {}), **OWN[program]}
    ).items()
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("places")
    (folder / "file").write_text("notes, and no images")
    (folder / "empty").mkdir()
    np.save(folder / "array.npy", np.zeros(3))
    nan = np.full((23, 60, 60), np.nan)
    np.savez(folder / "nan.npz", precipitation=nan)
    return {
        "file": folder / "file",
        "empty": folder / "empty",
        "npy": folder / "array.npy",
        "nan": folder / "nan.npz",
    }


@pytest.mark.parametrize(("program", "words", "message"), TABLE)
def test_it_is_refused_in_a_line(
    program, words, message, places, tmp_path, capsys, monkeypatch
):
    if program == "imagenet.train":
        pytest.importorskip("keras_hub")
    monkeypatch.chdir(tmp_path)
    main = example(f"paper.{program}").main
    with pytest.raises(SystemExit) as refusal:
        main(["--small", words.format(**places)])
    said = f"{refusal.value}\n{capsys.readouterr().err}"
    (line,) = [x for x in said.splitlines() if message.format(**places) in x]
    assert "Traceback" not in said
    assert len(line) < 300 + len(str(places["file"]))
    assert list(tmp_path.iterdir()) == []
