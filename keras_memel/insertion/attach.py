"""Hosts: the layers that hold an inserted MEmeL, and the models around them.

An inserted MEmeL is a tracked sublayer of the layer it stands on, its host,
and the host's `call` passes its output through it. This takes hooks on the
host and on the layers around it, up to the model (`hooks.py`):

    call, quantized_call   note `training` and the padding mask on the way
                           down; in a host, apply the MEmeL to the output
    rematerialized_call    no rematerialization, which would run a MEmeL twice
    get_config             raises, where a config would lose insertions
    to_json                carries the insertions, as files do (`saving.py`)
    save                   refuses the legacy format, which cannot
    export, quantize, ...  work on the plain model
    summary                lists the MEmeLs
    quantize of a MEmeL    quantizes its host, which a model around has left out
"""

import contextlib
import contextvars
import functools
import inspect
import json
import warnings
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras

from keras_memel.insertion import method_patches
from keras_memel.insertion import models_around
from keras_memel.insertion import paths
from keras_memel.insertion import summary
from keras_memel.insertion.forward import Insertion
from keras_memel.insertion.forward import Output
from keras_memel.insertion.forward import insertion_of
from keras_memel.insertion.forward import noting_call
from keras_memel.insertion.forward import training_step
from keras_memel.insertion.paths import Site
from keras_memel.layers.memel import MEmeL
from keras_memel.utils import keras_internals
from keras_memel.utils.keras_internals import get_keras_mask

# Whether the config of a model is made by what knows of its insertions.
_CARRIED: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_memel_carried", default=False
)

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


def hook_around(
    found: list[Site], around: list[keras.Model] | None = None
) -> None:
    """Hooks the models around some hosts, and their layers on the way down."""
    hosts = [site.layer for site in found]
    if around is None:
        around = models_around.models_around(hosts)
    for model in around:
        for layer in models_around.containing(model, hosts):
            method_patches.hook(layer, _wrappers(layer))
            _refresh(layer)


def _keep_mask(inputs: Any, previous_mask: Any = None) -> Any:
    return get_keras_mask(inputs)


def _owner(host: keras.Layer) -> tuple[keras.Layer, str]:
    """The layer that tracks the MEmeL of a host, and the attribute for it.

    The host itself, unless it is a Sequential: that tracks the layers of its
    sequence alone, and would neither count nor train anything else. Its last
    layer tracks the MEmeL for it.
    """
    owner, around = host, 0
    while isinstance(owner, keras.Sequential):
        owner, around = owner.layers[-1], around + 1
    suffix = f"_of_sequential_{around}" if around else ""
    return owner, paths.INSERTED + suffix


def check_hosts(found: list[Site]) -> None:
    """Raises if two hosts would have their MEmeLs tracked at one place.

    Raises:
        ValueError: If two Sequentials that share their last layer are hosts.
    """
    taken = set()
    for site in found:
        owner, name = _owner(site.layer)
        if hasattr(owner, name) or (id(owner), name) in taken:
            raise ValueError(
                f"Layer {owner.name!r} is the last one of two Sequential "
                "models, and can track the MEmeL after one of them alone. "
                "Insert after the layer itself. Received: a second MEmeL, "
                f"after {site.path!r}"
            )
        taken.add((id(owner), name))


def _track(host: keras.Layer, memel: MEmeL) -> None:
    """Makes `memel` a sublayer of a built layer, which Keras does not allow.

    This and `_untrack` alone reach into Keras' private tracker.

    """
    owner, name = _owner(host)
    paths.mark_inserted(memel, True)
    locked = owner._tracker.locked
    owner._tracker.unlock()
    try:
        setattr(owner, name, memel)
    finally:
        if locked:
            owner._lock_state()
    _refresh(owner)


def _untrack(host: keras.Layer, memel: MEmeL) -> None:
    paths.mark_inserted(memel, False)
    # Found by what it holds: a Sequential may have got another last layer.
    for owner in host._flatten_layers():
        for name in [*vars(owner), *vars(owner).get("_modules", {})]:
            if name.startswith(paths.INSERTED) and (
                getattr(owner, name) is memel
            ):
                owner._tracker.untrack(memel)
                delattr(owner, name)
                _refresh(owner)
                return


