"""MEmeL in models that exist: find, insert, inserted, strip.

How a MEmeL is attached to a layer, and saved with it, is in `attach/`.
"""

import re
import warnings
from typing import Any
from typing import TypeVar

import keras

from keras_memel import native
from keras_memel.core import seeds
from keras_memel.insertion import attach
from keras_memel.insertion import models_around
from keras_memel.insertion import output_specs
from keras_memel.insertion import paths
from keras_memel.insertion import patterns
from keras_memel.insertion.forward import Output
from keras_memel.insertion.forward import insertion_of
from keras_memel.insertion.paths import Site
from keras_memel.insertion.paths import Where
from keras_memel.layers.memel import MEmeL

Model = TypeVar("Model", bound=Any)

# The names that Keras or a MEmeL without a name gives: `memel`, `memel_1`, ...
_DEFAULT_NAME = re.compile(r"memel(_\d+)?")


def find(model: Any, where: Where = "**") -> list[str]:
    """The paths of the layers that `where` names: where a MEmeL can go.

    Args:
        model: A model or layer, with or without inserted layers; or a module
            of PyTorch or Flax NNX, whose paths are its dotted names.
        where: One of
            - a pattern of paths, whose last names it must fit:
              `"transformer_layer_*"`, `"stage_2/*/mlp"`. `*`, `?` and `[...]`
              stay within a name, `**` is any number of names, and a pattern
              that starts with "/" must fit from the model down;
            - `"middle:N"`, the N middle ones of the longest run of equal
              layers, which are siblings of one class with weights of the
              same shapes: 4 for the paper's BERT and Swin, 2 for L2E;
            - a layer of the model, or a predicate that takes a layer;
            - a list of these.

    Returns:
        Paths, in the order of the model: names of layers from the model down,
        joined by "/". A whole path names exactly its layer, before it is read
        as a pattern: `*`, `?`, `[...]` and `middle:N` in the name of a layer
        do no harm. `"**/dense"` names all layers of a name at any depth.

    Raises:
        ValueError: If `where` names no layer; the message lists the nearest
            paths.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,))]
    ...     + [keras.layers.Dense(4, name=f"block_{i}") for i in range(4)]
    ...     + [keras.layers.Dense(1, name="head")]
    ... )
    >>> find(model, "block_[01]")
    ['block_0', 'block_1']
    >>> find(model, "middle:2")
    ['block_1', 'block_2']
    """
    if (other := native.verbs(model)) is not None:
        found: list[str] = other.find(model, where)
        return found
    return [site.path for site in patterns.select(model, where)]


