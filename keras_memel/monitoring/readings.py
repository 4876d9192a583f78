"""Read what the MEmeL layers of a model do, as numbers for a log."""

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

    This is the core of `MonosemanticityMonitor`, for training loops of your
    own. On JAX, write the weights back into the model before you call it.

    Args:
        model: A Keras model, or a module of PyTorch or Flax NNX, with MEmeLs,
            inserted or its own.

    Returns:
        A dictionary from `"<layer>/<number>"` to a number, for each layer that
        is built, by its path as in `find`: `inhibited_rate`, the share of the
        values that were inhibited in the last training step, in [0, 1] (NaN
        if the layer has counted no value); `target_rate`, the share that its
        selection aims at, if it has one; and `threshold`, the moving
        threshold of `Rate`, in variances.

    Raises:
        ValueError: If the model has no MEmeL that can be read.

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
        model: As of `readings`.

    Returns:
        The layers by their paths.

    Raises:
        ValueError: As of `readings`.
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
            "The model has no MEmeL to monitor. Add one with "
            "`model.add(MEmeL())` or `keras_memel.insert(model, ...)`; one "
            "inside of a TimeDistributed or of a cell is out of reach. "
            f"Received: {model!r}"
        )
    return found


def numbers(layer: MEmeL, snapshot: WeightSnapshot) -> dict[str, float]:
    """Summarize the weights of a layer.

    Args:
        layer: The layer.
        snapshot: Its weights.

    Returns:
        Numbers by their names, as of `readings`.
    """
    seen = snapshot.count.any()
    found = {"inhibited_rate": snapshot.inhibited_rate if seen else math.nan}
    target = diagnostics.target_rate(layer)
    if target is not None:
        found["target_rate"] = target
    if isinstance(layer.selection, selections.Rate):
        found["threshold"] = snapshot.threshold
    return found
