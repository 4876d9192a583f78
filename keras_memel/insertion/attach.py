"""Attach MEmeLs to their hosts, and hook the layers around these.

The host of an inserted MEmeL is the layer that it follows. The host tracks the
MEmeL as a sublayer, and its `call` passes its output through the MEmeL. Hooks
(`method_patches.py`) change these methods of the host and of the layers around
it, up to the model:

    call, quantized_call   notes `training` and the padding mask; in a host,
                           applies the MEmeL to the output
    rematerialized_call    runs the call once: a MEmeL must not run twice
    get_config             raises if the config would lose insertions
    to_json                includes the insertions, as files do (`saving.py`)
    save                   refuses the legacy format, which cannot hold them
    export, quantize, ...  act on the plain model
    summary                lists the MEmeLs
    train_step             notes `training` for a `call` that does not accept it
    quantize of a MEmeL    quantizes its host, which an outer model has skipped
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

# Whether the caller that requests the config of a model stores the insertions.
_CARRIED: contextvars.ContextVar[bool] = contextvars.ContextVar(
    "keras_memel_carried", default=False
)

# Methods that run on the plain model. Files for deployment and presets hold the
# plain model. Quantization and LoRA select layers without parts, and count
# layers, so that MEmeLs would change their result.
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
    """Return the hosts of a model and their insertions, in model order."""
    pairs = [(site, insertion_of(site.layer)) for site in paths.walk(model)]
    return [(site, held) for site, held in pairs if held is not None]


@contextlib.contextmanager
def variables_of(model: keras.Layer) -> Iterator[None]:
    """Enter the scope in which to create variables of a model.

    TensorFlow requires one strategy for all variables of a model.
    """
    strategy = getattr(model, "distribute_strategy", None)
    with strategy.scope() if strategy else contextlib.nullcontext():
        yield


def attach(site: Site, memel: MEmeL, output: Output) -> None:
    """Make the layer at a site the host of a built MEmeL."""
    host = site.layer
    # The host determines the Keras mask of its output, with and without the
    # MEmeL.
    object.__setattr__(memel, "compute_mask", _keep_mask)
    # The values keep the dtype of the host's output under any dtype policy.
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
    """Hook the models around some hosts, and the layers between them."""
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
    """Return the layer that tracks the MEmeL of a host, and the attribute.

    This is the host itself unless it is a Sequential. A Sequential tracks only
    the layers of its sequence and would neither count nor train the MEmeL. Its
    last layer tracks the MEmeL instead.
    """
    owner, around = host, 0
    while isinstance(owner, keras.Sequential):
        owner, around = owner.layers[-1], around + 1
    suffix = f"_of_sequential_{around}" if around else ""
    return owner, paths.INSERTED + suffix


def check_hosts(found: list[Site]) -> None:
    """Raise if the MEmeLs of two hosts would be tracked at the same place.

    Raises:
        ValueError: If two Sequentials that share their last layer are hosts.
    """
    taken = set()
    for site in found:
        owner, name = _owner(site.layer)
        if hasattr(owner, name) or (id(owner), name) in taken:
            raise ValueError(
                f"Layer {owner.name!r} is the last layer of two Sequential "
                "models, and can track the MEmeL of only one of them. Insert "
                "after the layer itself. Received: a second MEmeL after "
                f"{site.path!r}"
            )
        taken.add((id(owner), name))


def _track(host: keras.Layer, memel: MEmeL) -> None:
    """Make `memel` a sublayer of a built layer, which Keras does not allow.

    Only this function and `_untrack` use the private tracker of Keras.
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
    # Search all attributes: the last layer of a Sequential may have changed.
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
    # On PyTorch, each layer lists the variables of all its parts.
    if hasattr(layer, "_torch_params"):
        layer._track_variables()


def detach(model: keras.Layer) -> list[tuple[Site, Insertion]]:
    """Remove all inserted MEmeLs from a model, and return the insertions.

    The models around it lose the hooks that only these MEmeLs needed.

    Raises:
        RuntimeError: If other code has replaced a hook since `insert`.
    """
    held = insertions(model)
    if (own := insertion_of(model)) is not None:  # `model` is a host
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
# Replacements for the methods of a host and of the layers around it


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
            # Keras does not pass `training` to such a model, but its parts
            # need it.
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
    # If an outer model quantizes its layers, Keras calls `quantize` of all
    # layers without parts: of the MEmeL, but not of its host.
    def quantize(*args: Any, **kwargs: Any) -> None:
        owner, _ = _owner(host)
        parts = [
            part
            for part in owner._flatten_layers()
            if not paths.is_inserted(part)
        ]
        if len(parts) > 1:  # Keras quantizes these parts instead of the host.
            return
        kind = keras.dtype_policies.QuantizedDTypePolicy
        if isinstance(
            owner.dtype_policy, kind
        ):  # done for another of its MEmeLs
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
    """Return the MEmeLs that were inserted after a layer or its parts."""
    held = map(insertion_of, layer._flatten_layers())
    return [insertion.memel for insertion in held if insertion is not None]


@contextlib.contextmanager
def insertions_are_carried() -> Iterator[None]:
    """Allow configs without insertions: the caller stores the insertions."""
    token = _CARRIED.set(True)
    try:
        yield
    finally:
        _CARRIED.reset(token)


def refuse_legacy_file(filepath: Any) -> None:
    """Raise if a path is that of an HDF5 file.

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