def insert(
    model: Model,
    where: Where,
    layer: MEmeL,
    output: Output = None,
    example: Any = None,
) -> Model:
    """Puts a copy of a MEmeL after each of some layers, in place.

    The model keeps its class, weights and methods. If it was compiled, its
    next `fit` uses the layers; no new compilation is needed. Do not call
    `insert` from a callback: a running `fit` keeps its compiled train step.

    Parts and wholes: `model` may be a part of other models, or share layers
    with them. All Keras models that contain one of the layers use the MEmeL
    from then on, and compile their next step anew. Functions that you compiled
    yourself (`tf.function`, `jax.jit`, `torch.compile`) keep what they traced:
    make them anew. The same holds for models that `gc.freeze()` has hidden.

    Masks: the mask that the next layer would get reaches the MEmeL; where
    Keras masks are not in use, as in the backbones of keras_hub, the
    `padding_mask` of the layer or of the model around it does. A MEmeL passes
    no mask on that was not there without it.

    Length: `axis=None` makes neurons of the positions in a text, and needs
    their number. Of a keras_hub model it is the `sequence_length` of its
    preprocessor, which pads every text to it; without one, pass `axis=-1`.

    Saving: `model.save("m.keras")` keeps the layers and their statistics, and
    `keras.saving.load_model` brings them back, after `import keras_memel`.
    Weights files hold the statistics too; a plain model loads them without.
    Those of a plain model are loaded before `insert`, or with
    `skip_mismatch=True`. `get_config` and `keras.models.clone_model` would lose
    the layers and raise instead; `save_to_preset` writes the plain model and
    warns.

    `export`, `quantize` and `enable_lora` work on the plain model, in any
    order with `insert`, and give it back with the layers (which therefore
    stay trainable). Exported files hold no trace of them, except with
    `at_inference=True`, when they are part of what the model computes.
    `quantize` may be that of a model around it too; its `filters` then meet
    the name of a MEmeL in the place of its host's.

    Setting `trainable` of the model or of a layer around a MEmeL later on
    sets it for the MEmeL as well.

    Rematerialization (`keras.RematScope`) would run a MEmeL twice; it is
    switched off, with a warning, for layers that hold one.

    Args:
        model: A built model, or a layer of one; or a module of PyTorch or Flax
            NNX, for which see the page "Models that are not Keras models".
        where: Where to, as in `find`.
        layer: What to insert. It is not used itself: each site gets a fresh
            copy from its config, built at once, which leaves the dtype of the
            values as it is. Its name is `memel_<host>`, or `<name>_<host>` for
            a layer to which you gave a name. The copies share its inhibition
            and its selection; one with a `seed`, as `Random` may have, gets
            another at each site but the first, derived from the seed and the
            number of the site.
        output: Which output, if a layer has several: an index or a key.
        example: For a module of PyTorch or Flax NNX only: a batch of its
            inputs (a mapping of arguments, a tuple, or a tensor), from which
            the statistics get their sizes at once. `None`, for PyTorch only:
            from the first training step.

    Returns:
        The model.

    Raises:
        ValueError: If `layer` is no MEmeL; if `where` names no layer, or one
            that holds an inserted MEmeL already (`strip` the model first); if
            the model is not built, or a layer is never called in it; if the
            output cannot be chosen, is not floating-point, or does not suit
            the MEmeL. Nothing is inserted then.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,))]
    ...     + [keras.layers.Dense(4, name=f"block_{i}") for i in range(4)]
    ... )
    >>> model = insert(model, "middle:2", MEmeL(late_start=100))
    >>> list(inserted(model))
    ['block_1', 'block_2']
    """
    if (other := native.verbs(model)) is not None:
        other.insert(model, where, layer, output, example)
        return model
    if example is not None:
        raise ValueError(
            "Argument `example` is for PyTorch and Flax modules: a Keras model "
            "knows its shapes. "
            f"Received: a model of type {type(model).__name__}"
        )
    if not isinstance(layer, MEmeL):
        raise ValueError(
            "Argument `layer` must be a MEmeL. "
            f"Received: layer={layer!r} ({type(layer).__name__})"
        )
    if not (isinstance(model, keras.Layer) and model.built):
        raise ValueError(
            "Argument `model` must be a built Keras model: call it on some "
            "data, or build it, before. "
            f"Received: model={model!r}"
        )
    found = patterns.select(model, where)
    for site in found:
        if insertion_of(site.layer) is not None:
            raise ValueError(
                f"Layer {site.path!r} holds an inserted MEmeL already. Call "
                "`keras_memel.strip(model)` first, or name other layers. "
                f"Received: where={where!r}"
            )
    attach.check_hosts(found)
    specs = output_specs.specs(model, found, output)
    names = _names(model, layer, found)
    # All copies first: if one of them fails, nothing has been inserted.
    copies = [
        _copy(model, layer, site, spec, name, number)
        for number, (site, spec, name) in enumerate(zip(found, specs, names))
    ]
    around = models_around.models_around([site.layer for site in found])
    for site, made in zip(found, copies):
        attach.attach(site, made, output)
    attach.hook_around(found, around)
    _warn_of_remat(found)
    models_around.forget_compiled([model, *around])
    return model


