"""`torch.compile(fullgraph=True)` of what holds a MEmeL, against eager."""

import inspect

import keras
import numpy as np
import pytest
from steps import state

from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel.insertion import forward

pytestmark = [
    pytest.mark.once,
    # The warning names caches of Keras and of this package, which are traced
    # correctly.
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a"),
]
torch_only = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="torch.compile is PyTorch's"
)


def model_with_insertion():
    model = keras.Sequential(
        [
            keras.Input((3, 6)),
            keras.layers.Dense(8, name="wide"),
            keras.layers.Dense(2),
        ]
    )
    insert(model, "wide", MEmeL("rate", axis=-1, late_start=1))
    return model, inserted(model)["wide"]


def recurrent():
    memel = MEmeL("rate", axis=-1, late_start=1)
    layer = ConvGRU2D(2, 3, memel=memel)
    layer.build((4, 3, 5, 5, 1))
    return layer, layer


SHAPES = {model_with_insertion: (4, 3, 6), recurrent: (4, 3, 5, 5, 1)}


@torch_only
@pytest.mark.parametrize("make", SHAPES)
def test_a_training_step_is_one_graph(make, rng):
    import torch

    x = [rng.normal(size=SHAPES[make]).astype("float32") for _ in range(3)]
    results = []
    for compiled in (False, True):
        keras.utils.set_random_seed(1)
        call, watched = make()
        if compiled:
            torch.compiler.reset()
            call = torch.compile(call, backend="eager", fullgraph=True)
        outputs = [
            keras.ops.convert_to_numpy(call(part, training=True))
            for part in map(torch.tensor, x)
        ]
        results.append((outputs, state(watched), watched))
    (eager, known, _), (traced, _, watched) = results
    np.testing.assert_allclose(traced, eager, rtol=1e-5, atol=1e-6)
    assert known["steps"] == len(x)
    for name, value in state(watched).items():
        np.testing.assert_allclose(
            value, known[name], rtol=1e-5, atol=1e-6, err_msg=name
        )


def many(a, /, b, c=1, *args, d, e=2, **kwargs):
    """Every kind of parameter."""


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {"d": 4}),
        ((1, 2, 3, 4, 5), {"e": 1, "z": 9, "y": 8}),
        ((1,), {"e": 1, "c": 3, "b": 2}),
    ],
)
def test_arguments_are_bound_as_python_does(args, kwargs):
    signature = inspect.signature(many)
    expected = signature.bind_partial(*args, **kwargs).arguments
    parameters = tuple(signature.parameters.values())
    found = forward._bound(parameters, args, kwargs)
    assert list(found.items()) == list(expected.items())
