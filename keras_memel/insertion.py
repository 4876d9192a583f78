"""MEmeL in models that exist: find, insert, strip, save.

An inserted MEmeL is a tracked sublayer of the layer it stands on, its host,
and the host's `call` passes its output through it. Keras itself puts `build`
and `quantize` of every layer into the instance; the same is done here to the
host and to the layers around it, up to the model:

    call, quantized_call   note `training` and the padding mask on the way
                           down; in a host, apply the MEmeL to the output
    rematerialized_call    no rematerialization, which would run a MEmeL twice
    get_config             raises, where a config would lose insertions
    save, to_json, pickle  carry the insertions; `Inserted` repeats them
    export, quantize, ...  work on the plain model

`strip` takes all of this away again. `sites.py` says where a MEmeL can go,
`shapes.py` how large it must be, `forward.py` what it is told.
"""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend import get_keras_mask  # As in `forward.py`

from keras_memel import shapes
from keras_memel import sites
from keras_memel.forward import Insertion
from keras_memel.forward import Output
from keras_memel.forward import insertion_of
from keras_memel.forward import noting_call
from keras_memel.forward import training_step
from keras_memel.layer import MEmeL
from keras_memel.sites import Site
from keras_memel.sites import Where

_HOOKS = "_memel_hooks"

# What a model does without its MEmeLs, which get no harm from it: files for
# deployment and presets hold the plain model; quantization and LoRA look at
# layers without parts, and count layers.
_PLAIN = (
    "export",
    "export_to_transformers",
    "quantize",
    "save_to_preset",
    "enable_lora",
    "save_lora_weights",
    "load_lora_weights",
)
_FUNCTIONS = (
    "train_function",
    "test_function",
    "predict_function",
    "generate_function",
)


def find(model: keras.Layer, where: Where = "**") -> list[str]:
    """The paths of the layers that `where` names: where a MEmeL can go.

    Args:
        model: A model or layer, with or without inserted layers.
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
        joined by "/". Each of them is a pattern that names its layer.

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
    return [site.path for site in sites.select(model, where)]


def insert(
    model: keras.Layer, where: Where, layer: MEmeL, output: Output = None
) -> Any:
    """Puts a copy of a MEmeL after each of some layers, in place.

    The model keeps its class, weights and methods. If it was compiled, its
    next `fit` uses the layers; no new compilation is needed. Insert into the
    model that you fit rather than into a part of it: TensorFlow would go on
    with what it has traced of the whole.

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
    `get_config` and `keras.models.clone_model` would lose the layers and
    raise instead; `save_to_preset` writes the plain model and warns.

    `export`, `quantize` and `enable_lora` work on the plain model, in any
    order with `insert`, and give it back with the layers (which therefore
    stay trainable). Exported files hold no trace of them, except with
    `at_inference=True`, when they are part of what the model computes.
    Setting `trainable` of the model or of a layer around a MEmeL later on
    sets it for the MEmeL as well.

    Rematerialization (`keras.RematScope`) would run a MEmeL twice; it is
    switched off, with a warning, for layers that hold one.

    Args:
        model: A built model, or a layer of one.
        where: Where to, as in `find`.
        layer: What to insert. It is not used itself: each site gets a fresh
            copy from its config, built at once, named `memel_<name of the
            host>`, which leaves the dtype of the values as it is.
        output: Which output, if a layer has several: an index or a key.

    Returns:
        The model.

    Raises:
        ValueError: If `where` names no layer, or one that holds an inserted
            MEmeL already (`strip` the model first); if the model is not
            built, or a layer is never called in it; if the output cannot be
            chosen, is not floating-point, or does not suit the MEmeL. Nothing
            is inserted then.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,))]
    ...     + [keras.layers.Dense(4, name=f"block_{i}") for i in range(4)]
    ... )
    >>> model = insert(model, "middle:2", MEmeL(late_start=100))
    >>> list(inserted(model))
    ['block_1', 'block_2']
    """
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
    found = sites.select(model, where)
    for site in found:
        if insertion_of(site.layer) is not None:
            raise ValueError(
                f"Layer {site.path!r} holds an inserted MEmeL already. Call "
                "`keras_memel.strip(model)` first, or name other layers. "
                f"Received: where={where!r}"
            )
    specs = shapes.specs(model, found, output)
    names = {part.name for part in model._flatten_layers()}
    # All copies first: if one of them fails, nothing has been inserted.
    copies = [
        _copy(model, layer, site, spec, names)
        for site, spec in zip(found, specs)
    ]
    for site, copy in zip(found, copies):
        _attach(site, copy, output)
    _warn_of_remat(found)
    _reset(model)
    return model


def strip(model: keras.Layer) -> Any:
    """Takes all inserted MEmeLs out of a model, in place.

    Nothing else changes: weights stay, and the outputs at inference are those
    from before `insert`, bit by bit. Layers that the model itself contains,
    such as those of `model.add(MEmeL())`, stay. The statistics are lost; keep
    `inserted(model)` if you want them.

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
    _detach(model)
    _reset(model)
    return model


