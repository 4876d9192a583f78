"""The nowcasting example: the networks, of the papers and small ones."""

import keras
import numpy as np
import pytest
from keras import ops
from scripts import example
from small_networks import SMALL
from small_networks import TINY

import keras_memel
import keras_memel.paper

networks = example("paper.nowcasting.model")
train = example("paper.nowcasting.train")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("quick_compilation")]


def assert_equal(a, b):
    a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
    np.testing.assert_array_equal(a, b)


def convolution(kernel, channels, filters):
    return kernel * kernel * channels * filters + filters


def gru(channels, filters, recurrent):
    return 3 * filters * (9 * channels + recurrent**2 * filters + 2)


@pytest.mark.parametrize(
    ("name", "second", "head"),
    [("paper", 64, 0), ("shi", 192, convolution(3, 8, 8))],
)
def test_the_networks_of_the_papers_have_their_shapes_and_sizes(
    name, second, head, drawn_by_numpy
):
    network = networks.NETWORKS[name]
    model = networks.build(name)
    side = {"paper": 120, "shi": 480}[name]
    frames_in, frames_out = {"paper": (10, 10), "shi": (5, 20)}[name]
    assert model.input_shape == (None, frames_in, side, side, 1)
    assert model.output_shape == (None, frames_out, side, side, 1)
    states = [model.get_layer(f"encoder_{i}").output[1] for i in (1, 2, 3)]
    maps = [side // 5, side // 15, side // 30]
    assert [state.shape[1] for state in states] == maps
    assert network.states == (64, 192, 192)
    assert model.count_params() == sum(
        [
            convolution(7, 1, 8) + gru(8, 64, 5),
            convolution(5, 64, second) + gru(second, 192, 5),
            convolution(3, 192, 192) + gru(192, 192, 3),
            gru(1, 192, 3) + convolution(4, 192, 192),
            gru(192, 192, 5) + convolution(5, 192, 192),
            gru(192, 64, 5) + convolution(7, 64, 8),
            head + convolution(1, 8, 1),
        ]
    )


def test_each_frame_is_what_the_layer_makes_of_it(rng):
    layer = keras.layers.Conv2D(3, 3, 2)
    frames = rng.random((2, 3, 7, 5, 1), "float32")
    found = networks.EachFrame(layer)(frames)
    assert tuple(found.shape) == (2, 3, 3, 2, 3)
    assert ops.convert_to_numpy(found[1, 2]) == pytest.approx(
        ops.convert_to_numpy(layer(frames[1, 2:3])[0]), abs=1e-6
    )


def test_the_forecast_knows_of_all_frames_by_the_states_alone(
    rng, drawn_by_numpy
):
    model = networks.build(TINY)
    seen = rng.random((1, 2, 8, 16, 1), "float32")
    other = seen.copy()
    other[:, 0] = 0
    forecasts = model.predict_on_batch(np.concatenate([seen, other]))
    assert np.abs(forecasts[0] - forecasts[1]).max() > 1e-6
    # The inputs reach the forecasts through the states. Zero inputs give the
    # same forecast for all samples, which still changes from frame to frame.
    bias = [w for w in model.trainable_variables if "bias" in w.path]
    for weight in bias:
        weight.assign(0.01 * rng.random(weight.shape, "float32"))
    told = model.predict_on_batch(np.zeros_like(seen))
    assert np.abs(told[0, 0] - told[0, 1]).max() > 1e-7


def test_the_small_network_begins_as_persistence(rng, drawn_by_numpy):
    seen = rng.random((2, 2, 16, 16, 1), "float32")
    model = networks.build(SMALL)
    np.testing.assert_array_equal(
        model.predict_on_batch(seen), train.persistence(seen, 2)
    )
    with pytest.raises(ValueError, match=r"multiples of 8.*\(16, 12\)"):
        networks.build(SMALL, size=(16, 12))


def test_arms_begin_alike_and_have_a_memel_in_each_gru(drawn_by_numpy):
    models = []
    for arm in (None, {"late_start": 3}):
        keras.utils.set_random_seed(1)
        models.append(networks.build(TINY, arm))
    plain, memel = models
    train.copy_weights(plain, memel)
    for a, b in zip(plain.trainable_variables, memel.trainable_variables):
        assert_equal(a, b)
    layers = memel._flatten_layers()
    assert sum(isinstance(layer, keras_memel.MEmeL) for layer in layers) == 6
    # Six statistics of each, and the low parts of two counters.
    assert len(memel.weights) - len(plain.weights) == 6 * 8
