"""Each backend's way equals the reference."""

import keras
import numpy as np
import pytest
from keras import ops
from steps import BACKEND
from steps import step

from keras_memel import MEmeL
from keras_memel import kernels


@pytest.fixture(params=[kernels, kernels.reference], ids=["own", "reference"])
def way(request):
    return request.param


def compiled(way, function, *arrays):
    """`function` as the layer runs it: on TensorFlow given to XLA, inside a
    graph that knows no batch size.
    """
    arrays = [ops.convert_to_tensor(array) for array in arrays]
    if BACKEND != "tensorflow" or way is kernels.reference:
        return function(*arrays)
    import tensorflow as tf

    signature = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in arrays]
    return tf.function(kernels.fused(function), input_signature=signature)(
        *arrays
    )


# The branches of the ways: few rows, many, a prime number of them, wide ones,
# none; one column; more axes, whose sizes have factors up to 16 or do not;
# axes that do not lead.
@pytest.mark.parametrize(
    ("shape", "axes", "mask_shape"),
    [
        ((5, 7), (0,), None),
        ((40, 7), (0,), (40, 7)),
        ((37, 7), (0,), (1, 7)),
        ((8, 16384), (0,), None),
        ((70, 16384), (0,), None),
        ((0, 7), (0,), None),
        ((9, 1), (0,), (9, 1)),
        ((3, 32, 7), (0, 1), (3, 32, 1)),
        ((5, 17, 7), (0, 1), None),
        ((4, 3, 7), (0, 2), (1, 3, 7)),
    ],
)
def test_sums(shape, axes, mask_shape, way, rng, monkeypatch):
    # PyTorch: several blocks.
    monkeypatch.setattr(kernels.own, "BLOCK_SIZE", 60, raising=False)
    x = rng.normal(size=shape).astype("float32")
    kept = [1 if axis in axes else size for axis, size in enumerate(shape)]
    shift = rng.normal(size=kept).astype("float32")
    exact = x.astype("float64") - shift
    masks = []
    if mask_shape:
        masks = [rng.random(mask_shape) < 0.5]
        exact = np.where(masks[0], exact, 0.0)
    first, second = compiled(
        way, lambda x, s, *masks: way.sums(x, s, axes, *masks), x, shift, *masks
    )
    for got, expected in (
        (first, exact.sum(axes, keepdims=True)),
        (second, (exact**2).sum(axes, keepdims=True)),
    ):
        assert tuple(got.shape) == expected.shape
        np.testing.assert_allclose(
            ops.convert_to_numpy(got), expected, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    "shape", [(3, 64, 5), (3, 17, 5), (0, 4), (7, 3), (2, 0, 3), (2, 3, 0)]
)
@pytest.mark.quick
def test_count_of_a_tensor(shape, way, rng):
    mask = rng.random(shape) < 0.5
    assert float(compiled(way, way.count, mask)) == mask.sum()


# Below, at and above a whole block of bytes; every one of 128 in a row true.
@pytest.mark.parametrize("size", [0, 5, 98304, 98305, 3 * 98304 + 7])
@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_count(size, share, way, rng):
    mask = rng.random(size) < share
    counted = way.count(ops.convert_to_tensor(mask))
    assert keras.backend.standardize_dtype(counted.dtype) == "float32"
    assert float(counted) == mask.sum()


@pytest.mark.parametrize("k", [1, 2, 5, 12])
@pytest.mark.quick
def test_kth_largest(k, way, rng):
    x = rng.normal(size=(3, 4, 3)).astype("float32")
    kth = ops.convert_to_numpy(way.kth_largest(ops.convert_to_tensor(x), k))
    assert kth.shape == (3, 1, 1)
    expected = np.sort(x.reshape(3, -1), axis=1)[:, -k]
    np.testing.assert_array_equal(kth.ravel(), expected)


