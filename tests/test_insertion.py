"""find, insert and strip: what goes where, and that nothing else changes."""

import inspect
import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_memel import MEmeL
from keras_memel import sites
from keras_memel.insertion import find
from keras_memel.insertion import insert
from keras_memel.insertion import inserted
from keras_memel.insertion import strip
from keras_memel.paper import kdd2024
from keras_memel.paper import l2e

# What Keras' own `numpy()` of variables warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

BACKEND = keras.config.backend()
RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 8)).astype("float32")
Y = RNG.normal(size=(16, 2)).astype("float32")


def numbers(weights):
    return [np.array(ops.convert_to_numpy(weight.value)) for weight in weights]


def same(first, second):
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second))
    return all(np.array_equal(a, b) for a, b in pairs)


def steps(model):
    layers = inserted(model).values()
    return [float(numbers([layer.steps])[0]) for layer in layers]


def mean(layer):
    return np.array(ops.convert_to_numpy(layer.moving_mean.value))


def sequential():
    model = keras.Sequential(
        [keras.Input((8,))]
        + [
            keras.layers.Dense(8, activation="relu", name=f"block_{i}")
            for i in range(5)
        ]
        + [keras.layers.Dense(2, name="head")]
    )
    model.compile("adam", "mse")
    return model


def functional():
    inputs = keras.Input((8,))
    first = keras.layers.Dense(8, activation="relu", name="first")(inputs)
    second = keras.layers.Dense(8, activation="relu", name="second")(first)
    total = keras.layers.Add(name="total")([first, second])
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(total))
    model.compile("adam", "mse")
    return model


