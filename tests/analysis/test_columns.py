"""Each column of the table for each kind of label, against full activations.

The figures come from NumPy, SciPy, scikit-learn and statsmodels, on all values
in float64.
"""

import keras
import measures_oracle
import numpy as np
import pandas
import pytest
from report_oracle import oracle
from statsmodels.stats import multitest

from keras_memel import align_labels
from keras_memel import analyze

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(5)
N, T, NEURONS = 44, 4, 5
NAMES = np.array(["ash", "birch", "cedar"])
PER_INPUT = RNG.integers(0, 3, N)
PER_TOKEN = RNG.integers(0, 3, (N, T))
KNOWN = RNG.random((N, T)) < 0.8
SEVERAL = RNG.random((N, T, 3)) < [0.5, 0.2, 0.3]
ROWS = RNG.permutation(N) + 100  # An index that is no position
# Two words, of which the second is of two tokens, and a special token.
WORD_IDS = [[None, 0, 1, 1]] * N
VECTORS = RNG.normal(size=(N, 3)) + 0.5


def values():
    z = np.abs(RNG.normal(size=(N, T, NEURONS)))
    z += np.eye(NEURONS)[PER_INPUT][:, None] + np.eye(NEURONS)[PER_TOKEN]
    z[..., 3] = np.where(z[..., 3] > 1.2, z[..., 3], 0)  # Mostly exactly 0
    z[..., 4] *= 1e-3  # Dormant but for one value
    z[7, 2, 4] = 1
    return z.astype("float32")


Z = values()


def spread(labels):
    return np.broadcast_to(labels[:, None], (N, T))


def kinds():
    """What is passed; the label of each value, -1 without; names."""
    names, token = NAMES[PER_INPUT], NAMES[PER_TOKEN]
    some = np.where(KNOWN, PER_TOKEN, -1)
    yield "whole numbers", PER_INPUT, spread(PER_INPUT), "012"
    yield "strings", names, spread(PER_INPUT), NAMES
    yield "booleans", PER_INPUT > 0, spread(PER_INPUT > 0), ("False", "True")
    yield "Series", pandas.Series(names, ROWS), spread(PER_INPUT), NAMES
    yield (
        "Categorical",
        pandas.Series(names, ROWS, dtype="category"),
        spread(PER_INPUT),
        NAMES,
    )
    yield (
        "nullable",
        pandas.Series(PER_INPUT, ROWS, dtype="Int64").mask(PER_INPUT == 2),
        spread(np.where(PER_INPUT == 2, -1, PER_INPUT)),
        "01",
    )
    yield "tokens", PER_TOKEN, PER_TOKEN, "012"
    yield "tokens, -1", some, some, "012"
    yield "tokens, -100", np.where(KNOWN, PER_TOKEN, -100), some, "012"
    yield "tokens, strings", token, PER_TOKEN, NAMES
    yield "tokens, booleans", PER_TOKEN > 0, PER_TOKEN > 0, ("False", "True")
    words = PER_TOKEN[:, 1:3]
    own = np.column_stack([np.full(N, -1), words, words[:, 1]])
    yield "words", align_labels(words.tolist(), WORD_IDS), own, "012"
    yield (
        "words, strings",
        align_labels(NAMES[words].tolist(), WORD_IDS),
        own,
        NAMES,
    )
    yield "multi-hot", SEVERAL[:, 0] * 1, SEVERAL[:, :1].repeat(T, 1), "012"
    yield "multi-hot tokens", SEVERAL, SEVERAL, "012"
    unknown = np.where(KNOWN[..., None], SEVERAL, -1)
    yield "multi-hot, -1", unknown, unknown, "012"


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [keras.Input((T, NEURONS)), keras.layers.ReLU(name="z")]
    )


@pytest.mark.parametrize(
    ("kind", "labels", "own", "names"), list(kinds()), ids=lambda x: str(x)[:20]
)
def test_every_column_is_that_of_full_activations(
    model, kind, labels, own, names
):
    several = kind.startswith("multi")
    report = analyze(
        *(model, Z, labels, "z"),
        multi_label=several,
        embeddings=VECTORS,
        verbose=0,
    )
    assert report.labels == tuple(names)
    table = report.to_dataframe()
    z = Z.reshape(-1, NEURONS).astype("float64")
    inputs = np.repeat(np.arange(N), T)
    own = own.reshape(len(z), -1)
    labelled = (own >= 0).all(1)
    if not several:
        own = own == np.arange(len(names))
    own = (own > 0) & labelled[:, None]
    expected = oracle(z, own, inputs, labelled)
    phi = (z - z.mean(0)) ** 2 / z.var(0, ddof=1)
    falling = np.sort(phi, axis=0)[::-1]
    away = np.abs(z - np.sort(z, axis=0)[(len(z) - 1) // 2])
    size = np.abs(z).mean(0)
    expected = {
        "count": np.full(NEURONS, len(z)),
        "nonfinite": np.zeros(NEURONS),
        **{
            name: expected[name]
            for name in (
                "mean",
                "variance",
                "minimum",
                "maximum",
                "kurtosis",
                "dead",
                "ms_max",
                "over_threshold",
                "direction",
                "ms_on_label",
                "roc_auc",
                "roc_auc_null",
                "average_precision",
                "ks_statistic",
                "f1",
                "f1_baseline",
                "class_selectivity",
            )
        },
        "dormant": size <= 0.025 * size.mean(),
        "rare": (away > 0.1 * away.max(0)).mean(0) < 0.01,
        **{
            f"ms_{q}": falling[-(-(100 - q) * len(z) // 100) - 1]
            for q in (50, 90, 99)
        },
        "label_mean": expected["mean_on_label"],
        "false_killing_rate": expected["fkr"],
        "p_corrected": multitest.multipletests(
            expected["roc_auc_p"], method="holm"
        )[1],
        "monoscore": measures_oracle.monoscore(z, VECTORS[inputs], inputs),
        "label": np.array(names_of(names))[expected["label"]],
        "f1_label": np.array(names_of(names))[expected["f1_label"]],
        "layer": np.full(NEURONS, "z"),
        "neuron": np.arange(NEURONS),
    }
    assert set(expected) == set(table)
    for name in ("rare", "dormant"):
        assert table[name].tolist() == [False] * 4 + [True]
    for name, values in expected.items():
        found = table[name].to_numpy()
        if found.dtype.kind in "biuf":
            np.testing.assert_allclose(
                found.astype("float64"),
                np.asarray(values, "float64"),
                rtol=1e-5,
                atol=1e-5,
                err_msg=name,
            )
        else:
            assert found.tolist() == list(values), name


def names_of(names):
    return [str(name) for name in names]
