"""Wrong labels again, on other data: clothing, cell nuclei, a smartwatch.

    python examples/studies/domains.py [--seeds 10] [--only fashion_mnist]

The experiment of label_noise.py, the same methods with the same trials, on
Fashion-MNIST, on a medical table and on time series. Writes
docs/studies/domains.md.
"""

import argparse
import functools
import pathlib

import common
import label_noise
import sets
from label_noise import METHODS

from keras_memel import RunStore
from keras_memel import compare

# Three trials a method, around what the five of label_noise.py chose.
RATES = (0.1, 0.2, 0.4)
DROPOUT_RATES = (0.2, 0.5, 0.65)
ARMS = {"plain": ("plain", 0.0)} | {
    f"{method} {rate:.0%}": (method, rate)
    for method in METHODS
    for rate in (DROPOUT_RATES if method == "dropout" else RATES)
}
# Set, and the shares of wrong labels.
SHARES = {
    "fashion_mnist": (0.2, 0.0, 0.4),
    "breast_cancer": (0.2, 0.0),
    "watch": (0.2, 0.0),
    "sentences": (0.2,),
}


def run(name, share, path, arm, seed):
    """Train and test one network."""
    method, rate = arm
    data = sets.split(name, share, seed, path)

    def between():
        return [METHODS[method](rate)] if method in METHODS else []

    model = common.build(
        between, seed, inputs=data.images.shape[1], classes=data.classes
    )
    model = common.recycled((name, arm), model)
    common.fit(model, data)
    return label_noise.scores(model, data)


def store(name, share):
    return common.RESULTS / f"{name}_{share:.0%}.jsonl".replace("%", "")


def stored():
    """Sets and shares that have runs, each with its comparison."""
    return {
        (name, share): label_noise.compared(
            RunStore(store(name, share)).read(), ARMS
        )
        for name, shares in SHARES.items()
        for share in sorted(shares)
        if store(name, share).is_file()
    }


def page(found):
    return "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--only", choices=SHARES, help="run one set only")
    parser.add_argument("--share", type=float, help="run one share only")
    parser.add_argument(
        "--data", type=pathlib.Path, help="file of the set that --only names"
    )
    options = parser.parse_args()
    if options.data is not None and options.only is None:
        parser.error("--data needs --only: of which set is the file?")
    for name, shares in SHARES.items():
        if options.only not in (None, name):
            continue
        for share in shares:
            if options.share in (None, share):
                train = functools.partial(run, name, share, options.data)
                compare(train, ARMS, options.seeds, store=store(name, share))
    found = stored()
    common.write_page("domains", page(found))


if __name__ == "__main__":
    main()
