"""Check labels batch by batch, and encode them as small integers."""

import collections
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Set
from typing import Any
from typing import NamedTuple

import numpy as np

from keras_memel.analysis import label_values
from keras_memel.analysis.label_values import UNLABELLED
from keras_memel.analysis.positions import fits_positions
from keras_memel.analysis.sources import Source
from keras_memel.analysis.sources import as_numpy
from keras_memel.utils.types import Array

_KINDS = {"bool": "booleans", "int": "integers", "str": "strings"}


class LabelSets(NamedTuple):
    """Labels of each code, where a code represents a set of labels.

    Attributes:
        start: Start of the labels of each code in `member`, and finally their
            end, `(codes + 1,)`.
        member: Labels of all codes, one after the other.
        names: Name of each label.
        order: Number that each label had during the stream.
    """

    start: Array
    member: Array
    names: tuple[str, ...] = ()
    order: Array | None = None

    def pairs(self, codes: Array) -> tuple[Array, Array]:
        """List the pairs of a value and one of its labels.

        Args:
            codes: Code of each value, `(n,)`; below 0 without a label.

        Returns:
            Numbers of values, ascending, and a label of each. A value with
            several labels appears several times.
        """
        (rows,) = np.nonzero(codes >= 0)
        sets = codes[rows]
        sizes = self.start[sets + 1] - self.start[sets]
        ends = np.cumsum(sizes)
        first = np.repeat(self.start[sets] - ends + sizes, sizes)
        at = first + np.arange(ends[-1] if len(ends) else 0)
        return np.repeat(rows, sizes), self.member[at]


