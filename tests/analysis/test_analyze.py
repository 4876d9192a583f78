"""analyze: the numbers of a report, against NumPy on all activations."""

import keras
import numpy as np
import pytest
from keras import ops
from labelled import LABELS
from labelled import N
from labelled import X
from labelled import dense
from labelled import identity
from report_oracle import check
from report_oracle import oracle

from keras_memel import analyze
from keras_memel.analysis import accumulate

pytestmark = pytest.mark.quick

BACKEND = keras.config.backend()


def hidden(model, x=X):
    kernel, bias = (ops.convert_to_numpy(w) for w in model.layers[0].weights)
    return np.maximum(np.asarray(x, "float64") @ kernel + bias, 0)


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_numbers_equal_numpy_on_all_activations(epsilon):
    model = dense()
    report = analyze(
        model, X, LABELS, "hidden", epsilon=epsilon, threshold=2.0, verbose=0
    )
    check(
        report["hidden"],
        oracle(hidden(model), LABELS, epsilon=epsilon, threshold=2.0),
    )
    frame = report.to_dataframe()
    assert len(frame) == 5
    assert report.inputs == N


def test_the_size_of_batches_changes_nothing():
    model = dense()
    few = slice(0, 200)
    reports = [
        analyze(model, X[few], LABELS[few], batch_size=size, verbose=0)
        for size in (1, 7, 1000)
    ]
    for path in ("hidden", "out"):
        first, *others = (report.layers[path] for report in reports)
        for other in others:
            for name in ("variance", "label_ms", "roc_auc", "top_ms"):
                np.testing.assert_allclose(
                    getattr(other, name), getattr(first, name), rtol=1e-4
                )
            assert (other.top_input == first.top_input)[:, :2].all()


def test_chunks_change_nothing(monkeypatch):
    # Much larger than memory would be, by a chunk much smaller than it is.
    model = dense()
    whole = analyze(model, X, LABELS, "hidden", verbose=0).layers["hidden"]
    monkeypatch.setattr(accumulate, "CHUNK", 35)
    monkeypatch.setattr(
        "keras_memel.analysis.analyze.MEMORY", 0
    )  # All of it on disk
    parts = analyze(model, X, LABELS, "hidden", verbose=0).layers["hidden"]
    check(parts, oracle(hidden(model), LABELS))
    np.testing.assert_array_equal(parts.top_input[:, 0], whole.top_input[:, 0])
    np.testing.assert_array_equal(parts.histogram, whole.histogram)


@pytest.mark.parametrize("limit", [{"disk_limit": 80 * 200}, {"sample": 800}])
def test_beyond_a_limit_curves_come_from_a_sample(monkeypatch, limit):
    model = dense()
    # Some of it in memory, some on disk.
    monkeypatch.setattr(accumulate, "CHUNK", 5 * 60)
    monkeypatch.setattr("keras_memel.analysis.analyze.MEMORY", 4 * 5 * 150)
    report = analyze(model, X, LABELS, "hidden", verbose=0, **limit)
    layer = report.layers["hidden"]
    assert (layer.ranked < 800).all()
    assert (layer.ranked > 400).all()
    exact = oracle(hidden(model), LABELS)
    sampled = (
        "roc_auc",
        "roc_auc_p",
        "roc_auc_null",
        "average_precision",
        "ks_statistic",
        "label_f1",
        "f1_label",
        "f1",
        "f1_baseline",
        "ms_quantile",
        "fkr",
        "over_threshold",
    )
    check(layer, {k: v for k, v in exact.items() if k not in sampled})
    np.testing.assert_allclose(layer.roc_auc, exact["roc_auc"], atol=0.1)


def sources():
    """The same inputs and labels from all that Keras can be fed with here."""
    pairs = [(X[i : i + 100], LABELS[i : i + 100]) for i in range(0, N, 100)]

    class Data(keras.utils.PyDataset):
        def __len__(self):
            return len(pairs)

        def __getitem__(self, index):
            return pairs[index]

    yield "PyDataset", Data()
    yield "generator", (pair for pair in pairs)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        yield (
            "tf.data",
            tf.data.Dataset.from_tensor_slices((X, LABELS)).batch(100),
        )
    if BACKEND == "torch":
        import torch

        data = torch.utils.data.TensorDataset(
            torch.from_numpy(X), torch.from_numpy(LABELS)
        )
        yield "DataLoader", torch.utils.data.DataLoader(data, batch_size=100)


def test_every_source_gives_the_same():
    model = dense()
    expected = analyze(model, X, LABELS, "hidden", verbose=0).to_dataframe()
    for name, source in sources():
        found = analyze(
            model,
            source,
            "targets",
            "hidden",
            label_names="abcd",
            verbose=0,
        )
        assert found.labels == ("a", "b", "c", "d"), name
        np.testing.assert_allclose(
            found.to_dataframe()["roc_auc"], expected["roc_auc"], rtol=1e-6
        )


