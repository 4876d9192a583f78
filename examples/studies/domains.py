"""Test wrong labels on clothing, cell nuclei, a watch, prices and sentences.

    python examples/studies/domains.py [--seeds 10] [--only fashion_mnist]

The script repeats the experiment of label_noise.py, with the same methods, on
Fashion-MNIST, on a medical table, on time series, on daily prices, and on
sentences encoded by a pretrained BERT. It writes docs/studies/domains.md.
"""

import functools
import pathlib

import numpy as np
import sklearn.linear_model

from examples.studies import label_noise
from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import sets
from examples.studies.common import training
from keras_memel import Comparison
from keras_memel import RunStore
from keras_memel import compare

# Three trials per method, around the rates that label_noise.py selected.
RATES = (0.1, 0.2, 0.4)
DROPOUT_RATES = (0.2, 0.5, 0.65)
ARMS = training.trials(RATES, DROPOUT_RATES)
# Set, and the shares of wrong labels.
SHARES = {
    "fashion_mnist": (0.2, 0.0, 0.4),
    "breast_cancer": (0.2, 0.0),
    "watch": (0.2, 0.0),
    "market": (0.2, 0.0),
    "sentences": (0.2,),
}
# Forecasts of the next day that any network should be better than.
REFERENCES = ("majority class", "class of today", "logistic regression")


def arms_of(name):
    """The arms of a set by name: of prices, the references too."""
    references = REFERENCES if sets.SETS[name].in_time else ()
    return ARMS | {name: (name, 0.0) for name in references}


def forecast(reference, data):
    """Return the answers of a reference on the test."""
    if reference == "majority class":
        counts = np.bincount(data.given[data.train])
        return np.full(len(data.test), counts.argmax())
    if reference == "class of today":
        # The label of a day is the class of the next one.
        return data.labels[data.test - 1]
    model = sklearn.linear_model.LogisticRegression(max_iter=1000)
    model.fit(data.images[data.train], data.given[data.train])
    return model.predict(data.images[data.test])


def run(name, share, path, arm, seed):
    """Train and test one network, or test a reference."""
    data = sets.split(name, share, seed, path)
    if arm[0] in REFERENCES:
        right = forecast(arm[0], data) == data.labels[data.test]
        return {"accuracy": np.mean(right)}
    layers = training.layers_of(*arm)
    model = training.trained(data, layers, seed, key=(name, arm))
    return label_noise.scores(model, data)


def stored():
    """Return the comparison of each set and share that has all runs."""
    return {
        (name, share): label_noise.compared(
            RunStore(training.store(name, share)).read(), ARMS
        )
        for name, shares in SHARES.items()
        for share in sorted(shares)
        if training.complete(training.store(name, share), arms_of(name))
    }


def referred():
    """The references and plain training, for each share of wrong labels."""
    return {
        (name, share): pages.only(
            Comparison(
                RunStore(training.store(name, share)).read(),
                ["plain", *REFERENCES],
            ),
            "accuracy",
        )
        for name, share in stored()
        if sets.SETS[name].in_time
    }


def findings():
    """Yield the tables of this study in RESULTS.md."""
    for (name, share), found in stored().items():
        yield pages.Finding(
            f"{sets.title(name, share)} labels, all methods tuned",
            found,
            "accuracy",
            wrong=share,
            tuned=True,
        )


