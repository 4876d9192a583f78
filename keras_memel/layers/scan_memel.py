"""Apply a MEmeL within a scan over time.

The MEmeL inhibits the candidate of each time step before the update gate is
applied. Its statistics are read before the scan and written once after it,
because a variable that is assigned inside a scan leaks on JAX and counts
wrongly on other backends. All time steps are therefore scored with the same
history. The scan carries sums per neuron from step to step, so the statistics
need no stored candidates.
"""

from typing import Any

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.core import step
from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.moments import Sums
from keras_memel.core.scores import inverse_variance
from keras_memel.layers import rematerialization
from keras_memel.layers import untracked
from keras_memel.layers.memel import MEmeL
from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor


def checked(memel: Any) -> MEmeL | None:
    """Return a MEmeL that works in a scan, from itself or its config."""
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
            "use: write a custom `Selection` or `Inhibition` instead. "
            f"Received: memel of type {type(memel).__name__}"
        )
    if memel is not None and memel.score_with != "history":
        raise ValueError(
            "Argument `memel` must have score_with='history': the statistics "
            "of a call are not known before its last time step. "
            f"Received: a MEmeL with score_with={memel.score_with!r}"
        )
    return memel


def build_new(memel: MEmeL, input_shape: Shape) -> None:
    """Build a MEmeL that no other layer uses.

    Raises:
        ValueError: If it is already built.
    """
    if memel.built:
        raise ValueError(
            "Argument `memel` must be new, since each layer needs a separate "
            f"MEmeL. Received: {memel.name!r}, which is already built"
        )
    memel.build(input_shape)


def config_of(memel: MEmeL | None) -> dict[str, Any] | None:
    """Return the config of a MEmeL, from which `checked` rebuilds it."""
    if memel is None:
        return None
    config: dict[str, Any] = keras.saving.serialize_keras_object(memel)
    # The layer builds its MEmeL, possibly for frames of other sizes.
    config.pop("build_config", None)
    return config


def inhibitor_of(memel: MEmeL | None, training: bool) -> "Inhibitor | None":
    """Return the `Inhibitor` of one call, or `None` without any effect."""
    if memel is None:
        return None
    learning = training and memel.trainable
    if not (learning or memel.at_inference):
        return None
    if learning:
        rematerialization.refuse(memel)
        untracked.refuse(memel)
    return Inhibitor(memel, learning)


class Inhibitor:
    """MEmeL within one scan, read before and written after the scan.

    Args:
        memel: The layer.
        learning: Whether to update its statistics.
    """

    def __init__(self, memel: MEmeL, learning: bool):
        self.memel, self.learning = memel, learning
        self.settings, self.before = memel._settings, memel._read()
        history = self.before.history
        self.known = history.count > 0
        self.ready = step.is_ready(history, self.before.steps, self.settings)
        self.scale = inverse_variance(
            history.variance, self.settings.epsilon, where=self.ready
        )
        # The loss of an inhibition that does not override `loss` is not summed.
        inhibition = self.settings.inhibition
        self.has_loss = type(inhibition).loss is not Inhibition.loss
        self.seed = self.before.seed

    def seeds(self, time: Tensor) -> Tensor:
        """Return one seed per time step, `(time, ...)`.

        The generator of the MEmeL advances as if every time step drew from it.
        """
        steps = ops.arange(time)
        if self.seed is None:
            return steps
        steps = ops.cast(steps, self.seed.dtype)
        moved = ops.stack([ops.zeros_like(steps), steps], axis=1)
        seeds = ops.expand_dims(self.seed, 0) + moved
        one = ops.cast(ops.convert_to_tensor([0, 1]), self.seed.dtype)
        self.seed = seeds[-1] + one
        return seeds

    def start(self, valid: Tensor | None) -> tuple[Tensor, ...]:
        """Return the initial carry: sums, number selected and penalty."""
        if not self.learning:
            return ()
        zero = ops.zeros((), dtype="float32")
        mask = None if valid is None else valid[0]
        return (*Sums.start(self.before.history.moments, mask), zero, zero)

    def __call__(
        self,
        candidate: Tensor,
        valid: Tensor | None,
        carry: list[Tensor],
        seed: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        """Inhibit the candidates of one time step, and add to the sums."""
        found = step.replace(
            candidate,
            self.before.history.mean,
            self.scale,
            valid,
            self.before._replace(seed=seed),
            self.settings,
        )
        if not self.learning:
            return found.outputs, []
        *sums, all_numbers, all_losses = carry
        new = self.settings.add_to(Sums(*sums), candidate, self.known, valid)
        # Stop gradients outside of the fused function. Otherwise TensorFlow
        # computes them in each step of a loop and multiplies them by zero.
        constants = [ops.stop_gradient(x) for x in new]
        number = ops.stop_gradient(found.number)
        if found.loss is not None:
            loss = ops.cast(found.loss, "float32")
            if self.settings.inhibition.loss_is_mean:
                loss = loss * number
            all_losses = all_losses + loss
        return found.outputs, [*constants, all_numbers + number, all_losses]

    def write(self, carry: list[Tensor]) -> None:
        """Write the statistics and the loss after the scan."""
        if not self.learning:
            self.memel._write(None, self.before._replace(seed=self.seed), False)
            return
        *sums, number, loss = carry
        if self.settings.inhibition.loss_is_mean:
            loss = loss / kernels.at_least(number, 1.0)
        seed = self.seed
        if seed is not None:
            seed = kernels.after(seed, number)
        found = step.Inhibited(
            None, number, loss if self.has_loss else None, seed
        )
        self.memel._write(
            *step.learn(
                self.before,
                Sums(*sums).moments(),
                self.ready,
                found,
                self.settings,
            ),
            True,
        )
