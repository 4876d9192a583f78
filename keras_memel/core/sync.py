"""One statistic from many replicas: what they tell one another, and how.

Each replica of a network sees a part of the batch. A neuron's history is that
of the whole: counts, sums and sums of squares are added over the replicas,

    n = sum_r n_r,    mean = sum_r n_r mean_r / n,
    variance = sum_r n_r (variance_r + mean_r^2) / n - mean^2,

which are the moments of all values together; an average of the replicas'
variances would lack the part that lies between them. The three and the number
of selected values travel as one vector in one all-reduce, `8 (3 neurons + 1)`
bytes: float64, in which the square of a float32 is exact, so that nothing
cancels that float32 could hold, and no shift has to be agreed upon first. All
replicas get the same sums and go on alike, bit for bit.

    engine                               how the replicas are found
    JAX, `keras.distribution` or a jit   not at all: XLA compiles one program
      of sharded arrays                  for all devices, whose sums are global
    TensorFlow, `tf.distribute`          the replica context of a
                                         MirroredStrategy or
                                         MultiWorkerMirroredStrategy
    PyTorch, `torch.distributed`         a process group, by default that of
                                         all processes

With one replica nothing is packed or sent. The tests run all of these, the
workers of a MultiWorkerMirroredStrategy as two processes of one machine.

An engine must ensure two things. Every replica runs every training step, with
an empty batch if it has no samples (`DistributedDataParallel.join` does not
wait for the sums of layers). On PyTorch, all processes of the group train one
model together, on different values: with tensor or pipeline parallelism the
group is that of data parallelism, as from `DeviceMesh.get_group("data")`.
"""

import math
from typing import Any

import keras
from keras import ops

from keras_memel.core.moments import Moments
from keras_memel.utils.types import Tensor

_BACKEND = keras.backend.backend()
if _BACKEND == "jax":
    import jax
elif _BACKEND == "tensorflow":
    import tensorflow as tf
elif _BACKEND == "torch":
    import torch


def replicas(group: Any = None) -> int:
    """Number of replicas that run this training step, each on its own values.

    1 on JAX, where arrays are global.

    Args:
        group: On PyTorch, the process group of the replicas; `None`: the
            default group, of all processes.

    Raises:
        ValueError: Where replicas cannot be kept equal: on an unknown backend,
            under an asynchronous or another `tf.distribute` strategy, and
            inside `jax.shard_map` or `jax.pmap`.

    Example:

    >>> replicas()
    1
    """
    if _BACKEND == "jax":
        return _replicas_jax()
    if _BACKEND == "tensorflow":
        return _replicas_tensorflow()
    if _BACKEND == "torch":
        return _replicas_torch(group)
    raise ValueError(
        "MEmeL trains on the backends 'jax', 'tensorflow' and 'torch'. "
        f"Received: backend={_BACKEND!r}"
    )


def total(*numbers: Tensor, group: Any = None) -> tuple[Tensor, ...]:
    """Each number summed over the replicas, all in one message.

    Args:
        *numbers: float32 tensors of any shapes, the same on all replicas.
        group: As of `replicas`.

    Returns:
        As many float32 tensors of the same shapes, equal on all replicas. No
        gradient flows through them.

    Example:

    >>> total(ops.array(3.0)) == (3.0,)
    True
    """
    if replicas(group) == 1:
        return numbers
    return tuple(ops.cast(s, "float32") for s in _all_reduce(numbers, group))


def merge(
    batch: Moments, *numbers: Tensor, group: Any = None
) -> tuple[Any, ...]:
    """Moments of the whole batch from those of each replica's part.

    Args:
        batch: Moments of the local values, with the biased variance. Parts
            may differ in size, or be empty.
        *numbers: float32 tensors to be summed, in the same message.
        group: As of `replicas`.

    Returns:
        The moments, then as many sums; all equal on all replicas. A neuron
        whose moments are not finite on one replica has none that are: its
        update is skipped, and counted, on each.

    Example:

    >>> ones = np.ones((1, 2), "float32")
    >>> merged, number = merge(Moments(8 * ones, ones, ones), ops.array(3.0))
    >>> print(ops.convert_to_numpy(merged.count), float(number))
    [[8. 8.]] 3.0
    """
    if replicas(group) == 1:
        return batch, *numbers
    count, mean, variance = (ops.cast(x, "float64") for x in batch)
    second = count * (variance + mean * mean)
    count, first, second, *sums = _all_reduce(
        (count, count * mean, second, *numbers), group
    )
    divisor = ops.maximum(count, 1.0)
    mean = first / divisor
    variance = second / divisor - mean * mean
    # `where`, not `maximum`: a NaN must stay one on every backend.
    variance = ops.where(variance < 0, 0.0, variance)
    merged = Moments(*(ops.cast(x, "float32") for x in (count, mean, variance)))
    return merged, *(ops.cast(s, "float32") for s in sums)


