"""Models to insert into, and what is compared of them."""

import keras
import numpy as np
from keras import ops

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted

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


def statistics(model):
    return [numbers(layer.weights) for layer in inserted(model).values()]


def compiled(model):
    """Compile with an optimizer that has state. TensorFlow traces it in half
    the time of Adam.
    """
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
    return model


def sequential():
    model = keras.Sequential(
        [keras.Input((8,))]
        + [
            keras.layers.Dense(8, activation="relu", name=f"block_{i}")
            for i in range(5)
        ]
        + [keras.layers.Dense(2, name="head")]
    )
    return compiled(model)


def functional():
    inputs = keras.Input((8,))
    first = keras.layers.Dense(8, activation="relu", name="first")(inputs)
    second = keras.layers.Dense(8, activation="relu", name="second")(first)
    total = keras.layers.Add(name="total")([first, second])
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(total))
    return compiled(model)


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
    return compiled(model)


def nested():
    inner = keras.Sequential(
        [keras.Input((8,)), sequential(), keras.layers.Dense(8, name="after")],
        name="inner",
    )
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inner(inputs)))
    return compiled(model)


@keras.saving.register_keras_serializable("memel_tests")
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

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


MODELS = {
    "sequential": (sequential, "middle:3"),
    "functional": (functional, ["first", "total"]),
    "subclassed": (subclassed, "middle:2"),
    "training_subclassed": (lambda: subclassed(TrainingBlocks), "middle:2"),
    "nested": (nested, "block_[13]"),
}


def trained(name, layer=None):
    keras.utils.set_random_seed(0)
    make, where = MODELS[name]
    model = insert(make(), where, layer or MEmeL(late_start=1))
    model.fit(X, Y, batch_size=8, verbose=0)
    return model
