"""Make labels wrong at random: `--wrong SHARE` of the classifiers."""

import numpy as np


def add_argument(parser):
    parser.add_argument(
        "--wrong",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of wrong training and validation labels",
    )


def check(parser, share):
    if not 0 <= share < 1:
        parser.error(
            "--wrong must be at least 0 and below 1, a share of the labels. "
            f"Received: {share:g}"
        )


def spoil(labels, classes, share, seed, part):
    """Return a copy of labels with `round(share * n)` wrong ones.

    part: a name, so that each part of a seed samples independently. The same
    rows have the same labels in every arm of a seed.
    """
    labels = np.array(labels)
    rng = np.random.default_rng([seed, *part.encode()])
    rows = rng.permutation(len(labels))[: round(share * len(labels))]
    shift = rng.integers(1, classes, len(rows))
    labels[rows] = (labels[rows] + shift) % classes
    return labels
