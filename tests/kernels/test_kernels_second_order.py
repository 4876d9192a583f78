"""Gradients of gradients go through every kernel, or around it."""

import numpy as np
import pytest
from keras import ops
from second_order import BACKEND
from second_order import HOW
from second_order import second_order

from keras_memel import TopK
from keras_memel import kernels

SHAPE = (4, 32, 6)


@pytest.fixture(params=HOW)
def how(request):
    return request.param


@pytest.fixture
def arrays(rng):
    return rng.normal(size=(2, *SHAPE)).astype("float32")


def chosen(way, x):
    def score(values):
        return way.score(values, 0.0, 1.0)

    return ops.add(*way.choose(TopK(3), score, x, {}))


# Each from values without a gradient to what is taken as a factor of others.
WITHOUT_A_GRADIENT = {
    "sums": lambda way, x: ops.add(*way.sums(x, ops.zeros((1, 1, 6)), (0, 1))),
    "masked_sums": lambda way, x: ops.add(
        *way.sums(x, ops.zeros((1, 1, 6)), (0, 1), x > 0)
    ),
    "count": lambda way, x: way.count(x > 0),
    "largest": lambda way, x: way.kth_largest(x, 1),
    "kth_largest": lambda way, x: way.kth_largest(x, 3),
    "kth_largest_of_many": lambda way, x: way.kth_largest(
        ops.repeat(x, 25, axis=1), 3
    ),
    "score": lambda way, x: way.score(x, ops.zeros(6), ops.ones(6), x < 1),
    "choose": chosen,
    "by_sample": lambda way, x: way.by_sample(
        lambda x, valid: x * ops.cast(valid, x.dtype), x, x > 0
    ),
    "as_float32": lambda way, x: way.as_float32(x),
}


@pytest.mark.parametrize("name", WITHOUT_A_GRADIENT)
def test_a_kernel_without_a_gradient_is_a_constant(name, how, arrays):
    x, r = arrays
    kernel = WITHOUT_A_GRADIENT[name]

    # The compiler of the backend receives one graph, as from a layer.
    @kernels.fused
    def cubed(x):
        return kernel(kernels, ops.stop_gradient(x)) * x * x * x

    factor = kernel(kernels.reference, ops.convert_to_tensor(x))
    np.testing.assert_allclose(
        second_order(cubed, x, r, how),
        6 * ops.convert_to_numpy(factor) * x * r,
        rtol=1e-5,
        atol=1e-5,
    )


def running(way, x):
    def step(carry, parts):
        (state,) = carry
        (now,) = parts
        return (ops.tanh(state * now) + now,)

    (last,), every = way.scan(step, (ops.ones(SHAPE[1:]),), (x,))
    return ops.sum(every * every) + ops.sum(last)


def convolved(way, x, data_format="channels_last"):
    kernel = ops.ones((3, 3, 3, 2))
    return ops.square(
        way.conv(x, kernel, padding="same", data_format=data_format)
    )


def convolved_last(way, x):
    return convolved(way, ops.reshape(x * x, (-1, 8, 8, 3)))


def convolved_first(way, x):
    x = ops.reshape(x * x, (-1, 3, 8, 8))
    if way is kernels.reference:
        # On a CPU, TensorFlow has channels-first with oneDNN only.
        last = convolved(way, ops.transpose(x, (0, 2, 3, 1)))
        return ops.transpose(last, (0, 3, 1, 2))
    return convolved(way, x, "channels_first")


WITH_A_GRADIENT = {
    "where": lambda way, x: way.where(x > 0, x * x, x),
    "at_least": lambda way, x: way.at_least(x, 0.5) ** 3,
    "reshape": lambda way, x: way.reshape(x, (-1, 6)) ** 3,
    "scan": running,
    "conv": convolved_last,
    "conv_channels_first": convolved_first,
    **{
        f"replace_{delta}": lambda way, x, delta=delta: (
            way.replace(x * x, x > 0.5, ops.ones(6), delta) ** 3
        )
        for delta in (1.0, 0.0, -1.0, 7.0)
    },
}


@pytest.mark.parametrize("name", WITH_A_GRADIENT)
def test_a_kernel_has_the_second_gradient_of_the_reference(name, how, arrays):
    x, r = arrays
    if BACKEND == "jax" and name == "scan" and how == "unknown":
        pytest.skip("JAX scans over a known number of steps")
    kernel = WITH_A_GRADIENT[name]
    # PyTorch's way of the reference is the formula as it is written.
    expected = second_order(
        lambda x: kernel(kernels.reference, x), x, r, "eager"
    )
    found = second_order(lambda x: kernel(kernels, x), x, r, how)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(found).max() > 0.1


@pytest.mark.once
def test_every_kernel_is_here():
    tested = " ".join([*WITHOUT_A_GRADIENT, *WITH_A_GRADIENT, "fused"])
    names = {
        name
        for name, found in vars(kernels).items()
        if callable(found) and hasattr(kernels.reference, name)
    }
    assert len(names) > 10
    # These kernels process booleans, or weights that are fixed or count steps.
    without = {"isfinite", "copy", "after"}
    assert {n for n in names if n not in tested} == without
