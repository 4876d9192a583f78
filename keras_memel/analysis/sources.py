"""Read batches of inputs from any source."""

import contextlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Other modules import `as_numpy` from here.
from keras_memel.utils.conversion import as_numpy as as_numpy


class Source:
    """Source of batches of inputs and targets.

    Args:
        x: As in `analyze`.
        batch_size: Batch size for arrays.

    Attributes:
        size: Number of inputs, or `None` if it is unknown.
        batches: Number of batches, or `None` if it is unknown.
        seen: Number of inputs so far.
    """

    def __init__(self, x: Any, batch_size: int):
        self.batch_size = batch_size
        self.seen = 0
        self._is_text = is_text(x)
        # A list of lists, tuples or dictionaries contains batches, not inputs.
        batches = isinstance(x, list) and all(
            isinstance(part, (list, tuple, Mapping)) for part in x
        )
        if not batches:
            x = keras.tree.map_structure(_of_tensor, entries(x))
        leaves = keras.tree.flatten(x)
        self.x = x
        self.is_array = self._is_text or (
            all(hasattr(leaf, "shape") for leaf in leaves) and not batches
        )
        self.size: int | None = None
        self.batches: int | None = None
        if self.is_array:
            self.size = len(x if self._is_text else leaves[0])
            self.batches = -(-self.size // batch_size)
            if not self.size:
                raise empty(x)
            sizes = {len(leaf) for leaf in leaves if not self._is_text}
            if len(sizes) > 1:
                raise ValueError(
                    "Argument `x` must contain arrays of the same length. Pass "
                    "a list of batches as `iter(batches)`. "
                    f"Received: lengths {sorted(sizes)}"
                )
        elif not hasattr(x, "__iter__") and not hasattr(x, "__getitem__"):
            raise ValueError(
                "Argument `x` must be arrays, a dataset, or an iterable of "
                f"batches. Received: x={x!r} ({type(x).__name__})"
            )
        elif isinstance(x, keras.utils.PyDataset):
            self.batches = x.num_batches
            if self.batches is None:
                raise ValueError(
                    "Argument `x` must be finite. Received: a PyDataset with "
                    "num_batches=None; pass `(x[i] for i in range(n))`"
                )
        else:
            with contextlib.suppress(TypeError):  # The length is unknown.
                self.batches = len(x)

    def inputs(self, labels: Any) -> Iterator[Any]:
        """Yield batches of inputs; pass their size and targets to `labels`."""
        for batch in self._raw():
            inputs, targets = batch, None
            if not self.is_array and not is_text(batch):
                inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
                inputs = keras.tree.map_structure(as_numpy, entries(inputs))
            texts = is_text(inputs)
            if texts:
                inputs = list(inputs)
            size = len(inputs if texts else keras.tree.flatten(inputs)[0])
            labels.put(size, targets)
            self.seen += size
            yield inputs

    def _raw(self) -> Iterator[Any]:
        if self.is_array:
            for start in range(0, self.size or 0, self.batch_size):
                part = slice(start, start + self.batch_size)
                if self._is_text:
                    yield self.x[part]
                else:
                    yield keras.tree.map_structure(
                        lambda leaf: leaf[part],  # noqa: B023 - used at once
                        self.x,
                    )
        elif isinstance(self.x, keras.utils.PyDataset):
            for index in range(self.x.num_batches):
                yield self.x[index]
        else:
            yield from self.x


def empty(x: Any) -> ValueError:
    """Create the error for an empty source of inputs."""
    return ValueError(
        "Argument `x` must contain at least one input; a generator can be read "
        f"only once. Received: x={x!r}, which did not yield any input"
    )


def is_text(x: Any) -> bool:
    """Check whether the inputs are strings, for a model that tokenizes."""
    return (
        isinstance(x, (list, tuple))
        and bool(x)
        and all(isinstance(i, str) for i in x)
    )


def _of_tensor(leaf: Any) -> Any:
    # Keras accepts tables, but a compiled function does not. NumPy refuses
    # some tensors of PyTorch.
    known = hasattr(leaf, "to_numpy") or hasattr(leaf, "detach")
    return as_numpy(leaf) if known else leaf


def entries(x: Any, name: str = "") -> Any:
    """Convert a mapping, such as a `BatchEncoding`, to a dictionary of arrays.

    Raises:
        ValueError: If a value is not an array or a list of numbers.
    """
    if isinstance(x, Mapping):
        return {
            key: entries(part, f"{name}[{key!r}]") for key, part in x.items()
        }
    if not name:
        return x
    if isinstance(x, (list, tuple)):
        if any(hasattr(part, "shape") for part in x):
            return x  # This is an argument that takes several arrays.
        with contextlib.suppress(ValueError):  # The lists differ in length.
            array = np.asarray(x)
            if array.dtype.kind != "O":
                return array
    elif not (x is None or isinstance(x, (bool, int, float, str, bytes))):
        return x
    raise ValueError(
        "Argument `x` must contain arrays, or lists of numbers of one length, "
        f"with one row per input. Received: x{name}={x!r:.80} "
        f"({type(x).__name__})"
    )


def check_number(model: keras.Layer, source: Source) -> None:
    """Raise if a list of arrays contains batches, or also targets."""
    inputs = getattr(model, "inputs", None)
    if (
        not (inputs and source.is_array and isinstance(source.x, (list, tuple)))
        or hasattr(model, "preprocessor")
        or is_text(source.x)
    ):
        return
    number = len(keras.tree.flatten(source.x))
    if number != len(inputs):
        raise ValueError(
            "Argument `x` must contain one array per input of the model, "
            f"{len(inputs)} in total. Pass a list of batches as "
            "`iter(batches)`, and labels as `labels`. "
            f"Received: {number} arrays"
        )
