"""Selections: rules that select the values to inhibit, score -> boolean mask.

    selection   a value is selected if                           source
    TopK(k)     its score is among the k highest of its sample   MEmeL, k = 1
    Rate(r)     its score reaches a threshold that is adjusted   L2E, r = 2 %
                each step until a fraction r of all values reaches it
    Threshold   its score reaches a constant
    Random(r)   a draw with probability r selects it: the placebo of Rate
    RandomK(k)  it is among k values drawn from its sample: the placebo of TopK

A selection is a pure rule. If it has a state, such as the moving threshold of
`Rate`, it declares the state in `initial_state`. The layer stores the state in
weights and passes it to the selection, so several layers can share one object.

References:
    [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.core.selection import Selection
from keras_memel.core.selection import SelectionLike
from keras_memel.utils import arguments
from keras_memel.utils import serialization
from keras_memel.utils.types import Tensor


@keras.saving.register_keras_serializable("keras_memel")
class TopK(Selection):
    """Select the k highest scores of each sample, over all its positions.

    In [Wang et al. 2024], MEmeL uses k = 1 and MEmeL-Tune tries 1, 5, 10, 50
    and 100. Values that tie with the k-th are selected too, as in the authors'
    code, unless their score is 0: such a value does not deviate.

    Args:
        k: Number of values to select per sample.

    Raises:
        ValueError: If `k` is below 1 or above the number of values per sample
            (raised in `build`, or in the first call if the length is unknown).

    Example:

    >>> mask = TopK(2)(np.array([[1.0, 5.0, 3.0], [0.0, 0.0, 2.0]]))
    >>> print(ops.convert_to_numpy(mask))
    [[False  True  True]
     [False False  True]]
    """

    skips_negative = True
    by_sample = True
    _has_cutoff = True

    def __init__(self, k: int = 1):
        self.k = arguments.integer("k", k, "a whole number of at least 1", 1)

    def __call__(self, score: Tensor, cutoff: Tensor = None) -> Tensor:
        score = ops.convert_to_tensor(score)
        if cutoff is None:
            cutoff = self._cutoff(score)
        return (score >= cutoff) & (score > 0)

    def _cutoff(self, score: Tensor) -> Tensor:
        """Return the k-th highest score per sample, `(batch, 1, ..., 1)`."""
        self._check(tuple(score.shape)[1:])
        return kernels.kth_largest(score, self.k)

    def _check(self, shape: tuple[int | None, ...]) -> None:
        known = [size for size in shape if size is not None]
        values = math.prod(known)
        if len(known) == len(shape) and self.k > values:
            raise ValueError(
                f"Argument `k` of `{type(self).__name__}` must be at most the "
                f"number of values of a sample. Received: k={self.k} for "
                f"samples of shape {tuple(shape)}, which hold {values} values."
            )

    def get_config(self) -> dict[str, Any]:
        return {"k": self.k}


@keras.saving.register_keras_serializable("keras_memel")
class Threshold(Selection):
    """Select every score that reaches a constant.

    Args:
        threshold: Threshold in variances. For a Gaussian neuron, 5.41 selects
            2 % of the values, 6.63 selects 1 %, and 9 (three standard
            deviations) selects 0.27 %.

    Raises:
        ValueError: If `threshold` is not a positive number.

    Example:

    >>> print(ops.convert_to_numpy(Threshold(9.0)(np.array([[8.0, 9.0]]))))
    [[False  True]]
    """

    skips_negative = True
    by_sample = True

    def __init__(self, threshold: float = 9.0):
        self.threshold = arguments.number(
            "threshold", threshold, "above 0", low=0.0, low_included=False
        )

    def __call__(self, score: Tensor) -> Tensor:
        return score >= self.threshold

    def get_config(self) -> dict[str, Any]:
        return {"threshold": self.threshold}


@keras.saving.register_keras_serializable("keras_memel")
class Rate(Selection):
    """Select a fraction of all values with a moving threshold.

    The rule follows [Wang et al. 2025]. It requires no sorting: each score is
    compared with the threshold of the previous step. The threshold is then
    adjusted by the deviation of the selected fraction `s` from the target `r`:

        threshold <- threshold * exp(min(gain * (s / r - 1), 2))

    With few values per step, `s` jumps between 0 and several times `r`. The
    adjustment is proportional to `s`, so these jumps add noise to the threshold
    but no bias. The initial threshold is the quantile of the chi-squared
    distribution with one degree of freedom, which is correct for Gaussian
    neurons: 5.41 for 2 %.

    Args:
        rate: Target fraction `r`, in (0, 1).
        gain: Speed of the adjustment. The threshold recovers from a jump
            within about `5 / gain` steps. Its noise grows with the gain.

    Raises:
        ValueError: If `rate` or `gain` is outside (0, 1).

    Example:

    >>> selection = Rate(0.02)
    >>> {name: round(x, 2) for name, x in selection.initial_state().items()}
    {'threshold': 5.41}
    >>> print(ops.convert_to_numpy(selection(np.array([5.0, 6.0]), 5.41)))
    [False  True]
    """

    skips_negative = True
    by_sample = True
    # The threshold decreases while a layer is dead. This bound keeps it a
    # normal float32, so that it can recover within a few steps.
    lowest = 1e-6

    def __init__(self, rate: float = 0.02, gain: float = 0.1):
        self.rate = _rate(rate)
        self.gain = arguments.number(
            "gain", gain, "between 0 and 1", 0.0, 1.0, low_included=False
        )
        # Compute this here and not in `build`, which `torch.compile` may trace:
        # it cannot trace the quantile.
        normal = statistics.NormalDist()
        self._start = normal.inv_cdf(1.0 - self.rate / 2.0) ** 2

    def initial_state(self) -> dict[str, float]:
        return {"threshold": self._start}

    def __call__(self, score: Tensor, threshold: Tensor) -> Tensor:
        return score >= threshold

    def update(self, share: Tensor, threshold: Tensor) -> dict[str, Tensor]:
        nudge = ops.minimum(self.gain * (share / self.rate - 1.0), 2.0)
        threshold = threshold * ops.exp(nudge)
        return {"threshold": ops.maximum(threshold, self.lowest)}

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "gain": self.gain}


@keras.saving.register_keras_serializable("keras_memel")
class Random(Selection):
    """Select each value independently with the same probability: the placebo.

    Compare `Rate` with `Random` at the same rate. Any difference is due to
    *which* values are selected. Any effect they share is due to noise.

    Args:
        rate: Probability that a value is selected, in (0, 1).
        seed: Integer seed. `None` draws a seed. Layers with the same seed
            select the same positions, so `keras_memel.insert` gives each
            insertion point after the first its own seed, derived from this
            one.

    Raises:
        ValueError: If `rate` is outside (0, 1), or `seed` is not an integer.

    Example:

    >>> mask = Random(0.5)(np.zeros((2, 1000)), keras.random.SeedGenerator(0))
    >>> 0.45 < float(ops.mean(ops.cast(mask, "float32"))) < 0.55
    True
    """

    random = True

    def __init__(self, rate: float = 0.02, seed: int | None = None):
        self.rate = _rate(rate)
        self.seed = _seed(seed)

    def __call__(self, score: Tensor, seed: Any) -> Tensor:
        shape = ops.shape(score)
        return (
            keras.random.uniform(shape, dtype="float32", seed=seed) < self.rate
        )

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable("keras_memel")
class RandomK(TopK):
    """Select k values of each sample at random: the placebo of `TopK(k)`.

    All sets of k values with a score above 0, the values that `TopK` could
    select, are equally likely. If a sample has fewer such values, all of them
    are selected.

    Args:
        k: Number of values to select per sample.
        seed: As in `Random`.

    Raises:
        ValueError: If `k` is below 1 or above the number of values per
            sample, as in `TopK`, or `seed` is not an integer.

    Example:

    >>> mask = RandomK(3)(np.ones((2, 40)), keras.random.SeedGenerator(0))
    >>> print(ops.convert_to_numpy(mask).sum(axis=1))
    [3 3]
    """

    random = True
    skips_negative = True

    def __init__(self, k: int = 1, seed: int | None = None):
        super().__init__(k)
        self.seed = _seed(seed)

    def __call__(self, score: Tensor, seed: Any) -> Tensor:
        score = ops.convert_to_tensor(score)
        self._check(tuple(score.shape)[1:])
        shape = ops.shape(score)
        drawn = keras.random.uniform(shape, dtype="float32", seed=seed)
        drawn = ops.where(score > 0, drawn, -1.0)
        # Select by position. Some of thousands of draws are equal, and a cutoff
        # would select all of these.
        size = math.prod(shape[1:])
        places = ops.top_k(ops.reshape(drawn, (shape[0], size)), self.k)[1]
        first = size * ops.expand_dims(ops.arange(shape[0]), 1)
        places = ops.cast(places, "int32") + ops.cast(first, "int32")
        places = ops.reshape(places, (-1, 1))
        chosen = ops.scatter(
            places, ops.ones_like(places[:, 0]), (shape[0] * size,)
        )
        return ops.cast(ops.reshape(chosen, shape), "bool") & (score > 0)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def _seed(seed: Any) -> int | None:
    if seed is None:
        return None
    return arguments.integer("seed", seed, "an integer or None", 0)


def _rate(rate: Any) -> float:
    return arguments.number(
        "rate", rate, "between 0 and 1, both excluded", 0.0, 1.0, False
    )


_NAMES: dict[str, Callable[[], Selection]] = {
    "top_k": TopK,
    "rate": Rate,
    "threshold": Threshold,
    "random": Random,
    "random_k": RandomK,
}


def get(identifier: SelectionLike) -> Selection:
    """Return the selection that a name, config, class or object specifies.

    Args:
        identifier: `"top_k"`, `"rate"`, `"threshold"`, `"random"`,
            `"random_k"`; a `Selection`, a subclass of it, or the dictionary
            that `serialize` returns.

    Returns:
        A `Selection`.

    Raises:
        ValueError: If `identifier` is none of these.

    Example:

    >>> get("rate").rate
    0.02
    """
    return serialization.get(identifier, "selection", Selection, _NAMES)


def serialize(selection: Selection) -> dict[str, Any]:
    """Return the config of a selection, from which `get` recreates it."""
    return serialization.serialize(selection)
