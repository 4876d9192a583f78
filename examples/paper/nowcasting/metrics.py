"""Losses and metrics of nowcasts: B-MSE, B-MAE, CSI and HSS.

The balanced errors weight each pixel by its measured rain, r:

    B-MSE = sum w(r) (p - q)^2,   B-MAE = sum w(r) |p - q|
    w = 1 (r < 2 mm/h), 2 (< 5), 5 (< 10), 10 (< 30), 30 (30 mm/h and more)

with the measured pixel p and the forecast q, both in the unit of HKO-7 (dBZ
from -10 to 60 as 0 to 1), summed over the pixels of a frame and averaged over
the frames, as in Shi et al. (2017) and Wang et al. (2024).

CSI and HSS count the pixels in which the rain reaches a rate, with h hits,
m misses, f false alarms and c correct negatives:

    CSI = h / (h + m + f)
    HSS = 2 (h c - m f) / ((h + m) (m + c) + (h + f) (f + c))

The release of Shi et al. computes the same HSS from the Gilbert score. In other
fields, CSI is called the Jaccard index and HSS Cohen's kappa.

Pixels with a truth of NaN or a sample weight of 0 do not add to the sums, but
still count as pixels of their frame.

Shapes are `(batch, frames, height, width)`, with a last axis of 1 or without.
"""

import keras
import numpy as np
from keras import ops

from examples.paper.nowcasting import hko7

RATES = (0.5, 2.0, 5.0, 10.0, 30.0)
WEIGHTS = {2.0: 2.0, 5.0: 5.0, 10.0: 10.0, 30.0: 30.0}
# Factor of the loss, "balanced MSE + MAE", in the code of both papers.
SCALE = 5e-5

UNITS = {"pixel": hko7.rate_to_pixel, "mm/h": float}


def _in_unit(rate, unit):
    if unit not in UNITS:
        raise ValueError(
            f"`unit` must be one of {sorted(UNITS)}. Received: unit={unit!r}"
        )
    return float(UNITS[unit](rate))


def _per(per):
    if per not in ("frame", "pixel"):
        raise ValueError(
            "`per` must be 'frame' (sums over its pixels) or 'pixel' (means). "
            f"Received: per={per!r}"
        )
    return per


def balanced_weights(truth, unit="pixel"):
    """Return w, of the shape of the truth; 0 where the truth is NaN."""
    weights = ops.cast(ops.logical_not(ops.isnan(truth)), truth.dtype)
    before = 1.0
    for rate, weight in WEIGHTS.items():
        # A comparison with NaN is false.
        reached = truth >= ops.cast(_in_unit(rate, unit), truth.dtype)
        weights += (weight - before) * ops.cast(reached, truth.dtype)
        before = weight
    return weights


def balanced_errors(truth, forecast, unit="pixel"):
    """Return w (p - q)^2 and w |p - q| per pixel, `(batch, frames, h, w)`."""
    truth, forecast = _without_channel(truth), _without_channel(forecast)
    weights = balanced_weights(truth, unit)
    # Replace NaN, because NaN times 0 is NaN, in the gradient as well.
    truth = ops.where(ops.isnan(truth), ops.stop_gradient(forecast), truth)
    difference = forecast - truth
    return weights * ops.square(difference), weights * ops.abs(difference)


def _without_channel(frames):
    return frames[..., 0] if len(frames.shape) == 5 else frames


def _pixels(frames, per):
    return float(frames.shape[-2] * frames.shape[-1]) if per == "frame" else 1.0


# Combinations of the two errors of a pixel, for losses and metrics.


class _MSE:
    label = "b_mse"

    @staticmethod
    def combine(squares, absolutes):
        return squares


class _MAE:
    label = "b_mae"

    @staticmethod
    def combine(squares, absolutes):
        return absolutes


class _Balanced(keras.losses.Loss):
    """Base class of the three losses.

    Args:
        unit: Of truth and forecast: `"pixel"` of HKO-7, or `"mm/h"`.
        per: `"frame"`: sums over the pixels of a frame, averaged over frames;
            `"pixel"`: averaged over both.
        scale: Factor.
    """

    scale = 1.0

    def __init__(self, unit="pixel", per="frame", scale=None, **kwargs):
        super().__init__(**{"name": self.label, **kwargs})
        _in_unit(1.0, unit)
        self.unit, self.per = unit, _per(per)
        if scale is not None:
            self.scale = scale

    def call(self, y_true, y_pred):
        errors = self.combine(*balanced_errors(y_true, y_pred, self.unit))
        # Keras computes the mean over all axes, including the pixels.
        return errors * (self.scale * _pixels(errors, self.per))

    def get_config(self):
        config = {"unit": self.unit, "per": self.per, "scale": self.scale}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("nowcasting")
class BalancedMSE(_MSE, _Balanced):
    """B-MSE."""


@keras.saving.register_keras_serializable("nowcasting")
class BalancedMAE(_MAE, _Balanced):
    """B-MAE."""


@keras.saving.register_keras_serializable("nowcasting")
class BalancedLoss(_Balanced):
    """Sum of B-MSE and B-MAE, times 5e-5: the loss of both papers."""

    label = "balanced_loss"
    scale = SCALE

    @staticmethod
    def combine(squares, absolutes):
        return squares + absolutes