def inserted(model: keras.Layer) -> dict[str, MEmeL]:
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
    return {site.path: held.memel for site, held in _held(model)}


def save(model: Any, filepath: Any, **kwargs: Any) -> None:
    """Saves a model with the MEmeLs that were inserted anywhere into it.

    The same as `model.save`, also for a model around the one that was given
    to `insert`.

    Args:
        model: A Keras model.
        filepath: Path that ends in ".keras".
        **kwargs: As in `keras.Model.save`.

    Raises:
        ValueError: If the path is that of an HDF5 file.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = insert(model, "dense*", MEmeL())
    >>> path = tempfile.mkdtemp() + "/model.keras"
    >>> save(model, path)
    >>> len(inserted(keras.saving.load_model(path)))
    1
    """
    if str(filepath).endswith((".h5", ".hdf5")):
        raise ValueError(
            "The legacy HDF5 format cannot hold inserted layers. Save to a "
            f"path that ends in '.keras'. Received: filepath={filepath!r}"
        )
    with _insertions_are_carried():
        type(model).save(Inserted(model), filepath, **kwargs)


# ---------------------------------------------------------------------------
# The mechanism: attach and detach


def _held(model: keras.Layer) -> list[tuple[Site, Insertion]]:
    pairs = [(site, insertion_of(site.layer)) for site in sites.walk(model)]
    return [(site, held) for site, held in pairs if held is not None]


def _copy(
    model: keras.Layer,
    layer: MEmeL,
    site: Site,
    spec: keras.KerasTensor,
    names: set[str],
) -> MEmeL:
    name, number = f"{layer.name}_{site.layer.name}", 1
    while name in names:
        name = f"{layer.name}_{site.layer.name}_{number}"
        number += 1
    names.add(name)
    copy: MEmeL = type(layer).from_config({**layer.get_config(), "name": name})
    shape = [None, *spec.shape[1:]]
    axes = copy.axis if isinstance(copy.axis, tuple) else (copy.axis,)
    if len(shape) == 3 and shape[1] is None and {None, 1, -2} & set(axes):
        # A text model takes any length; the one it is used with may be known.
        preprocessor = getattr(model, "preprocessor", None)
        shape[1] = getattr(preprocessor, "sequence_length", None)
    try:
        with _variables_of(model):
            copy.build(tuple(shape))
    except ValueError as error:
        raise ValueError(
            f"Layer {layer.name!r} cannot stand after {site.path!r}: {error}"
        ) from error
    return copy


@contextlib.contextmanager
def _variables_of(model: keras.Layer) -> Iterator[None]:
    # TensorFlow wants all variables of a model under one strategy.
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else contextlib.nullcontext():
        yield


