"""Detect the signs of a MEmeL that does not work, and advise what to do.

The functions are pure and compare two readings of the weights of a layer. Only
`watch_masks` changes a layer, and only during training.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_memel.core import scores
from keras_memel.core.selections import Random
from keras_memel.core.selections import Rate
from keras_memel.core.selections import TopK
from keras_memel.insertion.forward import LOST_PADDING
from keras_memel.layers.memel import MEmeL
from keras_memel.utils.arrays import to_numpy
from keras_memel.utils.types import Array

_WATCHED = "_memel_saw_mask"

NEVER_MOVED = (
    "never moved",
    "its statistics did not change in training. Either the layer is not "
    "called, or it does not receive `training`: the `call` of every model and "
    "layer around it must accept `training` and pass it on.",
)


class WeightSnapshot(NamedTuple):
    """Weights of a MEmeL at one time, as NumPy arrays and numbers.

    Attributes:
        steps, inhibited_rate, threshold: Values of the weights. The threshold
            is NaN for a selection without one.
        skipped: Number of updates that neurons skipped because of non-finite
            values.
        count, mean, variance: Statistics with the shape of the neurons.
        replicas: Means of each replica, if the backend has several.
    """

    steps: float
    inhibited_rate: float
    threshold: float
    skipped: float
    count: Array
    mean: Array
    variance: Array
    replicas: tuple[Array, ...]


def read(layer: MEmeL) -> WeightSnapshot:
    """Read the current weights of a layer."""
    threshold = getattr(layer, "threshold", None)
    return WeightSnapshot(
        float(to_numpy(layer.steps)),
        float(to_numpy(layer.inhibited_rate)),
        math.nan if threshold is None else float(to_numpy(threshold)),
        float(to_numpy(layer.skipped_updates)),
        to_numpy(layer.count),
        to_numpy(layer.moving_mean),
        to_numpy(layer.moving_variance),
        _replicas(layer.moving_mean, layer.process_group),
    )


def _replicas(weight: Any, group: Any) -> tuple[Array, ...]:
    # TensorFlow keeps one copy per replica in one variable, and PyTorch uses
    # one process per replica. JAX has one array for all devices.
    backend = keras.backend.backend()
    if backend == "jax":
        return ()
    value = getattr(weight, "value", weight)  # PyTorch buffers lack `value`.
    if backend == "tensorflow":
        copies = getattr(value, "values", ())
        copies = () if callable(copies) else copies
        return tuple(np.array(copy) for copy in copies)
    if backend == "torch":
        import torch

        if torch.distributed.is_available() and (
            torch.distributed.is_initialized()
        ):
            own = value.detach().contiguous()
            every = [
                torch.empty_like(own)
                for _ in range(torch.distributed.get_world_size(group))
            ]
            torch.distributed.all_gather(every, own, group=group)
            return tuple(copy.cpu().numpy() for copy in every)
    return ()


def target_rate(layer: MEmeL) -> float | None:
    """Return the target share of selected values; `None` without a target.

    The target of `TopK` is `k` divided by the number of values of a sample,
    and `None` if this number is unknown. Padding makes the real share higher.
    """
    if isinstance(layer.selection, (Rate, Random)):
        return layer.selection.rate
    if isinstance(layer.selection, TopK) and not layer._sample_axes[1:]:
        return layer.selection.k / int(np.prod(layer.count.shape))
    return None


def scales(
    layer: MEmeL, reading: WeightSnapshot, call: dict[str, Array]
) -> Array:
    """Compute the monosemantic scale of values with the layer's statistics.

    Args:
        layer: A MEmeL.
        reading: Weights of the layer.
        call: `values`, `(batch, ...)`, and an optional `mask`.

    Returns:
        Scales of all values that count, flat. Non-finite scales and neurons
        without history are excluded. The result is one NaN if no value
        remains. The scale of a value at the mean of a neuron without variance
        is 0.
    """
    shape = layer._keepdims_shape
    seen = reading.count > 0
    mean, variance = (
        array.reshape(shape) for array in (reading.mean, reading.variance)
    )
    values, mask = call["values"], call.get("mask")
    phi = scores.phi(values, mean, variance, layer.epsilon, seen.reshape(shape))
    kept = np.isfinite(phi) & seen.reshape(shape)
    if mask is not None:
        kept &= mask.reshape(mask.shape + (1,) * (phi.ndim - mask.ndim))
    found: Array = phi[kept]
    return found if len(found) else np.full(1, np.nan)


def found(
    layer: MEmeL,
    first: WeightSnapshot,
    before: WeightSnapshot | None,
    now: WeightSnapshot,
) -> Iterator[tuple[str, str]]:
    """Detect faults in the weights of a layer.

    Args:
        layer: A MEmeL.
        first: Weights of the layer at the start of training.
        before: Weights at the previous reading, or `None`.
        now: Weights at this reading.

    Yields:
        Kind of each fault, and the message for the user.
    """
    if now.steps == first.steps and layer.trainable:
        yield NEVER_MOVED
    if now.skipped > (before or first).skipped:
        yield (
            "finite",
            "some of its values are not finite (NaN or infinity). They pass "
            "unchanged, and their neurons skipped an update of the statistics "
            f"{now.skipped - (before or first).skipped:.0f} times. Check the "
            "data for NaN, lower the learning rate, clip gradients, or "
            "scale the loss in half precision.",
        )
    if vars(layer).get(LOST_PADDING):
        yield (
            "padding",
            "padding may be counted as data: the model has padding masks, but "
            "none fits the output of this layer, as after a convolution. "
            "Insert after a layer that receives the mask as `padding_mask`, or "
            "add your own MEmeL and pass it a `mask`.",
        )
    if vars(layer).get(_WATCHED) is False:
        yield (
            "mask",
            "padding is counted as data, because a layer between the mask and "
            "the MEmeL drops the mask. Set `supports_masking = True` on that "
            "layer, or pass `mask` to the MEmeL.",
        )
    if before is None:
        return
    ready = before.steps > layer.late_start
    if ready and isinstance(layer.selection, Rate):
        off = _off(layer.selection.rate, before, now)
        settled = now.steps > layer.late_start + 10 / layer.selection.gain
        if settled and off:
            yield (
                "rate",
                f"the layer inhibits {now.inhibited_rate:.2%} of its values, "
                f"and its target is {layer.selection.rate:.2%}. If the values "
                "change fast, raise the `gain` of `Rate` or lower the learning "
                "rate. If most values are equal, as in a dead layer, move the "
                "MEmeL to before the activation function.",
            )
    old, new = before.variance.mean(), now.variance.mean()
    if ready and old > 0 and new < 1e-4 * old:
        yield (
            "collapse",
            f"its mean variance fell from {old:.3g} to {new:.3g}: the layer "
            "before it stopped responding to its inputs. Lower the learning "
            "rate, the inhibited rate or `delta`, or search for dead neurons "
            "with `keras_memel.analyze`.",
        )
    if ready and old > 0:
        spread = np.sqrt(before.variance + 1e-12 * old)
        jump = float(np.median(np.abs(now.mean - before.mean) / spread))
        if jump > 10 or new > 100 * old:
            yield (
                "jump",
                f"its statistics jumped since the previous reading: the means "
                f"by {jump:.3g} standard deviations, the mean variance from "
                f"{old:.3g} to {new:.3g}. Lower the learning rate, clip "
                "gradients, or check the data for a change.",
            )
    if any(
        not np.allclose(now.replicas[0], other, rtol=1e-3, atol=1e-6)
        for other in now.replicas[1:]
    ):
        yield (
            "replicas",
            "its statistics differ between replicas, so each replica inhibits "
            "values with a different history. Synchronize the replicas as "
            "described in `keras_memel.sync`, or train in one process.",
        )


def _off(rate: float, before: WeightSnapshot, now: WeightSnapshot) -> bool:
    # The rate must be off in two readings, because one odd batch is harmless.
    return all(
        one.inhibited_rate < rate / 4 or one.inhibited_rate > min(4 * rate, 1)
        for one in (before, now)
    )


def watch_masks(
    model: keras.Model, layers: dict[str, MEmeL]
) -> Callable[[], None]:
    """Record whether a mask reaches each layer while a model is trained.

    A compiled step is not slower, because `call` only runs during tracing.

    Args:
        model: A Keras model.
        layers: MEmeLs of the model, by path.

    Returns:
        A function that stops the recording.
    """
    undo = contextlib.ExitStack()
    if not any(map(_makes_mask, model._flatten_layers())):
        return undo.close
    for layer in layers.values():
        own = vars(layer).get("call")
        layer.__dict__["call"] = _watching(layer, layer.call)
        undo.callback(layer.__dict__.pop, _WATCHED, None)
        if own is None:
            undo.callback(layer.__dict__.pop, "call", None)
        else:
            undo.callback(layer.__dict__.__setitem__, "call", own)
    return undo.close


def _makes_mask(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.Masking) or (
        isinstance(layer, keras.layers.Embedding) and layer.mask_zero
    )


def _watching(layer: MEmeL, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(
        inputs: Any, mask: Any = None, training: bool | None = None
    ) -> Any:
        if training:
            layer.__dict__[_WATCHED] = mask is not None
        return method(inputs, mask=mask, training=training)

    return call
