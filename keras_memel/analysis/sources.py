"""Batches and their labels, from whatever source."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_memel.utils.types import Array


class Source:
    """Batches of inputs and targets, from whatever they come.

    Args:
        x: As in `analyze`.
        batch_size: Of arrays.

    Attributes:
        size: Number of inputs, if it is known before.
        batches: Number of batches, likewise.
        seen: Number of inputs so far.
    """

    def __init__(self, x: Any, batch_size: int):
        self.batch_size = batch_size
        self.seen = 0
        self._is_text = is_text(x)
        # Of lists, tuples or dictionaries: batches, not inputs.
        batches = isinstance(x, list) and all(
            isinstance(part, (list, tuple, dict)) for part in x
        )
        if not batches:
            x = keras.tree.map_structure(_of_frame, x)
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
            sizes = {len(leaf) for leaf in leaves if not self._is_text}
            if len(sizes) > 1:
                raise ValueError(
                    "All arrays of `x` must have the same length; a list of "
                    "batches is passed as `iter(batches)`. "
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
                    "Argument `x` must end. Received: a PyDataset with "
                    "num_batches=None; pass `(x[i] for i in range(n))`"
                )
        else:
            with contextlib.suppress(TypeError):  # Of unknown length
                self.batches = len(x)

    def inputs(self, labels: "Labels") -> Iterator[Any]:
        """Batches of inputs; hands size and targets of each to `labels`."""
        for batch in self._raw():
            inputs, targets = batch, None
            if not self.is_array and not is_text(batch):
                inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(batch)
                inputs = keras.tree.map_structure(_numpy, inputs)
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


def is_text(x: Any) -> bool:
    """Whether these are inputs of a model that tokenizes: strings."""
    return (
        isinstance(x, (list, tuple))
        and bool(x)
        and all(isinstance(i, str) for i in x)
    )


def _of_frame(leaf: Any) -> Any:
    # Keras takes tables; what compiles a model does not.
    return leaf.to_numpy() if hasattr(leaf, "to_numpy") else leaf


def _numpy(leaf: Any) -> Any:
    return leaf if isinstance(leaf, str) else np.asarray(leaf)


def _flat(labels: Array) -> Array:
    # One an input, as some sets have them: (n, 1).
    return labels[:, 0] if labels.shape[1:] == (1,) else labels


class Labels:
    """The labels of the stream, checked as they are used.

    Attributes:
        number: Number of labels; `None` without any.
        names: Name of each.
    """

    def __init__(self, labels: Any, names: Any, source: Source):
        self._targets = isinstance(labels, str)
        if self._targets and labels != "targets":
            raise ValueError(
                "Argument `labels` must be None, integer labels, or "
                f"'targets'. Received: labels={labels!r}"
            )
        self._all: Array | None = None
        self._at = 0
        self._given: list[tuple[int, Any]] = []
        self.number: int | None = None
        if labels is not None and not self._targets:
            self._all = _flat(self._checked(np.asarray(_numpy(labels))))
            if source.size not in (None, len(self._all)):
                raise ValueError(
                    "Argument `labels` must have a label for each of the "
                    f"{source.size} inputs. Received: {len(self._all)} labels"
                )
            self.number = int(self._all.max(initial=0)) + 1
        names = None if names is None else tuple(map(str, names))
        if self._targets:
            if names is None:
                raise ValueError(
                    "With labels='targets' the number of labels is not "
                    "known before the stream ends: pass `label_names`. "
                    "Received: label_names=None"
                )
            self.number = len(names)
        if self.number is None:
            if names is not None:
                raise ValueError(
                    "Argument `label_names` names the labels, and there are "
                    "none: pass `labels` too. "
                    f"Received: labels=None, label_names={list(names)}"
                )
            names = ()
        elif names is None:
            names = tuple(map(str, range(self.number)))
        elif len(names) < self.number:
            raise ValueError(
                "Argument `label_names` must have a name for each label up "
                f"to {self.number - 1}. Received: {len(names)} names"
            )
        self.names: tuple[str, ...] = names
        self.number = len(names) or None

    def _checked(self, labels: Array) -> Array:
        whole = labels.dtype.kind in "iub" or (
            labels.dtype.kind == "f" and bool((labels % 1 == 0).all())
        )
        if labels.ndim < 1 or not whole or (labels.size and labels.min() < 0):
            raise ValueError(
                "Argument `labels` must be whole numbers from 0 up, one an "
                "input or one a position. "
                f"Received: an array of shape {labels.shape}, dtype "
                f"{labels.dtype}"
                + (f", minimum {labels.min()}" if whole and labels.size else "")
            )
        return labels.astype("int64")

    def put(self, size: int, targets: Any) -> None:
        """Notes the size and the labels of the next batch."""
        labels = None
        if self._targets:
            if targets is None:
                raise ValueError(
                    "With labels='targets', `x` must yield (inputs, "
                    "targets). Received: a batch without targets"
                )
            labels = _flat(self._checked(np.asarray(_numpy(targets))))
            if labels.max(initial=0) >= len(self.names):
                raise ValueError(
                    "Argument `label_names` must have a name for each "
                    f"label. Received: {len(self.names)} names, and label "
                    f"{labels.max()}"
                )
        elif self._all is not None:
            labels = self._all[self._at : self._at + size]
        if labels is not None and len(labels) < size:
            raise ValueError(
                "Argument `labels` must have a label for each input. "
                f"Received: {self._at + len(labels)} labels, and more inputs"
            )
        self._at += size
        self._given.append((size, labels))

    def take(self) -> tuple[int, Any]:
        """The size and the labels of a batch, in the order of `put`."""
        return self._given.pop(0)

    def finish(self) -> None:
        """Raises if there are more labels than inputs."""
        if self._all is not None and self._at < len(self._all):
            raise ValueError(
                "Argument `labels` must have a label for each input. "
                f"Received: {len(self._all)} labels for {self._at} inputs"
            )
