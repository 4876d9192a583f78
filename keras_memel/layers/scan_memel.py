"""A MEmeL within a scan over time.

The candidate of each time step goes through it before the update gate does its
work. Its statistics are read before the scan, and written once after it, since
a variable that is assigned inside leaks on JAX and counts wrongly elsewhere.
So all time steps are held against the same history, and what the scan carries
from step to step are sums for each neuron: no candidate is kept for the
statistics' sake.
"""

from typing import Any

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.moments import Sums
from keras_memel.core.scores import inverse_variance
from keras_memel.layers.memel import MEmeL
from keras_memel.layers.memel import Reading

Tensor = Any


def checked(memel: Any) -> MEmeL | None:
    """A MEmeL that can stand in a scan, from itself or its config."""
    if isinstance(memel, dict):
        memel = keras.saving.deserialize_keras_object(memel)
    if memel is not None and not isinstance(memel, MEmeL):
        raise ValueError(
            "Argument `memel` must be a `MEmeL`, the config of one, or None. "
            f"Received: memel={memel!r} ({type(memel).__name__})"
        )
    if memel is not None and type(memel).call is not MEmeL.call:
        raise ValueError(
            "Argument `memel` must not override `call`, which a scan does not "
            "call: change what it does by a `Selection` or `Inhibition` of "
            f"your own. Received: a {type(memel).__name__}"
        )
    if memel is not None and memel.score_with != "history":
        raise ValueError(
            "Argument `memel` must score with the history: the statistics of "
            "a call are not known before its last time step. "
            f"Received: a MEmeL with score_with={memel.score_with!r}"
        )
    return memel


class Inhibitor:
    """A MEmeL within one scan: read before it, and written after it.

    Args:
        memel: The layer.
        learning: Whether its statistics are to be updated.
    """

    def __init__(self, memel: MEmeL, learning: bool):
        self.memel, self.learning = memel, learning
        self.before: Reading = memel.read()
        history = self.before.history
        self.known = history.count > 0
        self.ready = memel.ready(history, self.before.steps)
        self.scale = inverse_variance(
            history.variance, memel.epsilon, where=self.ready
        )
        # An inhibition that has no loss of its own costs nothing.
        self.has_loss = type(memel.inhibition).loss is not Inhibition.loss

    def seeds(self, time: Tensor) -> Tensor:
        """What tells the time steps apart: a seed for each, `(time, ...)`.

        The generator of the MEmeL advances as if it were asked at each step.
        """
        steps = ops.arange(time)
        if not self.memel.selection.random:
            return steps
        state = self.memel.seed_generator.state
        first = ops.expand_dims(kernels.copy(state), 0)
        steps = ops.cast(steps, state.dtype)
        seeds = first + ops.stack([ops.zeros_like(steps), steps], axis=1)
        one = ops.cast(ops.convert_to_tensor([0, 1]), state.dtype)
        state.assign(seeds[-1] + one)
        return seeds

    def start(self, valid: Tensor | None) -> tuple[Tensor, ...]:
        """What the scan carries: sums, number selected, and penalty."""
        if not self.learning:
            return ()
        zero = ops.zeros((), dtype="float32")
        mask = None if valid is None else valid[0]
        return (*Sums.start(self.before.history, mask), zero, zero)

    def __call__(
        self,
        candidate: Tensor,
        valid: Tensor | None,
        carry: list[Tensor],
        seed: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """What is used of the candidates of one time step, and new sums."""
        arguments = dict(self.before.selection)
        if self.memel.selection.random:
            arguments["seed"] = StepSeed(seed)
        used, number, penalty = self.memel.replace(
            candidate, self.before.history.mean, self.scale, valid, arguments
        )
        if not self.learning:
            return used, []
        *sums, all_numbers, all_penalties = carry
        new = self.memel.add_to(Sums(*sums), candidate, self.known, valid)
        # Outside of what was fused: TensorFlow would look for gradients of it
        # in each step of a loop, to multiply them with zeros.
        new = (ops.stop_gradient(x) for x in new)
        number = ops.stop_gradient(number)
        if self.has_loss and penalty is not None:
            penalty = ops.cast(penalty, "float32")
            if self.memel.inhibition.loss_is_mean:
                penalty = penalty * number
            all_penalties = all_penalties + penalty
        return used, [*new, all_numbers + number, all_penalties]

    def learn(self, carry: list[Tensor]) -> None:
        """Writes what the scan has found, if it is to be learned."""
        if not self.learning:
            return
        *sums, number, penalty = carry
        if self.memel.inhibition.loss_is_mean:
            penalty = penalty / kernels.at_least(number, 1.0)
        self.memel.learn(
            self.before,
            Sums(*sums).moments(),
            self.ready,
            number,
            penalty if self.has_loss else None,
        )


class StepSeed(keras.random.SeedGenerator):
    """A generator of seeds inside a scan, where no variable may be assigned.

    Args:
        seed: The state of a `keras.random.SeedGenerator`.
    """

    def __init__(self, seed: Tensor):
        self._seed, self._drawn = seed, 0

    def next(self, ordered: bool = True) -> Tensor:
        """The seed; for a second and third of the same time step, others."""
        other = [7919 * self._drawn, 0]
        self._drawn += 1
        return self._seed + ops.cast(
            ops.convert_to_tensor(other), self._seed.dtype
        )
