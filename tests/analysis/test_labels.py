"""Labels as they come: each kind gives the numbers of the plain one."""

import itertools
import tracemalloc

import keras
import numpy as np
import pandas
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from labelled import identity
from report_oracle import check
from report_oracle import oracle

from keras_memel import align_labels
from keras_memel import analyze

MODEL = identity(3)
NAMES = ("ash", "birch", "cedar")
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 200)
Z = np.abs(RNG.normal(size=(200, 3)) + np.eye(3)[Y]).astype("float32")
ROWS = RNG.permutation(1000)[:200]  # An index that is no position


def kinds():
    names = np.array(NAMES)[Y]
    yield "list", Y.tolist(), NAMES
    yield "column of floats", Y[:, None].astype("float32"), NAMES
    yield "unsigned", Y.astype("uint8"), NAMES
    yield "dict", Y, {2: "cedar", 0: "ash", 1: "birch"}
    yield "dict of JSON", Y, {"2": "cedar", "0": "ash", "1": "birch"}
    yield "strings", names, None
    yield "list of strings", names.tolist(), None
    yield "bytes", np.char.encode(names), None
    yield "objects", names.astype(object), None
    yield "named strings", np.array(list("xyz"))[Y], dict(zip("xyz", NAMES))
    yield "Series", pandas.Series(Y, ROWS), NAMES
    yield "nullable", pandas.Series(Y, ROWS, dtype="Int64"), NAMES
    yield "Categorical", pandas.Series(names, ROWS, dtype="category"), None
    yield "DataFrame", pandas.DataFrame({"y": names}, ROWS), None
    yield "names in a Series", Y, pandas.Series(NAMES, [5, 1, 0])


@pytest.mark.parametrize(("kind", "labels", "names"), list(kinds()))
def test_every_kind_gives_the_same_table(kind, labels, names):
    expected = oracle(Z.astype("float64"), Y)
    report = analyze(MODEL, Z, labels, "z", label_names=names, verbose=0)
    assert report.labels == NAMES, kind
    check(report["z"], expected)


@pytest.mark.parametrize("first", [*itertools.permutations(range(3))])
def test_labels_first_occur_in_any_order(first):
    rows = [np.flatnonzero(label == Y)[:40] for label in first]
    rows = np.r_[*rows, np.setdiff1d(np.arange(200), np.concatenate(rows))]
    z, y = Z[rows], Y[rows]
    # A stream: what occurs is known batch by batch.
    batches = [(z[i : i + 8], y[i : i + 8]) for i in range(0, len(z), 8)]
    report = analyze(
        MODEL, iter(batches), "targets", "z", label_names=NAMES, verbose=0
    )
    check(report["z"], oracle(z.astype("float64"), y))


def test_booleans_are_named_as_they_are():
    report = analyze(MODEL, Z, Y > 0, "z", verbose=0)
    assert report.labels == ("False", "True")
    check(report["z"], oracle(Z.astype("float64"), (Y > 0).astype(int)))
    named = analyze(MODEL, Z, Y > 0, "z", label_names=["no", "yes"], verbose=0)
    assert named.labels == ("no", "yes")


@pytest.mark.parametrize(
    "labels",
    [
        np.where(np.arange(200) % 5 == 0, -1, Y),
        np.where(np.arange(200) % 5 == 0, -100, Y),
        np.where(np.arange(200) % 5 == 0, np.nan, Y),
        [None if i % 5 == 0 else int(y) for i, y in enumerate(Y)],
        pandas.Series(Y, ROWS, dtype="Int64").mask(np.arange(200) % 5 == 0),
        [None if i % 5 == 0 else NAMES[y] for i, y in enumerate(Y)],
    ],
    ids=["-1", "-100", "NaN", "None", "NA", "None among strings"],
)
def test_unlabelled_values_count_for_moments_only(labels):
    known = np.arange(200) % 5 > 0
    layer = analyze(MODEL, Z, labels, "z", verbose=0)["z"]
    check(layer, oracle(Z.astype("float64"), Y, labelled=known))
    assert (layer.count == 200).all()


