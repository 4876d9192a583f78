"""The base class of all selections, and of your own.

The selections themselves are in `selections.py`.
"""

from typing import Any
from typing import TypeAlias

from keras_memel.utils import serialization
from keras_memel.utils.types import Tensor


class Selection:
    """Base class: subclass it to try a selection of your own.

    Override `__call__`; `get_config` if the constructor takes arguments; and
    `initial_state` with `update` if it remembers something. Decorate the
    class with `@keras.saving.register_keras_serializable()` and models that
    hold it can be saved and loaded.

    Attributes:
        skips_negative: True if a score below 0 is never selected, which saves
            the layer a pass over the values to see to it.
        by_sample: True if what is selected in a sample depends on the scores
            of that sample alone, so that the layer may ask for some samples
            at a time, which is faster on PyTorch.
        random: True if `__call__` takes a `seed`, a
            `keras.random.SeedGenerator` that the layer keeps and saves. It is
            made from the attribute `seed` of the selection, if there is one.

    The first two are promises about `__call__`: a subclass that overrides it
    does not inherit them, and sets them again if they still hold.

    Example:

    >>> class AboveMean(Selection):
    ...     def __call__(self, score):
    ...         return score > ops.mean(score)
    >>> layer = MEmeL(selection=AboveMean(), late_start=0)
    """

    skips_negative = False
    by_sample = False
    random = False
    # Whether `__call__(score, _cutoff(score))` is `__call__(score)`.
    _has_cutoff = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        promises = "skips_negative", "by_sample", "_has_cutoff"
        serialization.drop_promises(cls, "__call__", promises)

    def __call__(self, score: Tensor, **state: Any) -> Tensor:
        """Select.

        Args:
            score: Monosemantic scale of every value, float32,
                `(batch, ..., neurons)`, in variances. -1 where there is none:
                the value is masked or not finite, its neuron has no history,
                or the late start is not over. What is selected there is
                ignored.
            **state: What `initial_state` declares, each by its name; and
                `seed` if `random`.

        Returns:
            Booleans of the shape of `score`, or broadcastable to it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override `__call__(score)`."
        )

    def initial_state(self) -> dict[str, float]:
        """Name and first value of every float32 scalar to remember."""
        return {}

    def update(self, share: Tensor, **state: Any) -> dict[str, Tensor]:
        """The state after a training step.

        Args:
            share: Selected share of the values that could be selected,
                a scalar in [0, 1]. On many replicas, the share over all.
            **state: The state that the selection was made with.

        Returns:
            The new state. It is dropped after a step in which no value could
            be selected.
        """
        del share
        return state

    def _check(self, shape: tuple[int | None, ...]) -> None:
        """Raise if the selection cannot work on samples of this shape.

        Args:
            shape: Shape of one sample; `None` where it is not known.
        """
        del shape

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor, as in any Keras object.

        Raises:
            NotImplementedError: If there are some, and the class does not
                override this.
        """
        return serialization.default_config(self, Selection)

    def __repr__(self) -> str:
        return serialization.represent(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Selection":
        """Make a selection from the result of `get_config`."""
        return cls(**config)


# Every form in which a selection can be passed: a name, an object, a class
# without required arguments, or a config as `serialize` returns it.
SelectionLike: TypeAlias = str | Selection | type[Selection] | dict[str, Any]
