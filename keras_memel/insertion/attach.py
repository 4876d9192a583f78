"""Hosts: the layers that hold an inserted MEmeL, and the models around them.

An inserted MEmeL is a tracked sublayer of the layer it stands on, its host,
and the host's `call` passes its output through it. This takes hooks on the
host and on the layers around it, up to the model (`hooks.py`):

    call, quantized_call   note `training` and the padding mask on the way
                           down; in a host, apply the MEmeL to the output
    rematerialized_call    no rematerialization, which would run a MEmeL twice
    get_config             raises, where a config would lose insertions
    save, to_json, pickle  carry the insertions; `Inserted` repeats them
    export, quantize, ...  work on the plain model
    quantize of a MEmeL    quantizes its host, which a model around has left out
"""

import contextlib
import contextvars
import functools
import inspect
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
from keras.src.backend import get_keras_mask  # As in `forward.py`

from keras_memel import native
from keras_memel.insertion import method_patches
from keras_memel.insertion import paths
from keras_memel.insertion.forward import Insertion
from keras_memel.insertion.forward import Output
from keras_memel.insertion.forward import insertion_of
from keras_memel.insertion.forward import noting_call
from keras_memel.insertion.forward import training_step
from keras_memel.insertion.paths import Site
from keras_memel.layers.memel import MEmeL

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


def insertions(model: keras.Layer) -> list[tuple[Site, Insertion]]:
    """The hosts in a model and what each holds, in the order of the model."""
    pairs = [(site, insertion_of(site.layer)) for site in paths.walk(model)]
    return [(site, held) for site, held in pairs if held is not None]


@contextlib.contextmanager
def variables_of(model: keras.Layer) -> Iterator[None]:
    """Where to make variables that the model is to have.

    TensorFlow wants all variables of a model under one strategy.
    """
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else contextlib.nullcontext():
        yield


def attach(site: Site, memel: MEmeL, output: Output) -> None:
    """Makes the layer of a site the host of a built MEmeL."""
    host = site.layer
    # What a Keras mask is after the host is for the host to say, with the
    # MEmeL and without.
    object.__setattr__(memel, "compute_mask", _keep_mask)
    # Values keep the dtype that the host gives them, whatever the policies.
    memel.autocast = False
    _track(host, memel)
    vars(host)["_memel_insertion"] = Insertion(memel, output)
    method_patches.hook(
        memel, {"quantize": functools.partial(_quantize_host, host)}
    )
    for layer in site.chain:
        method_patches.hook(layer, _wrappers(layer))
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
        setattr(host, paths.INSERTED, memel)
    finally:
        if locked:
            host._lock_state()


def _untrack(host: keras.Layer, memel: MEmeL) -> None:
    host._tracker.untrack(memel)
    delattr(host, paths.INSERTED)


def _refresh(layer: keras.Layer) -> None:
    # On PyTorch each layer has a list of the variables of all its parts.
    if hasattr(layer, "_torch_params"):
        layer._track_variables()


def detach(model: keras.Layer) -> list[tuple[Site, Insertion]]:
    """Takes all inserted MEmeLs out of a model, and returns what was there.

    Raises:
        RuntimeError: If something else has replaced a hook meanwhile.
    """
    held = insertions(model)
    if (own := insertion_of(model)) is not None:  # a part of a model, a host
        held.append((Site("", (model,), ()), own))
    layers = [model, *(site.layer for site in paths.walk(model))]
    for layer in layers:
        method_patches.check(layer)
    for site, insertion in held:
        method_patches.unhook(insertion.memel)
        _untrack(site.layer, insertion.memel)
        del vars(site.layer)["_memel_insertion"]
    for layer in layers:
        method_patches.unhook(layer)
        if held:
            _refresh(layer)
    return held


@contextlib.contextmanager
def _plain(model: keras.Layer) -> Iterator[None]:
    held = detach(model)
    try:
        yield
    finally:
        for site, insertion in held:
            attach(site, insertion.memel, insertion.output)


# ---------------------------------------------------------------------------
# What the methods of a host, and of the layers around it, become


def _wrappers(layer: keras.Layer) -> method_patches.Wrappers:
    wrappers: method_patches.Wrappers = {
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
    return wrappers


def _on_plain_model(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def plain(*args: Any, **kwargs: Any) -> Any:
        memels = [insertion.memel for _, insertion in insertions(layer)]
        number = len(memels)
        at_inference = any(memel.at_inference for memel in memels)
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


def _quantize_host(
    host: keras.Layer, memel: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    # A model around the one that was given to `insert` has no hook. Keras has
    # it quantize all layers that have no parts: not the host, but the MEmeL.
    def quantize(*args: Any, **kwargs: Any) -> None:
        parts = [part for part in host._flatten_layers() if part is not memel]
        if len(parts) > 1:  # They are quantized themselves, without the host.
            return
        with _plain(host):
            host.quantize(*args, **kwargs)

    return quantize


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
    return insertion_of(layer) is not None or bool(insertions(layer))


def _by_proxy(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _insertions_are_carried():
            return getattr(type(layer), method.__name__)(
                Inserted(layer), *args, **kwargs
            )

    return call


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


def save(model: Any, filepath: Any, **kwargs: Any) -> None:
    """Saves a model with the MEmeLs that were inserted anywhere into it.

    The same as `model.save`, also for a model around the one that was given
    to `insert`.

    Args:
        model: A Keras model, or a PyTorch module.
        filepath: Path that ends in ".keras"; of a PyTorch module, any path:
            the file holds its `state_dict` and insertions, for `restore`.
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
    if native.is_torch(model):
        from keras_memel.native import torch_saving

        torch_saving.save(model, filepath)
        return
    if str(filepath).endswith((".h5", ".hdf5")):
        raise ValueError(
            "The legacy HDF5 format cannot hold inserted layers. Save to a "
            f"path that ends in '.keras'. Received: filepath={filepath!r}"
        )
    with _insertions_are_carried():
        type(model).save(Inserted(model), filepath, **kwargs)


def restore(model: Any, source: Any) -> Any:
    """Puts saved insertions and their statistics back into a PyTorch module.

    Keras models need no such step: `keras.saving.load_model` does it.

    Args:
        model: A PyTorch module of the class that was saved, without
            insertions, or with the same ones.
        source: A file of `save`, whose weights are loaded too; or a folder of
            `save_pretrained`, from which `from_pretrained` has loaded the
            weights.

    Returns:
        The model.

    Raises:
        ValueError: If the model is no PyTorch module, the source is none of
            these, or it lacks the statistics.
    """
    if not native.is_torch(model):
        raise ValueError(
            "Argument `model` must be a PyTorch module. Load Keras models with "
            f"`keras.saving.load_model`. Received: model={model!r}"
        )
    from keras_memel.native import torch_saving

    return torch_saving.restore(model, source)


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
                    "address": paths.address(site),
                    "output": held.output,
                    "layer": keras.saving.serialize_keras_object(held.memel),
                }
                for site, held in insertions(self._model)
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        model = keras.saving.deserialize_keras_object(config["model"])
        for insertion in config["insertions"]:
            site = paths.resolve(model, insertion["address"])
            with variables_of(model):
                memel = keras.saving.deserialize_keras_object(
                    insertion["layer"]
                )
            attach(site, memel, insertion["output"])
        return model
