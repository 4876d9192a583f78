"""Kernels of JAX. The reductions of XLA on a CPU dominate the time.

Times are for (32, 128, 768) float32 values on two cores.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from keras_memel.kernels import reference
from keras_memel.kernels.reference import after
from keras_memel.kernels.reference import as_float32
from keras_memel.kernels.reference import at_least
from keras_memel.kernels.reference import by_sample
from keras_memel.kernels.reference import conv
from keras_memel.kernels.reference import copy
from keras_memel.kernels.reference import count
from keras_memel.kernels.reference import fused
from keras_memel.kernels.reference import isfinite
from keras_memel.kernels.reference import replace
from keras_memel.kernels.reference import reshape
from keras_memel.kernels.reference import score
from keras_memel.kernels.reference import where
from keras_memel.utils.types import Tensor

__all__ = [
    "after",
    "as_float32",
    "at_least",
    "by_sample",
    "choose",
    "conv",
    "copy",
    "count",
    "fused",
    "isfinite",
    "kth_largest",
    "replace",
    "reshape",
    "scan",
    "score",
    "sums",
    "where",
]


FEW_ROWS = 16


def sums(
    values: Tensor,
    shift: Tensor,
    axes: tuple[int, ...],
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Replace `reference.sums` on JAX."""
    spread = is_spread(values)
    leading = axes == tuple(range(len(axes)))
    known = leading and is_known(values) and values.size
    if not (spread or (on_cpu(values) and known)):
        return reference.sums(values, shift, axes, mask)
    deviation = reference.as_float32(values) - shift
    if mask is not None:
        deviation = jnp.where(mask, deviation, 0.0)
    if spread:  # Merging axes would gather the values first.
        return reference.sums_of_axes(deviation, axes)
    return reference.sums_of_rows(
        deviation, axes, lambda rows: _sum_rows(rows, rows * rows)
    )