def tokens_model(length=5):
    return keras.Sequential(
        [
            keras.Input((length,), dtype="int32"),
            keras.layers.Embedding(9, 3, mask_zero=True, name="embedding"),
            keras.layers.Dense(4, name="dense"),
        ]
    )


@pytest.mark.parametrize("axis", [-1, None])
def test_padding_counts_nowhere(axis):
    model = tokens_model()
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (60, 5))
    tokens[np.arange(5) >= rng.integers(1, 6, 60)[:, None]] = 0
    labels = np.where(tokens > 0, tokens % 2, 0)
    every = labels if axis == -1 else labels[:, 0]
    layer = analyze(
        model, tokens, every, "embedding", axis=axis, verbose=0
    ).layers["embedding"]

    table = ops.convert_to_numpy(model.layers[0].embeddings).astype("float64")
    values = np.where(tokens[..., None] > 0, table[tokens], np.nan)
    if axis == -1:
        rows = values.reshape(-1, 3)
        kept = ~np.isnan(rows[:, 0])
        inputs = np.repeat(np.arange(60), 5)[kept]
        check(layer, oracle(rows[kept], labels.reshape(-1)[kept], inputs))
        assert (layer.count == (tokens > 0).sum()).all()
    else:
        assert layer.shape == (5, 3)
        rows = values.reshape(60, 15)
        count = (~np.isnan(rows)).sum(0)
        np.testing.assert_array_equal(layer.count, count)
        np.testing.assert_array_equal(layer.ranked, count)
        # The tolerance is a millionth of the values, because a mean may cancel.
        np.testing.assert_allclose(
            layer.mean, np.nanmean(rows, 0), rtol=1e-5, atol=1e-8
        )
        np.testing.assert_allclose(
            layer.variance, np.nanvar(rows, 0, ddof=1), rtol=1e-5
        )
    assert (layer.nonfinite == 0).all()
    # The farthest values are where they are said to be.
    for j in range(len(layer)):
        i, t = layer.top_input[j, 0], layer.top_position[j, 0]
        where = (i, t, j) if axis == -1 else (i, *np.unravel_index(j, (5, 3)))
        np.testing.assert_allclose(layer.top_value[j, 0], values[where])


def test_a_label_a_token_follows_the_token():
    model = tokens_model()
    tokens = np.array([[1, 2, 3, 1, 2], [2, 2, 1, 0, 0]])
    report = analyze(
        model, tokens, (tokens == 1).astype(int), "embedding", verbose=0
    )
    counts = report.layers["embedding"].label_count
    np.testing.assert_array_equal(counts, [[5, 3]] * 3)


def test_values_that_are_not_finite_are_flagged_and_left_out():
    x = X.copy()
    x[3, 0], x[7, 0] = np.nan, np.inf
    # A product would spread NaN; this keeps columns apart.
    report = analyze(identity(6), np.abs(x), LABELS, "z", verbose=0)
    layer = report.layers["z"]
    assert list(layer.nonfinite) == [2, 0, 0, 0, 0, 0]
    kept = np.isfinite(x[:, 0])
    expected = oracle(np.abs(x[kept, :1]), LABELS[kept], np.flatnonzero(kept))
    for name in ("mean", "variance", "roc_auc", "roc_auc_p", "label_ms", "f1"):
        np.testing.assert_allclose(
            getattr(layer, name)[0], expected[name][0], rtol=1e-5
        )
    assert report.to_dataframe()["nonfinite"][0] == 2


def test_the_label_and_the_false_killing_rate_by_hand():
    # mean 3, deviations 6, 1, 0, 3, 3, 1, 0: by hand
    z = np.array([9, 4, 3, 0, 0, 2, 3], "float32")[:, None]
    # squares  36  1  0  9  9  1  0   ; their mean by label:
    labels = np.array([0, 1, 1, 2, 1, 2, 0])  # 18, 10/3, 5
    # Of inputs 2i and 2i + 1 each half has one: twins make the halves equal.
    z, labels = np.repeat(z, 2, axis=0), np.repeat(labels, 2)
    report = analyze(identity(1), z, labels, "z", verbose=0)
    layer = report.layers["z"]
    variance = 2 * (36 + 1 + 0 + 9 + 9 + 1 + 0) / 13
    np.testing.assert_allclose(
        layer.label_ms,
        [[18 / variance, 10 / 3 / variance, 5 / variance]],
        rtol=1e-6,
    )
    row = layer[0]
    assert row["label"] == "0"
    assert row["direction"] == 1
    np.testing.assert_allclose(row["label_mean"], 6)
    np.testing.assert_allclose(row["ms_on_label"], 18 / variance)
    # 1 of 7: {9}; 2 of 7: {9, 0, 0}, which tie; all 7.
    for rate, killed in ((1 / 7, 0.0), (2 / 7, 2 / 3), (3 / 7, 2 / 3)):
        found = report.false_killing_rate(rate)["z", 0]
        np.testing.assert_allclose(found, killed)
    np.testing.assert_allclose(report.false_killing_rate(1.0), 5 / 7)
    np.testing.assert_allclose(layer.blind_rate, 5 / 7)
    reached = 9 / variance
    for tau, killed in ((reached, 2 / 3), (reached + 0.01, 0.0), (9, np.nan)):
        found = report.false_killing_rate(rate=None, threshold=tau)["z", 0]
        np.testing.assert_allclose(found, killed)
    precision, recall = report.precision_recall("z", 0)
    np.testing.assert_allclose(precision[[0, 1, -1]], [1, 1 / 3, 2 / 7])
    np.testing.assert_allclose(recall[[0, 1, -1]], [1 / 2, 1 / 2, 1])


