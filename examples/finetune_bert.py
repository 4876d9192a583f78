"""Fine-tunes a pretrained text encoder with and without inserted MEmeLs.

    python examples/finetune_bert.py --model PRESET --data FILE

PRESET is anything that `keras_hub.models.TextClassifier.from_preset` takes: a
name such as bert_tiny_en_uncased, hf://..., or a folder. FILE has a sentence
and, after a tab, its label in each line, as the train.tsv of GLUE's SST-2: 0
or 1, or a score whose sign is the label. Without it, SST-2 is loaded by
tensorflow-datasets.

The arms of a seed share the weights of the new head, the sentences and the
order of batches. The settings are those of the two papers, made for longer
training on more text: see what is printed as a demonstration of the library,
not as a measurement of the method.
"""

import argparse
import logging
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import keras
import numpy as np

from keras_memel import MEmeL
from keras_memel.insertion import insert
from keras_memel.insertion import inserted
from keras_memel.insertion import strip
from keras_memel.paper import kdd2024
from keras_memel.paper import l2e

MODEL = "hf://sentence-transformers/all-MiniLM-L6-v2"
ARMS = {
    "plain": None,
    # One neuron a position and channel: the preprocessor fixes the length.
    "MEmeL": ("middle:4", kdd2024),
    "L2E": ("middle:2", l2e),
}
BATCH, LEARNING_RATE = 32, 5e-5

logging.getLogger("absl").setLevel("ERROR")  # no remarks on threads


def from_file(path):
    """Sentences and labels of a tab-separated file."""
    rows = [
        line.split("\t")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]
    if rows and rows[0][:2] == ["sentence", "label"]:
        rows = rows[1:]
    try:
        scored = [(row[0], float(row[1])) for row in rows]
    except (IndexError, ValueError):
        raise SystemExit(
            "A line of --data must be a sentence, a tab, and a label (0 or 1) "
            f"or a score. Received: {path}"
        ) from None
    if {score for _, score in scored} <= {0.0, 1.0}:
        return [(sentence, int(score)) for sentence, score in scored]
    # A score of 0 takes no side.
    return [(sentence, int(score > 0)) for sentence, score in scored if score]


def load_data(path):
    if path is not None:
        if not path.is_file():
            raise SystemExit(f"There is no file at --data {path}")
        return from_file(path)
    try:
        import tensorflow_datasets as tfds

        rows = tfds.as_numpy(tfds.load("glue/sst2", split="train"))
        return [(row["sentence"].decode(), int(row["label"])) for row in rows]
    except Exception as error:
        raise SystemExit(
            "No sentences. Either pass --data FILE, a sentence, a tab and its "
            "label in each line (such as train.tsv of GLUE's SST-2), or let "
            "tensorflow-datasets download them: pip install "
            f"tensorflow-datasets. It failed with: {error!r}"
        ) from None


def load_model(name, length):
    try:
        import keras_hub
    except ImportError as error:
        raise SystemExit(
            "This example needs keras_hub: pip install 'keras-memel[hub]'. "
            f"Importing it failed with: {error}"
        ) from None
    try:
        preprocessor = keras_hub.models.TextClassifierPreprocessor.from_preset(
            name, sequence_length=length
        )
        return keras_hub.models.TextClassifier.from_preset(
            name, num_classes=2, dropout=0.0, preprocessor=preprocessor
        )
    except Exception as error:
        raise SystemExit(
            f"No model {name!r}. Pass --model FOLDER, a preset on this "
            "machine, or --model NAME, a preset that keras_hub can download "
            f"(https://keras.io/keras_hub/presets). It failed with: {error!r}"
        ) from None


def split(rows, seed, train, test):
    order = np.random.default_rng(seed).permutation(len(rows))
    if len(order) < train + test:
        raise SystemExit(
            f"--train and --test need {train + test} sentences. "
            f"Received: {len(rows)}"
        )
    chosen = [rows[i] for i in order[: train + test]]
    texts = np.array([text for text, _ in chosen], dtype=object)
    labels = np.array([label for _, label in chosen])
    return texts[:train], labels[:train], texts[train:], labels[train:]


def run(arm, seed, rows, options):
    """One fine-tuning. Returns the share of right answers on the test set."""
    x, y, x_test, y_test = split(rows, seed, options.train, options.test)
    keras.utils.set_random_seed(seed)
    model = load_model(options.model, options.length)
    if ARMS[arm] is not None:
        where, settings = ARMS[arm]
        insert(model, where, MEmeL(**settings))
    model.compile(
        optimizer=keras.optimizers.AdamW(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    start = time.perf_counter()
    # The split has shuffled the sentences; Keras does not shuffle strings.
    model.fit(
        list(x),
        y,
        batch_size=BATCH,
        epochs=options.epochs,
        shuffle=False,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    notes = ""
    if inserted(model):
        rates = [float(m.inhibited_rate) for m in inserted(model).values()]
        notes = f", {100 * statistics.fmean(rates):.4f} % inhibited at the end"
    # What is used, saved as a preset or exported is the plain model.
    strip(model)
    answers = model.predict(list(x_test), batch_size=BATCH, verbose=0)
    right = float(np.mean(np.argmax(answers, -1) == y_test))
    print(
        f"seed {seed}  {arm:6s} {100 * right:5.1f} % right "
        f"({seconds:.0f} s of training{notes})",
        flush=True,
    )
    return right


def check_length(arms, options):
    """A run that ends before the late start would show nothing."""
    steps = -(-options.train // BATCH) * options.epochs
    for arm in arms:
        if ARMS[arm] is not None:
            late_start = MEmeL(**ARMS[arm][1]).late_start
            if steps <= late_start:
                raise SystemExit(
                    f"{arm} inhibits nothing in its first {late_start} steps "
                    f"of {BATCH} sentences: raise --train or --epochs. "
                    f"Received: --train {options.train} --epochs "
                    f"{options.epochs}, which make {steps} steps"
                )


def summarize(results, test):
    """What was seen, and how far it goes."""
    seeds = len(results["plain"])
    print(f"\nDifference from plain in points, over {seeds} seed(s):")
    for arm, right in results.items():
        if arm == "plain":
            continue
        deltas = [100 * (a - b) for a, b in zip(right, results["plain"])]
        each = " ".join(f"{delta:+.1f}" for delta in deltas)
        print(f"  {arm:6s} mean {statistics.fmean(deltas):+.2f}  each: {each}")
    share = statistics.fmean(results["plain"])
    error = 100 * (share * (1 - share) / test) ** 0.5
    print(
        f"The standard error of one share of {test} sentences is {error:.1f} "
        "points, and each run differs by its\nhead and batches besides: this "
        "says nothing for or against an arm. For a verdict take ten seeds\n"
        "or more, all of the data, and the paper's 3 epochs."
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=MODEL, help=f"default: {MODEL}")
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--train", type=int, default=1280, help="sentences")
    parser.add_argument("--test", type=int, default=500, help="sentences")
    parser.add_argument("--length", type=int, default=32, help="in tokens")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options = parser.parse_args(arguments)
    arms = list(dict.fromkeys(["plain", *options.arms]))
    check_length(arms, options)
    rows = load_data(options.data)
    print(
        f"{options.model} on {keras.config.backend()}: {options.train} "
        f"sentences to learn from, {options.test} to test on"
    )
    results = {arm: [] for arm in arms}
    for seed in range(options.seeds):
        for arm in arms:
            results[arm].append(run(arm, seed, rows, options))
    summarize(results, options.test)


if __name__ == "__main__":
    main()
