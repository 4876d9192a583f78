"""Capture the outputs of layers while a model predicts.

A tap replaces the MEmeL that `insert` would add after a layer. It receives the
same values and the same mask, and only records them. The model runs in
`predict_on_batch` of Keras, so that it is compiled as by `predict`. It is
restored afterwards.
"""

import contextlib
import functools
from collections.abc import Generator
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import cast

import keras
import numpy as np

from keras_memel.insertion import paths
from keras_memel.insertion import patterns
from keras_memel.insertion.forward import Insertion
from keras_memel.insertion.forward import Output
from keras_memel.insertion.forward import insertion_of
from keras_memel.insertion.forward import noting_call
from keras_memel.insertion.method_patches import is_hooked
from keras_memel.insertion.paths import Site
from keras_memel.layers.memel import MEmeL
from keras_memel.utils import arguments
from keras_memel.utils.types import Tensor


def chosen(
    model: keras.Layer, layers: paths.Where | None, argument: str = "layers"
) -> list[Site]:
    """Return the sites to capture.

    Args:
        model: A model.
        layers: As `where` in `find`, and also the paths of MEmeLs that the
            model itself contains. `None` selects the layers with a MEmeL or,
            without any, the layers with weights of the model and of the
            models within it, but not the parts of other layers.
        argument: Name of the argument in messages.

    Raises:
        ValueError: If `layers` selects no layer. The message lists the nearest
            paths.
    """
    found = paths.walk(model, memels=True)
    if layers is not None:
        return patterns.select(model, layers, memels=True, argument=argument)
    hosts = [
        site
        for site in found
        if isinstance(site.layer, MEmeL) or insertion_of(site.layer)
    ]
    return hosts or [
        site
        for site in found
        if site.layer.weights
        and not isinstance(site.layer, keras.Model)
        and all(isinstance(outer, keras.Model) for outer in site.chain[:-1])
    ]


def axis_of(site: Site) -> Any:
    """Return the axis of the neurons: of the MEmeL, or else of the channels."""
    held = insertion_of(site.layer)
    memel = held.memel if held else site.layer
    if isinstance(memel, MEmeL):
        return memel.axis
    first = getattr(site.layer, "data_format", None) == "channels_first"
    return 1 if first else -1


class _Tap:
    """Recorder of values, called instead of a MEmeL or before it."""

    def __init__(self, memel: MEmeL | None):
        self.memel = memel
        self.seen: list[dict[str, Tensor]] = []

    def __call__(
        self, values: Tensor, mask: Tensor = None, training: bool | None = None
    ) -> Tensor:
        # A training step may be traced while the taps are attached.
        if not training:
            noted = {"values": values}
            if mask is not None:
                noted["mask"] = mask
            self.seen.append(noted)
        if self.memel is None:
            return values
        return self.memel(values, mask=mask, training=training)


@contextlib.contextmanager
def _tapped(found: list[Site], output: Output) -> Iterator[list[_Tap]]:
    taps, undo = [], contextlib.ExitStack()
    with undo:
        for site in found:
            held = insertion_of(site.layer)
            if held:
                arguments.same_output(site.path, held.output, output)
            tap = _Tap(held.memel if held else None)
            insertion = Insertion(
                cast(MEmeL, tap), held.output if held else output
            )
            _set(undo, site.layer, "_memel_insertion", insertion)
            taps.append(tap)
        for layer in {id(one): one for s in found for one in s.chain}.values():
            if is_hooked(layer):
                continue
            for name in ("call", "quantized_call"):
                method = getattr(layer, name, None)
                if method is not None:
                    noting = functools.wraps(method)(noting_call(layer, method))
                    _set(undo, layer, name, noting)
            # Values of a rematerialized call cannot be returned.
            _set(undo, layer, "rematerialized_call", _not_rematerialized)
        yield taps


def _not_rematerialized(layer_call: Any, *args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    return layer_call


def _set(
    undo: contextlib.ExitStack, layer: keras.Layer, name: str, value: Any
) -> None:
    if name in vars(layer):
        undo.callback(vars(layer).__setitem__, name, vars(layer)[name])
    else:
        undo.callback(vars(layer).pop, name, None)
    vars(layer)[name] = value


class _Probe(keras.Model):
    """Model that runs another one and returns what its taps recorded."""

    def __init__(self, model: keras.Layer, taps: list[_Tap]):
        super().__init__(name="probe")
        self.model = model
        # Keras would track a list.
        self.taps = tuple(taps)
        self.built = True
        if isinstance(model, keras.Model):
            self.run_eagerly = model.run_eagerly
            self.jit_compile = model.jit_compile

    def call(self, inputs: Any) -> Any:
        for tap in self.taps:
            tap.seen.clear()
        self.model(inputs, training=False)
        seen = [list(tap.seen) for tap in self.taps]
        for tap in self.taps:
            tap.seen.clear()
        return seen


def outputs(
    model: keras.Layer,
    found: list[Site],
    batches: Iterable[Any],
    output: Output = None,
    preprocess: bool = True,
) -> Generator[list[list[dict[str, np.ndarray]]], None, None]:
    """Yield the values at the sites at inference, batch by batch.

    Args:
        model: A built model.
        found: Sites of it.
        batches: Batches of inputs.
        output: Index or key of the output, if a layer has several.
        preprocess: Whether to apply the preprocessor of the model, if it has
            one, to the batches.

    Yields:
        Per site and per call of its layer: `values`, float32 `(batch, ...)`,
        and, if there is a mask, `mask`, booleans of the leading dimensions.

    Raises:
        ValueError: If the model never calls a layer, or the output of a layer
            is not floating-point.
    """
    preprocessor = getattr(model, "preprocessor", None) if preprocess else None
    strategy = getattr(model, "distribute_strategy", None)
    # Keras passes the whole batch to each replica and joins their outputs.
    copies = strategy.num_replicas_in_sync if strategy else 1
    with _tapped(found, output) as taps:
        with strategy.scope() if strategy else contextlib.nullcontext():
            probe = _Probe(model, taps)
        for batch in batches:
            if preprocessor is not None:  # as KerasHub models do
                batch, *_ = keras.utils.unpack_x_y_sample_weight(
                    preprocessor(batch)
                )
            seen = probe.predict_on_batch(batch)
            yield [
                _checked(site, calls, copies)
                for site, calls in zip(found, seen)
            ]


def _checked(
    site: Site, calls: list[dict[str, Any]], copies: int
) -> list[dict[str, np.ndarray]]:
    if not calls:
        raise ValueError(
            "Argument `layers` must select layers that the model calls. "
            f"Received: layer {site.path!r}, which is never called"
        )
    checked = []
    for call in calls:
        call = {
            name: np.asarray(array)[: len(array) // copies]
            for name, array in call.items()
        }
        values = call["values"]
        dtype = keras.backend.standardize_dtype(values.dtype)
        if not keras.backend.is_float_dtype(dtype):
            raise ValueError(
                "Argument `layers` must select layers with a floating-point "
                "output. "
                f"Received: layer {site.path!r}, whose output is of dtype "
                f"{dtype}"
            )
        noted = {"values": values.astype("float32", copy=False)}
        if "mask" in call:
            noted["mask"] = call["mask"].astype(bool, copy=False)
        checked.append(noted)
    return checked
