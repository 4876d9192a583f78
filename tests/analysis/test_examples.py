"""The kept values of single inputs equal the full activations."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_memel import Report
from keras_memel import analyze
from keras_memel.analysis.examples import Gatherer
from keras_memel.reports.halves import scrambled

pytestmark = pytest.mark.once


def shown(found, most, dtype="float32"):
    found = found.astype(dtype)
    return np.where(np.isfinite(found), found * np.maximum(most, 1e-9), found)


@settings(max_examples=40)
@given(
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from([(), (3,), (2, 3)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_examples_equal_a_look_at_all_activations(n, batch, sizes, holes, seed):
    rng = np.random.default_rng(seed)
    places, neurons = int(np.prod(sizes)), 4
    # Few values, so that many tie.
    z = rng.integers(-3, 4, (n, places, neurons)).astype("float32")
    missing = None
    if holes:
        z[rng.random(z.shape) < 0.1] = np.nan
        z[rng.random(z.shape) < 0.05] = np.inf
        missing = rng.random(z.shape) < 0.2
    gatherer = Gatherer(neurons)
    for start in range(0, n, batch):
        part = slice(start, start + batch)
        mask = None if missing is None else missing[part]
        gatherer.add(z[part], mask, start, sizes)
    found = gatherer.finish(np.ones(neurons, bool))
    bad = ~np.isfinite(z)
    if missing is not None:
        bad |= missing
    kept = np.where(bad, np.inf, z)
    if missing is not None:
        kept[missing] = np.nan
    for j in range(neurons):
        for side, sign in enumerate((1, -1)):
            peak = np.where(bad, -np.inf, sign * z)[..., j].max(1)
            order = np.argsort(-peak, kind="stable")[:4]
            order = order[peak[order] > -np.inf]
            number = len(order)
            np.testing.assert_array_equal(found.input[j, side, :number], order)
            assert (found.input[j, side, number:] == -1).all()
            np.testing.assert_array_equal(
                found.value[j, side, :number], sign * peak[order]
            )
            for e, i in enumerate(order):
                own = found.activation[j, side, e].ravel()
                np.testing.assert_allclose(
                    shown(own, found.most[j]), kept[i, :, j], atol=4e-3
                )
                at = found.position[j, side, e]
                assert kept[i, at, j] == sign * peak[i]
    order = np.argsort(scrambled(np.arange(n)), kind="stable")[:8]
    np.testing.assert_array_equal(found.sample, order)
    every = kept[found.sample].swapaxes(1, 2)  # (sample, neurons, places)
    own = found.sample_activation.reshape(neurons, -1, places)
    np.testing.assert_allclose(
        shown(own, found.most[:, None, None]), every.swapaxes(0, 1), atol=4e-3
    )


def test_texts_of_growing_length_are_aligned():
    gatherer = Gatherer(1)
    for start, length in enumerate((2, 4, 3)):
        z = np.arange(1, length + 1, dtype="float32")[None, :, None]
        gatherer.add(z + 10 * start, None, start, (length,))
    found = gatherer.finish(np.ones(1, bool))
    assert found.input[0, 0].tolist() == [2, 1, 0, -1]
    np.testing.assert_allclose(
        shown(found.activation[0, 0, :3], found.most),
        [[21, 22, 23, np.nan], [11, 12, 13, 14], [1, 2, np.nan, np.nan]],
        rtol=1e-3,
    )


@pytest.fixture(scope="module")
def model():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, "relu", name="a"),
            keras.layers.Dense(2, name="b"),
        ]
    )


X = np.random.default_rng(0).normal(size=(400, 5)).astype("float32")


def test_a_stream_can_be_browsed(model, tmp_path):
    """Inputs of a generator are kept, and carried by the file."""
    batches = (X[i : i + 20] for i in range(0, 400, 20))
    report = analyze(model, batches, keep="inputs", verbose=0)
    used = {n for one in report.layers.values() for n in _numbers(one)}
    assert set(report.kept) == used
    for number, one in report.kept.items():
        np.testing.assert_array_equal(one, X[number])
    report.save(tmp_path / "r.npz")
    again = Report.load(tmp_path / "r.npz")
    assert again.kept.keys() == report.kept.keys()
    for number, one in again.kept.items():
        np.testing.assert_array_equal(one, X[number])
    for name, value in report["a"].examples._asdict().items():
        found = getattr(again["a"].examples, name)
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype
    again.to_html(tmp_path / "n.html")
    from page_payload import data

    page = data(tmp_path / "n.html")
    assert set(map(int, page["inputs"])) == used
    np.testing.assert_allclose(
        page["layers"][0]["groups"][0]["value"],
        report["a"].examples.value[:, 0],
    )


def _numbers(layer):
    every = np.concatenate(
        [layer.examples.input.ravel(), layer.examples.sample]
    )
    return set(every[every >= 0].tolist())


@pytest.mark.parametrize("kind", ["texts", "dictionary", "tokens"])
def test_inputs_of_any_structure_are_carried(tmp_path, kind):
    kept = {
        "texts": {3: "one", 9: "t\u00e9xt"},
        "dictionary": {
            n: {"tokens": np.arange(n), "mask": np.ones(n, bool)}
            for n in (3, 9)
        },
        "tokens": {n: np.arange(n, dtype="int32") for n in (0, 9)},
    }[kind]
    Report({}, 10, 9.0, kept=kept).save(tmp_path / "r.npz")
    again = Report.load(tmp_path / "r.npz").kept
    assert list(again) == list(kept)
    for one, other in zip(again.values(), kept.values()):
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other)):
            np.testing.assert_array_equal(a, b)
            assert isinstance(b, str) or a.dtype == b.dtype


def test_keep_is_checked(model):
    with pytest.raises(ValueError, match="keep='all'"):
        analyze(model, X, keep="all", verbose=0)
    assert analyze(model, X, keep=None, verbose=0)["a"].examples is None


def test_zeros_and_unlabelled_values_are_told_apart():
    model = keras.Sequential([keras.Input((6, 3)), keras.layers.ReLU(name="z")])
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 6, 3)).astype("float32")
    x[..., 2] = 0
    x[:, 0, 2] = [5] + [0] * 49
    labels = rng.integers(-1, 3, (50, 6))
    z = np.maximum(x, 0).reshape(-1, 3)
    tags = labels.ravel()
    layer = analyze(model, x, labels, "z", verbose=0)["z"]
    np.testing.assert_array_equal(layer.zeros, (z == 0).sum(0))
    assert layer.rare.tolist() == [False, False, True]
    for j in range(3):
        own = z[:, j]
        far = np.abs(own - np.median(own))
        np.testing.assert_allclose(
            layer.activity[j], (far > 0.1 * far.max()).mean(), atol=0.01
        )
        for row, label in enumerate(layer.histogram_label[j]):
            its = own[tags == label]
            assert layer.label_zeros[j, row] == (its == 0).sum()
        none = own[tags < 0]
        rest = layer.unlabelled
        assert rest.count[j] == len(none)
        assert rest.zeros[j] == (none == 0).sum()
        np.testing.assert_allclose(rest.mean[j], none.mean(), 1e-5, 1e-9)
        phi = (none - own.mean()) ** 2 / own.var(ddof=1)
        np.testing.assert_allclose(rest.ms[j], phi.mean(), rtol=1e-4)
        edges = layer.histogram_edges[j]
        assert edges[0] <= own.min()
        assert own.max() < edges[-1]
        np.testing.assert_array_equal(
            layer.histogram_all[j], np.histogram(own, edges)[0]
        )
        np.testing.assert_array_equal(
            layer.histogram_all[j] - layer.histogram[j].sum(0),
            rest.histogram[j],
        )