@keras.saving.register_keras_serializable("memel_tests")
class Blocks(keras.Model):
    """A list of blocks; `call` does not know of `training`."""

    def __init__(self, depth=4, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
        self.blocks = [keras.layers.Dense(8) for _ in range(depth)]
        self.head = keras.layers.Dense(2, name="head")

    def build(self, input_shape):
        for block in self.blocks:
            block.build(input_shape)
        self.head.build((None, 8))

    def call(self, inputs):
        for block in self.blocks:
            inputs = block(inputs)
        return self.head(inputs)

    def get_config(self):
        return {**super().get_config(), "depth": self.depth}


@keras.saving.register_keras_serializable("memel_tests")
class TrainingBlocks(Blocks):
    """The same; `call` takes `training` and does not hand it down."""

    def call(self, inputs, training=None):
        return Blocks.call(self, inputs)


def subclassed(kind=Blocks):
    model = kind()
    model.build((None, 8))
    model.compile("adam", "mse")
    return model


def nested():
    inner = keras.Sequential(
        [keras.Input((8,)), sequential(), keras.layers.Dense(8, name="after")],
        name="inner",
    )
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    model.compile("adam", "mse")
    return model


MODELS = {
    "sequential": (sequential, "middle:3"),
    "functional": (functional, ["first", "total"]),
    "subclassed": (subclassed, "middle:2"),
    "training_subclassed": (lambda: subclassed(TrainingBlocks), "middle:2"),
    "nested": (nested, "block_[13]"),
}


@pytest.fixture(params=MODELS)
def model_and_where(request):
    keras.utils.set_random_seed(0)
    make, where = MODELS[request.param]
    return make(), where


def test_find_names_layers_by_the_end_of_their_path():
    model = nested()
    blocks = [f"inner/sequential/block_{i}" for i in range(5)]
    model.get_layer("inner").layers[0].name = "sequential"

    assert find(model, "block_*") == blocks
    assert find(model, "block_[!024]") == [blocks[1], blocks[3]]
    assert find(model, "sequential/block_?") == blocks
    assert find(model, "inner/**/after") == ["inner/after"]
    assert find(model, "/inner/*") == ["inner/sequential", "inner/after"]
    assert find(model, blocks[2]) == [blocks[2]]
    assert find(model, [blocks[2], "block_0"]) == [blocks[0], blocks[2]]
    assert set(blocks) < set(find(model))
    with pytest.raises(ValueError, match="at least one"):
        find(model, "/block_0")


def test_find_takes_layers_and_predicates():
    model = functional()

    assert find(model, model.get_layer("total")) == ["total"]
    assert find(model, lambda layer: getattr(layer, "units", None) == 8) == [
        "first",
        "second",
    ]


@pytest.mark.parametrize("where", [None, 3, [], ""])
def test_find_wants_something_to_find(where):
    with pytest.raises(ValueError, match="Received: where="):
        find(functional(), where)


def test_a_wrong_pattern_lists_the_nearest_paths():
    with pytest.raises(ValueError, match=r"block_\d.*Received: where='blok_1'"):
        insert(sequential(), "blok_1", MEmeL())


def test_middle_is_that_of_the_longest_run_of_equal_layers():
    def model(*units):
        layers = [keras.layers.Dense(n, name=f"d{i}") for i, n in units]
        return keras.Sequential([keras.Input((8,)), *layers])

    runs = model(*enumerate([8, 8, 4, 4, 4, 4, 4, 4, 2]))
    # d2 takes 8 values, and so differs from d3 to d7, which take 4
    assert find(runs, "middle:3") == ["d4", "d5", "d6"]
    assert find(runs, "middle:5") == ["d3", "d4", "d5", "d6", "d7"]
    with pytest.raises(ValueError, match=r"length is 5.*'middle:6'"):
        find(runs, "middle:6")
    with pytest.raises(ValueError, match="'middle:0'"):
        find(runs, "middle:0")


def test_middle_four_of_twelve_are_the_papers_blocks_4_to_7():
    model = keras.Sequential(
        [keras.Input((2,))]
        + [keras.layers.Dense(2, name=f"block_{i}") for i in range(12)]
    )
    assert find(model, "middle:4") == [f"block_{i}" for i in (4, 5, 6, 7)]


def test_middle_looks_over_layers_without_weights():
    inputs = x = keras.Input((8,))
    for i in range(4):
        y = keras.layers.Dense(8, name=f"block_{i}")(x)
        x = keras.layers.Add()([x, keras.layers.Dropout(0.1)(y)])
    model = keras.Model(inputs, keras.layers.Dense(1)(x))

    assert find(model, "middle:2") == ["block_1", "block_2"]


def test_siblings_of_one_name_have_paths_of_their_own():
    model = Blocks()
    model.blocks = [keras.layers.Dense(8, name="same") for _ in range(3)]
    model.build((None, 8))

    assert find(model, "same*") == ["same", "same~1", "same~2"]
    insert(model, "same~1", MEmeL())
    assert list(inserted(model)) == ["same~1"]


def test_insertion_keeps_class_weights_and_inference(model_and_where):
    model, where = model_and_where
    kind, weights = type(model), numbers(model.weights)
    before = model.predict(X, verbose=0)

    assert insert(model, where, MEmeL(late_start=0)) is model

    assert type(model) is kind
    assert list(inserted(model)) == find(model, where)
    assert same(model.predict(X, verbose=0), before)
    assert same(ops.convert_to_numpy(model(X)), before) or np.allclose(
        ops.convert_to_numpy(model(X)), before, atol=1e-6
    )
    strip(model)
    assert same(numbers(model.weights), weights)
    assert inserted(model) == {}
    assert same(model.predict(X, verbose=0), before)


def test_inserted_layers_learn_in_fit_and_only_there(model_and_where):
    model, where = model_and_where
    model.fit(X, Y, batch_size=8, verbose=0)  # compiled functions exist

    insert(model, where, MEmeL(late_start=1))
    model.fit(X, Y, batch_size=8, verbose=0)

    assert set(steps(model)) == {2.0}
    for layer in inserted(model).values():
        assert float(layer.inhibited_rate) == pytest.approx(1 / 8)
    model.evaluate(X, Y, verbose=0)
    model.predict(X, verbose=0)
    model.test_on_batch(X, Y)
    assert set(steps(model)) == {2.0}
    model.train_on_batch(X, Y)
    assert set(steps(model)) == {3.0}


def test_strip_after_fit_leaves_the_trained_plain_model(model_and_where):
    model, where = model_and_where
    insert(model, where, MEmeL(late_start=1))
    model.fit(X, Y, verbose=0)
    before = model.predict(X, verbose=0)
    number = len(model.weights)
    kept = sum(len(m.weights) for m in inserted(model).values())

    assert strip(model) is model

    assert len(model.weights) == number - kept
    assert same(model.predict(X, verbose=0), before)
    model.fit(X, Y, verbose=0)
    for layer in [model, *(site.layer for site in sites.walk(model))]:
        assert not any("memel" in name for name in vars(layer))
        assert not {"call", "get_config", "save"} & set(vars(layer))


def test_training_differs_from_plain_only_once_inhibition_starts():
    def train(late_start):
        keras.utils.set_random_seed(1)
        model = sequential()
        if late_start is not None:
            insert(model, "middle:3", MEmeL(late_start=late_start))
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0)
        return numbers(model.trainable_weights)

    plain = train(None)
    for a, b in zip(plain, train(100)):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert not all(np.allclose(a, b) for a, b in zip(plain, train(1)))