def test_dead_and_dormant_neurons():
    z = np.random.default_rng(0).normal(size=(100, 4))
    z = np.abs(z).astype("float32")
    z[:, 1] = 0  # dead, and dormant
    z[:, 2] = 0.7  # dead: constant
    z[:, 3] *= 0.001  # dormant
    labels = np.arange(100) % 2
    layer = analyze(identity(4), z, labels, "z", verbose=0)["z"]
    assert list(layer.dead) == [False, True, True, False]
    assert list(layer.dormant()) == [False, True, False, True]
    assert list(layer.ms_max[1:3]) == [0, 0]
    # The definition is: at most tau times the mean of the layer.
    share = layer.magnitude / layer.magnitude.mean()
    np.testing.assert_array_equal(layer.dormant(0.6), share <= 0.6)
    assert layer.variance[2] == 0
    # No input stands out and no label is detected: not even by chance.
    table = layer.to_dataframe()
    for column in (
        ["label", "direction", "label_mean", "ms_on_label"]
        + ["roc_auc", "roc_auc_null", "p_corrected", "average_precision"]
        + ["ks_statistic", "false_killing_rate"]
        + ["f1_label", "f1", "f1_baseline", "class_selectivity"]
    ):
        undefined = [False, True, True, False]
        assert table[column].isna().tolist() == undefined, column
    assert (layer.top_input[1:3] == -1).all()
    assert np.isnan(layer.top_ms[1:3]).all()


def test_the_two_references_of_dormant_neurons_fail_in_turn():
    z = np.random.default_rng(0).normal(size=(100, 6)).astype("float32")
    huge, most = z.copy(), z.copy()
    huge[:, 0] *= 1e4
    most[:, 2:] *= 1e-3
    x = np.concatenate([huge, most], axis=1)
    for columns, mean, median in (
        (slice(0, 6), [False] + [True] * 5, [False] * 6),
        (slice(6, 12), [False] * 2 + [True] * 4, [False] * 6),
    ):
        part = np.abs(x[:, columns])
        layer = analyze(identity(6), part, layers="z", verbose=0)["z"]
        assert layer.dormant().tolist() == mean
        assert layer.dormant(reference="median").tolist() == median


@pytest.mark.parametrize("p", [0.02, 0.1, 0.3])
def test_a_planted_neuron_is_found_and_its_scale_is_known(p):
    # A neuron that is on for a share p of the inputs has phi = (1 - p) / p when
    # it is on, and p / (1 - p) when it is off.
    n = 1000
    on = np.arange(n) < p * n
    noise = np.abs(np.random.default_rng(0).normal(size=(n, 5)))
    z = np.column_stack([on, noise]).astype("float32")
    report = analyze(identity(6), z, on.astype(int), "z", verbose=0)
    layer = report.layers["z"]
    assert layer.label[0] == 1
    assert layer.roc_auc[0] == 1
    assert layer.label_f1[0, 1] == 1
    expected = np.array([p / (1 - p), (1 - p) / p]) * (n - 1) / n
    np.testing.assert_allclose(layer.label_ms[0], expected, rtol=1e-4)
    assert (layer.roc_auc[1:] < 0.75).all()


def test_a_planted_neuron_drowns_in_noise_step_by_step():
    n = 2000
    on = np.arange(n) % 50 == 0
    noise = np.random.default_rng(1).normal(size=n)
    columns = [on + s * noise + 10 for s in (0.1, 0.3, 0.6, 2.0)]
    z = np.stack(columns, 1).astype("float32")
    auc = analyze(identity(4), z, on.astype(int), "z", verbose=0).roc_auc()
    assert auc.iloc[0] >= 0.95
    assert (np.diff(auc) < 0).all()
    assert auc.iloc[-1] < 0.7
