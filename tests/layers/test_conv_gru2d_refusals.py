"""ConvGRU2D: what cannot be, and the words in which it is refused."""

import numpy as np
import pytest
from recurrent_pairs import BATCH
from recurrent_pairs import FILTERS
from recurrent_pairs import SHAPE
from recurrent_pairs import TIME
from recurrent_pairs import build
from steps import BACKEND

from keras_memel import ConvGRU2D

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"filters": 0}, "`filters` must be at least 1"),
        ({"kernel_size": 0}, "`kernel_size`"),
        ({"recurrent_kernel_size": (1, 2, 3)}, "`recurrent_kernel_size`"),
        ({"strides": 0}, "`strides`"),
        ({"strides": 2, "dilation_rate": 3}, "not compatible with"),
        ({"padding": "causal"}, "`padding`"),
        ({"data_format": "channels"}, "data_format"),
        ({"dropout": 1}, "`dropout` must be at least 0 and below 1"),
        ({"recurrent_dropout": -0.1}, "`recurrent_dropout` must be"),
        ({"reset_after": 1}, "`reset_after` must be a bool"),
        ({"use_bias": None}, "`use_bias` must be a bool"),
    ],
)
def test_wrong_arguments_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ConvGRU2D(**{"filters": 1, "kernel_size": 1, **settings})


@pytest.mark.parametrize(
    "shape", [(2, 3, None, 4, 1), (2, 3, 4, 4, None), (2, 3, 2, 4, 1)]
)
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"of a known size|negative|output"):
        ConvGRU2D(2, 3).build(shape)


def test_wrong_calls_are_refused():
    layer, _ = build()
    x = np.ones(SHAPE, "float32")
    with pytest.raises(ValueError, match=r"one state of shape \(3, 3, 4, 3\)"):
        layer(x, initial_state=np.ones((BATCH, 5, 6, FILTERS)))
    with pytest.raises(ValueError, match="one state of shape"):
        layer(x, initial_state=[np.ones((BATCH, 3, 4, FILTERS))] * 2)
    with pytest.raises(ValueError, match="leading dimensions of `sequences`"):
        layer(x, mask=np.ones((BATCH, TIME + 1)))
    with pytest.raises(ValueError, match="at least one time step"):
        layer(x[:, :0])
    with pytest.raises(ValueError, match="incompatible with the layer"):
        layer(x[:, :, 1:])
    with pytest.raises(ValueError, match="batch size must be static"):
        build((None, *SHAPE[1:]), stateful=True)
    layer, _ = build(stateful=True)
    with pytest.raises(ValueError, match="built with, 3"):
        layer(x[:2])
    layer = ConvGRU2D(1, 1, unroll=True)
    if BACKEND == "tensorflow":  # others know the length of what they run on
        import tensorflow as tf

        call = tf.function(
            layer, input_signature=[tf.TensorSpec((1, None, 2, 2, 1))]
        )
        with pytest.raises(ValueError, match="known number of time steps"):
            call(x[:1, :, :2, :2, :1])