def test_statistics_are_those_of_the_values_at_the_site():
    model = functional()
    insert(model, "first", MEmeL(late_start=100))

    model(X, training=True)

    layer = inserted(model)["first"]
    kernel, bias = numbers(model.get_layer("first").weights[:2])
    values = np.maximum(X @ kernel + bias, 0)
    np.testing.assert_allclose(mean(layer), values.mean(0), atol=1e-6)
    np.testing.assert_allclose(
        numbers([layer.moving_variance])[0], values.var(0, ddof=1), atol=1e-6
    )


def test_each_site_has_a_fresh_copy_and_the_template_stays_unused():
    template = MEmeL(selection="rate", late_start=3, name="mine")
    model = insert(sequential(), "middle:3", template)

    copies = list(inserted(model).values())
    assert not template.built
    assert len({id(copy) for copy in copies}) == 3
    assert [c.name for c in copies] == [f"mine_block_{i}" for i in (1, 2, 3)]
    assert all(copy.built and copy.late_start == 3 for copy in copies)
    assert len({weight.path for copy in copies for weight in copy.weights}) == (
        sum(len(copy.weights) for copy in copies)
    )


def test_a_second_insertion_at_a_site_raises_and_elsewhere_adds():
    model = insert(sequential(), "block_1", MEmeL())

    with pytest.raises(ValueError, match=r"'block_1' holds .*strip\(model\)"):
        insert(model, "block_*", MEmeL())
    assert list(inserted(model)) == ["block_1"]
    insert(model, "block_3", MEmeL())
    assert list(inserted(model)) == ["block_1", "block_3"]
    assert find(model, "middle:4") == find(sequential(), "middle:4")


def test_a_failing_insertion_leaves_the_model_as_it_was():
    inputs = keras.Input((None, 8))
    hidden = keras.layers.Dense(4, name="fixed")(
        keras.layers.GlobalAveragePooling1D()(
            keras.layers.Dense(8, name="varying")(inputs)
        )
    )
    model = keras.Model(inputs, hidden)

    with pytest.raises(ValueError, match=r"after 'varying'.*axis=-1"):
        insert(model, ["fixed", "varying"], MEmeL())

    assert inserted(model) == {}
    assert not any("memel" in name for name in vars(model))
    insert(model, ["fixed", "varying"], MEmeL(axis=-1))
    assert len(inserted(model)) == 2


def test_only_memels_go_into_built_models():
    with pytest.raises(ValueError, match=r"must be a MEmeL.*Dropout"):
        insert(functional(), "first", keras.layers.Dropout(0.1))
    with pytest.raises(ValueError, match="must be a built Keras model"):
        insert(Blocks(), "blocks", MEmeL())


def test_a_layer_that_is_never_called_is_refused():
    model = Blocks()
    model.spare = keras.layers.Dense(3, name="spare")
    model.spare.build((None, 8))
    model.build((None, 8))
    with pytest.raises(ValueError, match="'spare' is never called"):
        insert(model, "spare", MEmeL())


def test_integer_outputs_are_refused():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Lambda(lambda x: ops.cast(x, "int32"), name="whole"),
            keras.layers.Lambda(lambda x: ops.cast(x, "float32")),
        ]
    )
    with pytest.raises(ValueError, match="floating-point"):
        insert(model, "whole", MEmeL())


def test_cells_of_recurrent_layers_are_no_sites():
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.GRU(4)])

    assert find(model) == [model.layers[0].name]
    insert(model, "gru*", MEmeL(late_start=0))
    model.compile("sgd", "mse")
    model.fit(
        X[:, :15].repeat(2, 1)[:, :15].reshape(16, 5, 3), X[:, :4], verbose=0
    )
    assert steps(model) == [1.0]


