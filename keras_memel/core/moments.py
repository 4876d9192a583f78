"""Batch moments and the pooled update of Lemma 3.2 of [Wang et al. 2024].

The statistics of a neuron are three numbers: the count, the mean and the
variance of its samples. A training step computes them on its batch
(`batch_moments`) and merges them into the history (`pool`). If a batch arrives
in pieces, such as one time step at a time, `Sums` accumulates them.

A long run adds small changes to large numbers. A single float32 would lose them
to rounding. A `History` therefore stores the rounding errors in separate
numbers (`add_compensated`).

All functions are pure, and all arrays are float32. The neuron axes of `values`
keep their positions. The other axes have size 1 in the results ("keepdims"), so
that the results broadcast.

References:
    [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
    [Dekker 1971] A floating-point technique for extending the available
        precision. Numerische Mathematik 18, 224-242.
"""

import math
from typing import Any
from typing import NamedTuple

from keras import ops

from keras_memel import kernels
from keras_memel.utils.types import Tensor


class Moments(NamedTuple):
    """Count, mean and variance of the values of every neuron.

    Attributes:
        count: Number of samples per neuron, `(neurons)`.
        mean: Mean of the samples, `(neurons)`, in units of the activation.
        variance: Variance of the samples, `(neurons)`, in squared units. It is
            *biased* (divided by the count) for a batch and *unbiased* (divided
            by the count minus one) for a history.

    Example:

    >>> nothing_yet = Moments(count=0.0, mean=0.0, variance=0.0)
    """

    count: Tensor
    mean: Tensor
    variance: Tensor


_NOTHING = Moments(0.0, 0.0, 0.0)


class History(NamedTuple):
    """Moments of all values so far, each the sum of a high and a low part.

    The high parts are the moments rounded to float32. In float64,
    `count + low.count` is exact up to 2^47.

    Attributes:
        count: Number of samples per neuron, `(neurons)`.
        mean: Mean of the samples, `(neurons)`, in units of the activation.
        variance: Unbiased variance of the samples, `(neurons)`, in squared
            units.
        low: Low parts. The low parts of mean and variance change only in a
            history that never forgets.

    Example:

    >>> history = History(*np.zeros((3, 1, 2), "float32"))
    >>> batch = Moments(*np.ones((3, 1, 2), "float32"))
    >>> history = pool(history, batch)
    >>> print(ops.convert_to_numpy(history.count + history.low.count))
    [[1. 1.]]
    """

    count: Tensor
    mean: Tensor
    variance: Tensor
    low: Moments = _NOTHING

    @property
    def moments(self) -> Moments:
        """High parts, as `Moments`."""
        return Moments(self.count, self.mean, self.variance)