class _BalancedMetric(keras.metrics.Mean):
    """Mean of the balanced error over all frames of all batches."""

    def __init__(self, unit="pixel", per="frame", name=None, **kwargs):
        super().__init__(name=name or self.label, **kwargs)
        _in_unit(1.0, unit)
        self.unit, self.per = unit, _per(per)

    def update_state(self, y_true, y_pred, sample_weight=None):
        y_true = ops.cast(y_true, self.dtype)
        y_pred = ops.cast(y_pred, self.dtype)
        errors = self.combine(*balanced_errors(y_true, y_pred, self.unit))
        if sample_weight is not None:
            errors = errors * _mask(sample_weight, errors)
        by_frame = ops.mean(errors, (-2, -1)) * _pixels(errors, self.per)
        super().update_state(by_frame)

    def get_config(self):
        config = {"unit": self.unit, "per": self.per}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable("nowcasting")
class BMSE(_MSE, _BalancedMetric):
    """B-MSE."""


@keras.saving.register_keras_serializable("nowcasting")
class BMAE(_MAE, _BalancedMetric):
    """B-MAE."""


def _mask(sample_weight, frames):
    """Reshape weights of pixels, or of leading axes, to the frames."""
    weights = ops.cast(sample_weight, frames.dtype)
    if len(weights.shape) == 5:
        weights = weights[..., 0]
    missing = len(frames.shape) - len(weights.shape)
    return ops.reshape(weights, tuple(ops.shape(weights)) + (1,) * missing)


# Float32 counts to 2^24, less than the pixels of four sequences of HKO-7: the
# counts are kept as two integers each.
BASE = 2**20


class _Contingency(keras.metrics.Metric):
    """Count the pixels of all batches in which the rain reaches a rate.

    Args:
        rate: In millimeters an hour.
        unit: Of truth and forecast: `"pixel"` of HKO-7, or `"mm/h"`.

    The result is NaN where it is not defined: nothing was seen or foretold.
    """

    def __init__(self, rate, unit="pixel", name=None, **kwargs):
        super().__init__(name=name or f"{self.label}_{rate:g}", **kwargs)
        self.rate, self.unit = rate, unit
        self._limit = _in_unit(rate, unit)
        self.high, self.low = (
            self.add_variable((4,), "zeros", dtype="int32", name=name)
            for name in ("high", "low")
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        truth = _without_channel(ops.cast(y_true, self.dtype))
        forecast = _without_channel(ops.cast(y_pred, self.dtype))
        counts = ops.logical_not(ops.isnan(truth))
        if sample_weight is not None:
            mask = ops.broadcast_to(
                _mask(sample_weight, truth), ops.shape(truth)
            )
            counts = ops.logical_and(counts, mask > 0)
        limit = ops.cast(self._limit, self.dtype)
        seen, told = truth >= limit, forecast >= limit
        not_seen, not_told = ops.logical_not(seen), ops.logical_not(told)
        cells = (
            (seen, told),
            (seen, not_told),
            (not_seen, told),
            (not_seen, not_told),
        )
        numbers = []
        for pair in cells:
            cell = ops.logical_and(counts, ops.logical_and(*pair))
            numbers.append(ops.sum(ops.cast(cell, "int32")))
        low = self.low + ops.cast(ops.stack(numbers), "int32")
        self.high.assign(self.high + low // BASE)
        self.low.assign(low % BASE)

    def counts(self):
        """Return hits, misses, false alarms and correct negatives, rounded."""
        high, low = (
            ops.cast(ops.convert_to_tensor(part), "float32")
            for part in (self.high, self.low)
        )
        table = high * BASE + low
        return [table[i] for i in range(4)]

    def get_config(self):
        config = {"rate": self.rate, "unit": self.unit}
        return {**super().get_config(), **config}


def _ratio(part, whole):
    defined = ops.not_equal(whole, 0)
    return ops.where(defined, part / ops.where(defined, whole, 1.0), np.nan)


@keras.saving.register_keras_serializable("nowcasting")
class CSI(_Contingency):
    """Critical success index: hits / (hits + misses + false alarms)."""

    label = "csi"

    def result(self):
        hits, misses, alarms, _ = self.counts()
        return _ratio(hits, hits + misses + alarms)


@keras.saving.register_keras_serializable("nowcasting")
class HSS(_Contingency):
    """Heidke skill score: gain over chance, at most 1."""

    label = "hss"

    def result(self):
        table = self.counts()
        # Shares: products of counts could leave the range of float32.
        whole = table[0] + table[1] + table[2] + table[3]
        hits, misses, alarms, negatives = (_ratio(n, whole) for n in table)
        return _ratio(
            2 * (hits * negatives - misses * alarms),
            (hits + misses) * (misses + negatives)
            + (hits + alarms) * (alarms + negatives),
        )


def scores(unit="pixel"):
    """Return B-MSE, B-MAE, and CSI and HSS at 0.5 to 30 mm/h."""
    return [BMSE(unit), BMAE(unit)] + [
        kind(rate, unit) for kind in (CSI, HSS) for rate in RATES
    ]
