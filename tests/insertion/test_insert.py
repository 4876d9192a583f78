"""find, insert and strip: what goes where, and that nothing else changes."""

import inspect

import keras
import numpy as np
import pytest
from keras import ops
from models import MODELS
from models import Blocks
from models import X
from models import Y
from models import functional
from models import mean
from models import nested
from models import numbers
from models import same
from models import sequential
from models import steps

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip
from keras_memel.insertion import paths
from keras_memel.paper import kdd2024
from keras_memel.paper import l2e


@pytest.fixture(params=MODELS)
def model_and_where(request):
    keras.utils.set_random_seed(0)
    make, where = MODELS[request.param]
    return make(), where


@pytest.mark.quick
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
    with pytest.raises(ValueError, match=r"length of this run, 5 .*'middle:6'"):
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


@pytest.mark.quick
def test_insertion_keeps_class_weights_and_inference(model_and_where):
    model, where = model_and_where
    kind, weights = type(model), numbers(model.weights)
    before = model.predict(X, verbose=0)

    assert insert(model, where, MEmeL(late_start=0)) is model

    assert type(model) is kind
    assert list(inserted(model)) == find(model, where)
    assert same(model.predict(X, verbose=0), before)
    # Eagerly it rounds otherwise.
    np.testing.assert_allclose(
        ops.convert_to_numpy(model(X)), before, rtol=1e-5, atol=1e-6
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


@pytest.mark.parametrize("training", [True, False])
def test_a_call_without_fit_decides_by_its_own_argument(
    model_and_where, training
):
    """This includes a model whose `call` does not accept `training`."""
    model, where = model_and_where
    insert(model, where, MEmeL(late_start=0))
    model(X, training=training)
    assert set(steps(model)) == {float(training)}


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
    for layer in [model, *(site.layer for site in paths.walk(model))]:
        assert not any("memel" in name for name in vars(layer))
        assert not {"call", "get_config", "save"} & set(vars(layer))


@pytest.mark.quick
def test_strip_leaves_every_layer_as_it_was(model_and_where):
    """Down to the last one, which holds a MEmeL as all others do."""
    model, _ = model_and_where
    layers = [model, *(site.layer for site in paths.walk(model))]
    before = [set(vars(layer)) for layer in layers]

    insert(model, lambda layer: hasattr(layer, "units"), MEmeL())
    assert set(vars(layers[-1])) > before[-1]
    strip(model)

    for layer, names in zip(layers, before, strict=True):
        assert set(vars(layer)) == names, layer.name


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


@pytest.mark.quick
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


def test_each_site_draws_of_its_own_from_one_seed():
    def seeds(model):
        return [m.selection.seed for m in inserted(model).values()]

    def drawn(memel):
        x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
        memel(x, training=True)
        return ops.convert_to_numpy(memel(x, training=True)) != x

    template = MEmeL(Random(0.5, seed=1), late_start=1)
    model = insert(sequential(), "middle:3", template)
    # The first site has the seed of the template, as a single site does.
    assert seeds(model)[0] == template.selection.seed == 1
    assert len(set(seeds(model))) == 3
    masks = [drawn(memel) for memel in inserted(model).values()]
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        assert 0.25 < (masks[first] != masks[second]).mean() < 0.75
    again = insert(sequential(), "middle:3", template)
    assert seeds(again) == seeds(model)
    for memel, mask in zip(inserted(again).values(), masks):
        np.testing.assert_array_equal(drawn(memel), mask)
    other = insert(sequential(), "middle:3", MEmeL(Random(0.5, seed=2)))
    assert not set(seeds(other)) & set(seeds(model))
    free = insert(sequential(), "middle:3", MEmeL(Random(0.5)))
    assert seeds(free) == [None] * 3


def test_a_second_insertion_at_a_site_raises_and_elsewhere_adds():
    model = insert(sequential(), "block_1", MEmeL())

    with pytest.raises(ValueError, match=r"already holds .*strip\(model\)"):
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
    with pytest.raises(
        ValueError, match=r"Argument `where`.*'spare', which is never"
    ):
        insert(model, "spare", MEmeL())


class Declared(keras.layers.Layer):
    """A layer that needs values, and declares what it returns."""

    def call(self, inputs):
        return inputs + float(ops.convert_to_numpy(inputs).max())

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


@pytest.mark.skipif(
    keras.config.backend() == "tensorflow", reason="needs eager calls"
)
def test_a_layer_that_cannot_run_on_symbols_is_taken_at_its_word():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, Declared(name="declared")(inputs))
    insert(model, "declared", MEmeL())
    model(X, training=True)
    np.testing.assert_allclose(
        mean(inserted(model)["declared"]), X.mean(0) + X.max(), rtol=1e-5
    )


