"""NnxMEmeL: the layer as a module of Flax NNX."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from keras import ops

from keras_memel.core import axes
from keras_memel.core import step
from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.moments import History
from keras_memel.core.moments import Moments
from keras_memel.core.selection import Selection
from keras_memel.layers.memel import MEmeL
from keras_memel.utils import arguments
from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor

_OF_NEURONS = ("moving_mean", "moving_variance", "count", "count_low")
_WITHOUT_FORGETTING = ("moving_mean_low", "moving_variance_low")
_SCALARS = ("steps", "inhibited_rate", "skipped_updates", "skipped_updates_low")


class Statistic(nnx.Variable):
    """Statistic of a MEmeL. It is not a parameter: no optimizer updates it."""


class NnxMEmeL(nnx.Module):
    """Inhibit monosemantic neurons while a Flax NNX module trains.

    The module computes the training step of `keras_memel.MEmeL` and stores its
    state in variables of type `Statistic`. As in `nnx.Dropout`, `model.train()`
    and `model.eval()` set `deterministic`. If it is `True`, the module is the
    identity, unless the layer has `at_inference=True`. `insert` creates these
    modules.

    A neuron without history is never selected, so the first training step
    inhibits no value, even with `late_start=0`.

    Args:
        layer: A `MEmeL` that holds the settings. It is not changed.
        shape: Shape of the inputs. The sizes of axes that do not index neurons
            may be `None`.
        output: Index or key of the output of the host that the module
            follows.
        selection: Selection to use instead of the layer's.

    Call arguments:
        inputs: Floating-point array `(batch, ...)`.
        mask: Booleans over the leading dimensions of the inputs. Positions
            that are `False` are neither counted nor selected.

    Output shape: Shape of the inputs, in the same dtype.

    Attributes: They have the names and meanings of the weights of `MEmeL`. A
        random selection adds `seed_state`.

    Raises:
        ValueError: If the size of a neuron axis is unknown, an argument of the
            layer does not suit the shape, or, in training, the inputs are not
            floating-point, have other neurons than `shape`, or do not match
            the mask.

    Example:

    >>> module = NnxMEmeL(MEmeL("rate", axis=-1), shape=(None, 4))
    >>> outputs = module(jnp.ones((8, 4)))
    >>> int(module.steps[...]), module.moving_mean[...].shape
    (1, (4,))
    >>> module.eval()
    >>> outputs = module(jnp.ones((8, 4)))
    >>> int(module.steps[...])
    1
    """

    def __init__(
        self,
        layer: MEmeL,
        shape: Shape,
        output: Any = None,
        selection: Selection | None = None,
    ):
        built = MEmeL.from_config(
            {
                **layer.get_config(),
                "name": "memel",
                "selection": selection or layer.selection,
                "inhibition": layer.inhibition,
            }
        )
        built.build(shape)
        self.settings: step.Settings = built._settings
        self.output = output
        self.axis = layer.axis
        self.at_inference = layer.at_inference
        self.trainable = layer.trainable
        self.deterministic = False
        self._keepdims = tuple(built._keepdims_shape)
        names = [*_OF_NEURONS, *_SCALARS, *built._state_keys]
        if layer.forget_steps is None:
            names += _WITHOUT_FORGETTING
        for name in names:
            value = ops.convert_to_numpy(getattr(built, name))
            setattr(self, name, Statistic(jnp.asarray(value)))
        self._state_keys = tuple(built._state_keys)
        if layer.selection.random:
            seed = ops.convert_to_numpy(built._seed_state)
            self.seed_state = Statistic(jnp.asarray(seed))

    @property
    def selection(self) -> Selection:
        """Rule that selects values."""
        return self.settings.selection

    @property
    def inhibition(self) -> Inhibition:
        """Treatment of selected values."""
        return self.settings.inhibition

    @property
    def built(self) -> bool:
        """Whether the sizes of the neuron axes are known: always `True`."""
        return True

    @property
    def process_group(self) -> None:
        """Always `None`, because arrays of JAX are global."""
        return

    def __call__(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Inhibit in training; return the inputs unchanged in evaluation."""
        learning = self.trainable and not self.deterministic
        if not (learning or self.at_inference):
            return inputs
        arguments.float_dtype(inputs)
        self._check(inputs)
        outputs, loss, state = step.step(
            inputs,
            self._read(),
            axes.expand_mask(mask, inputs),
            self.settings,
            learning,
        )
        if state.seed is not None:
            self.seed_state[...] = state.seed
        if learning:
            self._write(state)
            if loss is not None:
                outputs = _add_loss(outputs, loss)
        return outputs

    @property
    def _sample_axes(self) -> tuple[int, ...]:
        found: tuple[int, ...] = self.settings.sample_axes
        return found

    def _check(self, inputs: Tensor) -> None:
        sizes = tuple(inputs.shape)
        expected = self._keepdims
        sample = self._sample_axes
        if len(sizes) != len(expected) or any(
            axis not in sample and size != expected[axis]
            for axis, size in enumerate(sizes)
        ):
            raise ValueError(
                "Argument `inputs` must have the neurons of the statistics, of "
                f"shape {expected}. Pass `axis=-1` if the length varies. "
                f"Received: inputs of shape {sizes} with axis={self.axis}"
            )

    def _read(self) -> step.LayerState:
        def neurons(name: str) -> Tensor:
            return getattr(self, name)[...].reshape(self._keepdims)

        low = (0.0, 0.0)
        if self.settings.forget_steps is None:
            low = tuple(map(neurons, _WITHOUT_FORGETTING))
        return step.LayerState(
            history=History(
                neurons("count"),
                neurons("moving_mean"),
                neurons("moving_variance"),
                Moments(neurons("count_low"), *low),
            ),
            steps=self.steps[...],
            inhibited_rate=self.inhibited_rate[...],
            skipped_updates=(
                self.skipped_updates[...],
                self.skipped_updates_low[...],
            ),
            selection={k: getattr(self, k)[...] for k in self._state_keys},
            seed=self.seed_state[...] if self.selection.random else None,
        )

    def _write(self, state: step.LayerState) -> None:
        history = state.history
        new = {
            "count": history.count,
            "count_low": history.low.count,
            "moving_mean": history.mean,
            "moving_variance": history.variance,
            "steps": state.steps,
            "inhibited_rate": state.inhibited_rate,
            "skipped_updates": state.skipped_updates[0],
            "skipped_updates_low": state.skipped_updates[1],
            **state.selection,
        }
        if self.settings.forget_steps is None:
            new["moving_mean_low"] = history.low.mean
            new["moving_variance_low"] = history.low.variance
        for name, value in new.items():
            variable = getattr(self, name)
            value = jax.lax.stop_gradient(value).reshape(variable.shape)
            variable[...] = value.astype(variable[...].dtype)


@jax.custom_vjp
def _add_loss(outputs: Tensor, loss: Tensor) -> Tensor:
    """Return the outputs unchanged and add a loss in the backward pass."""
    del loss
    return outputs


def _forward(outputs: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    return outputs, jnp.ones_like(loss)


def _backward(one: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return gradient, one


_add_loss.defvjp(_forward, _backward)