@pytest.mark.parametrize("how", [np.int8, bool, pandas.DataFrame, "targets"])
def test_an_input_may_have_several_labels_or_none(how):
    own = RNG.random((200, 4)) < [0.5, 0.2, 0.1, 0.3]
    own[:, 2] = False  # Does not occur
    x, labels = Z, own
    names = ("a", "b", "c", "d")
    if how == "targets":
        x = iter([(Z[i : i + 50], own[i : i + 50]) for i in range(0, 200, 50)])
        labels = "targets"
    elif how is pandas.DataFrame:
        labels, names = pandas.DataFrame(own, ROWS, list(names)), None
    else:
        labels = own.astype(how)
    report = analyze(
        *(MODEL, x, labels, "z"),
        label_names=names,
        multi_label=True,
        verbose=0,
    )
    assert report.labels == ("a", "b", "d")
    check(report["z"], oracle(Z.astype("float64"), own[:, [0, 1, 3]]))


def test_a_row_of_several_labels_may_be_unknown():
    own = (RNG.random((200, 2)) < 0.4).astype(int)
    labels = own.copy()
    labels[::4] = -1
    report = analyze(MODEL, Z, labels, "z", multi_label=True, verbose=0)
    known = np.arange(200) % 4 > 0
    check(report["z"], oracle(Z.astype("float64"), own > 0, labelled=known))


def test_positions_may_have_several_labels():
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.ReLU(name="z")])
    own = RNG.random((40, 5, 3)) < 0.4
    layer = analyze(
        model, Z.reshape(40, 5, 3), own, "z", multi_label=True, verbose=0
    )["z"]
    inputs = np.repeat(np.arange(40), 5)
    check(layer, oracle(Z.astype("float64"), own.reshape(-1, 3), inputs))


@settings(max_examples=12)
@given(st.data())
def test_any_labels_in_any_batches(data):
    n = data.draw(st.integers(16, 60))
    names = data.draw(st.integers(1, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, names, n)
    labels[:4] = labels[0]  # One label at least occurs in both halves
    known = rng.random(n) < data.draw(st.sampled_from([1.0, 0.7]))
    known[:4] = True
    given_ = np.where(known, labels, rng.choice([-1, -100], n))
    z = rng.normal(size=(n, 3)).astype("float32") + 1
    if data.draw(st.booleans()):
        z = z - 1  # Many ties, at 0
    z = np.maximum(z, 0) + np.arange(n)[:, None] % 2 * 0.0
    if (z.min(0) == z.max(0)).any():
        z[0] = 9.0
    size = data.draw(st.sampled_from([8, 32]))
    batches = [
        (z[i : i + size], given_[i : i + size]) for i in range(0, n, size)
    ]
    report = analyze(MODEL, iter(batches), "targets", "z", verbose=0)
    present = np.unique(labels[known])
    assert report.labels == tuple(map(str, present))
    own = labels[:, None] == present
    expected = oracle(z.astype("float64"), own & known[:, None], None, known)
    check(report["z"], expected)


def test_names_that_are_equal_stay_apart():
    report = analyze(
        MODEL, Z, Y, "z", label_names=["same", "same", "c"], verbose=0
    )
    assert report.labels == ("same (0)", "same (1)", "c")


def test_batches_must_agree_on_the_kind_of_labels():
    batches = [(Z[:50], Y[:50]), (Z[50:], np.array(NAMES)[Y[50:]])]
    with pytest.raises(ValueError, match="strings after integers"):
        analyze(MODEL, iter(batches), "targets", "z", verbose=0)


def test_a_label_without_a_score_is_warned_of():
    with pytest.warns(UserWarning, match="No neuron of layer 'z' has a label"):
        report = analyze(MODEL, Z[:4], np.arange(4), "z", verbose=0)
    assert report.to_dataframe()["label"].isna().all()
    assert report.to_dataframe()["roc_auc"].isna().all()


def test_memory_follows_the_labels_that_occur():
    """Token ids: 100 of 50,257 occur."""
    neurons = 256
    model = keras.Sequential(
        [
            keras.Input((50,), dtype="int32"),
            keras.layers.Embedding(50_257, 2),
            keras.layers.Dense(neurons, name="a"),
        ]
    )
    tokens = 500 * RNG.integers(0, 100, (16, 50))
    model.predict(tokens, verbose=0)
    tracemalloc.start()
    report = analyze(model, tokens, tokens, "a", verbose=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    present = np.unique(tokens)
    assert report.labels == tuple(map(str, present))
    layer = report["a"]
    assert layer.label_ms.shape == (neurons, len(present))
    assert layer.histogram.shape == (neurons, 64, 32)
    # An array of all labels alone would take 100 MB.
    assert peak < 50e6
    z = np.abs(keras.ops.convert_to_numpy(layer.label_count))
    assert z.sum() == neurons * tokens.size
    # The histogram shows the label of the neuron, and those next to it.
    assert (layer.histogram_label == layer.label[:, None]).any(1).all()
    shown = np.take_along_axis(layer.label_count, layer.histogram_label, 1)
    np.testing.assert_array_equal(layer.histogram.sum(2), shown)


@pytest.mark.once
def test_labels_of_words_are_given_to_their_tokens():
    words = [["PER", "PER", "O"], ["LOC"]]
    ids = [[None, 0, 1, 1, 2, None], [None, 0, 0, None, None, None]]
    found = align_labels(words, ids)
    assert found.tolist() == [
        [None, "PER", "PER", "PER", "O", None],
        [None, "LOC", "LOC", None, None, None],
    ]
    first = align_labels([[1, 2, 0], [3]], ids, first_only=True)
    assert first.tolist() == [
        [-100, 1, 2, -100, 0, -100],
        [-100, 3, -100, -100, -100, -100],
    ]
    model = keras.Sequential([keras.Input((6, 2)), keras.layers.ReLU(name="z")])
    x = RNG.normal(size=(8, 6, 2))
    labels = np.tile(found, (4, 1))
    report = analyze(model, x, labels, "z", verbose=0)
    assert report.labels == ("LOC", "O", "PER")
    assert report["z"].label_count[0].tolist() == [8, 4, 12]


@pytest.mark.once
@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        ([[1]], [[0], [0]], "1 and 2 texts"),
        ([[1], [1]], [[0], [0, None]], "1 to 2 tokens"),
        ([[1]], [[0, 1]], "1 labels for text 0, and word 1"),
    ],
)
def test_words_without_labels_are_refused(labels, ids, message):
    with pytest.raises(ValueError, match=message):
        align_labels(labels, ids)


