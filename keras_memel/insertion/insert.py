"""Insert MEmeL into existing models: find, insert, inserted, strip.

`attach.py` attaches a MEmeL to a layer, and `saving.py` saves models with
insertions.
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

# Default names of MEmeL layers: `memel`, `memel_1`, ...
_DEFAULT_NAME = re.compile(r"memel(_\d+)?")


def find(model: Any, where: Where = "**") -> list[str]:
    """Return the paths of the layers that `where` selects.

    `insert` can add a MEmeL after each of these layers.

    Args:
        model: A model or layer, with or without inserted layers; or a PyTorch
            or Flax NNX module, whose paths are its dotted names.
        where: One of
            - a pattern that must match the last names of a path:
              `"transformer_layer_*"`, `"stage_2/*/mlp"`. `*`, `?` and `[...]`
              match within one name, and `**` matches any number of names. A
              pattern that starts with "/" must match the full path;
            - `"middle:N"`: the N middle layers of the longest run of equal
              layers. Equal layers are siblings of one class with weights of
              the same shapes. The papers use 4 in BERT and Swin, and 2 in
              language models;
            - a layer of the model, or a predicate that receives a layer;
            - a list of these.

    Returns:
        Paths in the order of the model. A path joins the names of the layers
        from the model down with "/". A full path selects exactly one layer,
        even if a name in it contains `*`, `?`, `[...]` or `middle:N`.
        `"**/dense"` selects all layers named `dense` at any depth.

    Raises:
        ValueError: If `where` selects no layer (the message lists the nearest
            paths); or if `model` is a PyTorch or Flax NNX module and Keras
            does not run on PyTorch or JAX, respectively.

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
    """Insert a copy of a MEmeL after each selected layer, in place.

    The model keeps its class, weights and methods. A compiled model needs no
    new compilation: its next `fit` uses the layers. Do not call `insert` from
    a callback: a running `fit` keeps its compiled train step.

    Shared layers: `model` may be a part of other models, or share layers with
    them. Every Keras model that contains a selected layer then uses the MEmeL
    and compiles its next step again. Functions that you compiled yourself
    (`tf.function`, `jax.jit`, `torch.compile`) keep their trace: create them
    again. The same applies to models that `gc.freeze()` has excluded from
    garbage collection.

    Masks: the MEmeL receives the mask that the next layer would receive.
    Where Keras masks are not used, as in KerasHub backbones, it receives the
    `padding_mask` of the layer or of the model around it. It adds no mask to
    its output.

    Length: with `axis=None` each position of a text is a neuron, so the number
    of positions must be known. For a KerasHub model this is the
    `sequence_length` of its preprocessor, which pads every text to this
    length. Without a preprocessor, pass `axis=-1`.

    Saving: `model.save("m.keras")` stores the layers and their statistics, and
    `keras.saving.load_model` restores them; import `keras_memel` before you
    load the file. Weights files hold the statistics too, and a model without
    insertions ignores them. Load the weights of a plain model before `insert`,
    or with `skip_mismatch=True`. `get_config` and `keras.models.clone_model`
    raise, because they would lose the layers. `save_to_preset` warns and
    writes the plain model.

    Export: `export`, `quantize` and `enable_lora` act on the plain model and
    then restore the layers, which stay trainable. You can call them before or
    after `insert`. Exported files contain the layers only with
    `at_inference=True`, because the layers then change the outputs. You can
    also quantize a model around this one: the `filters` of this call then see
    the name of the MEmeL instead of the name of its layer.

    Later changes of `trainable` on the model or on a layer around a MEmeL
    apply to the MEmeL as well.

    Rematerialization (`keras.RematScope`) would run a MEmeL twice. It is
    switched off, with a warning, in layers that hold one.

    Args:
        model: A built model, or a layer of one; or a PyTorch or Flax NNX
            module, as described on the page "Models that are not Keras
            models".
        where: Layers to select, as in `find`.
        layer: The MEmeL to copy. It is not used itself. Each copy is made from
            the config of `layer`, is built at once and keeps the dtype of the
            values. Its name is `memel_<host>`, where the host is the layer
            that it follows, or `<name>_<host>` if you named `layer`. The
            copies share `inhibition` and `selection`. If the selection has a
            `seed`, as `Random` may have, each site after the first gets its
            own seed, derived from this one and the index of the site.
        output: Index or key of the output, if a layer has several.
        example: Only for PyTorch and Flax NNX modules: a batch of inputs (a
            mapping of arguments, a tuple or a tensor) that determines the
            sizes of the statistics at once. With `None`, which only PyTorch
            accepts, the first training step determines them.

    Returns:
        The model.

    Raises:
        ValueError: If `layer` is not a MEmeL; if `where` selects no layer, or
            one that already holds an inserted MEmeL (call `strip` first); if
            the model is not built or never calls a selected layer; or if the
            output is ambiguous, not floating-point or does not suit the
            MEmeL; if `example` is missing for a Flax NNX module, or passed
            for a Keras model; or if `model` is a module of another backend
            than that of Keras. The model is then unchanged.

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
            "Argument `example` must be None for a Keras model, which knows "
            "its shapes. It is for PyTorch and Flax NNX modules. "
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
            "data, or call its `build`, first. "
            f"Received: model={model!r}"
        )
    found = patterns.select(model, where)
    for site in found:
        if insertion_of(site.layer) is not None:
            raise ValueError(
                f"Layer {site.path!r} already holds an inserted MEmeL. Call "
                "`keras_memel.strip(model)` first, or select other layers. "
                f"Received: where={where!r}"
            )
    attach.check_hosts(found)
    specs = output_specs.specs(model, found, output)
    names = _names(model, layer, found)
    # Make all copies first: if one of them fails, the model is unchanged.
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
    """Remove all inserted MEmeLs from a model, in place.

    The weights stay, and the outputs at inference equal those before `insert`
    bit by bit. MEmeLs that the model itself contains, such as those of
    `model.add(MEmeL())`, stay. The statistics are lost: keep the result of
    `inserted(model)` if you need them.

    `model` may be a part of other models, or share layers with them. Those
    models then lose the MEmeLs too, as described in `insert`.

    Args:
        model: A model or layer, with or without inserted layers; or a PyTorch
            or Flax NNX module.

    Returns:
        The model. A model without inserted layers is returned unchanged.

    Raises:
        ValueError: If `model` is a module of another backend than that of
            Keras.
        RuntimeError: If other code has wrapped the calls of its layers since
            `insert`.

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
    """Return the inserted MEmeLs of a model by the path of their host.

    The host of a MEmeL is the layer that it follows.

    Args:
        model: A model or layer; or a PyTorch or Flax NNX module.

    Returns:
        Dictionary from the path of the host (as in `find`) to the MEmeL, in
        the order of the model: a `MEmeL`, `TorchMEmeL` or `NnxMEmeL`. It is
        empty if the model has no insertions. In a callback on JAX, read the
        weights with `inserted(self.model)`.

    Raises:
        ValueError: If `model` is a module of another backend than that of
            Keras.

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
    """Return a unique name per copy, derived from the name of its host.

    Hosts that share a name are numbered by their position among the layers of
    this name in the model. The numbers do not depend on earlier insertions.
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
    # Selection and inhibition have no state and may serve many layers. They
    # are passed as objects, because Keras cannot rebuild an object of a class
    # that is not registered from its config.
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
        # A text model accepts any length, but its preprocessor may fix it.
        preprocessor = getattr(model, "preprocessor", None)
        shape[1] = getattr(preprocessor, "sequence_length", None)
    try:
        with attach.variables_of(model):
            made.build(tuple(shape))
    except ValueError as error:
        raise ValueError(
            f"Cannot insert {layer.name!r} after {site.path!r}: {error}"
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
            "Rematerialization would run an inserted MEmeL twice per step. It "
            f"is switched off in the layers that hold one: {sorted(layers)}",
            stacklevel=3,
        )