def strip(model: Model) -> Model:
    """Takes all inserted MEmeLs out of a model, in place.

    Nothing else changes: weights stay, and the outputs at inference are those
    from before `insert`, bit by bit. Layers that the model itself contains,
    such as those of `model.add(MEmeL())`, stay. The statistics are lost; keep
    `inserted(model)` if you want them.

    `model` may be a part of other models, or share layers with them: those
    are without the MEmeLs too from then on, as `insert` says.

    Args:
        model: A model or layer, with or without inserted layers.

    Returns:
        The model.

    Raises:
        RuntimeError: If something else has wrapped the calls of its layers
            meanwhile.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = strip(insert(model, "dense*", MEmeL()))
    >>> inserted(model)
    {}
    """
    if (other := native.verbs(model)) is not None:
        other.strip(model)
        return model
    held = attach.detach(model)
    around = models_around.models_around([site.layer for site, _ in held])
    models_around.forget_compiled([model, *around])
    return model


def inserted(model: Any) -> dict[str, Any]:
    """The inserted MEmeLs of a model, by the path of the layer before each.

    Args:
        model: A model or layer.

    Returns:
        From path (as in `find`) to layer, in the order of the model. In a
        callback on JAX, read their weights by `inserted(self.model)`.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> (memel,) = inserted(insert(model, "dense*", MEmeL())).values()
    >>> tuple(memel.moving_mean.shape)
    (2,)
    """
    if (other := native.verbs(model)) is not None:
        held_there: dict[str, Any] = other.inserted(model)
        return held_there
    return {site.path: held.memel for site, held in attach.insertions(model)}


def _names(model: keras.Layer, layer: MEmeL, found: list[Site]) -> list[str]:
    """The names of the copies at some sites: of the host, and unique.

    Of several hosts of one name, the number of each is its place among those
    in the model, so that it does not depend on what was inserted before.
    """
    default = _DEFAULT_NAME.fullmatch(layer.name)
    prefix = "memel" if default else layer.name
    numbers: dict[int, int] = {}
    count: dict[str, int] = {}
    for site in paths.walk(model):
        number = count.get(site.layer.name, 0)
        numbers[id(site.layer)] = number
        count[site.layer.name] = number + 1
    taken = {part.name for part in model._flatten_layers()}
    names = []
    for site in found:
        number = numbers[id(site.layer)]
        base = f"{prefix}_{site.layer.name}"
        name = f"{base}_{number}" if number else base
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        names.append(name)
    return names


def _copy(
    model: keras.Layer,
    layer: MEmeL,
    site: Site,
    spec: keras.KerasTensor,
    name: str,
    number: int,
) -> MEmeL:
    # Selection and inhibition have no state and may serve many layers: they go
    # on as they are, since Keras finds no class of their config that is not
    # registered.
    made: MEmeL = type(layer).from_config(
        {
            **layer.get_config(),
            "name": name,
            "selection": seeds.of_site(layer.selection, number),
            "inhibition": layer.inhibition,
            "process_group": layer.process_group,
        }
    )
    shape = [None, *spec.shape[1:]]
    axes = made.axis if isinstance(made.axis, tuple) else (made.axis,)
    if len(shape) == 3 and shape[1] is None and {None, 1, -2} & set(axes):
        # A text model takes any length; the one it is used with may be known.
        preprocessor = getattr(model, "preprocessor", None)
        shape[1] = getattr(preprocessor, "sequence_length", None)
    try:
        with attach.variables_of(model):
            made.build(tuple(shape))
    except ValueError as error:
        raise ValueError(
            f"Layer {layer.name!r} cannot stand after {site.path!r}: {error}"
        ) from error
    return made


def _warn_of_remat(found: list[Site]) -> None:
    layers = {
        layer.name
        for site in found
        for layer in site.chain
        if getattr(layer, "_remat_mode", None) is not None
    }
    if layers:
        warnings.warn(
            "Rematerialization would run an inserted MEmeL twice a step. It "
            f"is off in the layers that hold one: {sorted(layers)}",
            stacklevel=3,
        )
