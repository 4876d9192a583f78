"""Name the neurons of a layer: integers, or tuples for positions."""

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_memel.utils.types import Array


class NamedNeurons:
    """Neurons of one layer, by name and in order.

    Attributes:
        path: Path of the layer.
        shape: Shape of the neurons; `(neurons,)` if they are channels.
        count: Number of values of each neuron.
    """

    path: str
    shape: tuple[int, ...]
    count: Array

    def __len__(self) -> int:
        return len(self.count)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.neurons)

    @property
    def neurons(self) -> list[Any]:
        """Names of the neurons: integers, or tuples for positions."""
        if len(self.shape) == 1:
            return list(range(len(self)))
        return list(np.ndindex(self.shape))

    def row(self, neuron: Any) -> int:
        """Return the index of a neuron in the arrays of this report.

        Args:
            neuron: An integer for a channel, or a tuple for a position.

        Raises:
            ValueError: If the layer does not contain this neuron.

        Example:

        >>> relu = keras.layers.ReLU(name="z")
        >>> model = keras.Sequential([keras.Input((3, 2)), relu])
        >>> x = np.random.default_rng(0).normal(size=(9, 3, 2))
        >>> layer = analyze(model, x, layers="z", axis=None, verbose=0)["z"]
        >>> layer.row((2, 1)), layer.neurons[5]
        (5, (2, 1))
        """
        place = neuron if isinstance(neuron, tuple) else (neuron,)
        whole = all(
            isinstance(one, numbers.Integral) and not isinstance(one, bool)
            for one in place
        )
        if (
            whole
            and len(place) == len(self.shape)
            and all(0 <= one < size for one, size in zip(place, self.shape))
        ):
            return int(np.ravel_multi_index(place, self.shape))
        expected = f"an integer from 0 to {len(self) - 1}"
        if len(self.shape) > 1:
            last = tuple(size - 1 for size in self.shape)
            expected = f"a tuple of {len(last)} integers, up to {last}"
        raise ValueError(
            f"Argument `neuron` must be {expected}, for layer {self.path!r}. "
            f"Received: neuron={neuron!r}"
        )
