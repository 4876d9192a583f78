"""analyze: where it looks, what it leaves, what it refuses; and the report.

Its numbers are tested in `test_analysis.py`.
"""

from unittest import mock

import keras
import numpy as np
import pandas
import pytest
from keras import ops
from labelled import FEATURES
from labelled import LABELS
from labelled import N
from labelled import X
from labelled import dense
from models import Blocks

from keras_memel import MEmeL
from keras_memel import Report
from keras_memel import analyze
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip
from keras_memel.analysis.sources import Source


def test_without_layers_it_looks_where_the_memels_are():
    model = dense()
    assert list(analyze(model, X[:9], verbose=0).layers) == ["hidden", "out"]
    insert(model, "hidden", MEmeL())
    before = [ops.convert_to_numpy(w) for w in model.weights]
    assert list(analyze(model, X[:9], verbose=0).layers) == ["hidden"]
    for weight, value in zip(model.weights, before):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)
    strip(model)
    own = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4), MEmeL(name="own")]
    )
    assert list(analyze(own, X[:9], verbose=0).layers) == ["own"]


def test_layers_that_are_never_called_are_refused():
    model = Blocks()
    model.spare = keras.layers.Dense(3, name="spare")
    model.build((None, 8))
    with pytest.raises(
        ValueError, match=r"Argument `layers`.*'spare', which is never"
    ):
        analyze(model, np.ones((2, 8)), layers="spare", verbose=0)


def test_outputs_that_are_whole_numbers_are_refused():
    whole = keras.layers.Lambda(lambda x: ops.cast(x, "int32"), name="whole")
    model = keras.Sequential([keras.Input((6,)), whole])
    with pytest.raises(
        ValueError, match=r"Argument `layers`.*'whole', whose output .*int32"
    ):
        analyze(model, X[:9], layers="whole", verbose=0)


def test_rematerialized_layers_are_read():
    with keras.RematScope("full"):
        layer = keras.layers.Dense(5, name="hidden")
    model = keras.Sequential([keras.Input((6,)), layer])
    (found,) = analyze(model, X[:9], layers="hidden", verbose=0).layers.values()
    assert len(found.mean) == 5


def test_the_neurons_are_those_of_the_memel():
    x = np.repeat(X[:9, None], 3, axis=1)
    for axis, number in ((None, 18), (-1, 6), (1, 3)):
        inputs = keras.Input((3, 6))
        model = keras.Model(inputs, MEmeL(axis=axis, name="own")(inputs))
        (found,) = analyze(model, x, verbose=0).layers.values()
        assert found.mean.size == number


def test_the_model_is_left_as_it_was():
    model = dense()
    before = {id(part): dict(vars(part)) for part in model._flatten_layers()}
    with pytest.raises(ValueError, match="label"):
        analyze(model, iter([X]), LABELS[:5], verbose=0)
    analyze(model, X[:5], verbose=0)
    for part in model._flatten_layers():
        assert "_memel_insertion" not in vars(part)
        own = vars(part).keys() - before[id(part)].keys()
        assert not own & {"call", "quantized_call", "rematerialized_call"}


def test_the_model_is_as_it_was_while_an_error_is_kept():
    """A notebook keeps the last error and, with it, all frames that were
    running.
    """
    model = insert(dense(), "hidden", MEmeL())
    (memel,) = inserted(model).values()
    with pytest.raises(ValueError, match="one per position") as kept:
        analyze(model, X, np.zeros((N, 3), int), verbose=0)
    assert inserted(model)["hidden"] is memel
    del kept


def test_batches_of_many_kinds_are_read_in_full():
    model = dense()
    pairs = [(X[:32], LABELS[:32]), (X[32:50], LABELS[32:50])]
    wanted = analyze(model, X[:50], LABELS[:50], verbose=0).to_dataframe()
    names = [str(n) for n in range(FEATURES)]
    columns = LABELS[:, None], LABELS.astype("float32")
    for x, features in (
        (pairs, "targets"),
        (iter([X[:32], X[32:50]]), LABELS[:50]),
        (pandas.DataFrame(X[:50]), LABELS[:50]),
        *((X[:50], labels[:50]) for labels in columns),
    ):
        found = analyze(model, x, features, label_names=names, verbose=0)
        pandas.testing.assert_frame_equal(found.to_dataframe(), wanted)


def test_batches_of_texts_stay_texts():
    """However a loader packs them; what tokenizes takes lists."""
    for batches, targets in (
        ([["a fine film", "dull"], ["long"]], [None, None]),
        ([("a fine film", "dull"), ("long",)], [None, None]),
        ([(("a fine film", "dull"), [1, 0]), (("long",), [0])], [[1, 0], [0]]),
    ):
        source = Source(iter(batches), 2)
        labels = mock.Mock()
        read = list(source.inputs(labels))
        assert read == [["a fine film", "dull"], ["long"]]
        assert source.seen == 3
        put = [call.args for call in labels.put.call_args_list]
        assert put == list(zip([2, 1], targets))