def add_compensated(
    high: Tensor, low: Tensor, change: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute `high + low + change` as a rounded sum and its rounding error.

    This is Fast2Sum of [Dekker 1971]. The sum of two integers is exact. If
    `change` is larger than `high` and not an integer, the low part may be
    inexact, by less than the rounding of `change`.

    Args:
        high: A float32 number.
        low: Rounding error of `high`, at most half a unit in its last place.
        change: Number to add.

    Returns:
        The new `high` and `low`.

    Example:

    >>> high, low = np.float32(2**24), np.float32(0)
    >>> for _ in range(3):
    ...     high, low = add_compensated(high, low, np.float32(1))
    >>> float(high) + float(low) - 2**24
    3.0
    """
    change = low + change
    total = high + change
    return total, change - (total - high)


def sample_count(shape: Any, axes: tuple[int, ...], mask: Tensor) -> Tensor:
    """Count the values of each neuron in a batch.

    Args:
        shape: Shape of the values, `ops.shape(values)`.
        axes: Sample axes, over which the values of a neuron are pooled.
        mask: `None`, or booleans of the rank of the values, broadcastable
            to them: true where a value counts.

    Returns:
        float32, broadcastable to the neurons.
    """
    if mask is None:
        return ops.cast(math.prod([shape[axis] for axis in axes]), "float32")
    count = ops.sum(ops.cast(mask, "float32"), axis=axes, keepdims=True)
    for axis in axes:
        if mask.shape[axis] == 1:  # broadcast: one flag applies to many values
            count = count * ops.cast(shape[axis], "float32")
    return count


def batch_moments(
    values: Tensor,
    axes: tuple[int, ...],
    history: Moments,
    mask: Tensor = None,
) -> Moments:
    """Compute the moments of every neuron on a batch, in one pass.

    With deviations `d = z - s` from a shift `s`,

        mean = s + E[d],    variance = E[d^2] - E[d]^2,

    where `s` is the mean of the history. The difference loses digits only if
    the batch is far from the history, `E[d]^2 >> variance`. `pool` then adds
    this same square, which is much larger than the error. (With `s = 0`, as in
    `ops.moments` on PyTorch, a mean of 100 with a deviation of 0.01 gives a
    negative variance.) For a neuron without history, `s` comes from the batch.

    Args:
        values: Activations `(batch, ..., neurons)`.
        axes: Sample axes, over which the values of a neuron are pooled.
        history: Moments of the neurons before this batch.
        mask: `None`, or booleans of the rank of `values`, broadcastable to
            them: true where a value counts.

    Returns:
        `Moments` with the *biased* variance. If no value of a neuron counts,
        all three are 0. If a value that counts or its square is not finite,
        the mean or the variance is not finite either.

    Example:

    >>> values = np.array([[1.0, 10.0], [3.0, 10.0]], "float32")
    >>> cold = Moments(*np.zeros((3, 1, 2), "float32"))
    >>> batch = batch_moments(values, (0,), cold)
    >>> print(ops.convert_to_numpy(batch.mean))
    [[ 2. 10.]]
    >>> print(ops.convert_to_numpy(batch.variance))
    [[1. 0.]]
    """
    values, history = ops.convert_to_tensor(values), _as_tensors(history)
    return _sums(values, axes, history.count > 0, history.mean, mask).moments()


class Sums(NamedTuple):
    """Accumulate the moments of a batch that arrives in pieces.

    The sums use a shift `s` and deviations `d = z - s`, as in `batch_moments`.

    Attributes:
        count: Number of values so far, broadcastable to the neurons.
        shift: `s`, `(neurons)`.
        first: Sum of `d`, `(neurons)`.
        second: Sum of `d^2`, `(neurons)`.

    Example:

    >>> cold = Moments(*np.zeros((3, 1, 2), "float32"))
    >>> sums = Sums.start(cold)
    >>> for piece in ([[1.0, 10.0]], [[3.0, 10.0]]):
    ...     sums = sums.add(np.array(piece, "float32"), (0,), cold.count > 0)
    >>> print(ops.convert_to_numpy(sums.moments().mean))
    [[ 2. 10.]]
    """

    count: Tensor
    shift: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def start(cls, history: Moments, mask: Tensor = None) -> "Sums":
        """Return the sums before the first piece.

        Args:
            history: Moments of the neurons before this batch.
            mask: `None`, or any of the masks of the pieces.
        """
        mean = kernels.as_float32(history.mean)
        zeros = ops.zeros_like(mean)
        count = ops.zeros((1,) * (len(mask.shape) if mask is not None else 0))
        return cls(ops.cast(count, "float32"), mean, zeros, zeros)

    def add(
        self,
        values: Tensor,
        axes: tuple[int, ...],
        known: Tensor,
        mask: Tensor = None,
    ) -> "Sums":
        """Return the sums with one more piece.

        Args:
            values: Activations `(batch, ..., neurons)`.
            axes: Sample axes, over which the values of a neuron are pooled.
            known: Booleans `(neurons)`, true for neurons with a history. The
                shift of the others comes from the first piece that counts.
            mask: As in `batch_moments`, but it may differ between samples only.
        """
        values = ops.convert_to_tensor(values)
        near = ops.logical_or(known, self.count > 0)
        more = _sums(values, axes, near, self.shift, mask)
        return Sums(
            self.count + more.count,
            more.shift,
            self.first + more.first,
            self.second + more.second,
        )

    def moments(self) -> Moments:
        """Return the result of `batch_moments` on all pieces together."""
        count, shift, first, second = self
        divisor = kernels.at_least(count, 1.0)
        offset = first / divisor
        variance = second / divisor - offset * offset
        return Moments(
            count=ops.broadcast_to(count, shift.shape),
            mean=kernels.where(count > 0, shift + offset, 0.0),
            # On some backends, `maximum` would discard a NaN.
            variance=kernels.where(variance < 0, 0.0, variance),
        )


def _sums(
    values: Tensor,
    axes: tuple[int, ...],
    known: Tensor,
    mean: Tensor,
    mask: Tensor,
) -> Sums:
    """Sum deviations from `mean` or, if not `known`, from a nearby value."""
    count = sample_count(ops.shape(values), axes, mask)
    near = _near_value(values, axes, count, mask)
    shift = kernels.where(known, mean, near)
    return Sums(count, shift, *kernels.sums(values, shift, axes, mask))


def _near_value(
    values: Tensor, axes: tuple[int, ...], count: Tensor, mask: Tensor
) -> Tensor:
    # If all values count, use the first one. Otherwise use their mean, which
    # needs one more pass. Compute both as sums, which are defined for an empty
    # batch, too.
    if mask is None:
        first = tuple(
            slice(0, 1) if axis in axes else slice(None)
            for axis in range(len(values.shape))
        )
        near = kernels.as_float32(values[first])
        return ops.sum(near, axis=axes, keepdims=True)
    counted = kernels.where(mask, kernels.as_float32(values), 0.0)
    total = ops.sum(counted, axis=axes, keepdims=True)
    return total / kernels.at_least(count, 1.0)


def pool(
    history: Moments | History,
    batch: Moments,
    forget_steps: int | None = None,
) -> History:
    """Merge a batch into the history, [Wang et al. 2024] Lemma 3.2, Eq. 8-9.

    With a history of `m` values (mean `mu`, unbiased variance `v`) and `b`
    new ones (mean `mu'`, biased variance `v'`):

        mu <- (m mu + b mu') / (m + b)
        v  <- m b (mu - mu')^2 / ((m + b - 1)(m + b))
              + (b v' + (m - 1) v) / (m + b - 1)

    Forgetting (App. C.1): the history counts as `m = min(count, n_f b)` values.
    After `n_f` equal batches, each further batch has the weight `1/(n_f + 1)`.
    Without forgetting, the changes become ever smaller. Mean and variance are
    then sums of two float32 numbers, so that small changes still count.

    Args:
        history: Result of earlier calls, or moments with the unbiased
            variance.
        batch: Moments with the biased variance.
        forget_steps: `n_f`; `None` never forgets and pools exactly.

    Returns:
        `History` with the unbiased variance (0 for fewer than two samples) and
        the number of all samples so far. A neuron whose batch is empty or not
        finite keeps its history, including its count.

    Example:

    >>> first, second = np.array([1.0, 2.0]), np.array([4.0, 5.0, 9.0])
    >>> history = Moments(2.0, first.mean(), first.var(ddof=1))
    >>> batch = Moments(3.0, second.mean(), second.var())
    >>> pooled = pool(history, batch)
    >>> both = np.concatenate([first, second])
    >>> print(round(float(pooled.mean), 4), both.mean())
    4.2 4.2
    >>> print(round(float(pooled.variance), 4), both.var(ddof=1))
    9.7 9.7
    """
    low = history.low if isinstance(history, History) else _NOTHING
    history, batch = _as_tensors(history), _as_tensors(batch)
    m, b = history.count, batch.count
    # Use mu + w (mu' - mu). It equals (m mu + b mu') / (m + b), but avoids the
    # rounding of two large products.
    step = batch.mean - history.mean
    count_low = kernels.as_float32(low.count)
    if forget_steps is None:
        low = _as_tensors(low)
        step = step - low.mean
    else:
        m = ops.minimum(m, forget_steps * b)
    weight = b / kernels.at_least(m + b, 1.0)
    freedom = kernels.at_least(m + b - 1.0, 1.0)
    spread = m * weight * step * step + b * batch.variance
    old = kernels.at_least(m - 1.0, 0.0) * history.variance
    variance = (spread + old) / freedom
    if forget_steps is None:
        mean, mean_low = add_compensated(history.mean, low.mean, weight * step)
        # Once the history outweighs the batch, add a change. This avoids the
        # difference of two nearly equal numbers.
        change = (spread - b * history.variance) / freedom
        changed = add_compensated(history.variance, low.variance, change)
        settled = m > b
        variance = kernels.where(settled, changed[0], variance)
        variance_low = kernels.where(settled, changed[1], 0.0)
    else:
        mean, mean_low = history.mean + weight * step, low.mean
        variance_low = low.variance
    usable = (b > 0) & kernels.isfinite(mean) & kernels.isfinite(variance)
    more, more_low = add_compensated(history.count, count_low, b)
    count = kernels.where(usable, more, history.count)
    count_low = kernels.where(usable, more_low, count_low)
    if forget_steps is None:
        mean_low = kernels.where(usable, mean_low, low.mean)
        variance_low = kernels.where(usable, variance_low, low.variance)
    return History(
        count=count,
        mean=kernels.where(usable, mean, history.mean),
        variance=kernels.where(usable, variance, history.variance),
        low=Moments(count_low, mean_low, variance_low),
    )


def _as_tensors(moments: Moments | History) -> Moments:
    return Moments(*(kernels.as_float32(x) for x in moments[:3]))