# The verdicts that the page claims.
CLAIMS = {
    ("fashion_mnist", 0.2): {
        ("RD", "plain"): "better",
        ("placebo", "plain"): "better",
        ("dropout", "plain"): "better",
        ("RD", "placebo"): "not shown",
        ("RD", "dropout"): "worse",
    },
    ("fashion_mnist", 0.4): {
        ("RD", "plain"): "better",
        ("RD", "placebo"): "not shown",
        ("RD", "dropout"): "worse",
    },
    ("fashion_mnist", 0.0): {
        ("RD", "plain"): "worse",
        ("RD", "placebo"): "worse",
        ("placebo", "plain"): "not shown",
        ("dropout", "plain"): "not shown",
    },
    ("breast_cancer", 0.2): {
        ("RD", "plain"): "not shown",
        ("naive (a)", "plain"): "better",
        ("naive (b)", "plain"): "better",
        ("dropout", "plain"): "not shown",
    },
    ("breast_cancer", 0.0): {("RD", "plain"): "not shown"},
    ("sentences", 0.2): {
        ("RD", "plain"): "not shown",
        ("dropout", "plain"): "not shown",
    },
    ("watch", 0.0): {
        ("RD", "plain"): "not shown",
        ("RD", "placebo"): "not shown",
        ("naive (a)", "plain"): "not shown",
        ("naive (b)", "plain"): "worse",
    },
    ("watch", 0.2): {
        ("RD", "plain"): "not shown",
        ("placebo", "plain"): "not shown",
        ("RD", "placebo"): "not shown",
        ("naive (a)", "plain"): "worse",
        ("naive (b)", "plain"): "worse",
    },
    ("market", 0.0): {(arm, "plain"): "not shown" for arm in training.METHODS},
    ("market", 0.2): {(arm, "plain"): "not shown" for arm in training.METHODS},
}
# The same of the references, on each share of wrong labels.
REFERENCE_CLAIMS = {
    ("majority class", "plain"): "worse",
    ("class of today", "plain"): "not shown",
    ("logistic regression", "plain"): "not shown",
}


SEEN = (
    "Finding: on Fashion-MNIST with wrong labels, Reverse Deactivation (RD) "
    "helps. It is not shown to differ from its placebo, and it is worse than "
    "dropout. With correct labels RD *harms*; this is shown neither for the "
    "placebo nor for dropout. On cell nuclei with 20 % wrong labels, both "
    "naive inhibitions help; for RD and dropout this is not shown. The "
    "smartwatch data use different people for training and test. There RD is "
    "shown neither to help nor to differ from its placebo. The naive "
    "inhibitions harm, except that for (a) with correct labels this is not "
    "shown. On the daily range of the S&P 500 and on sentences encoded by a "
    "pretrained BERT, no method is shown to help or to harm, dropout included."
)
ABOUT = {
    "fashion_mnist": [
        "Fashion-MNIST, 14 x 14 pixels (Xiao et al. 2017)",
        *("60,000", "600", "2,000", "10", "196"),
    ],
    "breast_cancer": [
        "breast cancer: measures of cell nuclei in microscope images (UCI, "
        "in scikit-learn)",
        *("569", "200", "269", "2", "30"),
    ],
    "watch": [
        "smartwatch: two seconds of six sensors; all windows of a person are "
        "in the same part (Burns et al. 2018, in seglearn)",
        *("2,369", "600", "600", "7", "150"),
    ],
    "market": [
        "S&P 500: ranges, returns and volumes of S&P 500 and NASDAQ on the "
        "last ten days; is the next day's range of the S&P 500 in the lowest, "
        "middle or highest third of the last 250 days? (1999 to 2018, in arch)",
        *("4,779", "600", "380", "3", "60"),
    ],
    "sentences": [
        "film sentences (examples/data), encoded as the mean of the last "
        "outputs of a pretrained, frozen BERT (MiniLM)",
        *("2,000", "600", "1,100", "2", "384"),
    ],
}


MEDICAL = (
    "There are no medical images, only a table of measurements of cell nuclei: "
    "none of these packages contains labelled medical images (November 2026). "
    "keras.datasets has none; torchvision and medmnist 3.0.2 download "
    "theirs; torchxrayvision 1.5.7 contains labels of chest X-rays without the "
    "images; scikit-image 0.26.0 contains single images without labels."
)


ANSWER = (
    "Only on Fashion-MNIST with wrong labels, where Reverse Deactivation (RD) "
    "is not shown to differ from its placebo and is worse than dropout. With "
    "correct labels it harms there. On the other data sets it is not shown to "
    "help."
)


