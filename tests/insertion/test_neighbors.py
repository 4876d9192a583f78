"""An inserted MEmeL together with masks, dtypes, LoRA and scopes."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops
from models import BACKEND
from models import Several
from models import X
from models import Y
from models import functional
from models import mean
from models import numbers
from models import same
from models import sequential
from models import steps
from models import subclassed

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip


@pytest.mark.parametrize(
    ("kind", "output", "wrong"), [("tuple", 1, 2), ("dict", "doubled", "none")]
)
def test_one_of_several_outputs_is_chosen(kind, output, wrong):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, Several(kind, name="several")(inputs))

    # Backends differ in the order of a dict that a layer has returned.
    keys = "('plain', 'doubled'|'doubled', 'plain')"
    choices = keys if kind == "dict" else "0, 1"
    for bad in (None, wrong):
        with pytest.raises(
            ValueError, match=rf"'several': {choices}\..*output={bad!r}"
        ):
            insert(model, "several", MEmeL(), output=bad)
    insert(model, "several", MEmeL(late_start=0), output=output)

    outputs = model(X, training=True)
    assert isinstance(outputs, (dict if kind == "dict" else (list, tuple)))
    first = outputs["plain"] if kind == "dict" else outputs[0]
    np.testing.assert_array_equal(ops.convert_to_numpy(first), X)
    (layer,) = inserted(model).values()
    np.testing.assert_allclose(mean(layer), 2 * X.mean(0), atol=1e-6)


def test_a_shared_layer_has_one_memel_that_sees_every_call():
    shared = keras.layers.Dense(8, name="shared")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, shared(shared(inputs)))

    insert(model, "shared", MEmeL(late_start=10, forget_steps=None))
    model(X, training=True)

    (layer,) = inserted(model).values()
    kernel, bias = numbers(shared.weights[:2])
    once = X @ kernel + bias
    both = np.concatenate([once, once @ kernel + bias])
    assert steps(model) == [2.0]
    np.testing.assert_allclose(mean(layer), both.mean(0), atol=1e-5)


def test_keras_masks_reach_the_memel_in_a_compiled_step():
    # On JAX, the masks of traced arrays are not attributes of these arrays.
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(6, 3, mask_zero=True),
            keras.layers.SimpleRNN(5, return_sequences=True),
            keras.layers.Dense(5, name="dense"),
        ]
    )
    insert(model, "dense", MEmeL(axis=-1))
    model.compile("sgd", "mse")

    tokens = np.array([[3, 1, 0, 0], [2, 0, 0, 0], [5, 4, 1, 2]])
    model.train_on_batch(tokens, np.zeros((3, 4, 5)))

    (layer,) = inserted(model).values()
    assert set(numbers([layer.count])[0]) == {7.0}


def test_keras_masks_reach_the_memel():
    tokens = np.array([[3, 1, 0, 0], [2, 0, 0, 0], [5, 4, 1, 2]])
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(6, 3, mask_zero=True, name="embedding"),
            keras.layers.Dense(5, name="dense"),
        ]
    )
    insert(model, "*e*d*", MEmeL(axis=-1))

    model(tokens, training=True)

    embedding = inserted(model)["embedding"]
    table = numbers(model.layers[0].weights[:1])[0]
    np.testing.assert_allclose(
        mean(embedding), table[tokens[tokens > 0]].mean(0), atol=1e-6
    )
    for layer in inserted(model).values():
        assert set(numbers([layer.count])[0]) == {7.0}


class Padded(keras.layers.Layer):
    """A block in the manner of keras_hub: told of padding by an argument."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3, name="dense")
        self.saw_a_mask = False

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs, padding_mask=None):
        if getattr(inputs, "_keras_mask", None) is not None:
            self.saw_a_mask = True
        return self.dense(inputs)


