"""Sums of a stream in float32 parts, against float64 on all of it."""

from functools import partial

import keras
import numpy as np
import pytest
from scipy import stats

from keras_memel import analyze
from keras_memel.analysis import accumulate
from keras_memel.analysis import central_moments
from keras_memel.analysis.accumulate import Accumulator
from keras_memel.analysis.value_store import Spool
from keras_memel.reports import ranking
from keras_memel.reports.halves import held_out

pytestmark = pytest.mark.once


@pytest.mark.parametrize("ordered", [False, True])
def test_moments_hold_far_from_one_and_in_any_order(rng, monkeypatch, ordered):
    monkeypatch.setattr(accumulate, "CHUNK", 700 * 5)
    monkeypatch.setattr(central_moments, "_SLAB", 700 * 2)
    labels = rng.integers(0, 3, 5000)
    if ordered:  # Chunks that have nothing in common
        labels = np.sort(labels)
    rows = len(labels)
    values = np.column_stack(
        [
            1e-20 * rng.normal(size=rows),
            1e18 * rng.normal(size=rows),
            1e4 + rng.normal(size=rows) + labels,
            1.0 * (np.arange(rows) % 1000 == 999),  # On in few, off in most
            np.full(rows, 7.0),
        ]
    ).astype("float32")
    spool = partial(Spool, budget=1 << 30, memory=1 << 30)
    found = Accumulator((5,), 3, 2, spool)
    where = np.column_stack([np.arange(rows), np.zeros(rows, int)])
    for part in np.array_split(np.arange(rows), 7):
        found.add(values[part], None, where[part], labels[part])
    found.flush()

    wide = values.astype("float64")
    moments, count = found.moments, rows
    scale = wide.std(0) + (wide.std(0) == 0)
    np.testing.assert_allclose(
        moments.mean / scale, wide.mean(0) / scale, rtol=1e-6, atol=1e-6
    )
    moving = slice(0, 4)
    np.testing.assert_allclose(
        (moments.second / count)[moving], wide.var(0)[moving], rtol=1e-6
    )
    np.testing.assert_allclose(
        (count * moments.fourth[moving]) / moments.second[moving] ** 2 - 3,
        stats.kurtosis(wide[:, moving]),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(found.absolute, np.abs(wide).sum(0), rtol=1e-6)
    assert found.by_label is not None
    second = held_out(np.arange(rows))
    halves = found.by_label.halves(np.arange(3), slice(None))
    for half, sums in zip((~second, second), halves):
        for label in range(3):
            own = wide[(labels == label) & half]
            assert (sums.count[label] == len(own)).all()
            np.testing.assert_allclose(
                sums.mean[label] / scale,
                own.mean(0) / scale,
                rtol=1e-6,
                atol=1e-6,
            )
            np.testing.assert_allclose(
                sums.second[label] / scale**2,
                len(own) * own.var(0) / scale**2,
                rtol=1e-5,
                atol=1e-4,
            )


@pytest.mark.once
def test_values_in_order_are_those_of_a_stable_sort(rng):
    edges = [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, np.inf, -np.inf]
    edges += [np.finfo("float32").max, np.finfo("float32").min]
    for size in (0, 1, 2, 1000):
        noise = rng.normal(size=size) * 10.0 ** rng.integers(-30, 30, size)
        few = rng.integers(-3, 3, size)
        values = np.concatenate([noise, few, np.repeat(edges, size)])
        values = rng.permutation(values.astype("float32"))
        ordered, order = ranking.in_order(values)
        np.testing.assert_array_equal(order, np.argsort(values, kind="stable"))
        np.testing.assert_array_equal(ordered, values[order])


def test_zeros_of_either_sign_tie_and_keep_their_order():
    values = np.float32([0.0, -1e-45, -0.0, 3.0, 0.0])
    ordered, order = ranking.in_order(values)
    assert list(order) == [1, 0, 2, 4, 3]
    assert not np.signbit(ordered[1:4]).any()
    np.testing.assert_allclose(ordered[[0, 4]], [-1e-45, 3.0], rtol=1)


@pytest.mark.parametrize("chunk", [35, 1 << 20])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_the_farthest_values_are_one_per_input(chunk, size, rng, monkeypatch):
    monkeypatch.setattr(accumulate, "CHUNK", chunk)
    x = rng.normal(size=(40, 9, 3)).astype("float32")
    x[5, :, 0] *= 20  # one input has all of the farthest values
    model = keras.Sequential(
        [keras.Input((9, 3)), keras.layers.Activation("linear", name="same")]
    )
    layer = analyze(
        model, x, layers="same", axis=-1, batch_size=size, verbose=0
    )["same"]
    far = np.abs(x - x.mean((0, 1)))
    position = far.argmax(1)
    far, values = (
        np.take_along_axis(one, position[:, None], 1)[:, 0] for one in (far, x)
    )
    for j in range(3):
        order = np.argsort(-far[:, j])[:8]
        np.testing.assert_array_equal(layer.top_input[j], order)
        np.testing.assert_array_equal(layer.top_position[j], position[order, j])
        np.testing.assert_array_equal(layer.top_value[j], values[order, j])


def test_fewer_inputs_than_places_leave_the_rest_empty(rng):
    x = rng.normal(size=(3, 9, 2)).astype("float32")
    model = keras.Sequential(
        [keras.Input((9, 2)), keras.layers.Activation("linear", name="same")]
    )
    layer = analyze(model, x, layers="same", axis=-1, verbose=0)["same"]
    assert (np.sort(layer.top_input[:, :3]) == np.arange(3)).all()
    assert (layer.top_input[:, 3:] == -1).all()
    assert np.isnan(layer.top_value[:, 3:]).all()
