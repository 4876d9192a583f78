"""Random small graphs, random insertions: round trip and strip hold."""

import tempfile

import keras
import numpy as np
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
from keras import ops
from models import Several
from models import numbers
from models import same
from models import statistics

from keras_memel import MEmeL
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip

WIDTH = 3
KINDS = ["dense", "shared", "norm", "drop", "add", "join", "inner", "several"]
STEPS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9)),
    min_size=1,
    max_size=7,
)


def graph(steps):
    """A Functional model; each step takes one or two earlier values."""
    inputs = keras.Input((WIDTH,))
    shared = keras.layers.Dense(WIDTH)
    values = [inputs]
    for kind, i, j in steps:
        first, second = values[i % len(values)], values[j % len(values)]
        if kind == "dense":
            value = keras.layers.Dense(WIDTH, activation="tanh")(first)
        elif kind == "shared":
            value = shared(first)
        elif kind == "norm":
            value = keras.layers.LayerNormalization()(first)
        elif kind == "drop":
            value = keras.layers.Dropout(0.5)(first)
        elif kind == "add":
            value = keras.layers.Add()([first, second])
        elif kind == "join":
            joined = keras.layers.Concatenate()([first, second])
            value = keras.layers.Dense(WIDTH)(joined)
        elif kind == "inner":
            one = keras.Input((WIDTH,))
            hidden = keras.layers.Dense(WIDTH, activation="relu")(one)
            out = keras.layers.Dense(WIDTH)(keras.layers.Add()([one, hidden]))
            value = keras.Model(one, out)(first)
        else:
            value = Several("tuple")(first)[j % 2]
        values.append(value)
    last = keras.layers.Dense(1)(values[-1])
    return keras.Model(inputs, [last, values[len(values) // 2]])


def run(model, x, training=False):
    return [
        np.array(ops.convert_to_numpy(value))
        for value in keras.tree.flatten(model(x, training=training))
    ]


@settings(max_examples=15)
@given(
    steps=STEPS,
    picks=st.sets(st.integers(0, 30), min_size=1, max_size=4),
    late_start=st.integers(0, 1),
    # There are two sizes only, because JAX compiles the model for each.
    batch=st.sampled_from((1, 4)),
)
def test_round_trip_and_strip(steps, picks, late_start, batch):
    keras.utils.set_random_seed(0)
    model = graph(steps)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, WIDTH)).astype("float32")
    paths = find(model)
    several = [path for path in paths if "several" in path]
    single = [path for path in paths if path not in several]
    where = sorted({single[pick % len(single)] for pick in picks})
    before, weights = run(model, x), numbers(model.weights)

    insert(model, where, MEmeL(late_start=late_start))
    if several:
        insert(model, several[0], MEmeL(), output=0)
        where = [*where, several[0]]
    assert set(inserted(model)) == set(where)
    assert same(run(model, x), before)
    for _ in range(3):
        run(model, x, training=True)
    assert all(float(m.steps) >= 3 for m in inserted(model).values())

    with tempfile.TemporaryDirectory() as folder:
        model.save(folder + "/m.keras")
        loaded = keras.saving.load_model(folder + "/m.keras")
    assert list(inserted(loaded)) == list(inserted(model))
    assert same(statistics(loaded), statistics(model))
    for a, b in zip(run(loaded, x), before):
        np.testing.assert_allclose(a, b, atol=1e-6)

    for one in (model, loaded):
        assert inserted(strip(one)) == {}
        assert same(numbers(one.weights), weights)
    assert same(run(model, x), before)