def test_channels_that_come_first_are_the_neurons():
    model = keras.Sequential(
        [
            keras.Input((3, 5, 5)),
            keras.layers.ZeroPadding2D(1, data_format="channels_first"),
        ]
    )
    x = np.random.default_rng(0).normal(size=(8, 3, 5, 5))
    (layer,) = analyze(model, x, layers="zero*", verbose=0).layers.values()
    assert layer.shape == (3,)


class Endless(keras.utils.PyDataset):
    num_batches = None

    def __getitem__(self, index):
        return X[:8]


def test_bad_input_is_told_what_was_expected():
    model = dense()
    for arguments, message in (
        ((X, LABELS[:-1]), "label for each of the 1203 inputs"),
        ((X, LABELS - 2), "integers from 0"),
        ((X, LABELS / 2), "integers"),
        ((X, None, "hiden"), "`layers`.*'hidden'"),
        (([X[:32], X[32:50]],), r"same length.*`iter\(batches\)`"),
        (([X[:32], X[32:64]],), r"`iter\(batches\)`.*2 arrays"),
        (((X, LABELS),), "`labels`.*2 arrays"),
        ((Endless(),), "must be finite"),
        ((iter([]),), "read only once"),
        ((iter([X[:8]]), LABELS), "1203 labels for 8 inputs"),
        ((X, -np.ones(N)), "at least one input"),
        ((X, [[1, 2], [3]]), "Pad them with -100"),
        ((X, [None, "a", 1] * 401), "or strings"),
        ((iter([X, X]), LABELS), "more inputs"),
        ((X, "labels"), "'targets'"),
        ((X, "targets"), r"must yield \(inputs, targets\)"),
        ((iter([X]), "targets"), "without targets"),
        ((X, np.zeros((N, 3), int)), "one per position"),
        ((7,), "arrays"),
    ):
        with pytest.raises(ValueError, match=message):
            analyze(model, *arguments, verbose=0)
    for arguments, message in (
        ({"top": 0}, "top=0"),
        ({"sample": 0}, "sample=0"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"labels": LABELS, "label_names": "ab"}, "2 names"),
        ({"axis": 3}, "axis=3"),
        ({"multi_label": 1}, "multi_label=1"),
        ({"labels": LABELS, "multi_label": True}, "one column per label"),
        (
            {"labels": np.eye(4)[LABELS] - 1, "multi_label": True},
            "complete rows",
        ),
        ({"labels": LABELS, "label_names": {0: "a"}}, "without the key 1"),
        (
            {"labels": list("abc") * 401, "label_names": "abc"},
            "must be a dict",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            analyze(model, X, **arguments, verbose=0)
    with pytest.raises(ValueError, match="built"):
        analyze(keras.Sequential([keras.layers.Dense(2)]), X, verbose=0)


def test_a_report_without_labels_says_that_it_needs_them():
    report = analyze(dense(), X[:50], verbose=0)
    with pytest.raises(ValueError, match="pass `labels`"):
        report.roc_auc()
    with pytest.raises(ValueError, match="pass `labels`"):
        report.false_killing_rate(0.02)
    assert "roc_auc" not in report.to_dataframe()
    assert report.layers["hidden"].histogram.shape == (5, 1, 32)


def test_save_and_load(tmp_path):
    report = analyze(dense(), X, LABELS, verbose=0)
    report.save(tmp_path / "r.npz")
    loaded = Report.load(tmp_path / "r.npz")
    assert loaded.to_dataframe().equals(report.to_dataframe())
    assert loaded.labels == report.labels
    assert repr(loaded) == repr(report)
    (tmp_path / "any").touch()  # As readable as any other file
    mode = (tmp_path / "any").stat().st_mode
    assert (tmp_path / "r.npz").stat().st_mode == mode
    with pytest.raises(ValueError, match=r"end in '\.npz'"):
        report.save(tmp_path / "r.pkl")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match="a file with a report"):
        Report.load(tmp_path / "other.npz")


def test_a_crash_while_saving_keeps_what_was_saved(tmp_path, monkeypatch):
    first = analyze(dense(), X[:50], verbose=0)
    first.save(tmp_path / "r.npz")

    def full(file, **arrays):
        file.write(b"part of a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        analyze(dense(), X[:70], verbose=0).save(tmp_path / "r.npz")
    monkeypatch.undo()
    assert Report.load(tmp_path / "r.npz").inputs == 50
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]


def test_summary_and_progress(capsys):
    report = analyze(dense(), X, LABELS)
    assert "38/38" in capsys.readouterr().out
    analyze(dense(), X[:5], verbose=0)
    assert capsys.readouterr().out == ""
    report.summary(top=2)
    out = capsys.readouterr().out
    assert "1,203 inputs, 7 neurons" in out
    assert "hidden: 5 neurons of 1,203 values" in out


@pytest.mark.once
def test_names_without_labels_are_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    with pytest.raises(ValueError, match=r"`label_names`.*Received: labels=No"):
        analyze(model, np.zeros((8, 4)), label_names=["a", "b"], verbose=0)
