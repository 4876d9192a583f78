"""Batch moments and the pooled update of Lemma 3.2 of [Wang et al. 2024].

A neuron's statistics are three numbers: how many samples they rest on, their
mean, and their variance. A training step measures them on its batch
(`batch_moments`) and merges them into the history (`pool`). Where a batch
comes in pieces, one time step after the other, `Sums` adds them up.

A long run adds small changes to large numbers, which one float32 would round
away. A `History` keeps what is rounded in numbers of its own
(`add_compensated`).

All functions are pure: arrays in, arrays out. All arrays are float32; the
neuron axes of `values` keep their places and the others have size 1 in what
is returned ("keepdims"), so that everything broadcasts.

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
        count: Number of samples that the other two rest on, `(neurons)`.
        mean: Their mean, `(neurons)`, in units of the activation.
        variance: Their variance, `(neurons)`, in squared units: *biased*
            (divided by the count) for a batch, *unbiased* (divided by the
            count minus one) for a history.

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
        count: Number of samples of every neuron, `(neurons)`.
        mean: Their mean, `(neurons)`, in units of the activation.
        variance: Their unbiased variance, `(neurons)`, in squared units.
        low: The low parts. Those of mean and variance change only in a history
            that never forgets.

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
        """The high parts."""
        return Moments(self.count, self.mean, self.variance)


def add_compensated(
    high: Tensor, low: Tensor, change: Tensor
) -> tuple[Tensor, Tensor]:
    """`high + low + change` as a rounded sum and what the rounding left.

    [Dekker 1971] Fast2Sum. The sum of two integers is exact. Where `change` is
    larger than `high` and not an integer, the low part may be inexact, by less
    than the rounding of `change`.

    Args:
        high: A float32 number.
        low: What is missing from it, at most half a unit in its last place.
        change: What to add.

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
    """Number of values that each neuron has in a batch.

    Args:
        shape: Shape of the values, `ops.shape(values)`.
        axes: Sample axes, over which the values of one neuron lie.
        mask: `None`, or booleans of the rank of the values, broadcastable
            to them: true where a value counts.

    Returns:
        float32, broadcastable to the neurons.
    """
    if mask is None:
        return ops.cast(math.prod([shape[axis] for axis in axes]), "float32")
    count = ops.sum(ops.cast(mask, "float32"), axis=axes, keepdims=True)
    for axis in axes:
        if mask.shape[axis] == 1:  # broadcast: one flag stands for many values
            count = count * ops.cast(shape[axis], "float32")
    return count


def batch_moments(
    values: Tensor,
    axes: tuple[int, ...],
    history: Moments,
    mask: Tensor = None,
) -> Moments:
    """Moments of every neuron on one batch, in one pass over the values.

    Deviations are taken from a shift `s`, `d = z - s`, and

        mean = s + E[d],    variance = E[d^2] - E[d]^2,

    where `s` is the mean of the history. The difference cancels only where
    the batch has moved away from the history, `E[d]^2 >> variance`; and there
    `pool` adds that very square, which dwarfs the error. (With `s = 0`, as in
    `ops.moments` on PyTorch, a mean of 100 with a deviation of 0.01 gives a
    negative variance.) A neuron without history takes its `s` from the batch.

    Args:
        values: Activations `(batch, ..., neurons)`.
        axes: Sample axes, over which the values of one neuron lie.
        history: What is known of the neurons before this batch.
        mask: `None`, or booleans of the rank of `values`, broadcastable to
            them: true where a value counts.

    Returns:
        `Moments` with the *biased* variance. Where no value counts, all three
        are 0. Where a value that counts is not finite, or its square is not,
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
    """Sums from which the moments of a batch follow, that comes in pieces.

    As `batch_moments`, from a shift `s` and deviations `d = z - s`.

    Attributes:
        count: Number of values so far; broadcastable to the neurons.
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
        """Sums of nothing.

        Args:
            history: What is known of the neurons before this batch.
            mask: `None`, or any of the masks that the pieces will have.
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
        """With one more piece.

        Args:
            values: Activations `(batch, ..., neurons)`.
            axes: Sample axes, over which the values of one neuron lie.
            known: Booleans, `(neurons)`: true for those with a history. The
                others take their shift from the first piece that counts.
            mask: As of `batch_moments`; one that differs between samples only.
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
        """What `batch_moments` finds for all pieces at once."""
        count, shift, first, second = self
        divisor = kernels.at_least(count, 1.0)
        offset = first / divisor
        variance = second / divisor - offset * offset
        return Moments(
            count=ops.broadcast_to(count, shift.shape),
            mean=kernels.where(count > 0, shift + offset, 0.0),
            # `where`, not `maximum`: a NaN must stay one on every backend.
            variance=kernels.where(variance < 0, 0.0, variance),
        )


def _sums(
    values: Tensor,
    axes: tuple[int, ...],
    known: Tensor,
    mean: Tensor,
    mask: Tensor,
) -> Sums:
    """Sums of `values` from `mean`, or where not `known` from one of them."""
    count = sample_count(ops.shape(values), axes, mask)
    near = _near_value(values, axes, count, mask)
    shift = kernels.where(known, mean, near)
    return Sums(count, shift, *kernels.sums(values, shift, axes, mask))


def _near_value(
    values: Tensor, axes: tuple[int, ...], count: Tensor, mask: Tensor
) -> Tensor:
    # Where all count, the first value; else their mean, at the price of one
    # more pass. Sums, since those are defined for an empty batch too.
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

    Forgetting (App. C.1): the history counts as `m = min(count, n_f b)`, so
    that from `n_f` equal batches on every batch has the weight `1/(n_f + 1)`.
    Without forgetting the changes become ever smaller, and mean and variance
    are sums of two float32 numbers, which do not stand still.

    Args:
        history: What earlier calls returned, or moments with the unbiased
            variance.
        batch: Moments with the biased variance.
        forget_steps: `n_f`; `None` never forgets and pools exactly.

    Returns:
        `History` with the unbiased variance (0 where fewer than two samples
        were seen) and the number of samples seen in all. A neuron whose batch
        is empty or not finite keeps its history, count and all.

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
    # mu + w (mu' - mu) rather than (m mu + b mu') / (m + b): the same number,
    # without the rounding of two large products.
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
        # As a change, once the history outweighs the batch: the difference is
        # then not one of two nearly equal numbers.
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
