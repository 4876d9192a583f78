"""JAX's ways: how XLA reduces on a CPU decides nearly all of the time.

Figures are of (32, 128, 768) float32 on two cores.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from keras_memel.kernels import plain

Tensor = Any

# 128 ones fit in a byte. 768, since with a power of two all rows would share
# one set of the cache.
BLOCK = (128, 768)
COLUMNS = 64


def sums(
    values: Tensor,
    shift: Tensor,
    axes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `plain.sums`."""
    if not is_known(values):
        return plain.sums(values, shift, axes, mask)
    rows = math.prod(values.shape[axis] for axis in axes)
    leading = axes == tuple(range(len(axes)))
    wide = rows <= 32 or values.size >= 16384 * rows
    spread = jax.device_count() > 1
    if not spread and not (on_cpu() and leading and wide and rows):
        return plain.sums(values, shift, axes, mask)
    deviation = plain.as_float32(values) - shift
    if mask is not None:
        deviation = jnp.where(mask, deviation, 0.0)
    if spread:  # merged axes would have to be gathered first
        return plain.sums_of_axes(deviation, axes)
    return plain.sums_of_rows(deviation, axes, _sums_of_wide_rows)


def _sums_of_wide_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    # XLA walks down one column after the other. With wide rows each step is a
    # cache miss: 67 ms for (32, 98304). A reduction of the pair goes along
    # the rows instead, 1 ms, as long as they are few.
    zero = matrix.dtype.type(0)
    first = second = zero
    for start in range(0, len(matrix), 32):
        part = matrix[start : start + 32]
        a, b = jax.lax.reduce(
            (part, part * part),
            (zero, zero),
            lambda x, y: (x[0] + y[0], x[1] + y[1]),
            (0,),
        )
        first, second = first + a, second + b
    return first, second


def count(mask: Tensor) -> Tensor:
    """As `plain.count`."""
    # XLA adds bytes four times as fast as floats.
    if not (is_known(mask) and on_cpu()):
        return plain.count(mask)
    flat = mask.reshape(-1)
    blocks = flat.size // math.prod(BLOCK)
    whole = blocks * math.prod(BLOCK)
    rest = flat[whole:].sum(dtype="float32")
    if not blocks:
        return rest
    ones = flat[:whole].astype("uint8").reshape(blocks, *BLOCK)
    return rest + ones.sum(axis=1, dtype="uint8").astype("float32").sum()


def kth_largest(score: Tensor, k: int) -> Tensor:
    """As `plain.kth_largest`."""
    score = jnp.asarray(score)
    if k > 1 and jax.device_count() > 1:
        kth = _kth_largest_of_rows(score.reshape(len(score), -1), k)
        return kth.reshape((-1,) + (1,) * (score.ndim - 1))
    if k > 1 or not on_cpu() or not is_known(score):
        return plain.kth_largest(score, k)
    # XLA hands a maximum to a library, for which the scores must be written
    # to memory first. A reduction that it does not recognize is fused with
    # what computes them; and in two stages, the first over columns of this
    # many, it is short enough to be computed again where the scores are
    # compared: no score is ever written. 11 ms became 3.
    flat = score.reshape(len(score), math.prod(score.shape[1:]))
    whole = flat.shape[1] // COLUMNS * COLUMNS
    columns = flat[:, :whole].reshape(len(score), -1, COLUMNS)
    largest = jnp.maximum(
        _largest(_largest(columns, 1), 1), _largest(flat[:, whole:], 1)
    )
    return jnp.expand_dims(largest, tuple(range(1, score.ndim)))


def _largest(score: Tensor, axis: int) -> Tensor:
    return jax.lax.reduce(
        score,
        score.dtype.type(-math.inf),
        lambda a, b: jax.lax.select(a > b, a, b),
        (axis,),
    )


@partial(custom_partitioning, static_argnums=(1,))
def _kth_largest_of_rows(matrix: Tensor, k: int) -> Tensor:
    return plain.kth_largest(matrix, k)


def _partition(k: int, mesh: Any, arguments: Any, result: Any) -> Any:
    del result
    samples = arguments[0].sharding.spec[:1]
    rows = NamedSharding(mesh, PartitionSpec(*samples, None))
    return mesh, partial(plain.kth_largest, k=k), rows, (rows,)


# XLA would gather all samples on every device to sort them. Each has a k-th
# largest of its own: a device needs no others than it has.
_kth_largest_of_rows.def_partition(
    partition=_partition,
    sharding_rule="sample value -> sample one",
    need_replication_factors=("value", "one"),
)


def is_known(values: Tensor) -> bool:
    """Whether all sizes are numbers: Keras finds out shapes with symbols."""
    return all(isinstance(size, int) for size in values.shape)


def on_cpu() -> bool:
    """Whether the ways that were measured on a CPU, a single one, apply.

    Spread over many devices, slices of an array move it between them, and an
    unusual reduction is one that XLA cannot finish across them.
    """
    return bool(jax.default_backend() == "cpu" and jax.device_count() == 1)