def _attach(site: Site, memel: MEmeL, output: Output) -> None:
    host = site.layer
    # What a Keras mask is after the host is for the host to say, with the
    # MEmeL and without.
    object.__setattr__(memel, "compute_mask", _keep_mask)
    # Values keep the dtype that the host gives them, whatever the policies.
    memel.autocast = False
    _track(host, memel)
    vars(host)["_memel_insertion"] = Insertion(memel, output)
    for layer in site.chain:
        _hook(layer)
        _refresh(layer)


def _keep_mask(inputs: Any, previous_mask: Any = None) -> Any:
    return get_keras_mask(inputs)


def _track(host: keras.Layer, memel: MEmeL) -> None:
    """Makes `memel` a sublayer of a built layer, which Keras does not allow.

    This and `_untrack` alone reach into Keras' private tracker.
    """
    locked = host._tracker.locked
    host._tracker.unlock()
    try:
        setattr(host, sites.INSERTED, memel)
    finally:
        if locked:
            host._lock_state()


def _untrack(host: keras.Layer, memel: MEmeL) -> None:
    host._tracker.untrack(memel)
    delattr(host, sites.INSERTED)


def _refresh(layer: keras.Layer) -> None:
    # On PyTorch each layer has a list of the variables of all its parts.
    if hasattr(layer, "_torch_params"):
        layer._track_variables()


def _detach(model: keras.Layer) -> list[tuple[Site, Insertion]]:
    held = _held(model)
    if (own := insertion_of(model)) is not None:  # a part of a model, a host
        held.append((Site("", (model,), ()), own))
    layers = [model, *(site.layer for site in sites.walk(model))]
    for layer in layers:
        _check_hooks(layer)
    for site, insertion in held:
        _untrack(site.layer, insertion.memel)
        del vars(site.layer)["_memel_insertion"]
    for layer in layers:
        _unhook(layer)
        if held:
            _refresh(layer)
    return held


@contextlib.contextmanager
def _plain(model: keras.Layer) -> Iterator[None]:
    held = _detach(model)
    try:
        yield
    finally:
        for site, insertion in held:
            _attach(site, insertion.memel, insertion.output)


def _reset(model: keras.Layer) -> None:
    # Compiled functions hold the calls as they were.
    for layer in model._flatten_layers():
        for name in _FUNCTIONS:
            if getattr(layer, name, None) is not None:
                setattr(layer, name, None)


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


# ---------------------------------------------------------------------------
# The hooks: instance attributes over methods of the class


@dataclasses.dataclass(frozen=True)
class _Hook:
    wrapper: Callable[..., Any]
    before: Any  # What the instance had under this name, or `_NOTHING`.


_NOTHING = object()


def is_hooked(layer: keras.Layer) -> bool:
    """Whether a layer notes its calls: it holds a MEmeL, or is around one."""
    return _HOOKS in vars(layer)


def _hook(layer: keras.Layer) -> None:
    if is_hooked(layer):
        return
    wrappers: dict[str, Callable[..., Any]] = {
        "call": noting_call,
        "quantized_call": noting_call,
        "rematerialized_call": lambda layer, method: (
            lambda layer_call, *args, **kwargs: layer_call
        ),
        "get_config": _guarded_config,
    }
    if isinstance(layer, keras.Model):
        wrappers.update(dict.fromkeys(_PLAIN, _on_plain_model))
        wrappers["save"] = lambda layer, method: functools.partial(save, layer)
        wrappers["to_json"] = _by_proxy
        wrappers["__reduce__"] = _by_proxy
        if "training" not in inspect.signature(layer.call).parameters:
            # Keras tells such a model nothing; its parts still should know.
            wrappers["train_step"] = training_step
    hooks: dict[str, _Hook] = {}
    for name, wrap in wrappers.items():
        method = getattr(layer, name, None)
        if method is not None:
            wrapper = functools.wraps(method)(wrap(layer, method))
            hooks[name] = _Hook(wrapper, vars(layer).get(name, _NOTHING))
            vars(layer)[name] = wrapper
    vars(layer)[_HOOKS] = hooks