@pytest.mark.once
@pytest.mark.parametrize(
    "labels",
    [
        ["a", None, "b"],
        ["a", np.nan, "b"],
        ["a", -1, "b"],
        ["a", np.int64(-100), b"b"],
        [True, np.nan, False],
        [True, None, np.bool_(False)],
        [["a", np.nan], [None, "b"], ["b", "a"]],
    ],
)
def test_a_list_equals_a_column_of_the_same_objects(labels, rng):
    objects = np.array(labels, dtype=object)
    shape = (30, *objects.shape[1:], 4)
    model = keras.Sequential([keras.Input(shape[1:]), keras.layers.ReLU()])
    x = rng.normal(size=shape)
    expected = analyze(
        model,
        x,
        np.tile(objects, (10, *[1] * (len(shape) - 2))),
        "re_lu*",
        verbose=0,
    )
    found = analyze(model, x, labels * 10, "re_lu*", verbose=0)
    names = ("False", "True") if True in objects.ravel() else ("a", "b")
    assert found.labels == expected.labels == names
    layer, other = next(iter(found)), next(iter(expected))
    counts = found[layer].label_count
    np.testing.assert_array_equal(counts, expected[other].label_count)
    missing = sum(
        one is None or one != one or (type(one) in (int, np.int64))
        for one in objects.ravel()
    )
    assert (counts.sum(1) == 10 * (objects.size - missing)).all()


@pytest.mark.once
@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        (["a", 1, "b"], None, "of int, str"),
        (np.array([2**63 + 5] * 3, "uint64"), None, "must be integers from 0"),
        ([0, 1, 2], {"cat", "dog", "eel"}, "must be a list of names"),
    ],
)
def test_labels_of_no_order_or_kind_are_refused(labels, names, message, rng):
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU(name="z")])
    x = rng.normal(size=(3, 4))
    with pytest.raises(ValueError, match=message):
        analyze(model, x, labels, "z", label_names=names, verbose=0)