def page(comparisons):
    """Return the page in Markdown."""
    for key, claims in CLAIMS.items():
        pages.check(comparisons[key], {"accuracy": claims})
    columns = sets.titled(comparisons)
    lines = [
        "# Does it help on other data?",
        "",
        "<!-- Written by examples/studies/domains.py. -->",
        "",
        "This study repeats the experiment on [wrong labels](label_noise.md) "
        "on other data sets, with the same network, a layer before both ReLUs, "
        "and the same methods. Each method has three trials: rates of 10, 20 "
        "and 40 % (dropout: 20, 50 and 65 %). For each seed, the trial with "
        "the best *validation* accuracy counts. The stated share of the "
        "training and validation labels is wrong; the test labels are "
        "correct. "
        f"{len(next(iter(comparisons.values())).seeds)} paired seeds.",
        "",
        *pages.table(
            [
                ["set", "examples", "training", "test", "classes", "inputs"],
                *(
                    ABOUT[name]
                    for name in dict.fromkeys(name for name, _ in comparisons)
                ),
            ]
        ),
        "",
        SEEN,
        "",
        "![One panel per data set and share of wrong labels: accuracy minus "
        "that of plain training, by method](domains.png)",
        "",
        *pages.accuracies(columns),
    ]
    lines = pages.answer_first(ANSWER, lines)
    for name, found in columns.items():
        lines += ["", f"## {pages.capital(name)}", ""]
        lines += [found.to_markdown(scale=100), *pages.notes(found)]
    lines += against_references()
    lines += [
        "",
        "## Limits",
        "",
        "How often the highest rate of a grid was chosen, %:",
        "",
        *pages.edges(columns, training.METHODS, ARMS),
        "",
        "The study uses small parts of the data sets, one network of 2 x 256 "
        "units for all, and labels that are wrong at random.",
        "",
        MEDICAL,
    ]
    missing = [
        sets.title(name, share)
        for name, shares in SHARES.items()
        for share in shares
        if (name, share) not in comparisons
    ]
    if missing:
        lines.append(f"Not run: {'; '.join(missing)}.")
    stores = dict.fromkeys(training.store(*key).name for key in comparisons)
    files = ", ".join(stores)
    return pages.closed(lines, files, pages.runs_of(comparisons))


def against_references():
    """Return the section on the references of prices."""
    found = referred()
    if not found:
        return []
    for comparison in found.values():
        pages.check(comparison, {"accuracy": REFERENCE_CLAIMS})
    columns = sets.titled(found)
    lines = [
        "",
        "## Does the network on the S&P 500 learn anything?",
        "",
        "Plain training is better than the most frequent class. It is not "
        "shown to differ from two forecasts that need no network: the class "
        "of the day before, and a logistic regression of the same inputs "
        "(scikit-learn, C = 1, not tuned).",
        "",
        "The days are split in the order of time. Each seed trains on 600 "
        "days, chooses the trial on the next 300 and tests on the next 380. "
        "From one seed to the next, all parts move forward by 380 days, so "
        "that no day is tested twice. The inputs are known when the market "
        "closes; they are deviations from the mean of the last 250 days, in "
        "standard deviations. The thirds of the label are those of the same "
        "250 days. Neither contains a number of a later day. VIX is not among "
        "the inputs, because arch has it from 2014 on only.",
        "",
        "Accuracy, %, mean over the seeds:",
        "",
        *pages.means(columns, "accuracy"),
    ]
    for name, some in columns.items():
        lines += ["", f"{name}:", "", some.to_markdown(scale=100)]
        lines += pages.notes(some)
    return lines


def figure(comparisons):
    return pages.side_by_side(sets.titled(comparisons))


def write():
    """Write the page and its figure from the stored runs."""
    found = stored()
    pages.write("domains", page(found), figure(found))


def main():
    parser = training.parser(__doc__)
    parser.add_argument("--only", choices=SHARES, help="run one set only")
    parser.add_argument("--share", type=float, help="run one share only")
    parser.add_argument(
        "--data", type=pathlib.Path, help="file of the set that --only names"
    )
    options = parser.parse_args()
    if options.data is not None and options.only is None:
        parser.error("--data needs --only, the set that the file belongs to")
    chosen = [
        (name, share)
        for name, shares in SHARES.items()
        for share in shares
        if options.only in (None, name) and options.share in (None, share)
    ]
    if not chosen:
        parser.error(
            "expected a share of wrong labels that the study has for the set. "
            f"Received: --share {options.share:g}"
        )
    if options.dry_run:
        stores = {training.store(*key): arms_of(key[0]) for key in chosen}
        dry_run.show(
            stores,
            options.seeds,
            dry_run.sizes("examples of each set"),
            "domains",
        )
        return
    sets.check_data(parser, options.only, options.data)
    for name, share in chosen:
        train = functools.partial(run, name, share, options.data)
        store = training.store(name, share)
        compare(train, arms_of(name), options.seeds, store=store)
    write()


if __name__ == "__main__":
    main()
