"""The models around a layer: those that must learn of an insertion in it.

A Keras layer does not know its parents, and any number of models may share it.
Every model that contains the layer may have compiled its call, lists its
variables (on PyTorch), and is what a user saves. Python's garbage collector
knows all live objects, so the models are found among those.
"""

import gc
import itertools
from collections.abc import Iterable
from collections.abc import Iterator

import keras

# What `fit`, `evaluate`, `predict` and `generate` compile, and keep.
_FUNCTIONS = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
)


def models_around(layers: Iterable[keras.Layer]) -> list[keras.Model]:
    """All live models that contain one of some layers, at any depth.

    Objects that were taken out of garbage collection, by `gc.freeze()`, are
    not found.
    """
    wanted = {id(layer) for layer in layers}
    kinds = set(_subclasses(keras.Model))
    objects = gc.get_objects()
    # By type and not by `isinstance`, which would run code of lazy proxies; and
    # without a loop in Python, since a backend alone has a million objects.
    of_kind = map(kinds.__contains__, map(type, objects))
    models = [
        model
        for model in itertools.compress(objects, of_kind)
        # The constructor of one that is being made may not have run.
        if "_layers" in vars(model)
    ]
    # A Sequential keeps a graph of its own layers, which nobody saves or fits.
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
    """The layers of a model, itself included, that are or hold some layers."""
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
    """Drop the compiled functions, which hold the calls as they were."""
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