class Several(keras.layers.Layer):
    """A layer with two outputs."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def call(self, inputs):
        doubled = 2.0 * inputs
        if self.kind == "tuple":
            return inputs, doubled
        return {"plain": inputs, "doubled": doubled}


@pytest.mark.parametrize(
    ("kind", "output", "wrong"), [("tuple", 1, 2), ("dict", "doubled", "none")]
)
def test_one_of_several_outputs_is_chosen(kind, output, wrong):
    inputs = keras.Input((8,))
    model = keras.Model(inputs, Several(kind, name="several")(inputs))

    for bad in (None, wrong):
        with pytest.raises(ValueError, match=rf"output={bad!r}"):
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


def test_keras_masks_reach_the_memel_in_a_compiled_step():
    # On JAX, masks of traced arrays are not attributes of theirs.
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
        "values": RNG.normal(size=(2, 4, 3)).astype("float32"),
        "padding_mask": np.array([[1, 1, 1, 0], [1, 0, 0, 0]]),
    }

    insert(model, ["first", "last", "last/dense", "pool"], MEmeL(axis=-1))
    outputs = model(data, training=True)

    counts = {k: set(numbers([m.count])[0]) for k, m in inserted(model).items()}
    assert counts == {
        "first": {4.0},
        "last": {4.0},  # by the mask of the model around it
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
        assert {weight.dtype for weight in layer.weights} == {"float32"}
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

    with pytest.warns(UserWarning, match=r"off in .*\['inside'\]"):
        insert(model, "inside", MEmeL(late_start=1))
    model.fit(X, Y, batch_size=8, epochs=2, verbose=0)

    assert steps(model) == [4.0]
    strip(model)
    assert dense._remat_mode is not None
    assert "rematerialized_call" not in vars(dense)


def test_a_parent_that_is_frozen_afterwards_freezes_the_memel():
    model = insert(sequential(), "middle:3", MEmeL(late_start=0))
    model.get_layer("block_2").trainable = False
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)

    assert steps(model) == [1.0, 0.0, 1.0]


def test_a_parent_that_was_frozen_before_leaves_the_memel_active():
    model = sequential()
    model.get_layer("block_2").trainable = False
    insert(model, "block_2", MEmeL(late_start=0))
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)

    assert steps(model) == [1.0]
    assert not model.get_layer("block_2").trainable_weights


def test_lora_of_a_layer_and_insertion_mix_in_any_order():
    model = sequential()
    model.get_layer("block_1").enable_lora(2)
    insert(model, "block_[12]", MEmeL(late_start=0))
    model.get_layer("block_2").enable_lora(2)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)

    assert steps(model) == [1.0, 1.0]
    assert len(strip(model).trainable_weights) == 2 * 5 + 2 + 2 * 2 - 2


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


@pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")
def test_insertion_joins_the_strategy_of_the_model():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = sequential()
    insert(model, "middle:3", MEmeL(late_start=0))  # outside of the scope
    model.fit(X, Y, batch_size=8, verbose=0)

    assert steps(model) == [2.0] * 3


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone")
def test_insertion_into_a_distributed_model():
    before = keras.distribution.distribution()
    devices = keras.distribution.list_devices("cpu")[:1]
    keras.distribution.set_distribution(
        keras.distribution.DataParallel(devices=devices)
    )
    try:
        model = insert(sequential(), "middle:3", MEmeL(late_start=0))
        model.fit(X, Y, batch_size=8, verbose=0)
    finally:
        keras.distribution.set_distribution(before)

    assert steps(model) == [2.0] * 3


def test_the_papers_presets_are_plain_arguments():
    default, paper = MEmeL().get_config(), MEmeL(**kdd2024).get_config()
    assert {**default, "name": ""} == {**paper, "name": ""}
    parameters = inspect.signature(MEmeL).parameters
    assert set(kdd2024) | set(l2e) <= set(parameters)
    config = MEmeL(**l2e).get_config()
    assert config["axis"] == -1
    assert config["selection"]["config"]["rate"] == 0.02
    assert config["inhibition"]["class_name"] == "LogPenalty"


def test_the_signature_of_call_stays():
    model = functional()
    before = inspect.signature(model.call)
    insert(model, "first", MEmeL())

    assert inspect.signature(model.call) == before
    assert re.search("call", repr(model.call))


def test_another_hand_on_call_stops_strip():
    model = insert(functional(), "first", MEmeL())
    layer = model.get_layer("first")
    call = layer.call
    vars(layer)["call"] = lambda *args, **kwargs: call(*args, **kwargs)

    with pytest.raises(RuntimeError, match=r"`call` of 'first'"):
        strip(model)
