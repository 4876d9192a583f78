"""Plots: the right numbers at the right places."""

import dataclasses
import itertools

import keras
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from keras_memel import analyze
from keras_memel import plots
from keras_memel.utils import plotting

pytestmark = [pytest.mark.once, pytest.mark.quick]

mpl.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

LABELS = np.random.default_rng(0).integers(0, 3, 300)
NAMES = ["ash", "birch", "cedar"]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def report():
    model = keras.Sequential([keras.Input((3,)), keras.layers.ReLU(name="z")])
    noise = np.random.default_rng(1).normal(size=(300, 3))
    z = np.abs(noise) + 3 * np.eye(3)[LABELS]
    return analyze(model, z, LABELS, "z", label_names=NAMES, verbose=0)


def ticks(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_distribution_of_the_scale(report):
    ax = report.plot()
    assert ticks(ax.yaxis) == ["z"]
    median = np.median(report.layers["z"].ms_quantile(0.99))
    lines = [line.get_xdata() for line in ax.lines]
    assert any(len(x) == 2 and np.allclose(x, median) for x in lines)


def test_activation_by_feature_puts_its_own_first(report):
    ax = plots.activation_by_label(report, "z", 1)
    assert ticks(ax.yaxis)[0] == "birch"
    assert report["z"][1]["label"] == "birch"
    first = ax.patches[0]
    counts = report.layers["z"].histogram[1, 1]
    drawn = -first.get_data().values
    assert not counts[len(drawn) :].any()
    counts = counts[: len(drawn)]
    np.testing.assert_allclose(drawn / drawn.max(), counts / counts.max())
    few = plots.activation_by_label(report, "z", 1, most=2)
    assert "1 more" in few.get_title(loc="left")


def test_label_map_is_ordered_by_label(report):
    ax = plots.label_map(report, "z")
    np.testing.assert_allclose(
        ax.images[0].get_array(), report.layers["z"].label_ms.T
    )
    assert ticks(ax.yaxis) == NAMES


def test_false_killing_rate_is_the_median_neuron(report):
    rates = [0.05, 0.3]
    ax = plots.false_killing_rate(report, rates=rates)
    expected = [report.false_killing_rate(rate).median() for rate in rates]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)


def test_scale_over_training():
    logs = {"a/ms_99": [1.0, 2.0], "b/ms_99": [3.0, 5.0], "loss": [1, 1]}
    ax = plots.ms_over_training(logs)
    assert [list(line.get_ydata()) for line in ax.lines] == [[1, 2], [3, 5]]
    assert {text.get_text() for text in ax.texts} == {"a", "b"}
    with pytest.raises(ValueError, match="ends in '/ms_50'"):
        plots.ms_over_training(logs, "ms_50")


@pytest.mark.parametrize("layers", [24, 60])
def test_many_layers_leave_room_for_their_lines(layers):
    names = [f"transformer_layer_{i}" for i in range(layers)]
    logs = {
        f"{name}/ms_99": [6.0, 7.0 + 0.01 * i] for i, name in enumerate(names)
    }
    model = keras.Sequential(
        [keras.Input((6,))]
        + [keras.layers.Dense(6, "tanh", name=name) for name in names]
    )
    x = np.random.default_rng(0).normal(size=(60, 6))
    report = analyze(model, x, np.arange(60) % 3, verbose=0)
    for ax in (plots.ms_over_training(logs), plots.false_killing_rate(report)):
        ax.figure.canvas.draw()
        assert ax.get_position().height > 0.6
        heights = sorted(
            text.get_window_extent().y0
            for text in ax.texts
            if text.get_text().startswith("transformer")
        )
        assert len(heights) >= 20
        assert np.diff(heights).min() > 0.9 * 11 * ax.figure.dpi / 72


def test_axes_can_be_given(report):
    _, (first, second) = plt.subplots(2)
    assert plots.ms_distribution(report, first) is first
    assert plots.label_map(report, "z", second) is second


def test_bad_arguments_name_what_there_is(report):
    with pytest.raises(ValueError, match=r"\['z'\]"):
        plots.label_map(report, "y")
    with pytest.raises(ValueError, match="from 0 to 2"):
        plots.activation_by_label(report, "z", 3)


def test_a_neuron_without_a_value_is_drawn_as_empty_rows():
    z = np.full((20, 1), np.nan)
    model = keras.Sequential([keras.Input((1,)), keras.layers.ReLU(name="z")])
    report = analyze(model, z, np.arange(20) % 2, "z", verbose=0)
    ax = plots.activation_by_label(report, "z", 0)
    assert len(ticks(ax.yaxis)) == 2


