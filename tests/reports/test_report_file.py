"""Reports on disk, those of older versions too, and names that changed."""

import pathlib

import keras
import numpy as np
import pytest

from keras_memel import Report
from keras_memel import analyze
from keras_memel import plots

pytestmark = pytest.mark.quick

# Written by the code before labels were called labels, from this network.
OLD = pathlib.Path(__file__).parent / "files" / "report_before_labels.npz"


@pytest.fixture(scope="module")
def report():
    x = np.random.default_rng(7).normal(size=(60, 4)).astype("float32")
    kernel = np.random.default_rng(8).normal(size=(4, 5)).astype("float32")
    dense = keras.layers.Dense(5, use_bias=False, name="hidden")
    model = keras.Sequential([keras.Input((4,)), dense])
    model.set_weights([kernel])
    labels = np.arange(60) % 3
    return analyze(model, x, labels, "hidden", label_names="abc", verbose=0)


def test_a_report_of_the_first_version_holds_the_same_numbers(report):
    old = Report.load(OLD)
    assert old.labels == ("a", "b", "c")
    pandas = pytest.importorskip("pandas")
    pandas.testing.assert_frame_equal(
        old.to_dataframe(), report.to_dataframe(), rtol=1e-4
    )
    np.testing.assert_array_equal(
        old.layers["hidden"].label_count, report.layers["hidden"].label_count
    )


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
