"""What the studies on digits share: the data, the network, the page.

Digits are small, so that ten seeds of many arms run on two cores in minutes;
what is seen here is seen on digits.
"""

import os
import pathlib

os.environ.setdefault("KERAS_BACKEND", "torch")
# The matrices are so small that a second thread costs more than it gives.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import keras
import numpy as np
import sklearn.datasets

FOLDER = pathlib.Path(__file__).parent
RESULTS = FOLDER / "results"
PAGES = FOLDER.parents[1] / "docs" / "studies"

# The network and its training are those of examples/quickstart.py.
WIDTH, BATCH, LEARNING_RATE, EPOCHS = 256, 100, 3e-3, 50
TRAIN, VALIDATION = 400, 200


class Digits:
    """A split of scikit-learn's digits, with wrong labels, made from a seed.

    The labels of training *and* validation images are wrong with the same
    share: who has wrong labels has them in both. Those of the test are right.
    """

    def __init__(self, seed, wrong_share=0.0, epochs=EPOCHS, train=TRAIN):
        images, labels = sklearn.datasets.load_digits(return_X_y=True)
        self.images = images.astype("float32") / 16.0
        rng = np.random.default_rng(seed)
        self.train, self.validation, self.test = np.split(
            rng.permutation(len(images)), [train, train + VALIDATION]
        )
        self.labels, self.given = labels, labels.copy()
        wrong = []
        for part in (self.train, self.validation):
            chosen = rng.permutation(part)[: round(wrong_share * len(part))]
            shift = rng.integers(1, 10, len(chosen))
            self.given[chosen] = (labels[chosen] + shift) % 10
            wrong.append(chosen)
        self.wrong = wrong[0]
        # All epochs in one, in our own order: each backend shuffles in its
        # own way.
        self.order = np.concatenate(
            [rng.permutation(self.train) for _ in range(epochs)]
        )

    def batches(self):
        return self.order.reshape(-1, BATCH)


def build(between, seed, width=WIDTH):
    """A network of two hidden layers; `between()` stands before each ReLU.

    The first weights depend on the seed only: initialisers have seeds of
    their own, since the layers of an arm draw from the global one.
    """

    def dense(units, number):
        glorot = keras.initializers.GlorotUniform(seed=10 * seed + number)
        return keras.layers.Dense(units, kernel_initializer=glorot)

    keras.utils.set_random_seed(seed)
    layers = [keras.Input((64,))]
    for number in (0, 1):
        layers += [dense(width, number), *between(), keras.layers.ReLU()]
    model = keras.Sequential([*layers, dense(10, 2)])
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def fit(model, digits):
    order = digits.order
    images, labels = digits.images[order], digits.given[order]
    model.fit(images, labels, BATCH, shuffle=False, verbose=0)


def answers(model, images):
    logits = keras.ops.convert_to_numpy(model(images, training=False))
    return logits.argmax(axis=-1)


def environments(runs):
    """Backend and versions of the runs, in one line."""
    found = sorted(
        {
            ", ".join(
                f"{name} {version}"
                for name, version in run["environment"]["versions"].items()
            )
            for run in runs
        }
    )
    return "; ".join(found)


def check(comparison, claims):
    """Raise unless each claim of a page, metric: {(arm, other): verdict}, is
    the verdict of the stored runs: words cannot be made from them, but must
    not outlive them."""
    for metric, verdicts in claims.items():
        found = {
            (c.arm, c.other): c.verdict
            for c in comparison.contrasts
            if c.metric == metric
        }
        for pair, verdict in verdicts.items():
            if found[pair] != verdict:
                raise AssertionError(
                    f"The page says that {pair[0]} less {pair[1]} ({metric}) "
                    f"is {verdict!r}; the runs say {found[pair]!r}."
                )


def write_page(name, text, figure=None):
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / f"{name}.md").write_text(text, encoding="utf-8")
    if figure is not None:
        figure.savefig(PAGES / f"{name}.png", dpi=110)