def test_what_fit_returns_can_be_drawn():
    history = keras.callbacks.History()
    history.history = {"hidden/ms_99": [6.0, 9.0]}
    ax = plots.ms_over_training(history)
    assert ax.lines[0].get_ydata().tolist() == [6.0, 9.0]


LONG = "model.transformer.encoder.blocks.{:02d}.feed_forward.dense_$h_{}$"


@pytest.fixture(scope="module")
def wide():
    """24 layers of 3,000 neurons with long names, some of them dead."""
    model = keras.Sequential([keras.Input((300,)), keras.layers.ReLU(name="z")])
    rng = np.random.default_rng(0)
    z = np.abs(rng.normal(size=(60, 300)))
    z[:, 5:300:30] = 0
    names = [f"price in $ per unit of $x_{i}$, a long name" for i in range(30)]
    labels = np.arange(60) % 30
    report = analyze(model, z, labels, "z", label_names=names, verbose=0)
    layer = report["z"]
    many = np.arange(3000) % 300
    columns = {
        field.name: value[many]
        for field in dataclasses.fields(layer)
        if isinstance(value := getattr(layer, field.name), np.ndarray)
    }
    curve = type(layer.curve)(*(part[many] for part in layer.curve))
    layers = {
        path: dataclasses.replace(
            layer, path=path, shape=(3000,), curve=curve, **columns
        )
        for path in (LONG.format(i, i) for i in range(24))
    }
    return dataclasses.replace(report, layers=layers)


@pytest.mark.parametrize(
    "draw",
    [
        plots.ms_distribution,
        lambda report: plots.activation_by_label(report, next(iter(report)), 7),
        lambda report: plots.activation_by_label(report, next(iter(report)), 5),
        lambda report: plots.label_map(report, next(iter(report))),
        lambda report: plots.label_map(report, next(iter(report)), most=30),
        lambda report: plots.false_killing_rate(report, rates=[0.02, 0.5]),
        lambda report: plots.ms_over_training(
            {f"{path}/ms_99": [6.0, 7.0 + i] for i, path in enumerate(report)}
        ),
        lambda report: plots.decrease_ratios(
            pd.DataFrame({"decrease_ratio": dict.fromkeys(report, 0.1)})
        ),
    ],
)
def test_long_names_leave_room_and_nothing_is_clipped(wide, draw):
    ax = draw(wide)
    figure = ax.figure
    figure.canvas.draw()
    assert ax.get_position().width > 0.4
    page = figure.bbox
    texts = [*ax.get_yticklabels(), *ax.texts, ax.title, ax._left_title]
    texts += [ax.xaxis.label, ax.yaxis.label]
    for text in texts:
        box = text.get_window_extent()
        if text.get_text():
            assert page.x0 <= box.x0, text
            assert box.x1 <= page.x1 + 1, text
            assert "$" not in text.get_text().replace(r"\$", "")
    ticks = [text.get_window_extent() for text in ax.get_xticklabels()]
    assert all(a.x1 <= b.x0 + 1 for a, b in itertools.pairwise(ticks))


def test_dead_neurons_are_named(wide):
    path = next(iter(wide))
    ax = plots.label_map(wide, path)
    assert "dead: 5, 35, 65, 95, 125 and 95 more" in ax.get_title(loc="left")
    names = ticks(plots.ms_distribution(wide).yaxis)
    assert len(names) == len(set(names)) == 24
    assert all("(100 dead)" in name for name in names)
    ax = plots.activation_by_label(wide, path, 35)
    assert "neuron 35, dead" in ax.get_title(loc="left")
    drawn = plots.label_map(wide, path, most=3000).images[0].get_array()
    assert drawn.shape == (30, 2900)


def test_names_that_are_cut_still_differ():
    same = "a" * 30
    for names in (
        ["hidden", "out"],
        [f"{same}{i}" for i in range(3)],
        [f"{i}{same}" for i in range(3)],
        [f"{same}{i}{same}" for i in range(3)],
        [f"{i % 2}{same}{i}{same}" for i in range(4)],
    ):
        found = plotting.short(names)
        assert len(set(found)) == len(names)
        assert max(map(len, found)) <= 28
    assert plotting.short(["hidden", "out"]) == ["hidden", "out"]
