"""Does MEmeL help a small network whose training labels are partly wrong?

    python examples/quickstart.py [--seeds 10] [--epochs 50] [--out FOLDER]

Train on 400 of scikit-learn's digits, of which 20 % have a wrong label, and
test on the other 1,397, whose labels are correct. Write three files:

    neurons.html       every neuron of one network without MEmeL, to browse
    quickstart.jsonl   the score of each network, one run per line
    quickstart.png     the differences between the arms

and print two tables. Each seed fixes the split, the wrong labels, the initial
weights and the order of the batches for all arms, so that `keras_memel.compare`
compares the arms pair by pair. A second call resumes where the first stopped.

The backend is that of KERAS_BACKEND, else that of the Keras configuration file
if it is installed, else the first installed one.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import sys


def choose_backend():
    folder = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras"))
    file = folder.expanduser() / "keras.json"
    configured = json.loads(file.read_text()) if file.exists() else {}
    for name in (configured.get("backend"), "jax", "tensorflow", "torch"):
        if name and importlib.util.find_spec(name):
            return name
    raise SystemExit(
        "Keras needs a backend, but none is installed. Install one of them: "
        "pip install jax, tensorflow or torch"
    )


if "KERAS_BACKEND" not in os.environ:
    os.environ["KERAS_BACKEND"] = choose_backend()
# The matrices are so small that a second thread slows training down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import keras
import numpy as np
import sklearn.datasets

from keras_memel import Comparison
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate
from keras_memel import analyze
from keras_memel import compare

TRAINING_IMAGES, WRONG_SHARE, BATCH = 400, 0.2, 100
# With these settings, plain training memorizes the wrong labels. The training
# images alone show this.
LEARNING_RATE, EPOCHS = 3e-3, 50

# The layers before each ReLU. No rate was chosen by its result: dropout has
# its customary half; MEmeL and its placebo inhibit a tenth of the values.
# MEmeL precedes the ReLU because many values after it are exactly 0, so every
# other value has a high scale. For dropout, the order makes no difference,
# since ReLU(0) = 0.
ARMS = {
    "plain": lambda: [],
    "dropout 50 %": lambda: [keras.layers.Dropout(0.5)],
    # The placebo inhibits the same number of values, selected at random. Any
    # effect that it shares with MEmeL is due to noise.
    "placebo 10 %": lambda: [MEmeL(selection=Random(0.1))],
    "MEmeL 10 %": lambda: [MEmeL(selection=Rate(0.1))],
}
PLAIN, *OTHERS, MEMEL = ARMS
# Pairs in addition to each arm vs. plain.
CONTRASTS = [(MEMEL, arm) for arm in OTHERS]
HIGHER_IS_BETTER = {"accuracy": True, "wrong_labels_learned": False}


def build(arm, seed):
    """Build a network of two hidden layers.

    The initial weights depend only on the seed: each initializer has its own
    seed, since the layers of an arm sample from the global one.
    """

    def dense(units, number):
        glorot = keras.initializers.GlorotUniform(seed=10 * seed + number)
        return keras.layers.Dense(units, kernel_initializer=glorot)

    keras.utils.set_random_seed(seed)
    layers = [keras.Input((64,))]
    for number in (0, 1):
        relu = keras.layers.ReLU(name=f"hidden_{number}")
        layers += [dense(256, number), *ARMS[arm](), relu]
    model = keras.Sequential([*layers, dense(10, 2)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(arm, seed, epochs):
    """Train one network; return it with the data of the seed."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = images.astype("float32") / 16.0
    rng = np.random.default_rng(seed)
    known, test = np.split(rng.permutation(len(images)), [TRAINING_IMAGES])
    wrong = rng.choice(known, round(WRONG_SHARE * len(known)), replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    # All epochs in one, in a fixed order: backends shuffle differently.
    order = np.concatenate([rng.permutation(known) for _ in range(epochs)])

    model = build(arm, seed)
    model.fit(images[order], given[order], BATCH, shuffle=False, verbose=0)
    return model, images, labels, given, wrong, test


def train(arm, seed):
    """Train and test one network; return its scores."""
    model, images, labels, given, wrong, test = fit(arm[0], seed, arm[1])
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    answers = logits.argmax(axis=-1)
    return {
        "accuracy": np.mean(answers[test] == labels[test]),
        "wrong_labels_learned": np.mean(answers[wrong] == given[wrong]),
    }


def write_neurons(path, epochs):
    """Write a page of the neurons of a plain network, with test images."""
    model, images, labels, _, _, test = fit(PLAIN, 0, epochs)
    report = analyze(
        model,
        images[test],
        labels=labels[test],
        layers=["hidden_0", "hidden_1"],
        verbose=0,
    )
    report.to_html(
        path,
        inputs=images[test].reshape(-1, 8, 8),
        title="Quickstart: a network without MEmeL",
    )


def compared(runs):
    """Return the comparison of stored runs."""
    return Comparison(
        runs, list(ARMS), contrasts=CONTRASTS, higher_is_better=HIGHER_IS_BETTER
    )


def tables(comparison):
    """Return the tables in Markdown."""
    accuracy, learned = map(comparison.scores, comparison.metrics)
    lines = [
        "| arm | accuracy, % | lowest to highest | wrong labels learned, % |",
        "|---|--:|--:|--:|",
    ]
    for arm in ARMS:
        seen = 100 * accuracy[arm]
        lines.append(
            f"| {arm} | {seen.mean():.1f} | {seen.min():.1f} to "
            f"{seen.max():.1f} | {100 * learned[arm].mean():.0f} |"
        )
    points = comparison.to_markdown("accuracy", scale=100)
    notes = [f"- {note}" for note in comparison.notes("accuracy")]
    return "\n".join([*lines, "", points, *[""][: len(notes)], *notes])


def figure(comparison):
    """Plot the difference of each pair of arms, one dot per seed."""
    axes = comparison.plot("accuracy", scale=100)
    backend = comparison.runs[0]["environment"]["backend"]
    axes.set_xlabel("difference in test accuracy, percentage points")
    axes.set_title(
        f"Digits, {WRONG_SHARE:.0%} of the training labels wrong ({backend})\n"
        "dot: one seed, paired; bar: 95 % interval of the mean",
        loc="left",
        fontsize=10,
    )
    return axes.figure


def at_least(lowest):
    """Return a parser of integers for an argument."""

    def whole(text):
        number = int(text)
        if number < lowest:
            raise argparse.ArgumentTypeError(
                f"must be at least {lowest}. Received: {number}"
            )
        return number

    return whole


def show(options):
    """Print what would run."""
    backend = keras.config.backend()
    print(f"arms      {', '.join(ARMS)}")
    print(f"seeds     {options.seeds}: {len(ARMS) * options.seeds} networks")
    print(
        f"sizes     {TRAINING_IMAGES} images, {WRONG_SHARE:.0%} with a wrong "
        f"label, {options.epochs} epochs, batches of {BATCH}, on {backend}"
    )
    print(
        "files     neurons.html, quickstart.jsonl, quickstart.png in "
        f"{options.out}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=at_least(1), default=10)
    parser.add_argument("--epochs", type=at_least(1), default=EPOCHS)
    parser.add_argument(
        "--out", type=pathlib.Path, default="quickstart_results"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )
    options = parser.parse_args()
    if options.dry_run:
        show(options)
        return
    page = options.out / "neurons.html"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        page.touch()
    except OSError as error:
        parser.error(f"argument --out: must be a folder to write to. {error}")
    try:
        if not page.stat().st_size:
            write_neurons(page, options.epochs)
            print(f"Wrote {page}: open it in a browser", file=sys.stderr)
        comparison = compare(
            train,
            {name: (name, options.epochs) for name in ARMS},
            options.seeds,
            contrasts=CONTRASTS,
            store=options.out / "quickstart.jsonl",
            higher_is_better=HIGHER_IS_BETTER,
        )
    except KeyboardInterrupt:
        raise SystemExit(
            "Stopped. The same command resumes after the last finished run."
        ) from None
    print(tables(comparison))
    figure(comparison).savefig(options.out / "quickstart.png", dpi=150)
    print(
        "\nWrote neurons.html, quickstart.jsonl and quickstart.png to "
        f"{options.out}"
    )


if __name__ == "__main__":
    main()
