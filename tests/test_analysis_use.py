"""analyze: where it looks, what it leaves, what it refuses; and the report.

Its numbers are tested in `test_analysis.py`.
"""

import keras
import numpy as np
import pytest
from keras import ops
from labelled import LABELS
from labelled import N
from labelled import X
from labelled import dense

from keras_memel import MEmeL
from keras_memel import Report
from keras_memel import analyze
from keras_memel import insert
from keras_memel import strip


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


def test_bad_input_is_told_what_was_expected():
    model = dense()
    for arguments, message in (
        ((X, LABELS[:-1]), "label for each of the 1203 inputs"),
        ((X, LABELS - 1), "from 0 up"),
        ((X, LABELS / 2), "whole numbers"),
        ((X, None, "hiden"), "'hidden'"),
        ((iter([]),), "read only once"),
        ((iter([X[:8]]), LABELS), "1203 labels for 8 inputs"),
        ((iter([X, X]), LABELS), "more inputs"),
        ((X, "labels"), "'targets'"),
        ((X, "targets"), "feature_names"),
        ((X, np.zeros((N, 3), int)), "one a position"),
        ((7,), "arrays"),
    ):
        with pytest.raises(ValueError, match=message):
            analyze(model, *arguments, verbose=0)
    for arguments, message in (
        ({"top": 0}, "top=0"),
        ({"sample": 0}, "sample=0"),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"features": LABELS, "feature_names": "ab"}, "2 names"),
        ({"axis": 3}, "axis=3"),
    ):
        with pytest.raises(ValueError, match=message):
            analyze(model, X, **arguments, verbose=0)
    with pytest.raises(ValueError, match="built"):
        analyze(keras.Sequential([keras.layers.Dense(2)]), X, verbose=0)


def test_a_report_without_labels_says_that_it_needs_them():
    report = analyze(dense(), X[:50], verbose=0)
    with pytest.raises(ValueError, match="pass `features`"):
        report.roc_auc()
    with pytest.raises(ValueError, match="pass `features`"):
        report.false_killing_rate(0.02)
    assert "roc_auc" not in report.to_dataframe()
    assert report.layers["hidden"].histogram.shape == (5, 1, 24)


def test_save_and_load(tmp_path):
    report = analyze(dense(), X, LABELS, verbose=0)
    report.save(tmp_path / "r.npz")
    loaded = Report.load(tmp_path / "r.npz")
    assert loaded.to_dataframe().equals(report.to_dataframe())
    assert loaded.features == report.features
    assert repr(loaded) == repr(report)
    (tmp_path / "any").touch()  # As readable as any other file
    mode = (tmp_path / "any").stat().st_mode
    assert (tmp_path / "r.npz").stat().st_mode == mode
    with pytest.raises(ValueError, match=r"end in '\.npz'"):
        report.save(tmp_path / "r.pkl")
    np.savez(tmp_path / "other.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match="must hold a report"):
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
