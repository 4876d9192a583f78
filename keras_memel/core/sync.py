"""Compute one statistic from many replicas.

Each replica of a network processes a part of the batch. The history of a neuron
covers the whole batch. Counts, sums and sums of squares are added over the
replicas,

    n = sum_r n_r,    mean = sum_r n_r mean_r / n,
    variance = sum_r n_r (variance_r + mean_r^2) / n - mean^2,

which gives the moments of all values together. An average of the variances of
the replicas would omit the variance between replicas. One all-reduce sums these
three and the number of selected values as one vector of `8 (3 neurons + 1)`
bytes. Its dtype is float64, in which the square of a float32 is exact: the
variance loses no digits that float32 could hold, and the replicas need no
common shift. All replicas receive the same sums and stay bitwise equal.

    engine                               how the replicas are found
    JAX, `keras.distribution` or a jit   not needed: XLA compiles one program
      of sharded arrays                  for all devices, whose sums are global
    TensorFlow, `tf.distribute`          the replica context of a
                                         MirroredStrategy or
                                         MultiWorkerMirroredStrategy
    PyTorch, `torch.distributed`         a process group, by default that of
                                         all processes

With one replica, no data are packed or sent. The tests run all of these
engines, with two processes on one machine as the workers of a
MultiWorkerMirroredStrategy.

An engine must meet two conditions. First, every replica runs every training
step, with an empty batch if it has no samples (`DistributedDataParallel.join`
does not wait for the sums of layers). Second, on PyTorch, all processes of the
group train one model together, on different values. With tensor or pipeline
parallelism, use the data-parallel group, such as
`DeviceMesh.get_group("data")`.
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
    """Return the number of replicas that run this training step.

    Each replica processes different values. The number is 1 on JAX, where
    arrays are global.

    Args:
        group: Process group of the replicas, on PyTorch. `None` is the default
            group of all processes.

    Raises:
        ValueError: If the replicas cannot be kept equal: on an unknown
            backend, under an asynchronous or another `tf.distribute` strategy,
            and inside `jax.shard_map` or `jax.pmap`.

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
        "MEmeL requires the Keras backend 'jax', 'tensorflow' or 'torch'. "
        f"Received: backend={_BACKEND!r}"
    )


def total(*numbers: Tensor, group: Any = None) -> tuple[Tensor, ...]:
    """Sum each number over the replicas, all in one message.

    Args:
        *numbers: float32 tensors. Their shapes are equal on all replicas.
        group: As in `replicas`.

    Returns:
        One float32 tensor per number, of the same shape, with the same values
        on all replicas and without gradient. With one replica, the numbers
        are returned unchanged.

    Raises:
        ValueError: As in `replicas`.

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
    """Compute the moments of the whole batch from those of each replica.

    Args:
        batch: Moments of the local values, with the biased variance. The parts
            of the batch may differ in size, or be empty.
        *numbers: float32 tensors to sum in the same message.
        group: As in `replicas`.

    Returns:
        The moments, followed by the sums, all equal on all replicas. If the
        moments of a neuron are not finite on one replica, the result is
        non-finite on all. Each replica then skips the update and counts it as
        skipped. With one replica, the arguments are returned unchanged.

    Raises:
        ValueError: As in `replicas`.

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
    # On some backends, `maximum` would discard a NaN.
    variance = ops.where(variance < 0, 0.0, variance)
    merged = Moments(*(ops.cast(x, "float32") for x in (count, mean, variance)))
    return merged, *(ops.cast(s, "float32") for s in sums)


def weighted(
    mean: Tensor, number: Tensor, total: Tensor, group: Any = None
) -> Tensor:
    """Weight a local mean so that its average over replicas is the total mean.

    `DistributedDataParallel` and Keras under `tf.distribute` average the losses
    of the replicas. The weight accounts for the different number of values per
    replica.

    Args:
        mean: Mean of the local values, with its gradient.
        number: Number of local values.
        total: Number of values on all replicas.
        group: As in `replicas`.

    Returns:
        The weighted mean, of the shape of `mean`, with its gradient. With
        one replica, `mean` is returned unchanged.

    Raises:
        ValueError: As in `replicas`.

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
            "Argument `process_group` must be None except on PyTorch: other "
            "backends determine the replicas. "
            f"Received: process_group={group!r} on the backend {_BACKEND!r}"
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
    """Sum all parts over the replicas, as one float64 vector."""
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
            "or `jax.pmap` each device would keep separate statistics. "
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
        # The workers of a ParameterServerStrategy do not wait for each other. A
        # TPUStrategy has not been tested. On TPUs, use JAX.
        raise ValueError(
            "MEmeL trains under `tf.distribute` with a MirroredStrategy, a "
            "MultiWorkerMirroredStrategy or a OneDeviceStrategy, whose "
            "replicas step together. "
            f"Received: a strategy of type {type(strategy).__name__}"
        )
    # Outside of `strategy.run`, a call receives the whole batch, and its
    # assignments update all copies.
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