def _unhook(layer: keras.Layer) -> None:
    for name, hook in vars(layer).pop(_HOOKS, {}).items():
        if hook.before is _NOTHING:
            del vars(layer)[name]
        else:
            vars(layer)[name] = hook.before


def _check_hooks(layer: keras.Layer) -> None:
    for name, hook in vars(layer).get(_HOOKS, {}).items():
        if vars(layer).get(name) is not hook.wrapper:
            raise RuntimeError(
                f"Something else has replaced `{name}` of {layer.name!r} "
                "after a MEmeL was inserted, and would be lost, or keep the "
                "MEmeL. Undo that first."
            )


def _on_plain_model(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def plain(*args: Any, **kwargs: Any) -> Any:
        number = len(inserted(layer))
        at_inference = any(m.at_inference for m in inserted(layer).values())
        if method.__name__ == "export" and at_inference:
            return method(*args, **kwargs)
        if number and method.__name__ in (
            "save_to_preset",
            "export_to_transformers",
        ):
            warnings.warn(
                f"`{method.__name__}` writes the plain model, without its "
                f"{number} inserted MEmeL layers and their statistics. Call "
                "`model.save` to keep them.",
                stacklevel=2,
            )
        with _plain(layer):
            return method(*args, **kwargs)

    return plain


# ---------------------------------------------------------------------------
# Saving

_carried: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_memel_carried", default=False
)


@contextlib.contextmanager
def _insertions_are_carried() -> Iterator[None]:
    token = _carried.set(True)
    try:
        yield
    finally:
        _carried.reset(token)


def _guarded_config(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def get_config() -> Any:
        if not _carried.get() and _held_or_hosted(layer):
            raise ValueError(
                f"The config of {layer.name!r} would lose the MEmeL layers "
                "that were inserted into it. To save the model with them, "
                "call `model.save(path)`, or `keras_memel.save(model, path)` "
                "for a model around it; to clone it or to get its config, "
                "call `keras_memel.strip(model)` first."
            )
        return method()

    return get_config


def _held_or_hosted(layer: keras.Layer) -> bool:
    return insertion_of(layer) is not None or bool(_held(layer))


def _by_proxy(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _insertions_are_carried():
            return getattr(type(layer), method.__name__)(
                Inserted(layer), *args, **kwargs
            )

    return call


@keras.saving.register_keras_serializable("keras_memel")
class Inserted(keras.Operation.__base__):
    """What a model with insertions is in a file; loaded, the model itself.

    Keras saves by class and config, and the config of the model does not know
    of insertions. So this stands in for the model while it is saved: it has
    the parts of the model, and a config that holds the model and where to
    insert what.
    """

    def __init__(self, model: keras.Layer):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_model"], name)

    def __dir__(self) -> list[str]:
        return dir(self._model)

    def _obj_type(self) -> str:
        kind: str = self._model._obj_type()
        return kind

    def get_config(self) -> dict[str, Any]:
        with _insertions_are_carried():
            plain = keras.saving.serialize_keras_object(self._model)
        # Keras compiles what it gets from `from_config`, if it shall.
        plain.pop("compile_config", None)
        return {
            "model": plain,
            "insertions": [
                {
                    "address": sites.address(site),
                    "output": held.output,
                    "layer": keras.saving.serialize_keras_object(held.memel),
                }
                for site, held in _held(self._model)
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        model = keras.saving.deserialize_keras_object(config["model"])
        for insertion in config["insertions"]:
            site = sites.resolve(model, insertion["address"])
            with _variables_of(model):
                memel = keras.saving.deserialize_keras_object(
                    insertion["layer"]
                )
            _attach(site, memel, insertion["output"])
        return model
