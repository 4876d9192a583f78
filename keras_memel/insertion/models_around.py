"""Find the models that contain a layer, and renew them after an insertion.

A Keras layer does not know its parents, and any number of models may share it.
Each model that contains the layer may have compiled its call, may list its
variables (on PyTorch) and may be saved. The garbage collector of Python lists
all live objects, and the models are found among these.
"""

import gc
import itertools
from collections.abc import Iterable
from collections.abc import Iterator

import keras

# Functions that `fit`, `evaluate`, `predict` and `generate` compile and keep.
_FUNCTIONS = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
)


def models_around(layers: Iterable[keras.Layer]) -> list[keras.Model]:
    """Return all live models that contain one of some layers at any depth.

    Objects that `gc.freeze()` has excluded from garbage collection are not
    found.
    """
    wanted = {id(layer) for layer in layers}
    kinds = set(_subclasses(keras.Model))
    objects = gc.get_objects()
    # `isinstance` would run code of lazy proxies, so compare the types. A loop
    # in Python would be slow: a backend alone creates a million objects.
    of_kind = map(kinds.__contains__, map(type, objects))
    models = [
        model
        for model in itertools.compress(objects, of_kind)
        # The constructor of a model may not have run yet.
        if "_layers" in vars(model)
    ]
    # A Sequential keeps a graph of its layers, which users do not save or fit.
    hidden = {id(getattr(model, "_functional", None)) for model in models}
    return [
        model
        for model in models
        if id(model) not in hidden
        and any(id(part) in wanted for part in model._flatten_layers())
    ]


def containing(
    model: keras.Layer, layers: Iterable[keras.Layer]
) -> list[keras.Layer]:
    """Return the layers of a model that are or contain one of some layers.

    The model itself is included.
    """
    wanted = {id(layer) for layer in layers}
    found: dict[int, bool] = {}
    result: list[keras.Layer] = []

    def visit(layer: keras.Layer) -> bool:
        if id(layer) not in found:
            found[id(layer)] = id(layer) in wanted
            parts = layer._flatten_layers(include_self=False, recursive=False)
            inside = [visit(part) for part in parts]
            found[id(layer)] |= any(inside)
            if found[id(layer)]:
                result.append(layer)
        return found[id(layer)]

    visit(model)
    return result


def forget_compiled(models: Iterable[keras.Layer]) -> None:
    """Drop the compiled functions of models, which contain the old calls."""
    for model in models:
        for layer in model._flatten_layers():
            for name in _FUNCTIONS:
                if getattr(layer, name, None) is not None:
                    setattr(layer, name, None)


def _subclasses(kind: type) -> Iterator[type]:
    yield kind
    below: type
    for below in type.__subclasses__(kind):
        yield from _subclasses(below)
