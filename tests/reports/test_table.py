"""The table of a report: its columns, and the neuron of each row."""

import keras
import matplotlib as mpl
import numpy as np
import pytest

from keras_memel import analyze
from keras_memel import plots

pytestmark = [pytest.mark.once, pytest.mark.quick]

mpl.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, 240)
NAMES = ["$$", "price in $", "\\frac"]
# A name scope of TensorFlow must not contain a dollar sign.
LAST = "b" if keras.config.backend() == "tensorflow" else "b$"


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def report():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(12, "relu", name="a"),
            keras.layers.Dense(4, "tanh", name=LAST),
        ]
    )
    x = RNG.normal(size=(240, 6)) + 2 * np.eye(6)[Y]
    return analyze(model, x, Y, label_names=NAMES, verbose=0)


@pytest.fixture(scope="module")
def positions():
    """Neurons are positions: (3, 2) of them."""
    model = keras.Sequential([keras.Input((3, 2)), keras.layers.ReLU(name="z")])
    x = np.abs(RNG.normal(size=(240, 3, 2)))
    x[Y == 1, 2, 1] += 5
    return analyze(model, x, Y, "z", axis=None, verbose=0)


def test_a_neuron_that_is_silent_on_its_label_says_so():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Activation("linear", name="z")]
    )
    fires = Y == 2
    z = np.stack([1.0 - fires, 1.0 * fires], axis=1)
    report = analyze(model, z, Y, "z", label_names="abc", verbose=0)
    table = report.to_dataframe()
    assert table["label"].tolist() == ["c", "c"]
    assert table["direction"].tolist() == [-1, 1]
    np.testing.assert_allclose(table["label_mean"], [0, 1], atol=1e-6)
    assert (table["roc_auc"] == 1).all()


def test_a_row_leads_to_its_neuron(report):
    table = report.to_dataframe()
    assert table["neuron"].tolist() == [*range(12), *range(4)]
    assert (table["neuron"] == 3).sum() == 2
    for number in (0, 13):
        row = table.iloc[number]
        assert report[row["layer"]][row["neuron"]].equals(row)
        ax = plots.activation_by_label(report, row["layer"], row["neuron"])
        assert ax.get_title(loc="left").endswith(f"neuron {row['neuron']}")
    best = report.roc_auc().idxmax()
    assert report[best[0]][best[1]]["roc_auc"] == table["roc_auc"].max()
    plots.activation_by_label(report, *best)
    series = report.false_killing_rate()
    assert series[LAST, 2] == report[LAST][2]["false_killing_rate"]
    precision, _ = report.precision_recall(*best)
    assert precision.shape == (256,)
    assert list(report) == ["a", LAST]
    assert list(report[LAST]) == [0, 1, 2, 3]


def test_a_position_is_a_tuple_everywhere(positions):
    table = positions.to_dataframe()
    expected = [(i, j) for i in range(3) for j in range(2)]
    assert table["neuron"].tolist() == expected
    best = positions.roc_auc().idxmax()
    assert best == ("z", (2, 1))
    row = positions["z"][2, 1]
    assert row["neuron"] == (2, 1)
    assert row["label"] == "1"
    ax = plots.activation_by_label(positions, *best)
    assert "neuron (2, 1)" in ax.get_title(loc="left")
    assert plots.label_map(positions, "z").get_xticklabels()[0].get_text()


@pytest.mark.parametrize("neuron", [12, -1, "3", 3.0, True, (1, 2)])
def test_a_neuron_that_is_not_there_is_refused(report, neuron):
    with pytest.raises(ValueError, match="an integer from 0 to 11"):
        report["a"][neuron]
    with pytest.raises(ValueError, match="an integer from 0 to 11"):
        plots.activation_by_label(report, "a", neuron)


@pytest.mark.parametrize("neuron", [3, (3, 0), (0, 0, 0)])
def test_a_position_that_is_not_there_is_refused(positions, neuron):
    with pytest.raises(ValueError, match=r"2 integers, up to \(2, 1\)"):
        positions["z"][neuron]


def test_names_are_drawn_as_they_are(report):
    figures = [
        plots.activation_by_label(report, LAST, 1),
        plots.label_map(report, LAST),
        plots.ms_distribution(report),
        plots.false_killing_rate(report),
    ]
    for ax in figures:
        ax.figure.canvas.draw()
    ticks = {text.get_text() for text in figures[0].get_yticklabels()}
    assert ticks == {r"\$\$", r"price in \$", r"\frac"}


def test_a_constant_neuron_is_no_detector_of_the_majority():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Activation("linear", name="z")]
    )
    rare = (RNG.random(2000) < 0.1).astype(int)
    noise = RNG.normal(size=(2, 2000))
    z = np.stack([np.full(2000, 3.0), noise[0], 2 * rare + noise[1]], 1)
    table = analyze(
        model, z, rare, "z", label_names=["majority", "rare"], verbose=0
    ).to_dataframe()
    assert np.isnan(table["f1"][0])
    gain = table["f1"] - table["f1_baseline"]
    assert gain.idxmax() == 2
    assert table["f1_label"][2] == "rare"
    assert abs(gain[1]) < 0.05


def test_a_page_has_the_same_neurons_and_scores(positions, tmp_path):
    from page_payload import data

    positions.to_html(tmp_path / "n.html", title="{{vega}}")
    found = data(tmp_path / "n.html")
    columns = found["columns"]
    assert found["layers"][0]["names"][-1] == "2,1"
    table = positions.to_dataframe()
    np.testing.assert_allclose(columns["p_corrected"], table["p_corrected"])
    np.testing.assert_allclose(columns["direction"], table["direction"])
    layer = found["layers"][0]
    assert layer["label"].tolist() == positions["z"].label.tolist()


def test_inputs_and_labels_of_pandas_are_taken_by_position(tmp_path):
    pandas = pytest.importorskip("pandas")
    from page_payload import data

    index = RNG.permutation(240)
    texts = pandas.Series([f"text {i}" for i in range(240)], index)
    model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU(name="z")])
    x = np.arange(240.0)[:, None]
    report = analyze(model, x, pandas.Series(Y, index), "z", verbose=0)
    report.to_html(tmp_path / "n.html", inputs=texts)
    for number, text in data(tmp_path / "n.html")["inputs"].items():
        assert text == f"text {number}"
