"""Data sets of the studies, from their usual sources.

Each loader accepts a file or `None`, and returns `examples, labels, groups`:
examples are vectors, labels are integers, and groups are the person of each
example, or `None`. Examples of a set with `in_time` are in chronological
order.
"""

import argparse
import functools
import importlib.util
import pathlib
import typing

import keras
import numpy as np
import pandas
import sklearn.datasets

from examples.paper.common.hub import from_preset
from examples.paper.common.unpickling import load_npy
from examples.paper.glue import tasks as glue_tasks
from examples.studies.common import pages
from examples.studies.common import training


def breast_cancer(path=None):
    """Load three statistics of ten measures of cell nuclei.

    The labels are benign and malignant. The data are part of scikit-learn.
    """
    del path
    examples, labels = sklearn.datasets.load_breast_cancer(return_X_y=True)
    return _standardized(examples), labels, None


def fashion_mnist(path=None):
    """Load the 60,000 training images of Fashion-MNIST, at half the size.

    They come from keras.datasets or from a file.
    """
    if path is not None:
        with np.load(path) as file:
            images, labels = file["x_train"], file["y_train"]
    else:
        try:
            (images, labels), _ = keras.datasets.fashion_mnist.load_data()
        except Exception as error:
            raise SystemExit(
                "Fashion-MNIST is missing. Pass --data FILE, an .npz with "
                "x_train and y_train, or let keras.datasets download it. The "
                f"download failed with: {error}"
            ) from None
    images = images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) / 255.0
    images = images.reshape(-1, 14 * 14).astype("float32")
    return images, labels.astype("int64"), None


# Two seconds at 50 samples per second, of which every fourth is used.
WINDOW, STRIDE = 100, 4


def watch(path=None):
    """Load acceleration and rotation of a smartwatch, in windows of 2 seconds.

    The labels are seven exercises of the arm. There are 10 people, and all
    windows of a person are in the same part of a split. The data are part of
    the package seglearn (Burns et al. 2018, arXiv 1802.01489).
    """
    if path is None:
        other = "FILE, its watch_dataset.npy"
        folder = _data_of("seglearn", "smartwatch data", other)
        path = folder / "watch_dataset.npy"
    recorded = load_npy(path).item()
    examples, labels, people = [], [], []
    for series, label, person in zip(
        recorded["X"], recorded["y"], recorded["subject"], strict=True
    ):
        number = len(series) // WINDOW
        windows = series[: number * WINDOW].reshape(number, WINDOW, -1)
        examples.append(windows[:, ::STRIDE].reshape(number, -1))
        labels += [label] * number
        people += [person] * number
    examples = _standardized(np.concatenate(examples))
    return examples, np.array(labels), np.array(people)


# Trading days whose values a day is compared with, and days in an example.
YEAR, DAYS = 250, 10
MARKETS = ("sp500", "nasdaq")


def market(path=None):
    """Load daily prices of S&P 500 and NASDAQ, 1999 to 2018.

    The label is whether the range of the S&P 500, from the lowest to the
    highest price, is small, medium or large on the next day. The data are part
    of the package arch (Sheppard). Its VIX begins in 2014, too late for the
    windows of `walk`.
    """
    if path is None:
        other = "FOLDER, its folder data with sp500 and nasdaq"
        path = _data_of("arch", "prices", other)
    frames = [
        pandas.read_csv(
            path / name / f"{name}.csv.gz", index_col="Date", parse_dates=True
        )
        for name in MARKETS
    ]
    # The volume of NASDAQ was not recorded on two days.
    recorded = [frame.index[frame["Volume"] > 0] for frame in frames]
    days = recorded[0].intersection(recorded[1]).sort_values()
    return *of_days(*(frame.loc[days] for frame in frames)), None


def of_days(sp500, nasdaq):
    """Return examples and labels, one of each per day from the 250th on.

    An example is the range, return and volume of both markets on the last ten
    days, in deviations from their mean over the last 250: what is known when
    the market closes. The label is the tercile of the last 250 days that the
    range of the S&P 500 is in on the *next* day; the last day has none, and is
    left out.
    """
    series = []
    for frame in (sp500, nasdaq):
        closes = _log(frame["Close"])
        series += [
            _log(frame["High"] / frame["Low"] - 1),
            np.diff(closes, prepend=closes[0]),
            _log(frame["Volume"]),
        ]
    series = np.stack(series)
    # (series, days, the year that ends on the day)
    years = np.lib.stride_tricks.sliding_window_view(series, YEAR, axis=1)
    years = years[:, :-1]
    last = years[..., -DAYS:]
    last = (last - years.mean(-1, keepdims=True)) / years.std(-1, keepdims=True)
    examples = np.moveaxis(last, 1, 0).reshape(len(last[0]), -1)
    cuts = np.quantile(years[0], (1 / 3, 2 / 3), axis=-1)
    labels = (series[0, YEAR:] > cuts).sum(axis=0)
    return examples.astype("float32"), labels


def _data_of(package, what, other):
    """Return the folder `data` of an installed package."""
    found = importlib.util.find_spec(package)
    if found is None:
        raise SystemExit(
            f"The {what} are missing. Run pip install {package}, or pass "
            f"--data {other}"
        )
    return pathlib.Path(found.submodule_search_locations[0]) / "data"


def _log(values):
    return np.log(np.asarray(values, "float64"))


