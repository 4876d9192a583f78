"""Reports of parts, merged, equal the report of the whole."""

import itertools

import keras
import numpy as np
import pytest

from keras_memel import Report
from keras_memel import analyze
from keras_memel.reports import halves

pytestmark = [pytest.mark.once, pytest.mark.quick]

RNG = np.random.default_rng(0)
N, T = 330, 5
Y = RNG.integers(-1, 4, (N, T))
X = RNG.normal(size=(N, T, 3)).astype("float32")
X[..., 0] += 3 * (Y == 2)
X[..., 1] = np.maximum(X[..., 1], 0)
# Labels that not every part has.
Y[:110][Y[:110] == 3] = 0
CUTS = (0, 110, 180, N)
EXACT = ["count", "nonfinite", "minimum", "maximum", "top_input"]
EXACT += ["top_position", "zeros", "histogram_all", "ranked"]
CLOSE = ["mean", "variance", "kurtosis", "magnitude", "over_threshold"]
CLOSE += ["ms_curve", "top_value", "top_ms", "activity"]


def parts(labels=Y, cuts=CUTS, model=None, **arguments):
    model = model or keras.Sequential(
        [keras.Input((T, 3)), keras.layers.Activation("linear", name="z")]
    )
    names = None if labels is None else "abcd"
    return [
        analyze(
            model,
            X[a:b],
            None if labels is None else labels[a:b],
            "z",
            label_names=names,
            verbose=0,
            **arguments,
        )
        for a, b in itertools.pairwise(cuts)
    ]


def merged(reports):
    found = reports[0]
    for one in reports[1:]:
        found = found.merge(one)
    return found


def test_the_sum_of_parts_is_the_whole():
    (whole,) = parts(None, (0, N))
    found = merged(parts(None, pool=10_000))
    assert found.inputs == N
    assert found.parts == (110, 70, 150)
    for name in EXACT:
        np.testing.assert_array_equal(
            getattr(found["z"], name), getattr(whole["z"], name), name
        )
    for name in CLOSE:
        np.testing.assert_allclose(
            getattr(found["z"], name),
            getattr(whole["z"], name),
            rtol=1e-4,
            atol=1e-6,
            err_msg=name,
        )
    own, its = found["z"].examples, whole["z"].examples
    np.testing.assert_array_equal(own.input, its.input)
    np.testing.assert_array_equal(own.position, its.position)
    np.testing.assert_array_equal(own.value, its.value)
    np.testing.assert_allclose(
        own.activation * own.most[:, None, None, None],
        its.activation * its.most[:, None, None, None],
        atol=0.02,
    )


def test_labels_are_chosen_and_scored_as_by_hand():
    """On the halves of the parts, which are those of their own numbers."""
    found = merged(parts(pool=10_000))
    assert found.labels == ("a", "b", "c", "d")
    held = found.held_out()
    np.testing.assert_array_equal(
        held,
        np.concatenate(
            [
                halves.held_out(np.arange(b - a))
                for a, b in itertools.pairwise(CUTS)
            ]
        ),
    )
    layer, z = found["z"], X.astype("float64")
    phi = (z - layer.mean) ** 2 / layer.variance
    for label in range(4):
        mask = label == Y
        np.testing.assert_array_equal(layer.label_count[:, label], mask.sum())
        np.testing.assert_allclose(
            layer.label_mean[:, label], z[mask].mean(0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            layer.label_ms[:, label], phi[mask].mean(0), rtol=1e-4
        )
    choosing = [
        phi[(label == Y) & ~held[:, None]].mean(0) for label in range(4)
    ]
    np.testing.assert_array_equal(layer.label, np.argmax(choosing, axis=0))
    metrics = pytest.importorskip("sklearn.metrics")
    scored = (Y >= 0) & held[:, None]
    for j in range(3):
        own = Y[scored] == layer.label[j]
        np.testing.assert_allclose(
            layer.roc_auc[j],
            metrics.roc_auc_score(own, phi[scored][:, j]),
            atol=1e-5,
        )
        np.testing.assert_array_equal(
            layer.histogram[j].sum(0) + layer.unlabelled.histogram[j],
            layer.histogram_all[j],
        )


def test_a_sample_keeps_what_is_summed_exact():
    whole = merged(parts(pool=10_000))
    found = merged(parts(pool=200))
    layer = found["z"]
    assert (layer.ranked <= 200).all()
    assert (layer.ranked > 150).all()
    for name in (
        "count",
        "mean",
        "variance",
        "label_mean",
        "top_input",
        "label",
    ):
        np.testing.assert_array_equal(
            getattr(layer, name), getattr(whole["z"], name), name
        )
    # A uniform sample: each part by its share of the values.
    inputs = layer.state.tags[:, 1]
    shares = np.histogram(inputs, CUTS)[0] / len(inputs)
    np.testing.assert_allclose(shares, np.diff(CUTS) / N, atol=0.05)
    np.testing.assert_allclose(layer.roc_auc, whole["z"].roc_auc, atol=0.15)


def test_parts_are_carried_by_files(tmp_path):
    reports = parts(pool=300, keep="inputs")
    expected = merged(reports)
    for number, one in enumerate(reports):
        one.save(tmp_path / f"{number}.npz")
    found = merged([Report.load(tmp_path / f"{n}.npz") for n in range(3)])
    assert found.to_dataframe().equals(expected.to_dataframe())
    assert found.kept.keys() == expected.kept.keys()
    for number, one in found.kept.items():
        np.testing.assert_array_equal(one, X[number])
    found.save(tmp_path / "all.npz")
    again = Report.load(tmp_path / "all.npz")
    assert again.parts == found.parts
    np.testing.assert_array_equal(again.held_out(), found.held_out())
    found.to_html(tmp_path / "n.html")


def test_what_cannot_be_merged():
    one, other = parts(None, (0, 100, 200), pool=10)
    with pytest.raises(ValueError, match="pass `pool`"):
        one.merge(parts(None, (0, 50))[0])
    with pytest.raises(ValueError, match="must be a Report"):
        one.merge("other.npz")
    with pytest.raises(ValueError, match="labels or none"):
        one.merge(parts(Y, (0, 50), pool=10)[0])
    with pytest.raises(ValueError, match="same threshold"):
        one.merge(parts(None, (0, 50), pool=10, threshold=4)[0])
    with pytest.raises(ValueError, match="same layers"):
        one.merge(parts(None, (0, 50), pool=10, axis=None)[0])
    with pytest.raises(ValueError, match="pool=0"):
        parts(None, (0, 50), pool=0)
    assert one.merge(other).inputs == 200