def weighted(
    mean: Tensor, number: Tensor, total: Tensor, group: Any = None
) -> Tensor:
    """A local mean, so weighted that its average is the mean of all values.

    `DistributedDataParallel` and Keras under `tf.distribute` average what the
    replicas add to the loss. This makes up for the share of the values that
    each has.

    Args:
        mean: Over the local values, with its gradient.
        number: How many of them there are.
        total: How many there are on all replicas.
        group: As of `replicas`.

    Example:

    >>> float(weighted(ops.array(0.5), ops.array(3.0), ops.array(3.0)))
    0.5
    """
    count = replicas(group)
    if count == 1:
        return mean
    return mean * ops.stop_gradient(number * count / ops.maximum(total, 1.0))


def _check_group(group: Any) -> Any:
    if group is None:
        return None
    if _BACKEND != "torch":
        raise ValueError(
            "Argument `process_group` is for PyTorch: other backends know the "
            f"replicas. Received: process_group={group!r} on the backend "
            f"{_BACKEND!r}"
        )
    kind = getattr(torch.distributed, "ProcessGroup", ())
    if not isinstance(group, kind):
        raise ValueError(
            "Argument `process_group` must be a "
            "`torch.distributed.ProcessGroup` that this process belongs to, or "
            "None for all processes. "
            f"Received: process_group={group!r} ({type(group).__name__})"
        )
    return group


def _all_reduce(parts: tuple[Tensor, ...], group: Any) -> list[Tensor]:
    """Sums over the replicas, float64, of one vector of all parts."""
    shapes = [tuple(part.shape) for part in parts]
    flat = [ops.reshape(ops.cast(part, "float64"), (-1,)) for part in parts]
    packed = ops.stop_gradient(ops.concatenate(flat))
    if _BACKEND == "tensorflow":
        summed = _sum_tensorflow(packed)
    else:
        summed = _sum_torch(packed, group)
    sums, end = [], 0
    for shape in shapes:
        start, end = end, end + math.prod(shape)
        sums.append(ops.reshape(summed[start:end], shape))
    return sums


def _replicas_jax() -> int:
    axes = jax.sharding.get_abstract_mesh().manual_axes
    if axes:
        raise ValueError(
            "MEmeL trains on many devices under `jax.jit`, with "
            "`keras.distribution` or sharded arrays. Inside `jax.shard_map` "
            "or `jax.pmap` each device would keep statistics of its own. "
            f"Received: a trace that is mapped over the axes {axes}"
        )
    return 1


def _replicas_tensorflow() -> int:
    if not tf.distribute.has_strategy():
        return 1
    strategy = tf.distribute.get_strategy()
    if not isinstance(
        strategy,
        (
            tf.distribute.OneDeviceStrategy,
            tf.distribute.MirroredStrategy,
            tf.distribute.MultiWorkerMirroredStrategy,
        ),
    ):
        # The workers of a ParameterServerStrategy do not wait for one another;
        # on TPUs nobody has tried, and JAX is the way there.
        raise ValueError(
            "MEmeL trains under `tf.distribute` with a MirroredStrategy, a "
            "MultiWorkerMirroredStrategy or a OneDeviceStrategy, whose "
            "replicas step together. "
            f"Received: a strategy of type {type(strategy).__name__}"
        )
    # Outside of `strategy.run` a call sees the whole batch, and what it
    # assigns goes to all copies.
    if tf.distribute.in_cross_replica_context():
        return 1
    return int(strategy.num_replicas_in_sync)


def _sum_tensorflow(packed: Tensor) -> Tensor:
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.SUM, packed)


def _replicas_torch(group: Any) -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size(group))
    return 1


def _sum_torch(packed: Tensor, group: Any) -> Tensor:
    torch.distributed.all_reduce(packed, group=group)
    return packed