class Labels:
    """Labels of a stream, checked and encoded batch by batch.

    Args:
        labels: As in `analyze`.
        names: As `label_names` in `analyze`.
        source: Source of the inputs.
        multi_label: As in `analyze`.

    Attributes:
        given: Whether there are labels.
        sets: Labels of each code so far; `None` while each code is one label.
    """

    def __init__(
        self, labels: Any, names: Any, source: Source, multi_label: bool = False
    ):
        self.given = labels is not None
        self.sets: LabelSets | None = None
        self._targets = isinstance(labels, str)
        self._multi = multi_label
        self._known: dict[Any, int] = {}  # number of each label
        self._kind: str | None = None
        self._patterns: dict[bytes, int] = {}  # code of each set of labels
        self._members: list[Array] = []
        self._all: Array | None = None
        self._at = 0
        self._waiting: list[tuple[int, Any]] = []
        if names is None and multi_label and hasattr(labels, "columns"):
            names = list(labels.columns)
        self._names = self._checked_names(names)
        if self._targets:
            self._check_targets(labels, source)
        elif self.given:
            self._all = self._encoded(labels)
            if source.size not in (None, len(self._all)):
                raise ValueError(
                    "Argument `labels` must have a label for each of the "
                    f"{source.size} inputs. Received: {len(self._all)} labels"
                )
            if self._all.size and (self._all < 0).all():
                raise self._none_labelled()

    def _checked_names(self, names: Any) -> Any:
        if names is None:
            return None
        if not self.given:
            raise ValueError(
                "Argument `label_names` needs labels: also pass `labels`. "
                f"Received: labels=None, label_names={names!r}"
            )
        if not isinstance(names, Iterable) or isinstance(names, Set):
            raise ValueError(
                "Argument `label_names` must be a list of names, or a dict "
                "from label to name. "
                f"Received: label_names={names!r} ({type(names).__name__})"
            )
        if isinstance(names, Mapping):
            return {key: str(name) for key, name in names.items()}
        return tuple(map(str, names))

    def _check_targets(self, labels: str, source: Source) -> None:
        if labels != "targets":
            raise ValueError(
                "Argument `labels` must be None, an array of labels, or "
                f"'targets'. Received: labels={labels!r}"
            )
        if source.is_array:
            raise ValueError(
                "Argument `x` must yield (inputs, targets) if "
                "labels='targets': pass a dataset, or the labels themselves "
                "as `labels`. Received: arrays without targets"
            )

    @staticmethod
    def _none_labelled() -> ValueError:
        return ValueError(
            "Argument `labels` must have a label for at least one input. "
            "Received: only -1, -100 or missing values, which mean "
            "'unlabelled'"
        )

    def _encoded(self, labels: Any) -> Array:
        """Encode labels as int32, -1 where a label is missing."""
        try:
            values = np.asarray(as_numpy(label_values.objects(labels)))
        except ValueError:  # The lists have different lengths.
            raise ValueError(
                "Argument `labels` must have the same number of labels for "
                "each input. Pad them with -100; `align_labels` does so for "
                "labels of words. Received: lists of different lengths"
            ) from None
        if not values.ndim:
            raise ValueError(
                "Argument `labels` must be a list or an array, in the order of "
                f"the inputs. Received: {type(labels).__name__}"
            )
        if self._multi:
            return self._encoded_sets(values)
        if values.shape[1:] == (1,):  # Some data sets store labels as (n, 1).
            values = values[:, 0]
        kind, values, missing = label_values.standard(values)
        codes = np.full(values.shape, -1, "int32")
        if missing.all():
            return codes
        if self._kind not in (None, kind):
            raise ValueError(
                "Argument `labels` must be of one kind in all batches. "
                f"Received: {_KINDS[kind]} after {_KINDS[str(self._kind)]}"
            )
        self._kind = kind
        unique, inverse = np.unique(values[~missing], return_inverse=True)
        codes[~missing] = self._numbers(unique.tolist())[inverse]
        return codes

    def _encoded_sets(self, values: Array) -> Array:
        kind = values.dtype.kind
        known = np.isin(values, (0, 1, *UNLABELLED)) if kind in "biuf" else None
        if values.ndim < 2 or known is None or not known.all():
            raise ValueError(
                "Argument `labels` must be 0 and 1, or booleans, with one "
                "column per label, if multi_label=True: (n, labels), or (n, "
                "positions, labels). "
                f"Received: an array of shape {values.shape}, dtype "
                f"{values.dtype}"
            )
        rows = values.reshape(-1, values.shape[-1])
        unknown = rows < 0 if kind != "b" else np.zeros(rows.shape, bool)
        if (unknown.any(1) != unknown.all(1)).any():
            raise ValueError(
                "Argument `labels` must have complete rows, or rows of -1 (or "
                "-100) in all columns, if multi_label=True. Received: rows "
                "with some columns below 0"
            )
        self._kind = "int"
        codes = np.full(len(rows), -1, "int32")
        labelled = ~unknown.any(1)
        patterns, inverse = np.unique(
            np.packbits(rows[labelled] > 0, axis=1),
            axis=0,
            return_inverse=True,
        )
        numbers = np.zeros(len(patterns), "int32")
        for row, pattern in enumerate(patterns):
            key = pattern.tobytes()
            if key not in self._patterns:
                (columns,) = np.nonzero(np.unpackbits(pattern))
                self._members.append(self._numbers(columns.tolist()))
                self._patterns[key] = len(self._patterns)
            numbers[row] = self._patterns[key]
        codes[labelled] = numbers[inverse.reshape(-1)]
        if self.sets is None or len(self.sets.start) <= len(self._members):
            self.sets = self._joined(self._members)
        return codes.reshape(values.shape[:-1])

    @staticmethod
    def _joined(members: list[Array], **more: Any) -> LabelSets:
        sizes = [len(member) for member in members]
        none = np.zeros(0, "int32")
        return LabelSets(
            np.cumsum([0, *sizes]), np.concatenate([none, *members]), **more
        )

    def _numbers(self, labels: list[Any]) -> Array:
        """Return the number of each label, and number new labels."""
        for label in labels:
            if label not in self._known:
                self._name(label)  # It raises if the name is missing.
                self._known[label] = len(self._known)
        return np.array([self._known[label] for label in labels], "int32")

    def _name(self, label: Any) -> str:
        names = self._names
        if isinstance(names, dict):
            for key in (label, str(label)):
                if key in names:
                    return str(names[key])
            raise ValueError(
                "Argument `label_names` must have a name for each label. "
                f"Received: a dict without the key {label!r}"
            )
        if names is None:
            return str(bool(label) if self._kind == "bool" else label)
        if isinstance(label, str):
            raise ValueError(
                "Argument `label_names` must be a dict from label to name, "
                "or None, if the labels are strings. Received: "
                f"{len(names)} names, and label {label!r}"
            )
        if label >= len(names):
            raise ValueError(
                "Argument `label_names` must have a name for each label up "
                f"to {label}. Received: {len(names)} names"
            )
        return str(names[label])

    def check_sizes(self, path: str, sizes: tuple[int | None, ...]) -> None:
        """Raise if labels per position do not fit the positions of a layer.

        Args:
            path: Path of the layer.
            sizes: Sizes of its positions; `None` where a size is unknown.
        """
        if self._all is not None:
            fits_positions(self._all.shape, (None, *sizes), path)

    @property
    def number(self) -> int:
        """Number of labels so far."""
        return len(self._known)

    def put(self, size: int, targets: Any) -> None:
        """Store the size and the labels of the next batch."""
        codes = None
        if self._targets:
            if targets is None:
                raise ValueError(
                    "Argument `x` must yield (inputs, targets) if "
                    "labels='targets'. Received: a batch without targets"
                )
            codes = self._encoded(targets)
        elif self._all is not None:
            codes = self._all[self._at : self._at + size]
        if codes is not None and len(codes) < size:
            raise ValueError(
                "Argument `labels` must have a label for each input. "
                f"Received: {self._at + len(codes)} labels for more inputs"
            )
        self._at += size
        self._waiting.append((size, codes))

    def take(self) -> tuple[int, Any]:
        """Return the size and the codes of a batch, in the order of `put`."""
        return self._waiting.pop(0)

    def finish(self) -> LabelSets | None:
        """Return the labels that occurred, sorted; `None` without labels.

        Raises:
            ValueError: If there are more labels than inputs, or if all inputs
                are unlabelled.
        """
        if self._all is not None and self._at < len(self._all):
            raise ValueError(
                "Argument `labels` must have a label for each input. "
                f"Received: {len(self._all)} labels for {self._at} inputs"
            )
        if not self.given:
            return None
        if not self._known and self._at:
            raise self._none_labelled()
        labels = sorted(self._known)
        order = np.array([self._known[label] for label in labels], "int64")
        final = np.argsort(order).astype("int32")
        members = [final[one] for one in self._members]
        if not self._multi:
            members = list(final[:, None])
        return self._joined(members, names=self._distinct(labels), order=order)

    def _distinct(self, labels: list[Any]) -> tuple[str, ...]:
        names = [self._name(label) for label in labels]
        times = collections.Counter(names)
        return tuple(
            name if times[name] == 1 else f"{name} ({label})"
            for name, label in zip(names, labels)
        )