# These cases build a matrix of all values first: with and without a remainder,
# with few and many samples, with ties, and with all of the largest values in
# one column or row.
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("size", "k"), [(4096, 2), (4099, 5), (9000, 40)])
@pytest.mark.parametrize(
    "kind", ["normal", "ties", "constant", "column", "row"]
)
def test_kth_largest_of_many_values(kind, size, k, batch, way, rng):
    rows = kernels.reference.block_rows(size, k)
    assert rows > 1
    x = rng.normal(size=(batch, size)).astype("float32")
    if kind == "ties":
        x = np.round(x)
    elif kind == "constant":
        x[:] = -1.0
    elif kind == "column":
        x[:, 7 :: size // rows] += 100
    elif kind == "row":
        x[:, 3 * rows : 4 * rows] += 100
    kth = ops.convert_to_numpy(way.kth_largest(ops.convert_to_tensor(x), k))
    np.testing.assert_array_equal(kth, np.sort(x, axis=1)[:, -k, None])


def test_kth_largest_of_an_empty_batch_of_many_values():
    assert kernels.kth_largest(ops.ones((0, 4099)), 5).shape == (0, 1)


@pytest.mark.parametrize("delta", [1.0, 0.0, -1.0, 7.0])
@pytest.mark.quick
def test_replace_has_the_gradient_of_the_formula(delta, rng):
    x, r = rng.normal(size=(2, 4, 3)).astype("float32")
    mask, mean = rng.random((4, 3)) < 0.5, rng.normal(size=3).astype("float32")
    found = [
        gradient_of(way, x, r, mask, mean, delta)
        for way in (kernels.replace, kernels.reference.replace)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0][0], np.where(mask, mean, x))


def gradient_of(way, x, r, mask, mean, delta):
    class Replace(keras.layers.Layer):
        def call(self, inputs, training=None):
            return way(inputs, ops.array(mask), ops.array(mean), delta)

    return np.stack(step(Replace(), x, r))


def test_what_is_kept_for_the_backward_pass_is_one_byte_a_value():
    """Beside what the neurons keep, and what the caller has anyway."""
    layer = MEmeL("rate", axis=-1, late_start=0)
    layer.build((64, 32, 16))
    x = ops.ones((64, 32, 16))
    layer(x, training=True)
    assert kept_bytes(layer, x) <= 1.1 * 64 * 32 * 16


def kept_bytes(layer, x):
    if BACKEND == "torch":
        import torch

        kept = []
        x.requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(t) or t, lambda t: t
        ):
            layer(x, training=True)
        return sum(t.numel() * t.element_size() for t in kept)
    if BACKEND == "jax":
        import jax

        state = [v.value for v in layer.non_trainable_variables]
        _, backward, _ = jax.vjp(
            lambda x: layer.stateless_call([], state, x, training=True),
            x,
            has_aux=True,
        )
        return sum(t.nbytes for t in jax.tree.leaves(backward))
    import tensorflow as tf

    # The gradient function of the compiled graph captures tensors from it.
    @tf.function
    def forward(x):
        return layer(x, training=True)

    concrete = forward.get_concrete_function(x)
    inner = concrete._delayed_rewrite_functions.forward().graph
    kept = inner.outputs[len(concrete.outputs) :]
    return sum(t.shape.num_elements() * t.dtype.size for t in kept)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="others fuse nothing here")
def test_fused_runs_plainly_when_eager_and_compiled_in_a_graph():
    import tensorflow as tf

    where = []

    def double(x):
        where.append(tf.executing_eagerly())
        return 2 * x

    fused = kernels.fused(double)
    assert float(fused(tf.constant(3.0))) == 6.0
    assert float(tf.function(fused)(tf.constant(3.0))) == 6.0
    assert where == [True, False]


@pytest.mark.skipif(BACKEND != "jax", reason="others compile nothing there")
@pytest.mark.parametrize("selection", ["top_k", "rate", "threshold", "random"])
def test_a_second_step_outside_of_a_jit_compiles_nothing(
    selection, rng, caplog
):
    import jax

    layer = MEmeL(selection, late_start=0)
    x, r = rng.normal(size=(2, 7, 3, 5)).astype("float32")
    step(layer, x, r)

    def compiled():
        caplog.clear()
        with jax.log_compiles():
            step(layer, x, r)
        return [m for m in caplog.messages if "XLA compilation of" in m]

    assert compiled() == []
    x, r = x[1:], r[1:]
    assert compiled()  # they would be seen