def _sum_rows(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    # XLA sums one column after the other. With wide rows each number is then a
    # cache miss: 67 ms for (32, 98304). XLA computes the reduction of a *pair*
    # along the rows instead, in 0.5 ms, if the rows are few. Therefore reduce
    # 16 rows at a time, and repeat this: (4096, 768) gives 256 sums first. The
    # time decreases from 1.2 to 0.4 ms.
    rows = len(first)
    if rows <= FEW_ROWS:
        return _sum_pair(first, second, 0)
    whole = rows // FEW_ROWS * FEW_ROWS
    # Group consecutive rows, which are on one device.
    shape = (whole // FEW_ROWS, FEW_ROWS, -1)
    some = _sum_rows(
        *_sum_pair(first[:whole].reshape(shape), second[:whole].reshape(shape))
    )
    if whole == rows:
        return some
    rest = _sum_pair(first[whole:], second[whole:], 0)
    return some[0] + rest[0], some[1] + rest[1]


def _sum_pair(
    first: Tensor, second: Tensor, axis: int = 1
) -> tuple[Tensor, Tensor]:
    zero = first.dtype.type(0)
    sums: tuple[Tensor, Tensor] = jax.lax.reduce(
        (first, second),
        (zero, zero),
        _add_pair,
        (axis,),
    )
    return sums


# These two are module functions and not lambdas. Outside of `jit`, JAX compiles
# again for every new function object.


def _add_pair(
    x: tuple[Tensor, Tensor], y: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    return x[0] + y[0], x[1] + y[1]


def _larger(x: Tensor, y: Tensor) -> Tensor:
    return jax.lax.select(x > y, x, y)


def choose(
    selection: Any,
    score: Callable[[Tensor], Tensor],
    values: Tensor,
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """Replace `reference.choose` on JAX."""
    if not selection._has_cutoff:
        return reference.choose(selection, score, values, arguments)
    # Scores that are used twice would be written to memory and read again.
    # Computing them twice is as fast and needs no memory.
    cutoff = selection._cutoff(score(_rounded(values)))
    values, cutoff = jax.lax.optimization_barrier((values, cutoff))
    scores = score(_rounded(values))
    return scores, selection(scores, cutoff)


def _rounded(values: Tensor) -> Tensor:
    # XLA may also compute the preceding operations twice, and omits rounding to
    # bfloat16 where it can. The largest score would then not occur among the
    # scores of the rounded values.
    if values.dtype not in ("bfloat16", "float16"):
        return values
    kind = jnp.finfo(values.dtype)
    return jax.lax.reduce_precision(
        reference.as_float32(values), kind.nexp, kind.nmant
    )


def kth_largest(score: Tensor, k: int) -> Tensor:
    """Replace `reference.kth_largest` on JAX."""
    score = jnp.asarray(score)
    if k > 1 and is_spread(score):
        kth = _kth_largest_of_rows(score.reshape(len(score), -1), k)
        return kth.reshape((-1,) + (1,) * (score.ndim - 1))
    if k > 1 or not on_cpu(score) or not is_known(score):
        return reference.kth_largest(score, k)
    # XLA calls a library for a maximum, which needs the scores in memory. It
    # fuses a reduction that it does not recognize with the computation of the
    # scores. Use two stages, because a reduction to few numbers runs on one
    # core. The second stage is a plain maximum, because XLA would merge two
    # reductions of the same kind.
    flat = score.reshape(len(score), math.prod(score.shape[1:]))
    columns = math.gcd(flat.shape[1], 64)
    stage = jax.lax.reduce(
        flat.reshape(len(score), flat.shape[1] // columns, columns),
        score.dtype.type(-math.inf),
        _larger,
        (1,),
    )
    return jnp.expand_dims(stage.max(axis=1), tuple(range(1, score.ndim)))


@partial(custom_partitioning, static_argnums=(1,))
def _kth_largest_of_rows(matrix: Tensor, k: int) -> Tensor:
    return reference.kth_largest(matrix, k)


def _partition(k: int, mesh: Any, arguments: Any, result: Any) -> Any:
    del result
    samples = arguments[0].sharding.spec[:1]
    rows = NamedSharding(mesh, PartitionSpec(*samples, None))
    return mesh, partial(reference.kth_largest, k=k), rows, (rows,)


# XLA would gather all samples on every device to sort them. The k-th largest
# score depends on one sample only, so a device needs only its own samples.
_kth_largest_of_rows.def_partition(
    partition=_partition,
    sharding_rule="sample value -> sample one",
    need_replication_factors=("value", "one"),
)


def is_known(values: Tensor) -> bool:
    """Return whether all sizes are numbers. Keras may use symbols instead."""
    return all(isinstance(size, int) for size in values.shape)


def on_cpu(values: Tensor) -> bool:
    """Return whether to use the kernels that are faster on a single CPU.

    If an array is spread over several devices, slices move values between the
    devices, and XLA cannot complete a custom reduction across devices.
    """
    return bool(jax.default_backend() == "cpu" and not is_spread(values))


def is_spread(values: Tensor) -> bool:
    """Return whether `values` are on several devices, as far as a trace shows.

    The function checks the mesh of the values themselves, of `jax.set_mesh` and
    of `keras.distribution`, but not the other devices of the process. It misses
    only `jax.jit(in_shardings=...)` of arrays on one device, which shows no
    mesh during tracing.
    """
    meshes = [
        jax.typeof(values).sharding.mesh,
        jax.sharding.get_abstract_mesh(),
    ]
    distribution = keras.distribution.distribution()
    size = 1 if distribution is None else distribution.device_mesh.devices.size
    return bool(max(size, *(mesh.size for mesh in meshes)) > 1)


def scan(
    step: Callable[[Any, Any], Any],
    carry: Any,
    inputs: Any,
    backwards: bool = False,
    collect: bool = True,
) -> tuple[Any, Any]:
    """Replace `reference.scan` on JAX."""

    def body(carry: Any, parts: Any) -> tuple[Any, Any]:
        carry = step(carry, parts)
        return carry, carry[0] if collect else None

    carry, found = jax.lax.scan(body, carry, inputs, reverse=backwards)
    if collect and backwards:
        found = jnp.flip(found, 0)
    return carry, found
