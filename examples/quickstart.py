"""Does MEmeL help a small network whose training labels are partly wrong?

    python examples/quickstart.py [--seeds 10] [--epochs 50] [--out FOLDER]

Trains on 400 of scikit-learn's digits, of which 20 % have a wrong label, and
tests on the other 1,397, whose labels are right. Each seed fixes the split,
the wrong labels, the first weights and the order of the batches for all arms,
so that arms are compared pair by pair. Prints two tables; writes
quickstart.png and, one line a run, quickstart.jsonl.

It runs on the backend that KERAS_BACKEND names; else on that of the Keras
configuration file if it is installed; else on the first that is.
"""

import argparse
import importlib
import importlib.util
import json
import os
import pathlib
import platform


def choose_backend():
    folder = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras"))
    file = folder.expanduser() / "keras.json"
    configured = json.loads(file.read_text()) if file.exists() else {}
    for name in (configured.get("backend"), "jax", "tensorflow", "torch"):
        if name and importlib.util.find_spec(name):
            return name
    raise SystemExit(
        "Keras needs a backend, and none is installed. Install one of them: "
        "pip install jax, tensorflow or torch"
    )


if "KERAS_BACKEND" not in os.environ:
    os.environ["KERAS_BACKEND"] = choose_backend()
# The matrices are so small that a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import keras
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats
import sklearn.datasets
from tqdm import tqdm

import keras_memel
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import Rate

TRAINING_IMAGES, WRONG_SHARE, BATCH = 400, 0.2, 100
# Such that plain training ends up knowing the wrong labels by heart, which
# the training images alone can tell.
LEARNING_RATE, EPOCHS = 3e-3, 50
# With fewer, luck passes for effect.
ENOUGH_SEEDS = 10

# What stands before each ReLU. No rate was chosen for its result: dropout has
# its customary half; MEmeL and its placebo take a tenth of the values. MEmeL
# stands before the ReLU because many values behind it are exactly 0, and to a
# neuron that is mostly 0 any other value looks exceptional. Dropout does not
# mind the place, since ReLU(0) = 0.
ARMS = {
    "plain": lambda: [],
    "dropout 50 %": lambda: [keras.layers.Dropout(0.5)],
    # The placebo does to values chosen blindly what MEmeL does to those that
    # stand out. What both achieve is an effect of noise.
    "placebo 10 %": lambda: [MEmeL(selection=Random(0.1))],
    "MEmeL 10 %": lambda: [MEmeL(selection=Rate(0.1))],
}
PLAIN, *OTHERS, MEMEL = ARMS
COMPARISONS = [(arm, PLAIN) for arm in [*OTHERS, MEMEL]]
COMPARISONS += [(MEMEL, arm) for arm in OTHERS]
COLOURS = dict(zip(ARMS, ["black", "#0072b2", "#e69f00", "#d55e00"]))


def build(arm, seed):
    """A network of two hidden layers. Its first weights depend on the seed
    only: initialisers have seeds of their own, since the layers of an arm draw
    from the global one."""

    def dense(units, number):
        glorot = keras.initializers.GlorotUniform(seed=10 * seed + number)
        return keras.layers.Dense(units, kernel_initializer=glorot)

    keras.utils.set_random_seed(seed)
    layers = [keras.Input((64,))]
    for number in (0, 1):
        layers += [dense(256, number), *ARMS[arm](), keras.layers.ReLU()]
    model = keras.Sequential([*layers, dense(10, 2)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def run(arm, seed, epochs):
    """Train and test one network; return what was seen."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    images = images.astype("float32") / 16.0
    rng = np.random.default_rng(seed)
    train, test = np.split(rng.permutation(len(images)), [TRAINING_IMAGES])
    wrong = rng.choice(train, round(WRONG_SHARE * len(train)), replace=False)
    given = labels.copy()
    given[wrong] = (labels[wrong] + rng.integers(1, 10, len(wrong))) % 10
    # All epochs in one, in our own order: each backend shuffles in its way.
    order = np.concatenate([rng.permutation(train) for _ in range(epochs)])

    model = build(arm, seed)
    model.fit(images[order], given[order], BATCH, shuffle=False, verbose=0)
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    answers = logits.argmax(axis=-1)
    backend = keras.backend.backend()
    library = importlib.import_module(backend)
    modules = (keras, keras_memel, library, np, sklearn)
    return {
        "arm": arm,
        "seed": seed,
        "epochs": epochs,
        "accuracy": float(np.mean(answers[test] == labels[test])),
        "wrong_labels_learned": float(np.mean(answers[wrong] == given[wrong])),
        "backend": backend,
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in modules},
    }


def column(runs, arm, key="accuracy"):
    """Percentages of one arm, in the order of the seeds."""
    return 100.0 * np.array([run[key] for run in runs if run["arm"] == arm])


def compare(runs):
    """One row a comparison. "better" and "worse" need 10 seeds, a 95 %
    interval of the mean (BCa bootstrap) without 0, and p < 0.05 in the
    sign-flip test with Holm's correction over all rows."""
    rows = []
    for arm, other in COMPARISONS:
        delta = column(runs, arm) - column(runs, other)
        low, high, p = -np.inf, np.inf, 1.0
        if len(delta) >= ENOUGH_SEEDS:
            bootstrap = scipy.stats.bootstrap((delta,), np.mean, rng=0)
            low, high = bootstrap.confidence_interval
            p = scipy.stats.permutation_test(
                (delta,), np.mean, permutation_type="samples", rng=0
            ).pvalue
        rows.append(
            {"arm": arm, "other": other, "delta": delta}
            | {"low": low, "high": high, "p": p, "verdict": "not shown"}
        )
    holm = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["p"])):
        holm = row["p"] = max(holm, min(1.0, (len(rows) - rank) * row["p"]))
        if holm < 0.05 and row["low"] > 0:
            row["verdict"] = "better"
        elif holm < 0.05 and row["high"] < 0:
            row["verdict"] = "worse"
    return rows


