"""What each example script prints for bad arguments, as a table.

    KERAS_BACKEND=torch PYTHONPATH=. python tests/helpers/refusals.py

The command writes examples/bad_arguments.md. tests/examples/test_refusals.py
runs each row again.
"""

import contextlib
import io
import pathlib
import re
import runpy
import shlex
import sys
import tempfile
from unittest import mock

import keras
import numpy as np
from scripts import EXAMPLES
from scripts import ROOT
from tqdm import tqdm

PAGE = EXAMPLES / "bad_arguments.md"
FAMILY = (
    *("--seed=-1", "--epochs=0", "--epochs=two", "--batch=-1"),
    *("--save-every=0", "--precision=half", "--devices=two"),
    *("--out=FILE", "--out=FILE/below", "--arms RD", "--arms MEmeL-Tune"),
    *("--k=0", "--delta=10", "--delta=inf"),
    "--steps-of RD",
)
SEEDS = ("--seeds=0", "--seeds=ten")
FAMILIES = ("glue", "imagenet", "nowcasting")
# Bad arguments by script. `START` below comes before each.
BAD = {
    "quickstart.py": [
        *SEEDS,
        *("--epochs=0", "--epochs=two", "--out=FILE", "--out=FILE/below"),
    ],
    "analyze_parts.py": [
        *("--parts=0", "--parts=1798", "--workers=0", "--out=FILE"),
        "--out=FILE/below",
    ],
    "language_neurons.py": [
        *("--epochs=0", "--each=0", "--look=-1", "--languages=0"),
        *("--data=FILE", "--data=NONE", "", "--data=SENTENCES --look=3"),
        "--data=SENTENCES --look=1 --out=FILE",
    ],
    "native/bert_trainer.py": ["--rows=0", "--epochs=0"],
    "native/neox_l2e.py": ["--steps=0"],
    "paper/glue/train.py": [
        *FAMILY,
        *("--seeds=0", "--train=0", "--validation=0", "--test=0"),
        *("--length=0", "--learning-rates=0", "--wrong=1", "--task=RTE"),
        *("--task=nonsense", "--data=NONE", "--model=NONE"),
    ],
    "paper/imagenet/train.py": [
        *FAMILY,
        *("--seeds=0", "--train=0", "--validation=0", "--test=0"),
        *("--workers=0", "--warmup=-1", "--wrong=-0.1", "--image-size=0"),
        *("--swin=huge", "--drop-path=1", "--learning-rate=0"),
        *("--weight-decay=-1", "--ema=1", "--randaugment=-1", "--mixup=-1"),
        *("--cutmix=-1", "--erase=2"),
        *("--data=FILE", "--data=ARRAY", "--data=NONE"),
    ],
    "paper/nowcasting/train.py": [
        *FAMILY,
        *("--steps=0", "--finetune-epochs=-1", "--rate=0", "--stride=0"),
        *("--decay-every=0", "--frames 0 1", "--size 0 8", "--unit=km"),
        *("--network=none", "--minutes=0", "--radar-size 0 8", "--gaps=fill"),
        *("--gif=FILE/below.gif", "--data=NONE", "--data=EMPTY", "--data=NAN"),
    ],
    "paper/tables.py": [
        *("--seeds=0", "--first-seed=-1", "--first-seed=1000"),
        *("--workers=0", "--wrong=1", "--families=all", "--out=FILE"),
        "--families imagenet --cifar10=NONE",
        "--families glue --minilm=NONE",
        *(f"--families {x} --{x}=--epochs=0" for x in FAMILIES),
    ],
    "paper/tune.py": [
        *("--trials=0", "--seeds=0", "--epochs=0", "--k=0", "--delta=nan"),
        "--out=FILE",
    ],
    "studies/causality.py": SEEDS,
    "studies/detection.py": SEEDS,
    "studies/domains.py": [
        *SEEDS,
        *("--only=digits", "--only=watch --share=0.4", "--data=FILE"),
        *("--only=watch --data=NONE", "--only=watch --data=FILE"),
    ],
    "studies/encourage.py": [*SEEDS, "--data=NONE", "--data=FILE"],
    "studies/grokking.py": SEEDS,
    "studies/label_noise.py": SEEDS,
    "studies/measures.py": ["--only=none", "--minilm=NONE"],
    "studies/mechanism.py": SEEDS,
    "studies/paper_experiments.py": [
        *("--families=all", "--wrong=2", "--repeat=0", "--runs=NONE"),
    ],
    "studies/pretraining.py": [*SEEDS, "--only=none"],
    "studies/scale.py": SEEDS,
    "studies/common/sets.py": [
        *("", "--model=NONE", "--out=OUT", "--model=NONE --out=OUT"),
        "--model=NONE --out=FILE/below",
    ],
}
START = {
    "paper/glue/train.py": "--small",
    "paper/imagenet/train.py": "--small",
    "paper/nowcasting/train.py": "--small",
    "paper/tune.py": "--small",
    "paper/tables.py": "--small",
}
# Texts of other packages and of argparse, which differ between versions.
CUT = re.compile(
    r"(?: It failed with)?:? \w*(?:Error|Exception)\b.*| \(choose from .*"
)
CASES = [
    (script, f"{START.get(script, '')} {words}".strip())
    for script, every in BAD.items()
    for words in every
]


