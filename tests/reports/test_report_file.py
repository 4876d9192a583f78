"""Reports on disk, including older versions, and renamed attributes."""

import pathlib

import keras
import numpy as np
import pytest

from keras_memel import Report
from keras_memel import analyze
from keras_memel import plots

pytestmark = pytest.mark.quick

# Both files come from this network. The first is older than the name `labels`,
# the second is older than the halves of inputs that select and score labels.
FILES = pathlib.Path(__file__).parent / "files"
OLD = ["report_before_labels.npz", "report_before_halves.npz"]


@pytest.fixture(scope="module")
def report():
    x = np.random.default_rng(7).normal(size=(60, 4)).astype("float32")
    kernel = np.random.default_rng(8).normal(size=(4, 5)).astype("float32")
    dense = keras.layers.Dense(5, use_bias=False, name="hidden")
    model = keras.Sequential([keras.Input((4,)), dense])
    model.set_weights([kernel])
    labels = np.arange(60) % 3
    return analyze(model, x, labels, "hidden", label_names="abc", verbose=0)


@pytest.mark.parametrize("name", OLD)
def test_a_report_of_an_older_version_holds_the_same_numbers(report, name):
    old, layer = Report.load(FILES / name), report["hidden"]
    assert old.labels == ("a", "b", "c")
    assert not old.split
    assert old.held_out().all()
    for field in ("mean", "variance", "kurtosis", "label_count", "label_mean"):
        np.testing.assert_allclose(
            getattr(old["hidden"], field), getattr(layer, field), rtol=1e-4
        )
    # The old bins have equal width from minimum to maximum.
    np.testing.assert_array_equal(
        old["hidden"].histogram.sum(2), layer.histogram.sum(2)
    )
    np.testing.assert_allclose(
        old["hidden"].histogram_edges[:, [0, -1]].T,
        [layer.minimum, layer.maximum],
        rtol=1e-6,
    )
    for field in ("label_ms", "histogram_label", "top_ms"):
        np.testing.assert_allclose(
            getattr(old["hidden"], field), getattr(layer, field), rtol=1e-4
        )
    for q in (0.5, 0.9, 0.99):
        np.testing.assert_allclose(
            old["hidden"].ms_quantile(q), layer.ms_quantile(q), rtol=1e-4
        )
    # The old version computed these on the inputs that selected the labels.
    table = old.to_dataframe()
    assert table["label"].tolist() == ["a", "c", "a", "b", "c"]
    assert table["f1_label"].tolist() == ["b", "b", "b", "b", "a"]
    np.testing.assert_allclose(
        table["roc_auc"], [0.4675, 0.575, 0.5, 0.665, 0.55875], atol=1e-6
    )
    np.testing.assert_allclose(table["f1"].iloc[[0, 3]], [8 / 15, 22 / 37])
    np.testing.assert_allclose(table["false_killing_rate"], [0.5] * 4 + [0])
    # New columns are computed, or undefined.
    assert (table["f1_baseline"] == 0.5).all()
    assert table["direction"].tolist() == [-1, 1, -1, -1, 1]
    assert table["p_corrected"].isna().all()
    assert table["roc_auc_null"].isna().all()
    told = []
    old.summary(print_fn=told.append)
    assert any("too high by chance" in line for line in told)


def test_an_older_report_can_be_drawn_and_saved(tmp_path):
    old = Report.load(FILES / OLD[1])
    old.save(tmp_path / "again.npz")
    again = Report.load(tmp_path / "again.npz")
    assert not again.split
    assert again.to_dataframe().equals(old.to_dataframe())
    pytest.importorskip("matplotlib")
    assert plots.activation_by_label(again, "hidden", 2).get_yticks().size == 3


def test_reports_are_equal_only_to_themselves(report, tmp_path):
    report.save(tmp_path / "report.npz")
    loaded = Report.load(tmp_path / "report.npz")
    assert report == report
    assert report != loaded
    assert report["hidden"] != loaded["hidden"]
    assert len({report, loaded, report["hidden"]}) == 3


def test_an_old_argument_raises_with_the_new_name():
    with pytest.raises(TypeError, match="`features`: it is now `labels`"):
        analyze(None, None, features=[0])
    with pytest.raises(TypeError, match="it is now `label_names`"):
        analyze(None, None, feature_names=["a"])


def test_an_old_attribute_raises_with_the_new_name(report):
    with pytest.raises(AttributeError, match="it is now `labels`"):
        _ = report.features
    with pytest.raises(AttributeError, match="it is now `label_ms`"):
        _ = report.layers["hidden"].feature_ms
    with pytest.raises(AttributeError, match="it is now `label_map`"):
        _ = plots.feature_map
    with pytest.raises(AttributeError, match="has no attribute `nothing`"):
        _ = report.nothing
