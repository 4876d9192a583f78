"""Monosemantic Scale of [Wang et al. 2024], Definition 3.1.

Reference: [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
"""

import math

import numpy as np
from keras import ops

from keras_memel import kernels
from keras_memel.utils.types import Tensor

# The smallest normal float32. A smaller variance is meaningless, and its
# reciprocal overflows.
TINY = 1.1754944e-38


def monosemantic_scale(
    values: Tensor,
    mean: Tensor,
    variance: Tensor,
    epsilon: float = 0.0,
    where: Tensor = None,
) -> Tensor:
    """Compute the squared deviation of values from their history, in variances.

    [Wang et al. 2024] Eq. 7, with the compensated variance of Algorithm 2:

        phi(z_i) = (z_i - mean_i)^2
                   / (variance_i + epsilon * mean_k(variance_k))

    A high scale means that a value is far from the history of its neuron. A
    neuron that responds to one thing only produces such values. For a Gaussian
    neuron, phi follows a chi-squared distribution with one degree of freedom:
    2 % of the values exceed 5.41.

    Args:
        values: Activations `z`, `(batch, ..., neurons)`.
        mean: Mean of every neuron over its history, broadcastable to
            `values`.
        variance: Unbiased variance of every neuron over its history, in
            squared units.
        epsilon: Fraction of the mean variance of all neurons that is added to
            each variance. It keeps neurons that barely vary from scoring
            highest.
        where: `None`, or booleans of the shape of `variance`: true for
            neurons that have a history. The others score NaN and are excluded
            from the mean variance.

    Returns:
        `phi`, float32, of the shape of `values`, in variances. It is 0 where
        the denominator is 0, and not finite where a value is not finite.

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
    """Compute the factor of the squared deviations in `phi`, per neuron.

    The arguments are those of `monosemantic_scale`.

    Returns:
        `1 / (variance_i + epsilon * mean_k(variance_k))`: 0 where the
        denominator is NaN or at most `TINY`, and NaN where `where` is false.
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
    # Divide last, so that XLA does not repeat any part of this per value.
    return 1.0 / denominator


def phi(
    values: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    epsilon: float = 0.0,
    where: np.ndarray | None = None,
) -> np.ndarray:
    """Compute the monosemantic scale of NumPy arrays.

    The equation is that of `monosemantic_scale`, in the dtype of the arrays.

    Args:
        values: Activations, `(batch, ..., neurons)`.
        mean: Mean of each neuron, broadcastable to `values`.
        variance: Unbiased variance of each neuron, of the shape of `mean`.
        epsilon: Fraction of the mean variance of all neurons that is added to
            each variance.
        where: `None`, or booleans of the shape of `variance`: true for neurons
            that have a history. The others score 0.

    Returns:
        `phi`, of the shape of `values`, in variances. It is 0 where the
        denominator is 0, and not finite where a value is not finite.

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
    """Compute the denominator of `phi`, infinite where it is not positive."""
    known = np.ones(variance.shape, bool) if where is None else where
    average = variance[known].mean() if known.any() else 0.0
    denominator = variance + epsilon * average
    return np.where(known & (denominator > 0), denominator, np.inf)
