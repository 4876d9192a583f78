"""Directions take the place of the neurons of a layer."""

import keras
import numpy as np
import pytest
from keras import ops
from labelled import LABELS
from labelled import X
from labelled import dense
from labelled import identity
from report_oracle import check
from report_oracle import oracle

from keras_memel import Report
from keras_memel import analyze

RNG = np.random.default_rng(5)
MATRIX = RNG.normal(size=(3, 5))


def hidden(model, x=X):
    kernel, bias = (ops.convert_to_numpy(w) for w in model.layers[0].weights)
    return np.maximum(np.asarray(x, "float64") @ kernel + bias, 0)


@pytest.mark.quick
def test_a_direction_has_the_figures_of_its_values():
    model = dense()
    report = analyze(model, X, LABELS, directions={"hidden": MATRIX}, verbose=0)
    assert list(report) == ["hidden"]
    layer = report["hidden"]
    assert layer.directions
    assert layer.shape == (3,)
    check(layer, oracle(hidden(model) @ MATRIX.T, LABELS))


def test_every_kind_of_matrix_and_a_function_give_the_same():
    pandas = pytest.importorskip("pandas")
    model = dense()
    expected = analyze(
        model, X[:200], directions={"hidden": MATRIX}, verbose=0
    )["hidden"]
    narrow = MATRIX.astype("float32")

    def relu(rows):
        assert rows.dtype == "float32"
        assert rows.shape[1] == 5
        return ops.relu(ops.convert_to_tensor(rows @ narrow.T) + 100) - 100

    for given in (
        narrow,
        MATRIX.tolist(),
        ops.convert_to_tensor(narrow),
        pandas.DataFrame(MATRIX, index=["c", "a", "b"]),
        lambda rows: rows @ narrow.T,
        relu,
    ):
        found = analyze(model, X[:200], directions={"hidden": given}, verbose=0)
        for name in ("mean", "variance", "top_value"):
            np.testing.assert_allclose(
                getattr(found["hidden"], name),
                getattr(expected, name),
                rtol=1e-4,
                atol=1e-4,
            )


def test_other_layers_keep_their_neurons_and_files_say_which_is_which(tmp_path):
    model = dense()
    report = analyze(
        model,
        X[:100],
        layers=["hidden", "out"],
        directions={"out": np.eye(2)[:1]},
        verbose=0,
    )
    own = analyze(model, X[:100], layers=["hidden", "out"], verbose=0)
    assert {path: len(report[path]) for path in report} == {
        "out": 1,
        "hidden": 5,
    }
    np.testing.assert_allclose(
        report["out"].mean, own["out"].mean[:1], rtol=1e-5
    )
    np.testing.assert_array_equal(report["hidden"].mean, own["hidden"].mean)
    report.save(tmp_path / "report.npz")
    loaded = Report.load(tmp_path / "report.npz")
    assert loaded["out"].directions
    assert not loaded["hidden"].directions


def test_masks_positions_and_values_that_are_not_finite():
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(9, 3, mask_zero=True, name="embedding"),
        ]
    )
    tokens = RNG.integers(1, 9, (40, 5))
    tokens[np.arange(5) >= RNG.integers(2, 6, 40)[:, None]] = 0
    table = ops.convert_to_numpy(model.layers[0].embeddings)
    matrix = RNG.normal(size=(2, 3))
    layer = analyze(model, tokens, directions={"embedding": matrix}, verbose=0)[
        "embedding"
    ]
    values = (table[tokens] @ matrix.T)[tokens > 0]
    assert (layer.count == (tokens > 0).sum()).all()
    np.testing.assert_allclose(layer.mean, values.mean(0), rtol=1e-4, atol=1e-6)
    # If positions are neurons, a text with padding gives no value.
    wide = RNG.normal(size=(2, 15))
    layer = analyze(
        model, tokens, directions={"embedding": wide}, axis=None, verbose=0
    )["embedding"]
    full = (tokens > 0).all(1)
    values = table[tokens[full]].reshape(-1, 15) @ wide.T
    assert (layer.count == full.sum()).all()
    np.testing.assert_allclose(layer.mean, values.mean(0), rtol=1e-4, atol=1e-6)
    x = np.abs(X[:50]).copy()
    x[3, 0] = np.nan
    layer = analyze(
        identity(6), x, directions={"z": np.ones((1, 6))}, verbose=0
    )["z"]
    assert (layer.count[0], layer.nonfinite[0]) == (49, 1)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({"hidden": np.ones((3, 4))}, r"\(directions, 5\).*\(3, 4\)"),
        ({"hidden": np.ones(5)}, "must contain a matrix"),
        ({"hidden": [[np.nan] * 5]}, "finite numbers"),
        ({"hidden": lambda rows: rows[:3]}, "one row per row"),
        ({"hidd": np.ones((3, 5))}, "hidden"),
        ({"*": np.ones((3, 5))}, r"select one layer.*\['hidden', 'out'\]"),
        ({}, "must be a dict"),
        (np.ones((3, 5)), "must be a dict"),
    ],
)
def test_what_does_not_fit_is_refused(directions, message):
    with pytest.raises(ValueError, match=message):
        analyze(dense(), X, directions=directions, verbose=0)


def test_merged_directions_are_directions():
    model = dense()
    arguments = {"verbose": 0, "pool": 50}
    first, second = (
        analyze(model, x, directions={"hidden": MATRIX}, **arguments)
        for x in (X[:40], X[40:80])
    )
    assert first.merge(second)["hidden"].directions
    own = analyze(model, X[:40], layers="hidden", **arguments)
    assert not own.merge(own)["hidden"].directions
    given = {"hidden": np.eye(5)}
    other = analyze(model, X[:40], directions=given, **arguments)
    with pytest.raises(ValueError, match="same directions"):
        own.merge(other)