def tables(runs):
    """What was seen, in Markdown."""
    seeds = len(column(runs, PLAIN))
    lines = [
        "| arm | accuracy, % | lowest to highest | wrong labels learned, % |",
        "|---|--:|--:|--:|",
    ]
    for arm in ARMS:
        seen = column(runs, arm)
        learned = column(runs, arm, "wrong_labels_learned")
        lines.append(
            f"| {arm} | {seen.mean():.1f} | {seen.min():.1f} to "
            f"{seen.max():.1f} | {learned.mean():.0f} |"
        )
    lines += [
        "",
        f"| difference, {seeds} paired seeds | points | lowest to highest "
        "| 95 % interval | p | verdict |",
        "|---|--:|--:|--:|--:|---|",
    ]
    for row in compare(runs):
        delta, tested = row["delta"], "| | "
        if seeds >= ENOUGH_SEEDS:
            tested = f"| {row['low']:+.1f} to {row['high']:+.1f} "
            tested += f"| {row['p']:.3f} "
        lines.append(
            f"| {row['arm']} less {row['other']} | {delta.mean():+.1f} "
            f"| {delta.min():+.1f} to {delta.max():+.1f} "
            f"{tested}| {row['verdict']} |"
        )
    return "\n".join(lines)


def figure(runs):
    """Each seed a dot: points of accuracy that an arm has over plain."""
    plot, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    for place, arm in enumerate([*OTHERS, MEMEL]):
        delta = column(runs, arm) - column(runs, PLAIN)
        # Seeds from top to bottom, so that a seed can be followed.
        spread = place + np.linspace(-0.22, 0.22, len(delta))
        axes.plot(delta, spread, "o", color=COLOURS[arm], alpha=0.7, ms=5)
        axes.vlines(
            delta.mean(), place - 0.36, place + 0.36, COLOURS[arm], lw=3
        )
    axes.axvline(0.0, color="black", lw=1)
    axes.set_yticks(range(len(ARMS) - 1), [*OTHERS, MEMEL])
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("test accuracy less that of plain, percentage points")
    axes.set_title(
        f"Digits, {WRONG_SHARE:.0%} of the training labels wrong "
        f"({runs[0]['backend']})\ndot: one seed, paired; bar: mean",
        loc="left",
        fontsize=10,
    )
    return plot


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=ENOUGH_SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--out", type=pathlib.Path, default="quickstart_results"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)

    runs = []
    todo = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
    with open(options.out / "quickstart.jsonl", "w") as file:
        for arm, seed in tqdm(todo, keras.backend.backend(), unit="run"):
            runs.append(run(arm, seed, options.epochs))
            print(json.dumps(runs[-1]), file=file, flush=True)
    print(tables(runs))
    if options.seeds < ENOUGH_SEEDS:
        print(f"\nToo few seeds for a verdict: that takes {ENOUGH_SEEDS}.")
    figure(runs).savefig(options.out / "quickstart.png", dpi=150)
    print(f"\nWrote quickstart.jsonl and quickstart.png to {options.out}")


if __name__ == "__main__":
    main()
