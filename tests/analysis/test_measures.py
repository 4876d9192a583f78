"""MonoScore and FMS, against every pair and every rule in float64."""

import sys

import keras
import measures_oracle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from labelled import LABELS
from labelled import X
from labelled import identity

from keras_memel import Report
from keras_memel import analyze
from keras_memel.analysis import fms
from keras_memel.analysis.monoscore import MonoScores
from keras_memel.reports.halves import held_out

pytest.importorskip("sklearn")

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(60, 4)) + 0.5
Z = np.abs(X[:60])


@pytest.mark.quick
def test_the_single_pass_equals_all_pairs():
    for size in (7, 60):
        report = analyze(
            identity(6),
            Z,
            layers="z",
            embeddings=VECTORS,
            batch_size=size,
            verbose=0,
        )
        found = report["z"].monoscore
        np.testing.assert_allclose(
            found, measures_oracle.monoscore(Z, VECTORS), rtol=1e-5
        )
    np.testing.assert_array_equal(report.to_dataframe()["monoscore"], found)


@pytest.mark.once
@given(
    st.integers(3, 30),
    st.integers(1, 3),
    st.integers(1, 5),
    st.sampled_from([1e-3, 1.0, 1e4]),
    st.integers(0, 2**32 - 1),
)
def test_offsets_scales_and_splits_change_nothing(n, d, split, unit, seed):
    rng = np.random.default_rng(seed)
    z = (unit * (100 + rng.normal(size=(n, 2)))).astype("float32")
    vectors = rng.normal(size=(n, d))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sums = MonoScores(2)
    for start in range(0, n, split):
        part = slice(start, start + split)
        sums.add(z[part], None, units[part], start, "z")
    np.testing.assert_allclose(
        sums.scores(z.min(0), z.max(0)),
        measures_oracle.monoscore(z, vectors),
        rtol=1e-4,
        atol=1e-6,
    )


def tokens_model():
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(9, 3, mask_zero=True, name="embedding"),
        ]
    )
    tokens = RNG.integers(1, 9, (15, 4))
    tokens[np.arange(4) >= RNG.integers(1, 5, 15)[:, None]] = 0
    table = keras.ops.convert_to_numpy(model.layers[0].embeddings)
    return model, tokens, table[tokens][tokens > 0]


@pytest.mark.parametrize("per", ["input", "position"])
def test_values_of_one_input_are_no_pair(per):
    model, tokens, values = tokens_model()
    inputs = np.nonzero(tokens)[0]
    if per == "input":
        given, whose = VECTORS[:15], inputs
        own = given[inputs]
    else:
        given, whose = RNG.normal(size=(15, 4, 3)), None
        own = given[tokens > 0]
    layer = analyze(model, tokens, embeddings=given, batch_size=4, verbose=0)[
        "embedding"
    ]
    expected = measures_oracle.monoscore(values, own, whose)
    np.testing.assert_allclose(layer.monoscore, expected, rtol=1e-4)


def test_a_layer_that_is_called_twice_has_one_sum_per_input():
    inputs = keras.Input((3,))
    shared = keras.layers.Dense(2, name="shared")
    out = keras.layers.Concatenate()([shared(inputs), shared(inputs * 2)])
    model = keras.Model(inputs, out)
    x = RNG.normal(size=(20, 3)).astype("float32")
    layer = analyze(
        model, x, layers="shared", embeddings=VECTORS[:20], verbose=0
    )["shared"]
    values = np.concatenate(np.split(model.predict(x, verbose=0), 2, 1))
    inputs = np.tile(np.arange(20), 2)
    np.testing.assert_allclose(
        layer.monoscore,
        measures_oracle.monoscore(values, VECTORS[inputs], inputs),
        rtol=1e-4,
    )


def test_embeddings_from_a_function_and_of_a_stream():
    wanted = analyze(identity(6), Z, layers="z", embeddings=VECTORS, verbose=0)[
        "z"
    ]
    seen = []

    def embed(batch):
        seen.append(len(batch))
        start = sum(seen[:-1])
        return keras.ops.convert_to_tensor(VECTORS[start : start + len(batch)])

    for x, embeddings in (
        (Z, embed),
        (iter([Z[:50], Z[50:]]), VECTORS),
    ):
        found = analyze(
            identity(6), x, layers="z", embeddings=embeddings, verbose=0
        )["z"]
        np.testing.assert_allclose(found.monoscore, wanted.monoscore, rtol=1e-5)
    assert seen == [32, 28]