def _refresh(layer: keras.Layer) -> None:
    # On PyTorch each layer has a list of the variables of all its parts.
    if hasattr(layer, "_torch_params"):
        layer._track_variables()


def detach(model: keras.Layer) -> list[tuple[Site, Insertion]]:
    """Takes all inserted MEmeLs out of a model, and returns what was there.

    The models around it lose the hooks that they had for those alone.

    Raises:
        RuntimeError: If something else has replaced a hook meanwhile.
    """
    held = insertions(model)
    if (own := insertion_of(model)) is not None:  # a part of a model, a host
        held.append((Site("", (model,), ()), own))
    hosts = [site.layer for site, _ in held]
    layers = {
        id(layer): layer
        for layer in (
            model,
            *(site.layer for site in paths.walk(model)),
            *(
                layer
                for whole in models_around.models_around(hosts)
                for layer in models_around.containing(whole, hosts)
            ),
        )
    }.values()
    for layer in layers:
        method_patches.check(layer)
    for site, insertion in held:
        method_patches.unhook(insertion.memel)
        _untrack(site.layer, insertion.memel)
        del vars(site.layer)["_memel_insertion"]
    for layer in layers:
        if not any(map(insertion_of, layer._flatten_layers())):
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
        hook_around([site for site, _ in held])


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
        wrappers["save"] = _keras_file_only
        wrappers["summary"] = summary.with_insertions
        wrappers["to_json"] = _carrying_json
        if "training" not in inspect.signature(layer.call).parameters:
            # Keras tells such a model nothing; its parts still should know.
            wrappers["train_step"] = training_step
    return wrappers


def _on_plain_model(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def plain(*args: Any, **kwargs: Any) -> Any:
        memels = _memels(layer)
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
        owner, _ = _owner(host)
        parts = [
            part
            for part in owner._flatten_layers()
            if not paths.is_inserted(part)
        ]
        if len(parts) > 1:  # They are quantized themselves, without the host.
            return
        kind = keras.dtype_policies.QuantizedDTypePolicy
        if isinstance(owner.dtype_policy, kind):  # for another of its MEmeLs
            return
        with _plain(owner):
            owner.quantize(*args, **kwargs)

    return quantize


def _guarded_config(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def get_config() -> Any:
        if not _CARRIED.get() and _memels(layer):
            raise ValueError(
                f"The config of {layer.name!r} would lose the MEmeL layers "
                "that were inserted into it. To save the model with them, "
                "call `model.save(path)` or `keras_memel.save(model, path)` "
                "with a path that ends in '.keras'; to clone it or to get its "
                "config, call `keras_memel.strip(model)` first. Received: a "
                f"model with {[memel.name for memel in _memels(layer)]}"
            )
        return method()

    return get_config


def _memels(layer: keras.Layer) -> list[MEmeL]:
    """The MEmeLs that were inserted after a layer or its parts."""
    held = map(insertion_of, layer._flatten_layers())
    return [insertion.memel for insertion in held if insertion is not None]


@contextlib.contextmanager
def insertions_are_carried() -> Iterator[None]:
    """Within, configs may leave the insertions out: another one has them."""
    token = _CARRIED.set(True)
    try:
        yield
    finally:
        _CARRIED.reset(token)


def refuse_legacy_file(filepath: Any) -> None:
    """Raises for the path of an HDF5 file.

    Raises:
        ValueError: If the path ends in ".h5" or ".hdf5".
    """
    if str(filepath).endswith((".h5", ".hdf5")):
        raise ValueError(
            "The legacy HDF5 format cannot hold inserted layers. Save to a "
            f"path that ends in '.keras'. Received: filepath={filepath!r}"
        )


def _keras_file_only(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def save(filepath: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_legacy_file(filepath)
        return method(filepath, *args, **kwargs)

    return save


def _carrying_json(
    layer: keras.Layer, method: Callable[..., Any]
) -> Callable[..., Any]:
    def to_json(**kwargs: Any) -> str:
        text = keras_internals.model_as_json(layer)
        return json.dumps(json.loads(text), **kwargs)

    return to_json
