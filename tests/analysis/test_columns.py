"""Each column of the table for each kind of label, against full activations.

The figures come from NumPy, SciPy, scikit-learn and statsmodels, on all values
in float64, and those of FMS from every rule that decision trees may use.
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
from keras_memel.reports.halves import held_out

pytestmark = pytest.mark.quick

RNG = np.random.default_rng(5)
N, T, NEURONS = 44, 4, 8
# Neurons that never differ, have no value, and lack some values.
DEAD, EMPTY, PARTLY = 5, 6, 7
ALIVE = [*range(DEAD), PARTLY]
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
    z[..., DEAD] = 0.7
    z[..., EMPTY] = np.nan
    z[3::9, 1, PARTLY] = np.nan
    z[5, 3, PARTLY] = np.inf
    return z.astype("float32")


Z = values()
# Columns that the oracle gives under the same name, and under another.
SAME = (
    "variance",
    "kurtosis",
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
OTHER = {
    "label_mean": "mean_on_label",
    "false_killing_rate": "fkr",
    "p": "roc_auc_p",
}


def spread(labels):
    return np.broadcast_to(labels[:, None], (N, T))


def kinds():
    """Yield the labels to pass, the label of each value (-1 without), and
    names.
    """
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
    ("kind", "labels", "own", "names"),
    list(kinds()),
    ids=[kind for kind, *_ in kinds()],
)
def test_every_column_is_that_of_full_activations(
    model, kind, labels, own, names
):
    several = kind.startswith("multi")
    report = analyze(
        *(model, Z, labels, "z"),
        multi_label=several,
        embeddings=VECTORS,
        fms=1,
        verbose=0,
    )
    assert report.labels == tuple(names)
    z = Z.reshape(-1, NEURONS).astype("float64")
    inputs = np.repeat(np.arange(N), T)
    own = own.reshape(len(z), -1)
    labelled = (own >= 0).all(1)
    if not several:
        own = own == np.arange(len(names))
    own = (own > 0) & labelled[:, None]
    check_fms(report["z"].label_fms, z, own, inputs, labelled)
    names = np.array([str(name) for name in names])
    table = report.to_dataframe()
    expected = columns(z, own, inputs, labelled, names)
    best = np.nan_to_num(report["z"].label_fms, nan=-1).max(1)
    its = np.nan_to_num(report["z"].label_fms, nan=-1).argmax(1)
    expected["fms"] = np.where(best < 0, np.nan, best)
    expected["fms_label"] = [
        names[label] if score >= 0 else np.nan
        for label, score in zip(its, best)
    ]
    assert set(expected) == set(table)
    for name in ("rare", "dormant"):
        assert table[name].tolist() == [i == 4 for i in range(NEURONS)]
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
            # NaN differs from itself, "nan" does not.
            assert list(map(str, found)) == list(map(str, values)), name


def columns(z, own, inputs, labelled, names):
    """Return the expected columns, neuron by neuron."""
    rows = [column(one, own, inputs, labelled, names) for one in z.T]
    found = {name: [row.get(name, np.nan) for row in rows] for name in rows[0]}
    size = np.array(found.pop("size"))
    p = np.full(NEURONS, np.nan)
    p[ALIVE] = multitest.multipletests(
        np.array(found.pop("p"))[ALIVE], method="holm"
    )[1]
    return found | {
        "dormant": size <= 0.025 * np.nanmean(size),
        "p_corrected": p,
        "layer": ["z"] * NEURONS,
        "neuron": np.arange(NEURONS),
    }


def column(z, own, inputs, labelled, names):
    """One row of the table, without the columns that are NaN."""
    kept = np.isfinite(z)
    z, own, inputs, labelled = (one[kept] for one in (z, own, inputs, labelled))
    row = {
        "count": len(z),
        "nonfinite": (~kept).sum(),
        "dead": False,
        "rare": False,
    }
    if not len(z):
        return row
    row |= {"mean": z.mean(), "minimum": z.min(), "maximum": z.max()}
    row["size"] = np.abs(z).mean()
    if z.min() == z.max():
        zero = ("variance", "ms_50", "ms_90", "ms_99", "ms_max")
        row |= dict.fromkeys((*zero, "over_threshold"), 0)
        return row | {"dead": True}
    values = z[:, None]
    expected = oracle(values, own, inputs, labelled)
    phi = (z - z.mean()) ** 2 / z.var(ddof=1)
    falling = np.sort(phi)[::-1]
    away = np.abs(z - np.sort(z)[(len(z) - 1) // 2])
    row["rare"] = (away > 0.1 * away.max()).mean() < 0.01
    for q in (50, 90, 99):
        row[f"ms_{q}"] = falling[-(-(100 - q) * len(z) // 100) - 1]
    vectors = VECTORS[inputs]
    row["monoscore"] = measures_oracle.monoscore(values, vectors, inputs)[0]
    for name in SAME:
        row[name] = expected[name][0]
    for name, its in OTHER.items():
        row[name] = expected[its][0]
    for name in ("label", "f1_label"):
        row[name] = names[expected[name][0]]
    return row


def check_fms(found, z, own, inputs, labelled):
    """Check that the FMS of a label is that of the best rule of a single
    neuron.
    """
    second = held_out(inputs)
    z = np.delete(z, EMPTY, 1)  # It takes no value from the others.
    usable = labelled & np.isfinite(z).all(1)
    halves = [usable & ~second, usable & second]
    for label, column in enumerate(found.T):
        (at,) = np.nonzero(~np.isnan(column))
        assert len(at) == 1
        candidates = measures_oracle.fms(
            *((z[half], own[half, label]) for half in halves), removed=1
        )
        neuron = at[0] - (at[0] > EMPTY)
        assert any(
            neuron == its and low - 1e-5 <= column[at[0]] <= high + 1e-5
            for its, low, high in candidates
        )
