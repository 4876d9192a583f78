"""What is done to selected values: (values, mask, mean) -> values.

    inhibition           forward        gradient     source
    ReverseDeactivation  mean           -delta * g   [Wang et al. 2024] Eq. 12
      "naive_a"          mean           0            Eq. 10: delta = 0
      "naive_b"          mean           g            Eq. 11: delta = -1
    LogPenalty           value          g + penalty  [Wang et al. 2025] Eq. 5
    Observe              value          g

An inhibition has no state; one object may serve many layers.

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
    """Base class: subclass it to try an inhibition of your own.

    Override `__call__`, `loss`, or both; and `get_config` if the constructor
    takes arguments. Decorate the class with
    `@keras.saving.register_keras_serializable()` and models that hold it can
    be saved and loaded.

    Attributes:
        loss_is_mean: True if `loss` is a mean over the selected values. On
            many replicas it is then the mean over those of all. Else it is
            what the engine makes of the losses of replicas: their average. A
            subclass that overrides `loss` sets it again if it still holds.

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
        """Inhibit.

        Args:
            values: Activations `(batch, ..., neurons)` in the compute dtype,
                with their gradient.
            mask: Booleans of the same shape: true where selected.
            mean: Running mean of every neuron, broadcastable to `values`, in
                their dtype. It carries no gradient.

        Returns:
            The values that the next layer gets, in the same shape and dtype.
        """
        del mask, mean
        return values

    def loss(self, values: Tensor, mask: Tensor, mean: Tensor) -> Tensor | None:
        """A scalar to add to the loss of the model, or `None` (default).

        Takes what `__call__` takes.
        """
        del values, mask, mean
        return None

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor, as in any Keras object.

        Raises:
            NotImplementedError: If there are some, and the class does not
                override this.
        """
        return serialization.default_config(self, Inhibition)

    def __repr__(self) -> str:
        return serialization.represent(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Inhibition":
        """Make an inhibition from the result of `get_config`."""
        return cls(**config)


# Every form in which an inhibition can be passed: a name, an object, a class
# without required arguments, or a config as `serialize` returns it.
InhibitionLike: TypeAlias = str | Inhibition | type[Inhibition] | dict[str, Any]


@keras.saving.register_keras_serializable("keras_memel")
class ReverseDeactivation(Inhibition):
    """Replace by the mean, and reverse the gradient.

    [Wang et al. 2024] Eq. 12 and App. E.3, `ng` = stop-gradient:

        z' = -delta z + ng(mean + delta z)

    so that the value is the mean and the gradient is `-delta g`. The loss
    wants its value back and pushes the output towards `z`, away from the
    mean; reversed, this pushes the neuron *towards* its mean (Lemma 3.3).
    Computed as `ng(mean) - delta (z - ng(z))`, which is the same number and,
    unlike the form above, does not lose the mean to cancellation in float16.

    Args:
        delta: Factor of the reversed gradient. 1 is the paper's RD, 0 its
            naive (a), -1 its naive (b); MEmeL-Tune tries 1, 5, 10, 50, 100.

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
    """Leave the values; add a penalty on their distance from the mean.

    [Wang et al. 2025] Eq. 5, over the selected values (`ng` = stop-gradient):

        loss += weight * mean(log((z - ng(mean))^2 + tiny))

    The variance of the scale is dropped there, since small variances made
    the gradients unstable; `tiny` bounds them at the mean itself, where the
    logarithm has none. With nothing selected the penalty is 0. The mean is over
    the selected values of all replicas, if their losses are averaged.

    Args:
        weight: Factor of the penalty.
        tiny: Added to the square, in squared units of the activation.

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
        # Twice `where`: the gradient of an unselected value must not even be
        # computed from it, since a non-finite one would give 0 * inf = NaN.
        deviation = ops.where(mask, values - mean, 1.0)
        logs = ops.where(mask, ops.log(ops.square(deviation) + self.tiny), 0.0)
        number = ops.maximum(kernels.count(mask), 1.0)
        return self.weight * ops.sum(logs) / number

    def get_config(self) -> dict[str, Any]:
        return {"weight": self.weight, "tiny": self.tiny}


@keras.saving.register_keras_serializable("keras_memel")
class Observe(Inhibition):
    """Leave the values and their gradient: keep statistics only.

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
    """An inhibition from its name, its config, its class or itself.

    Args:
        identifier: `"reverse"`, `"naive_a"`, `"naive_b"`, `"penalty"`,
            `"observe"`; an `Inhibition`, a subclass of it, or the dictionary
            that `serialize` returns.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get("naive_b").delta
    -1.0
    """
    return serialization.get(identifier, "inhibition", Inhibition, _NAMES)


def serialize(inhibition: Inhibition) -> dict[str, Any]:
    """The config of an inhibition, which `get` turns back into one."""
    return serialization.serialize(inhibition)
