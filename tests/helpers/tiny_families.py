"""Commands that train a family of examples/paper in a second or two."""

import numpy as np
from glue_rows import make_preset


def glue(folder):
    """A BERT of two blocks on sentences of two words that matter."""
    preset = make_preset(folder / "preset", blocks=2, width=16)
    path = folder / "own.tsv"
    rows = "the film was fine\t1\na dull film\t0\na long film\t1\n"
    path.write_text(rows * 100, "utf-8")
    return [
        *("--small", f"--model={preset}", f"--data={path}", "--length=8"),
        *("--train=96", "--validation=32", "--test=32", "--batch=8"),
        *("--epochs=1", "--learning-rates=1e-2"),
        "--where=transformer_layer_*",
    ]


def imagenet(folder):
    """Images of ten colors."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (10, 1, 1, 3))
    arrays = {}
    for name, number in (("train", 230), ("test", 40)):
        y = np.arange(number) % 10
        x = colors[y] + rng.integers(-20, 21, (number, 32, 32, 3))
        arrays[f"x_{name}"] = np.clip(x, 0, 255).astype("uint8")
        arrays[f"y_{name}"] = y
    path = folder / "cifar10.npz"
    np.savez(path, **arrays)
    return [
        *("--small", f"--data={path}", "--train=192", "--validation=32"),
        *("--test=20", "--batch=16", "--epochs=1", "--warmup=0"),
        "--learning-rate=0.1",
    ]


def nowcasting(folder):
    """A ConvGRU of one level, see `small_networks.FLAT`."""
    return [
        *("--small", "--network=flat", "--batch=15", "--epochs=1"),
        *("--stride=8", "--rate=0.01", "--finetune-epochs=1", "--steps=12"),
    ]
