"""The Monosemantic Scale of [Wang et al. 2024], Definition 3.1.

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

import math

import numpy as np
from keras import ops

from keras_memel import kernels
from keras_memel.utils.types import Tensor

# The smallest normal float32: below it a variance says nothing, and its
# reciprocal overflows.
TINY = 1.1754944e-38


def monosemantic_scale(
    values: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float = 0.0,
    where: Tensor = None,
) -> Tensor:
    """Squared deviation of values from their history, in variances.

    [Wang et al. 2024] Eq. 7, with the compensated variance of Algorithm 2:

        phi(z_i) = (z_i - mean_i)^2
                   / (variance_i + epsilon * mean_k(variance_k))

    Large means far from what the neuron did before: the mark of a neuron that
    answers to one feature only. For a Gaussian neuron phi follows a
    chi-squared law with one degree of freedom: 2 % of the values lie above
    5.41.

    Args:
        values: Activations `z`, `(batch, ..., neurons)`.
        mean: Mean of every neuron over its history, broadcastable to
            `values`.
        variance: Unbiased variance of the same, in squared units.
        epsilon: Share of the mean variance of all neurons that is added to
            each. It keeps neurons that hardly move from scoring highest.
        where: `None`, or booleans of the shape of `variance`: true for a
            neuron that has a history. The others score NaN and are left out
            of the mean variance.

    Returns:
        `phi`, float32, of the shape of `values`, in variances. It is 0 where
        the denominator is 0 (nothing to compare with), and not finite where a
        value is not.

    Example:

    >>> phi = monosemantic_scale(
    ...     np.array([[1.0, 9.0]]),
    ...     mean=np.array([0.0, 0.0]),
    ...     variance=np.array([1.0, 9.0]),
    ... )
    >>> print(ops.convert_to_numpy(phi))
    [[1. 9.]]
    """
    values, mean = kernels.as_float32(values), kernels.as_float32(mean)
    scale = inverse_variance(variance, epsilon, where)
    return ops.square(values - mean) * scale


def inverse_variance(
    variance: Tensor, epsilon: float = 0.0, where: Tensor = None
) -> Tensor:
    """What a squared deviation is multiplied with, neuron by neuron.

    Takes what `monosemantic_scale` takes.

    Returns:
        `1 / (variance_i + epsilon * mean_k(variance_k))`, 0 where that is not
        a number that has a reciprocal, NaN where `where` is false.
    """
    variance = kernels.as_float32(variance)
    if where is None:
        mean_variance = ops.mean(variance)
    else:
        number = ops.sum(ops.cast(where, "float32"))
        total = ops.sum(kernels.where(where, variance, 0.0))
        mean_variance = total / kernels.at_least(number, 1.0)
    denominator = variance + epsilon * mean_variance
    denominator = kernels.where(denominator > TINY, denominator, math.inf)
    if where is not None:
        denominator = kernels.where(where, denominator, math.nan)
    # The division last: XLA makes no part of it again for every value.
    return 1.0 / denominator


def phi(
    values: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float = 0.0,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the monosemantic scale in NumPy, for what is not a tensor.

    The equation is that of `monosemantic_scale`, in the dtype of the arrays.

    Args:
        values: Activations, `(batch, ..., neurons)`.
        mean: Mean of each neuron, broadcastable to `values`.
        variance: Unbiased variance of each neuron, as `mean`.
        epsilon: Share of the mean variance of all neurons that is added.
        where: `None`, or booleans as `variance`: true for a neuron that has a
            history. The others score 0.

    Returns:
        `phi`, of the shape of `values`, in variances: 0 where the denominator
        is 0, not finite where a value is not.

    Example:

    >>> phi(np.array([[1.0, 9.0, 5.0]]), np.zeros(3), np.array([1.0, 9.0, 0.0]))
    array([[1., 9., 0.]])
    """
    return np.square(values - mean) / phi_denominator(variance, epsilon, where)


def phi_denominator(
    variance: np.ndarray,
    epsilon: float = 0.0,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the denominator of `phi`, infinite where there is none."""
    known = np.ones(variance.shape, bool) if where is None else where
    average = variance[known].mean() if known.any() else 0.0
    denominator = variance + epsilon * average
    return np.where(known & (denominator > 0), denominator, np.inf)