def _standardized(examples):
    """Scale each input to mean 0 and deviation 1, over the whole data set.

    The labels are not used.
    """
    deviation = examples.std(axis=0)
    # Constant inputs, such as some outputs of a BERT, become 0.
    deviation[deviation == 0] = np.inf
    examples = (examples - examples.mean(axis=0)) / deviation
    return examples.astype("float32")


def digits(path=None):
    """Load 8 x 8 images of handwritten digits, a part of scikit-learn."""
    del path
    return *training.digits(), None


SENTENCES, TOKENS = 2000, 32


def sentences(path=None):
    """Load positive and negative film sentences, encoded by a pretrained BERT.

    An encoding is the mean of the last outputs. `python sets.py --model PRESET
    --out FILE` writes the file from examples/data.
    """
    if path is None:
        raise SystemExit(
            "The sentences are missing. Pass --data FILE, made by: python "
            "examples/studies/common/sets.py --model PRESET --out FILE"
        )
    with np.load(path) as file:
        return _standardized(file["examples"]), file["labels"], None


def embed(preset):
    """Encode the sentences that `sentences` reads; return them with labels.

    Args:
        preset: A BERT: a name or a folder, as for
            `keras_hub.models.BertBackbone.from_preset`.
    """
    import keras_hub

    file = training.EXAMPLES / "data" / "movie_sentences.tsv"
    rows = glue_tasks.read_sentences(file)
    chosen = np.random.default_rng(0).permutation(len(rows))[:SENTENCES]
    texts = [rows.texts[i][0] for i in chosen]
    packed = from_preset(
        keras_hub.models.BertTextClassifierPreprocessor.from_preset,
        preset,
        "--model",
        sequence_length=TOKENS,
    )(texts)
    bert = keras_hub.models.BertBackbone.from_preset(preset)
    means = []
    for start in range(0, SENTENCES, 50):
        part = {k: v[start : start + 50] for k, v in packed.items()}
        seen = keras.ops.convert_to_numpy(
            bert(part, training=False)["sequence_output"]
        )
        mask = keras.ops.convert_to_numpy(part["padding_mask"])[..., None]
        means.append((seen * mask).sum(axis=1) / mask.sum(axis=1))
    return np.concatenate(means).astype("float32"), rows.labels[chosen]


class Set(typing.NamedTuple):
    title: str
    load: typing.Callable
    sizes: dict  # sizes of the parts; a test set without a size is the rest
    epochs: int
    in_time: bool = False  # whether the parts of a split follow each other


SETS = {
    "digits": Set("digits", digits, {"train": 400, "validation": 200}, 50),
    "fashion_mnist": Set(
        "Fashion-MNIST",
        fashion_mnist,
        {"train": 600, "validation": 300, "test": 2000},
        40,
    ),
    "breast_cancer": Set(
        "breast cancer", breast_cancer, {"train": 200, "validation": 100}, 80
    ),
    "sentences": Set(
        "film sentences", sentences, {"train": 600, "validation": 300}, 40
    ),
    "watch": Set(
        "smartwatch",
        watch,
        {"train": 600, "validation": 300, "test": 600},
        40,
    ),
    "market": Set(
        "S&P 500",
        market,
        {"train": 600, "validation": 300, "test": 380},
        40,
        in_time=True,
    ),
}


def title(name, share):
    """Return the name of a set with its share of wrong labels."""
    return f"{SETS[name].title}, {pages.percent(share)} wrong"


def titled(found):
    """Replace the keys `(name, share)` of a dictionary with titles."""
    return {title(*key): value for key, value in found.items()}


@functools.cache
def load(name, path=None):
    return SETS[name].load(path)


def check_data(parser, name, path):
    """Reject a `--data` that cannot be read as a set, before any run."""
    if path is None:
        return
    try:
        load(name, path)
    except Exception as error:
        parser.error(
            f"--data {path} cannot be read as {SETS[name].title}. "
            f"{type(error).__name__}: {error}"
        )


def split(name, share, seed, path=None):
    """Return a split of a set with this share of wrong labels."""
    examples, labels, groups = load(name, path)
    made = SETS[name]
    parts = walk(len(labels), seed, **made.sizes) if made.in_time else None
    return training.Split(
        examples,
        labels,
        seed,
        share,
        made.epochs,
        groups=groups,
        parts=parts,
        **made.sizes,
    )


def walk(days, seed, train, validation, test):
    """Return the days of the parts of a split, each after the one before.

    From one seed to the next all parts move forward by the length of the test,
    so that no day is tested twice; after the last such window, the first
    follows again.
    """
    windows = (days - train - validation) // test
    if windows < 1:
        raise ValueError(
            f"Expected at least {train + validation + test} days. Received: "
            f"{days}"
        )
    first = seed % windows * test
    ends = first + np.cumsum([train, validation, test])
    return [np.arange(*ends_of) for ends_of in zip([first, *ends], ends)]


def main():
    parser = argparse.ArgumentParser(description=embed.__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a BERT: its preset")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )
    options = parser.parse_args()
    if options.dry_run:
        print(f"embeds the sentences with {options.model}")
        print(f"writes {options.out}")
        return
    if not options.out.absolute().parent.is_dir():
        parser.error(
            "--out must be a file in an existing folder. Received: "
            f"--out {options.out}"
        )
    examples, labels = embed(options.model)
    np.savez(options.out, examples=examples, labels=labels)


if __name__ == "__main__":
    main()
