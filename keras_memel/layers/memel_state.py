"""State of a MEmeL: its weights, and how a step reads and writes them."""

from typing import Any

import keras
from keras import ops

from keras_memel import kernels
from keras_memel.core import step
from keras_memel.core.moments import History
from keras_memel.core.moments import Moments
from keras_memel.core.selection import Selection
from keras_memel.utils.keras_internals import DotNotTrackScope
from keras_memel.utils.types import Shape
from keras_memel.utils.types import Tensor

# Numbers of low parts that a file may hold. Old files hold 0. Files with
# `forget_steps=None` hold 4, since mean and variance have low parts too.
_LOW_PARTS = (0, 2, 4)


class MEmeLState(keras.layers.Layer):
    """Base class of `MEmeL`, which stores a `LayerState` in weights."""

    # `MEmeL` sets these attributes before it adds the weights.
    selection: Selection
    forget_steps: int | None
    _keepdims_shape: Shape

    def _add_weights(self, shape: Shape) -> None:
        """Add the state, in the order in which files store it."""
        self.moving_mean = self._add_state("moving_mean", shape)
        self.moving_variance = self._add_state("moving_variance", shape)
        self.count = self._add_state("count", shape)
        # The integer dtype of Keras counters, such as `optimizer.iterations`.
        self.steps = self._add_state("steps", dtype="int")
        self.inhibited_rate = self._add_state("inhibited_rate")
        self.skipped_updates = self._add_state("skipped_updates")
        initial_state = self.selection.initial_state()
        self._state_keys = tuple(initial_state)
        for key, value in initial_state.items():
            if hasattr(self, key):
                raise ValueError(
                    "`initial_state` of a selection must use names that are "
                    f"not attributes of the layer. Received: {key!r} from "
                    f"{type(self.selection).__name__}"
                )
            setattr(self, key, self._add_state(key, initial=value))
        self._number_in_old_files = len(self.weights)
        # Add the low parts last, so that files without them still load.
        self.count_low = self._add_state("count_low", shape)
        self.skipped_updates_low = self._add_state("skipped_updates_low")
        if self.forget_steps is None:
            self.moving_mean_low = self._add_state("moving_mean_low", shape)
            self.moving_variance_low = self._add_state(
                "moving_variance_low", shape
            )
        if self.selection.random:
            self.seed_generator = keras.random.SeedGenerator(
                getattr(self.selection, "seed", None)
            )
            # Store the variable as an attribute too: Flax NNX finds variables
            # only there, and a compiled step works on copies of these.
            with DotNotTrackScope():
                self._seed_state = self.seed_generator.state

    def _add_state(
        self,
        name: str,
        shape: Shape = (),
        initial: float = 0.0,
        dtype: str = "float32",
    ) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=keras.initializers.Constant(initial),
            dtype=dtype,
            autocast=False,
            trainable=False,
        )

    def _read(self) -> step.LayerState:
        """Return the current state."""

        def neurons(weight: Any) -> Tensor:
            return kernels.reshape(_copy(weight), self._keepdims_shape)

        mean_low: Tensor = 0.0
        variance_low: Tensor = 0.0
        if self.forget_steps is None:
            mean_low = neurons(self.moving_mean_low)
            variance_low = neurons(self.moving_variance_low)
        return step.LayerState(
            history=History(
                neurons(self.count),
                neurons(self.moving_mean),
                neurons(self.moving_variance),
                Moments(neurons(self.count_low), mean_low, variance_low),
            ),
            steps=_copy(self.steps),
            inhibited_rate=_copy(self.inhibited_rate),
            skipped_updates=(
                _copy(self.skipped_updates),
                _copy(self.skipped_updates_low),
            ),
            selection={k: _copy(getattr(self, k)) for k in self._state_keys},
            seed=_copy(self._seed_state) if self.selection.random else None,
        )

    def _write(
        self, loss: Tensor | None, state: step.LayerState, learning: bool
    ) -> None:
        """Store the state after a step, and add its loss."""
        if state.seed is not None:
            self._seed_state.assign(state.seed)
        if not learning:
            return
        if loss is not None:
            # Keras adds losses in `floatx`, and TensorFlow requires one dtype.
            self.add_loss(ops.cast(loss, keras.config.floatx()))
        history = state.history
        for weight, value in (
            (self.count, history.count),
            (self.count_low, history.low.count),
            (self.moving_mean, history.mean),
            (self.moving_variance, history.variance),
        ):
            weight.assign(kernels.reshape(value, weight.shape))
        if self.forget_steps is None:
            for weight, value in (
                (self.moving_mean_low, history.low.mean),
                (self.moving_variance_low, history.low.variance),
            ):
                weight.assign(kernels.reshape(value, weight.shape))
        self.steps.assign(state.steps)
        self.inhibited_rate.assign(state.inhibited_rate)
        high, low = state.skipped_updates
        self.skipped_updates.assign(high)
        self.skipped_updates_low.assign(low)
        for key, value in state.selection.items():
            getattr(self, key).assign(value)

    def load_own_variables(self, store: Any) -> None:
        """Load the state, also from a file with fewer or more low parts.

        Older files hold fewer low parts, and files of another `forget_steps`
        may hold fewer or more.
        """
        own = self._trainable_variables + self._non_trainable_variables
        first = self._number_in_old_files
        if len(store.keys()) - first not in _LOW_PARTS:
            super().load_own_variables(store)  # raises and names them
            return
        for number, weight in enumerate(own):
            if number < first or str(number) in store:
                weight.assign(store[str(number)])
            else:
                weight.assign(ops.zeros(weight.shape, weight.dtype))


def _copy(weight: Any) -> Tensor:
    # PyTorch assigns in place. Without the copy, the backward pass of values
    # computed from the old value would use the new one.
    return kernels.copy(weight)