def test_dead_neurons_and_those_of_one_input_have_none(tmp_path):
    z = np.zeros((20, 3), "float32")
    z[:, 1] = 0.7
    z[3, 2] = 5  # All others have a weight of 0.
    report = analyze(
        identity(3), z, layers="z", embeddings=VECTORS[:20], verbose=0
    )
    assert np.isnan(report["z"].monoscore).all()
    z[7, 2] = 3
    report = analyze(
        identity(3), z, layers="z", embeddings=VECTORS[:20], verbose=0
    )
    cosine = VECTORS[3] @ VECTORS[7]
    cosine /= np.linalg.norm(VECTORS[3]) * np.linalg.norm(VECTORS[7])
    np.testing.assert_allclose(report["z"].monoscore[2], cosine)
    report.save(tmp_path / "report.npz")
    loaded = Report.load(tmp_path / "report.npz")
    np.testing.assert_array_equal(loaded["z"].monoscore, report["z"].monoscore)


@pytest.mark.once
def test_one_input_among_many_leaves_nothing_but_rounding():
    """The lowest value comes after the one that all are shifted by."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        low, high = rng.normal(size=2) * 3
        z = np.full((60, 1), low, "float32")
        z[0] = high
        vectors = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
        sums = MonoScores(1)
        for i in range(60):
            sums.add(z[i : i + 1], None, vectors[i : i + 1], i, "z")
        if low < high:
            assert np.isnan(sums.scores(z.min(0), z.max(0))).all()


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (VECTORS[:59], "each of the 60 inputs"),
        (VECTORS[:, 0], "one vector per input"),
        (np.where(np.arange(60)[:, None] == 9, 0, VECTORS), "length 0.0"),
        (np.where(np.arange(60)[:, None] == 9, np.nan, VECTORS), "length nan"),
        (lambda batch: VECTORS[:3], "3 vectors for a batch of 32"),
        (RNG.normal(size=(60, 2, 3)), "2 positions, for layer 'z' with 1"),
        (VECTORS.astype(str), "one vector per input"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(embeddings, message):
    with pytest.raises(ValueError, match=message):
        analyze(identity(6), Z, layers="z", embeddings=embeddings, verbose=0)
    if isinstance(embeddings, np.ndarray) and len(embeddings) == 59:
        for vectors in (embeddings, np.concatenate([VECTORS, VECTORS])):
            with pytest.raises(ValueError, match="vector for each input"):
                analyze(
                    identity(6),
                    iter([Z]),
                    layers="z",
                    embeddings=vectors,
                    verbose=0,
                )


def concept(seed, n=240, neurons=4, shift=1.0):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    values = rng.normal(size=(n, neurons)).astype("float32")
    values[:, 1] += shift * positive
    values[:, 2] += 0.7 * shift * positive
    half = np.arange(n) % 2 == 0
    return (values[half], positive[half]), (values[~half], positive[~half])


@pytest.mark.once
@pytest.mark.parametrize("removed", [1, 2, 4])
def test_fms_equals_every_rule_tried(removed):
    exact = 0
    for seed in range(4):
        fitted, scored = concept(seed)
        before = fitted[0].copy()
        for levels in (2, fms.LEVELS):
            found = fms.concept(fitted, scored, removed, levels)
            np.testing.assert_array_equal(fitted[0], before)
            ((neuron, low, high),) = measures_oracle.fms(
                fitted, scored, removed, levels
            )
            assert found.neuron == neuron
            assert low - 1e-9 <= found.fms <= high + 1e-9
            exact += high - low < 1e-9
    assert exact >= 2


@pytest.mark.once
def test_fms_is_that_of_the_arithmetic():
    rng = np.random.default_rng(0)
    n = 2000
    positive = rng.random(n) < 0.2
    half = np.arange(n) % 2 == 0

    def score(*columns):
        z = np.stack(columns, 1).astype("float32")
        halves = [(z[kept], positive[kept]) for kept in (half, ~half)]
        return fms.concept(*halves, removed=1).fms

    noise = rng.normal(size=(2, n))
    alone = score(positive, noise[0])
    shared = score(positive, positive + 0.1, noise[0])
    nothing = score(*noise)
    assert alone == pytest.approx(1, abs=0.05)
    assert shared == pytest.approx(0.5, abs=0.01)
    assert nothing == pytest.approx(0.25, abs=0.03)


@pytest.mark.once
def test_fms_of_a_report_is_that_of_the_halves(tmp_path):
    z = np.maximum(X, 0)
    report = analyze(identity(6), z, LABELS, "z", fms=1, verbose=0)
    layer = report["z"]
    second = held_out(np.arange(len(z)))
    for label in range(4):
        own = label == LABELS
        expected = fms.concept(
            (z[~second], own[~second]), (z[second], own[second]), 1
        )
        # Inputs are those of a label plus 2 in its own column.
        assert expected.neuron == label
        column = np.full(6, np.nan)
        column[label] = expected.fms
        np.testing.assert_allclose(layer.label_fms[:, label], column)
    table = report.to_dataframe()
    assert table["fms_label"].tolist()[:4] == ["0", "1", "2", "3"]
    assert table["fms_label"].isna().tolist() == [False] * 4 + [True] * 2
    np.testing.assert_allclose(table["fms"], layer.fms)
    np.testing.assert_allclose(layer.fms[:4], np.diag(layer.label_fms[:4]))
    report.save(tmp_path / "report.npz")
    loaded = Report.load(tmp_path / "report.npz")
    np.testing.assert_array_equal(loaded["z"].label_fms, layer.label_fms)


@pytest.mark.once
def test_fms_leaves_out_what_is_unlabelled_and_labels_that_are_too_rare():
    z = np.maximum(X, 0)
    labels = LABELS.copy()
    labels[5::7] = -1
    labels[:3] = 9
    layer = analyze(identity(6), z, labels, "z", fms=1, verbose=0)["z"]
    known = labels >= 0
    second = held_out(np.arange(len(z)))
    own = labels == 2
    expected = fms.concept(
        (z[known & ~second], own[known & ~second]),
        (z[known & second], own[known & second]),
        1,
    )
    np.testing.assert_allclose(layer.label_fms[2, 2], expected.fms)
    assert np.isnan(layer.label_fms[:, -1]).all()


@pytest.mark.once
@pytest.mark.parametrize("unit", [1e-30, 1e-8, 1e30])
def test_fms_has_no_unit(unit):
    """scikit-learn treats values that are closer than 1e-7 as equal."""
    z = np.abs(X)
    expected = analyze(identity(6), z, LABELS, "z", fms=1, verbose=0)["z"]
    small = (z * 2.0 ** round(np.log2(unit))).astype("float32")
    found = analyze(identity(6), small, LABELS, "z", fms=1, verbose=0)["z"]
    assert np.isfinite(expected.label_fms).sum() == 4
    np.testing.assert_array_equal(found.label_fms, expected.label_fms)


@pytest.mark.once
def test_neurons_without_values_take_no_fms_from_the_others():
    z = np.abs(X)
    expected = analyze(identity(6), z, LABELS, "z", fms=1, verbose=0)["z"]
    more = np.column_stack([z, np.full(len(z), np.nan), np.full(len(z), 0.7)])
    found = analyze(identity(8), more, LABELS, "z", fms=1, verbose=0)["z"]
    np.testing.assert_allclose(
        found.label_fms[:6], expected.label_fms, atol=0.02
    )
    assert np.isnan(found.label_fms[6:]).all()


@pytest.mark.once
def test_fms_is_refused_without_labels_or_scikit_learn(monkeypatch):
    with pytest.raises(ValueError, match="needs labels"):
        analyze(identity(6), Z, fms=1, verbose=0)
    with pytest.raises(ValueError, match="`fms`"):
        analyze(identity(6), Z, LABELS[:60], fms=0, verbose=0)
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    with pytest.raises(ImportError, match=r"keras-memel\[measures\]"):
        analyze(identity(6), Z, LABELS[:60], fms=1, verbose=0)