def places(folder):
    """Make the files that the arguments name, and return their paths."""
    folder = pathlib.Path(folder)
    found = {
        name: folder / name.lower()
        for name in ("FILE", "EMPTY", "NONE", "OUT", "SENTENCES")
    }
    found["FILE"].write_text("notes, and no images")
    found["EMPTY"].mkdir()
    found["SENTENCES"].write_text("A sentence of some words\teng\n" * 3)
    found["ARRAY"] = folder / "array.npy"
    np.save(found["ARRAY"], np.zeros(3))
    found["NAN"] = folder / "nan.npz"
    np.savez(found["NAN"], precipitation=np.full((23, 60, 60), np.nan))
    return found


def forbidden(*args, **kwargs):
    raise AssertionError("A bad argument is refused before work starts.")


def said(script, words, found):
    """Run a script, and return the text with which it ends.

    Args:
        script: Path below `examples`.
        words: Arguments. Names of `found` are replaced by their paths, and
            put back in the text.
        found: Paths by name, as `places` returns them.
    """
    given = words
    for name, path in found.items():
        given = given.replace(name, str(path))
    errors = io.StringIO()
    path = str(EXAMPLES / script)
    with (
        mock.patch.object(sys, "argv", [script, *shlex.split(given)]),
        mock.patch.object(sys, "excepthook", sys.excepthook),
        mock.patch.object(keras.Model, "fit", forbidden),
        contextlib.redirect_stderr(errors),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            text = end.code if isinstance(end.code, str) else errors.getvalue()
            if end.code in (0, None):
                raise AssertionError(f"{script} {words} succeeds") from end
        else:
            raise AssertionError(f"{script} {words} is not refused")
    assert "Traceback" not in text
    # argparse prints the usage first, and starts with the program.
    text = text.strip().splitlines()[-1]
    text = CUT.sub("", text.partition(": error: ")[2] or text)
    for name, path in found.items():
        text = text.replace(str(path), name)
    return text.replace(f"{ROOT}/", "")


def row(script, words, text):
    """Return a row of the page."""
    for character in "\\|<*_":
        text = text.replace(character, f"\\{character}")
    return f"| {script} | {f'`{words}`' if words else 'none'} | {text} |"


def page(rows):
    """Return the page with these rows."""
    lines = [
        "# Bad arguments, and what each script prints",
        "",
        "<!-- Written by tests/helpers/refusals.py. -->",
        "",
        "Each script checks its arguments before it trains. It ends with one "
        "line and an exit status that is not 0. `FILE` is a text file, `ARRAY` "
        "an .npy file, `NAN` an .npz file of NaN, `SENTENCES` a file of three "
        "sentences, `EMPTY` an empty folder, and `NONE` does not exist. Texts "
        "of other packages are omitted.",
        "",
        "| script | arguments | message |",
        "|---|---|---|",
        *rows,
    ]
    return "\n".join([*lines, ""])


def main():
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = places(folder)
        empty = pathlib.Path(folder, "work")
        empty.mkdir()
        for script, words in tqdm(CASES):
            with contextlib.chdir(empty):
                rows.append(row(script, words, said(script, words, found)))
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
