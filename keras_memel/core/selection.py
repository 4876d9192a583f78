"""Base class of all selections, including custom ones.

The selections of the package are in `selections.py`.
"""

from typing import Any
from typing import TypeAlias

from keras_memel.utils import serialization
from keras_memel.utils.types import Tensor


class Selection:
    """Base class of selections. Subclass it to write a custom selection.

    Override `__call__`. Override `get_config` too if the constructor has
    arguments, and `initial_state` and `update` if the selection has a state.
    Decorate the class with `@keras.saving.register_keras_serializable()`, so
    that models with this selection can be saved and loaded.

    Attributes:
        skips_negative: True if a score below 0 is never selected. The layer
            then omits the pass over the values that would ensure this.
        by_sample: True if the selection in a sample depends on the scores of
            this sample only. The layer may then call the selection on a few
            samples at a time, which is faster on PyTorch.
        random: True if `__call__` has an argument `seed`, a
            `keras.random.SeedGenerator` that the layer creates and saves. The
            layer initializes it with the attribute `seed` of the selection,
            if it has one.

    The first two attributes are promises about `__call__`. A subclass that
    overrides `__call__` does not inherit them. It must set them again if its
    own `__call__` fulfils them.

    Example:

    >>> class AboveMean(Selection):
    ...     def __call__(self, score):
    ...         return score > ops.mean(score)
    >>> layer = MEmeL(selection=AboveMean(), late_start=0)
    """

    skips_negative = False
    by_sample = False
    random = False
    # Whether `__call__(score, _cutoff(score))` equals `__call__(score)`.
    _has_cutoff = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        promises = "skips_negative", "by_sample", "_has_cutoff"
        serialization.drop_promises(cls, "__call__", promises)

    def __call__(self, score: Tensor, **state: Any) -> Tensor:
        """Select values.

        Args:
            score: Monosemantic scale of every value in variances, float32,
                `(batch, ..., neurons)`. It is -1 for a value that must not be
                selected: the value is masked or not finite, its neuron has no
                history, or the late start is not over. The layer ignores a
                selection of such a value.
            **state: The state, by the names in `initial_state`, and `seed` if
                `random`.

        Returns:
            Booleans of the shape of `score`, or broadcastable to it.

        Raises:
            NotImplementedError: If the class does not override this method.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override `__call__(score)`."
        )

    def initial_state(self) -> dict[str, float]:
        """Return the names and initial values of the state, float32 scalars."""
        return {}

    def update(self, share: Tensor, **state: Any) -> dict[str, Tensor]:
        """Compute the state after a training step.

        Args:
            share: Fraction of the selectable values that was selected, a scalar
                in [0, 1]. On several replicas, the fraction over all of them.
            **state: The state before the step.

        Returns:
            The new state. The layer ignores it after a step without
            selectable values.
        """
        del share
        return state

    def _check(self, shape: tuple[int | None, ...]) -> None:
        """Raise if the selection cannot work on samples of this shape.

        Args:
            shape: Shape of one sample, `None` for unknown sizes.
        """
        del shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor, as in any Keras object.

        Raises:
            NotImplementedError: If the constructor has arguments, and the
                class does not override this method.
        """
        return serialization.default_config(self, Selection)

    def __repr__(self) -> str:
        return serialization.represent(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Selection":
        """Create a selection from the result of `get_config`."""
        return cls(**config)


# An argument can specify a selection by its name, as an object, as a class
# without required arguments, or as the config that `serialize` returns.
SelectionLike: TypeAlias = str | Selection | type[Selection] | dict[str, Any]