def test_padding_masks_of_blocks_reach_the_memel_and_go_no_further():
    values = keras.Input((4, 3), name="values")
    mask = keras.Input((4,), name="padding_mask", dtype="int32")
    first, last = Padded(name="first"), Padded(name="last")
    hidden = first(values, padding_mask=mask)
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(last(hidden))
    model = keras.Model({"values": values, "padding_mask": mask}, pooled)
    data = {
        "values": np.random.default_rng(0).normal(size=(2, 4, 3)),
        "padding_mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0]]),
    }

    insert(model, ["first", "last", "last/dense", "pool"], MEmeL(axis=-1))
    outputs = model(data, training=True)

    counts = {k: set(numbers([m.count])[0]) for k, m in inserted(model).items()}
    assert counts == {
        "first": {4.0},
        "last": {4.0},  # counted with the mask of the model around it
        "last/dense": {4.0},
        "pool": {2.0},
    }
    assert not last.saw_a_mask
    np.testing.assert_allclose(
        ops.convert_to_numpy(outputs),
        ops.convert_to_numpy(model(data)),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    "policy",
    ["mixed_float16", "mixed_bfloat16", "float16"]
    + ["float64"] * (BACKEND != "jax"),  # JAX has it on request only
)
def test_values_keep_the_dtype_of_the_site(policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = sequential()
    finally:
        keras.config.set_dtype_policy(before)
    plain = model.predict(X, verbose=0)

    insert(model, "middle:3", MEmeL(late_start=1))

    assert same(model.predict(X, verbose=0), plain)
    host = model.get_layer("block_2")
    for training in (True, False):
        dtype = keras.backend.standardize_dtype(
            host(X, training=training).dtype
        )
        assert dtype == host.compute_dtype
    model.fit(X, Y, batch_size=8, verbose=0)
    for layer in inserted(model).values():
        dtypes = {weight.name: weight.dtype for weight in layer.weights}
        assert keras.backend.is_int_dtype(dtypes.pop("steps"))
        assert set(dtypes.values()) == {"float32"}
        assert np.isfinite(mean(layer)).all()
        assert float(layer.inhibited_rate) > 0


@pytest.mark.parametrize("mode", ["full", "activations"])
def test_rematerialized_hosts_count_every_step_once(mode):
    keras.utils.set_random_seed(0)
    with keras.RematScope(mode=mode):
        dense = keras.layers.Dense(8, activation="relu", name="inside")
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(2)(dense(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")

    with pytest.warns(UserWarning, match=r"off in .*\['inside'\]") as caught:
        insert(model, "inside", MEmeL(late_start=1))
    assert [one.filename for one in caught] == [__file__]
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)

    assert steps(model) == [4.0]
    strip(model)
    assert dense._remat_mode is not None
    assert "rematerialized_call" not in vars(dense)


class Parent(keras.layers.Layer):
    """A block around the host of a MEmeL."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return inputs + self.dense(inputs)


@pytest.mark.parametrize(
    "scope",
    [
        {"mode": "full"},
        {"mode": "list_of_layers", "layer_names": ["parent"]},
        {"mode": "larger_than", "output_size_threshold": 1},
    ],
    ids=lambda scope: scope["mode"],
)
def test_parents_of_hosts_are_not_rematerialized_either(scope):
    def train(scope):
        keras.utils.set_random_seed(0)
        # Made outside of the scope: on TensorFlow, Keras cannot trace a Dense
        # that is rematerialized, with or without a MEmeL.
        dense = keras.layers.Dense(8, activation="relu", name="dense")
        with scope:
            parent = Parent(dense, name="parent")
        inputs = keras.Input((8,))
        model = keras.Model(inputs, keras.layers.Dense(2)(parent(inputs)))
        model.compile("sgd", "mse")
        insert(model, "parent/dense", MEmeL(late_start=1))
        model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
        return model

    with pytest.warns(UserWarning, match=r"off in .*'parent'"):
        model = train(keras.RematScope(**scope))
    plain = train(contextlib.nullcontext())

    assert steps(model) == [4.0]
    for a, b in zip(numbers(model.weights), numbers(plain.weights)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    strip(model)
    parent = model.get_layer("parent")
    assert parent._remat_mode is not None
    assert "rematerialized_call" not in vars(parent)


@pytest.mark.parametrize("frozen", ["host", "model"])
def test_a_parent_that_is_frozen_afterwards_freezes_the_memel(frozen):
    model = insert(sequential(), "middle:3", MEmeL(late_start=0))
    parent = model if frozen == "model" else model.get_layer("block_2")
    parent.trainable = False
    model.compile("sgd", "mse")
    # A frozen model has no weight to train, and `fit` fails on JAX.
    model(X, training=True)

    assert steps(model) == ([0.0] * 3 if frozen == "model" else [1.0, 0.0, 1.0])


def test_a_parent_that_was_frozen_before_leaves_the_memel_active():
    model = sequential()
    model.get_layer("block_2").trainable = False
    insert(model, "block_2", MEmeL(late_start=0))
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)

    assert steps(model) == [1.0]
    assert not model.get_layer("block_2").trainable_weights


def test_lora_of_a_layer_and_insertion_mix_in_any_order():
    model = sequential()
    model.get_layer("block_1").enable_lora(2)
    insert(model, "block_[12]", MEmeL(late_start=0))
    model.get_layer("block_2").enable_lora(2)
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)

    assert steps(model) == [1.0, 1.0]
    assert len(strip(model).trainable_weights) == 2 * 5 + 2 + 2 * 2 - 2


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*have a `quantize` method")
@pytest.mark.parametrize("order", ["insert first", "quantize first"])
def test_int8_quantization_and_insertion_mix_in_any_order(order):
    keras.utils.set_random_seed(0)
    model, reference = sequential(), sequential()
    reference.set_weights(model.get_weights())
    reference.quantize("int8")
    if order == "insert first":
        insert(model, "middle:3", MEmeL(late_start=0))
        model.quantize("int8")
    else:
        model.quantize("int8")
        insert(model, "middle:3", MEmeL(late_start=0))

    assert {layer.dtype_policy.name for layer in model.layers} == {
        "int8_from_float32"
    }
    assert same(model.predict(X, verbose=0), reference.predict(X, verbose=0))
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert steps(model) == [1.0] * 3


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*have a `quantize` method")
@pytest.mark.parametrize("filters", [None, "block_[13]"])
def test_a_model_around_quantizes_the_hosts_too(filters):
    def around(inner):
        return keras.Sequential([keras.Input((8,)), inner], name="outer")

    model, plain = sequential(), sequential()
    plain.set_weights(model.get_weights())
    reference = around(plain)
    reference.quantize("int8", filters=filters)
    insert(model, "middle:3", MEmeL(late_start=0))
    outer = around(model)
    outer.quantize("int8", filters=filters)

    policies = [layer.dtype_policy.name for layer in plain.layers]
    assert [layer.dtype_policy.name for layer in model.layers] == policies
    assert "int8_from_float32" in policies
    assert same(outer.predict(X, verbose=0), reference.predict(X, verbose=0))
    outer.compile("sgd", "mse")
    outer.fit(X, Y, verbose=0)
    assert steps(model) == [1.0] * 3
    memels = list(inserted(model).values())
    strip(model)
    assert same(numbers(model.weights), numbers(outer.weights))
    # It also raised before `insert`.
    with pytest.raises(NotImplementedError):
        memels[0].quantize("int8")


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*have a `quantize` method")
def test_a_model_around_quantizes_the_parts_of_a_host_once():
    inner = sequential()
    model = keras.Sequential([keras.Input((8,)), inner])
    insert(model, inner, MEmeL(late_start=0))
    insert(inner, "block_1", MEmeL(late_start=0))
    outer = keras.Sequential([keras.Input((8,)), model])
    outer.quantize("int8")

    assert {layer.dtype_policy.name for layer in inner.layers} == {
        "int8_from_float32"
    }
    outer(X, training=True)
    assert steps(model) == [1.0] * 2


@pytest.mark.once
@pytest.mark.filterwarnings("ignore:.*have a `quantize` method")
def test_a_layer_of_a_quantized_subclassed_model_is_a_host():
    model = subclassed()
    model.quantize("int8")
    before = model.predict(X, verbose=0)
    insert(model, "head", MEmeL(late_start=0))
    assert same(model.predict(X, verbose=0), before)
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    assert steps(model) == [1.0]


def test_a_penalty_of_an_inserted_layer_is_part_of_the_loss():
    model = functional()
    layer = MEmeL(
        selection="threshold", inhibition="penalty", axis=-1, late_start=0
    )
    insert(model, "total", layer)
    model(X, training=True)
    model(10.0 * X, training=True)

    (loss,) = model.losses
    assert ops.convert_to_numpy(loss) != 0.0
    model(X)
    assert not model.losses
