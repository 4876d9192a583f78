"""Inhibitions: treatments of selected values, (values, mask, mean) -> values.

    inhibition           forward        gradient     source
    ReverseDeactivation  mean           -delta * g   [Wang et al. 2024] Eq. 12
      "naive_a"          mean           0            Eq. 10: delta = 0
      "naive_b"          mean           g            Eq. 11: delta = -1
    LogPenalty           value          g + penalty  [Wang et al. 2025] Eq. 5
    Observe              value          g

An inhibition has no state, so several layers can share one object.

References:
    [Wang et al. 2024] Learning from Emergence (arXiv 2312.11560).
    [Wang et al. 2025] Learning Towards Emergence (arXiv 2503.23298).
"""

from collections.abc import Callable
from typing import Any
from typing import TypeAlias

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.utils import arguments
from keras_memel.utils import serialization
from keras_memel.utils.types import Tensor


class Inhibition:
    """Base class of inhibitions. Subclass it to write a custom inhibition.

    Override `__call__`, `loss`, or both. Override `get_config` too if the
    constructor has arguments. Decorate the class with
    `@keras.saving.register_keras_serializable()`, so that models with this
    inhibition can be saved and loaded.

    Attributes:
        loss_is_mean: True if `loss` is a mean over the selected values. On
            several replicas, the layer then computes the mean over the
            selected values of all replicas. Otherwise the backend averages
            the losses of the replicas. A subclass that overrides `loss` must
            set this attribute again if the new loss is such a mean, too.

    Example:

    >>> class Halve(Inhibition):
    ...     def __call__(self, values, mask, mean):
    ...         return ops.where(mask, 0.5 * values, values)
    >>> layer = MEmeL(inhibition=Halve(), late_start=0)
    """

    loss_is_mean = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        serialization.drop_promises(cls, "loss", ("loss_is_mean",))

    def __call__(self, values: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
        """Inhibit the selected values.

        Args:
            values: Activations `(batch, ..., neurons)` in the compute dtype,
                with their gradient.
            mask: Booleans of the same shape, true for selected values.
            mean: Running mean of every neuron, broadcastable to `values`, in
                their dtype and without gradient.

        Returns:
            Values for the next layer, of the same shape and dtype.
        """
        del mask, mean
        return values

    def loss(self, values: Tensor, mask: Tensor, mean: Tensor) -> Tensor | None:
        """Compute a term to add to the loss of the model in a training step.

        The arguments are those of `__call__`.

        Returns:
            A scalar with its gradient; `None`, the default, adds no term.
        """
        del values, mask, mean
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as in any Keras object.

        Raises:
            NotImplementedError: If the constructor has arguments, and the
                class does not override this method.
        """
        return serialization.default_config(self, Inhibition)

    def __repr__(self) -> str:
        return serialization.represent(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Inhibition":
        """Create an inhibition from the result of `get_config`."""
        return cls(**config)


# An argument can specify an inhibition by its name, as an object, as a class
# without required arguments, or as the config that `serialize` returns.
InhibitionLike: TypeAlias = str | Inhibition | type[Inhibition] | dict[str, Any]


@keras.saving.register_keras_serializable("keras_memel")
class ReverseDeactivation(Inhibition):
    """Replace selected values with the mean, and reverse their gradient.

    [Wang et al. 2024] Eq. 12 and App. E.3, where `ng` stops the gradient:

        z' = -delta z + ng(mean + delta z)

    The value becomes the mean and the gradient becomes `-delta g`. The
    gradient of the loss pushes the output back towards `z`, away from the
    mean. The reversed gradient pushes the neuron *towards* its mean (Lemma
    3.3). The code computes `ng(mean) - delta (z - ng(z))`. This is the same
    number, but in float16 it avoids a cancellation that would lose the mean.

    Args:
        delta: Factor of the reversed gradient. 1 is the paper's Reverse
            Deactivation, 0 its naive (a), -1 its naive (b). MEmeL-Tune tries
            1, 5, 10, 50 and 100.

    Raises:
        ValueError: If `delta` is not a finite number.

    Example:

    >>> inhibit = ReverseDeactivation()
    >>> values, mean = ops.array([1.0, 8.0]), ops.array([0.0, 2.0])
    >>> out = inhibit(values, ops.array([False, True]), mean)
    >>> print(ops.convert_to_numpy(out))
    [1. 2.]
    """

    def __init__(self, delta: float = 1.0):
        self.delta = arguments.number("delta", delta, "a finite number")

    def __call__(self, values: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
        return kernels.replace(values, mask, mean, self.delta)

    def get_config(self) -> dict[str, Any]:
        return {"delta": self.delta}


@keras.saving.register_keras_serializable("keras_memel")
class LogPenalty(Inhibition):
    """Keep the values, and add a penalty on their distance from the mean.

    [Wang et al. 2025] Eq. 5 over the selected values, where `ng` stops the
    gradient:

        loss += weight * mean(log((z - ng(mean))^2 + tiny))

    The equation omits the variance of the scale, because small variances made
    the gradients unstable. `tiny` bounds the gradient at the mean, where the
    gradient of the logarithm is infinite. If no value is selected, the penalty
    is 0. If the losses of several replicas are averaged, the mean covers the
    selected values of all replicas.

    Args:
        weight: Factor of the penalty.
        tiny: Constant added to the squared deviation, in squared units of the
            activation.

    Raises:
        ValueError: If `weight` is negative, or `tiny` is not positive.

    Example:

    >>> values, mean = ops.array([5.0, 3.0]), ops.array([1.0, 0.0])
    >>> mask = ops.array([True, False])
    >>> penalty = LogPenalty(weight=1.0).loss(values, mask, mean)
    >>> print(round(float(penalty), 4), round(float(np.log(4.0**2)), 4))
    2.7726 2.7726
    """

    loss_is_mean = True

    def __init__(self, weight: float = 1e-3, tiny: float = 1e-6):
        self.weight = arguments.number("weight", weight, "at least 0", low=0.0)
        self.tiny = arguments.number(
            "tiny", tiny, "above 0", low=0.0, low_included=False
        )

    def loss(self, values: Tensor, mask: Tensor, mean: Tensor) -> Tensor:
        values = ops.cast(values, "float32")
        mean = ops.stop_gradient(ops.cast(mean, "float32"))
        # Use `where` twice, so that no gradient depends on an unselected value:
        # a non-finite value would give 0 * inf = NaN.
        deviation = ops.where(mask, values - mean, 1.0)
        logs = ops.where(mask, ops.log(ops.square(deviation) + self.tiny), 0.0)
        number = ops.maximum(kernels.count(mask), 1.0)
        return self.weight * ops.sum(logs) / number

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight, "tiny": self.tiny}


@keras.saving.register_keras_serializable("keras_memel")
class Observe(Inhibition):
    """Keep the values and their gradient, and only update the statistics.

    Example:

    >>> layer = MEmeL(inhibition="observe")
    """


_NAMES: dict[str, Callable[[], Inhibition]] = {
    "reverse": ReverseDeactivation,
    "naive_a": lambda: ReverseDeactivation(0.0),
    "naive_b": lambda: ReverseDeactivation(-1.0),
    "penalty": LogPenalty,
    "observe": Observe,
}


def get(identifier: InhibitionLike) -> Inhibition:
    """Return the inhibition that a name, config, class or object specifies.

    Args:
        identifier: `"reverse"`, `"naive_a"`, `"naive_b"`, `"penalty"`,
            `"observe"`; an `Inhibition`, a subclass of it, or the dictionary
            that `serialize` returns.

    Returns:
        An `Inhibition`.

    Raises:
        ValueError: If `identifier` is none of these.

    Example:

    >>> get("naive_b").delta
    -1.0
    """
    return serialization.get(identifier, "inhibition", Inhibition, _NAMES)


def serialize(inhibition: Inhibition) -> dict[str, Any]:
    """Return the config of an inhibition, from which `get` recreates it."""
    return serialization.serialize(inhibition)