class Caching(keras.layers.Layer):
    """A layer that returns more in another use, as in text generation."""

    def call(self, inputs, cache=None):
        return inputs if cache is None else (2.0 * inputs, cache)


@pytest.mark.parametrize(("cache", "factor"), [(None, 1.0), (X, 2.0)])
def test_the_only_output_is_the_first_where_there_are_more(cache, factor):
    model = keras.Sequential([keras.Input((8,)), Caching(name="caching")])
    insert(model, "caching", MEmeL(late_start=0))
    model.get_layer("caching")(X, cache=cache, training=True)
    (memel,) = inserted(model).values()
    np.testing.assert_allclose(mean(memel), factor * X.mean(0), atol=1e-6)


class Beside(keras.Model):
    """A model whose layer returns something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.part = Caching(name="part")

    def call(self, inputs):
        return self.part(inputs, cache="none")[0]

    def build(self, input_shape):
        self.part.build(input_shape)


def test_an_output_beside_values_need_not_be_a_tensor():
    model = Beside()
    model.build((None, 8))
    insert(model, "part", MEmeL(), output=0)
    model(X, training=True)
    assert steps(model) == [1.0]


class Two(keras.Model):
    """A model of two arguments, one of them whole numbers."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(4, name="dense")
        self.inner = Inner(self.dense, name="inner")

    def build(self, values_shape, numbers_shape):
        self.dense.build(values_shape)

    def call(self, values, numbers):
        return ops.take(self.inner(values), numbers[0], axis=1)


class Inner(keras.layers.Layer):
    """A layer around another one."""

    def __init__(self, layer, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def call(self, inputs):
        return 2.0 * self.layer(inputs)


def test_a_model_of_two_arguments_and_a_host_in_another():
    model = Two()
    whole = np.array([[0, 2]] * 16)
    model(X, whole)
    insert(model, "dense", MEmeL(late_start=0))
    insert(model, "inner", MEmeL(late_start=0))
    model(X, whole, training=True)
    assert steps(model) == [1.0, 1.0]
    first, second = inserted(model).values()
    means = sorted([mean(first), mean(second)], key=lambda m: abs(m).max())
    np.testing.assert_allclose(2.0 * means[0], means[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(means[0], 0.0)


class Looked(keras.Model):
    """A model that takes indices, and no other numbers."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, name="dense")

    def build(self, shape):
        self.dense.build((None, 2, 8))

    def call(self, inputs):
        table = ops.reshape(ops.arange(80, dtype="float32"), (10, 8))
        return self.dense(ops.take(table, ops.bitwise_and(inputs, 7), axis=0))


def test_inputs_may_be_whole_numbers():
    model = Looked()
    model(np.array([[1, 2]]))
    insert(model, "dense", MEmeL())
    assert tuple(inserted(model)["dense"].moving_mean.shape) == (2, 3)


class Unknowable(keras.Model):
    """A model whose call needs values."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        raise RuntimeError("needs values")


def test_a_model_that_cannot_be_traced_is_refused():
    model = Unknowable()
    model.build((None, 8))
    with pytest.raises(
        ValueError, match=r"(?s)Argument `model`.*Unknowable.*needs values"
    ):
        insert(model, "dense", MEmeL())


def test_outputs_of_several_ranks_are_refused():
    shared = keras.layers.Dense(8, name="shared")
    inputs = [keras.Input((8,)), keras.Input((4, 8))]
    model = keras.Model(inputs, [shared(one) for one in inputs])
    with pytest.raises(ValueError, match=r"Argument `where`.*'shared', which"):
        insert(model, "shared", MEmeL(axis=-1))


def test_an_example_is_for_modules_of_pytorch():
    with pytest.raises(ValueError, match=r"Argument `example`.*Functional"):
        insert(functional(), "first", MEmeL(), example=X)


def test_a_predicate_that_fits_nothing_lists_all_paths():
    with pytest.raises(ValueError, match="'first', 'second', 'total', 'head'"):
        find(functional(), lambda layer: False)


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
    x = X.repeat(2, axis=1)[:, :15].reshape(16, 5, 3)
    model.fit(x, X[:, :4], verbose=0)
    assert steps(model) == [1.0]


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


def test_another_hand_on_call_stops_strip():
    model = insert(functional(), "first", MEmeL())
    layer = model.get_layer("first")
    call = layer.call
    vars(layer)["call"] = lambda *args, **kwargs: call(*args, **kwargs)

    with pytest.raises(RuntimeError, match=r"`call` of 'first'"):
        strip(model)
