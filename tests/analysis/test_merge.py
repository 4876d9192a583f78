"""Reports of parts, merged, equal the report of the whole."""

import itertools

import keras
import measures_oracle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_memel import Report
from keras_memel import analyze
from keras_memel.reports import bins
from keras_memel.reports import halves

pytestmark = pytest.mark.quick

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
EXACT += ["top_position", "zeros", "ranked"]
BINNED = ["bin_start", "bin_width", "histogram_all", "zeros"]
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
    for name in EXACT + BINNED:
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
    """The input numbers within each part assign its inputs to the halves."""
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
    # The sample is uniform: each part has its share of the values.
    inputs = layer.state.tags[:, 1]
    shares = np.histogram(inputs, CUTS)[0] / len(inputs)
    np.testing.assert_allclose(shares, np.diff(CUTS) / N, atol=0.05)
    np.testing.assert_allclose(layer.roc_auc, whole["z"].roc_auc, atol=0.15)


def same_histograms(found, whole):
    """Check that two layers have equal histograms, row by row."""
    for name in BINNED:
        np.testing.assert_array_equal(
            getattr(found, name), getattr(whole, name), name
        )
    if whole.label is None:
        np.testing.assert_array_equal(found.histogram, whole.histogram)
        return
    assert found.histogram_label.shape == whole.histogram_label.shape
    for j in range(len(whole)):
        rows = [
            dict(
                zip(
                    np.array(layer.labels)[layer.histogram_label[j]],
                    zip(layer.histogram[j].tolist(), layer.label_zeros[j]),
                )
            )
            for layer in (found, whole)
        ]
        assert rows[0] == rows[1]
    assert (found.unlabelled is None) == (whole.unlabelled is None)
    if whole.unlabelled is not None:
        for name in ("count", "zeros", "histogram"):
            np.testing.assert_array_equal(
                getattr(found.unlabelled, name), getattr(whole.unlabelled, name)
            )
        for name in ("mean", "ms"):
            np.testing.assert_allclose(
                getattr(found.unlabelled, name),
                getattr(whole.unlabelled, name),
                rtol=1e-5,
                atol=1e-7,
            )


@pytest.mark.parametrize("labels", [None, Y])
def test_histograms_hold_all_values_however_small_the_sample(labels):
    (whole,) = parts(labels, (0, N))
    found = merged(parts(labels, pool=20))
    assert (found["z"].ranked <= 20).all()
    same_histograms(found["z"], whole["z"])


def test_histograms_hold_all_values_of_labels_that_are_not_shown(tmp_path):
    """More labels than rows: other parts show other labels."""
    words = np.random.default_rng(1).integers(0, 150, (N, T))
    words[Y < 0] = -1
    model = keras.Sequential(
        [keras.Input((T, 3)), keras.layers.Activation("linear", name="z")]
    )

    def reported(a, b, **arguments):
        return analyze(model, X[a:b], words[a:b], "z", verbose=0, **arguments)

    whole = reported(0, N)
    several = [
        reported(a, b, pool=50) for a, b in itertools.pairwise((0, 50, 60, N))
    ]
    several[0].save(tmp_path / "part.npz")
    several[0] = Report.load(tmp_path / "part.npz")
    found = merged(several)["z"]
    assert found.histogram.shape[1] == 64
    same_histograms(found, whole["z"])
    # The cells keep the counts of the labels that the histogram omits.
    assert len(found.state.cell)
    total = found.state.cell_count[found.state.cell % 33 < 32].sum()
    assert total + found.histogram.sum() == 3 * (words >= 0).sum()


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=4),
    st.sampled_from([1e-30, 1e-3, 1.0, 1e30]),
    st.sampled_from([0.0, -7.0, 1e6]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_bins_of_parts_add_up_to_those_of_all(sizes, unit, offset, ties, seed):
    rng = np.random.default_rng(seed)
    z = rng.standard_t(1, (sum(sizes), 2))
    if ties:
        z = np.maximum(np.round(z), 0)  # Parts where all values are equal
    z = (unit * (z + offset)).astype("float32")
    start, width = bins.grid(z.min(0), z.max(0))
    total = np.zeros((2, bins.BINS), int)
    for part in np.split(z, np.cumsum(sizes)[:-1]):
        own = bins.grid(part.min(0), part.max(0))
        to = bins.places(*own, start, width)
        for j in range(2):
            np.add.at(
                total[j], to[j], counted(part[:, j], own[0][j], own[1][j])
            )
    for j in range(2):
        expected = counted(z[:, j], start[j], width[j])
        np.testing.assert_array_equal(total[j], expected)
        edges = bins.edges(start, width)[j]
        if width[j]:
            assert np.log2(width[j]) % 1 == 0
            wide = z[:, j].astype("float64")
            np.testing.assert_array_equal(
                np.histogram(wide, edges)[0], expected
            )
            # Finer bins would not suffice.
            finer = np.floor(wide / (width[j] / 2))
            assert finer.max() - finer.min() >= bins.BINS


def counted(values, start, width):
    if not width:
        return np.bincount([0], [len(values)], bins.BINS).astype(int)
    at = (np.floor(values.astype("float64") / width) * width - start) / width
    return np.bincount(at.astype(int), minlength=bins.BINS)


def test_the_monoscore_is_that_of_all_pairs_of_all_parts(tmp_path):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(N, 4)) + 0.5
    z = X[:, 0] + 100
    z[:110, 2] = 100  # Dead in the first part
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Activation("linear", name="z")]
    )
    several = [
        analyze(
            model,
            z[a:b],
            layers="z",
            embeddings=vectors[a:b],
            pool=5,
            verbose=0,
        )
        for a, b in itertools.pairwise(CUTS)
    ]
    several[1].save(tmp_path / "part.npz")
    several[1] = Report.load(tmp_path / "part.npz")
    found = merged(several)["z"].monoscore
    np.testing.assert_allclose(
        found, measures_oracle.monoscore(z, vectors), rtol=1e-4
    )
    plain = analyze(model, z[:50], layers="z", pool=5, verbose=0)
    narrow = analyze(
        model,
        z[:50],
        layers="z",
        embeddings=vectors[:50, :3],
        pool=5,
        verbose=0,
    )
    for other in (plain, narrow):
        with pytest.raises(ValueError, match=r"same embeddings.*4 dimensions"):
            several[0].merge(other)


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
