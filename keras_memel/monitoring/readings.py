"""Read the state of the MEmeL layers of a model as numbers for a log."""

import math
from typing import Any

import keras

from keras_memel import native
from keras_memel.core import selections
from keras_memel.insertion import capture
from keras_memel.insertion import paths
from keras_memel.insertion.insert import inserted
from keras_memel.layers.memel import MEmeL
from keras_memel.monitoring import diagnostics
from keras_memel.monitoring.diagnostics import WeightSnapshot


def readings(model: Any) -> dict[str, float]:
    """Read the state of each MEmeL of a model.

    Use it in your own training loop. `MonosemanticityMonitor` logs the same
    numbers in `fit`. On JAX, write the weights back into the model
    before you call it.

    Args:
        model: A Keras model, or a module of PyTorch or Flax NNX, with MEmeLs
            that were inserted or are part of it.

    Returns:
        A dictionary from `"<layer>/<number>"` to a number, for each built
        layer, by its path as in `find`. `inhibited_rate` is the share of the
        values that were inhibited in the last training step, in [0, 1] (NaN
        if the layer has not counted any value). `target_rate` is the target
        share of its selection, if it has a target. `threshold` is the moving
        threshold of `Rate`, in variances.

    Raises:
        ValueError: If the model does not contain a MEmeL that can be read.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), MEmeL("rate", name="m")]
    ... )
    >>> _ = model(np.ones((2, 4)), training=True)
    >>> readings(model)["m/inhibited_rate"]
    0.0
    """
    return {
        f"{path}/{name}": number
        for path, layer in memels(model).items()
        if layer.built
        for name, number in numbers(layer, diagnostics.read(layer)).items()
    }


def memels(model: Any) -> dict[str, Any]:
    """Find the MEmeLs of a model.

    Args:
        model: As in `readings`.

    Returns:
        The layers by their paths.

    Raises:
        ValueError: As in `readings`.
    """
    found: dict[str, Any] = {}
    if (other := native.verbs(model)) is not None:
        found = other.memels(model)
    elif isinstance(model, keras.Layer):
        found = dict(inserted(model))
        for site in capture.chosen(model, None):
            if isinstance(site.layer, MEmeL):
                found[site.path] = site.layer
        found |= paths.in_scans(model)
    if not found:
        raise ValueError(
            "Argument `model` must contain a MEmeL to monitor. Add one with "
            "`model.add(MEmeL())` or `keras_memel.insert(model, ...)`. A "
            "MEmeL inside a TimeDistributed or a cell cannot be read. "
            f"Received: model={model!r}"
        )
    return found


def numbers(layer: MEmeL, snapshot: WeightSnapshot) -> dict[str, float]:
    """Summarize the weights of a layer.

    Args:
        layer: A MEmeL.
        snapshot: Weights of the layer.

    Returns:
        Numbers by their names, as in `readings`.
    """
    seen = snapshot.count.any()
    found = {"inhibited_rate": snapshot.inhibited_rate if seen else math.nan}
    target = diagnostics.target_rate(layer)
    if target is not None:
        found["target_rate"] = target
    if isinstance(layer.selection, selections.Rate):
        found["threshold"] = snapshot.threshold
    return found
