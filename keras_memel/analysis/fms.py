"""Compute FMS: does one neuron detect a concept, and do others add little?

For a concept, such as a label, the feature monosemanticity score (FMS) of
[Härle et al. 2025] is

    FMS@p  = A_0 (local + global) / 2
    local  = 2 (A_0 - A_p)
    global = 1 - mean_i (C_i - A_0),    i = 1 ... LEVELS

`A_0` is the accuracy of the best rule with one threshold on one neuron. `A_p`
is the accuracy of the best such rule after the best neuron was removed `p`
times. `C_i` is the accuracy of a decision tree whose root is the rule of
`A_0`, with `i` more levels. All are splits by Gini impurity. The two classes
have equal weight, so that an accuracy is 0.5 by chance.

The formulas are those of the project page of the paper and of the notebook of
the authors. Three points differ from their scripts:

- They draw as many inputs without the concept as with it. Here all inputs
  count, with weights.
- They compute accuracies on the inputs that the tree was fitted to. Here one
  half of the inputs fits the tree and the other half scores it, as in all
  scores of a report.
- They grow the tree until its leaves are pure. Here it has `LEVELS` levels
  below the root, because deeper levels change little on other inputs.

References:
    [Härle et al. 2025] Measuring and Guiding Monosemanticity (arXiv
        2506.19382).
"""

from typing import Any
from typing import NamedTuple

import numpy as np

from keras_memel.analysis.labels import LabelSets
from keras_memel.analysis.value_store import Spool
from keras_memel.reports.halves import held_out
from keras_memel.reports.rules import Groups
from keras_memel.utils.optional_imports import need
from keras_memel.utils.types import Array

# Number of levels of the tree below its root.
LEVELS = 5
# Maximum size in bytes of the values that trees are fitted to.
MEMORY = 1 << 26
# Minimum number of inputs of each class in each half.
_FEWEST = 2
# Exponent of the largest value of a neuron in the trees. scikit-learn treats
# values that differ by less than 1e-7 as equal.
_EXPONENT = 100


class Score(NamedTuple):
    """FMS of one concept.

    Attributes:
        neuron: Neuron that detects the concept best; -1 if no neuron splits
            it.
        accuracy: `A_0`.
        local: `2 (A_0 - A_p)`.
        overall: `1 - mean_i (C_i - A_0)`, the paper's "global".
    """

    neuron: int
    accuracy: float
    local: float
    overall: float

    @property
    def fms(self) -> float:
        """Score `A_0 (local + global) / 2`."""
        return self.accuracy * (self.local + self.overall) / 2


def check() -> None:
    """Raise if scikit-learn is missing."""
    need("sklearn.tree", "measures", "`analyze(fms=...)`")


def concept(
    fitted: tuple[Array, Array],
    scored: tuple[Array, Array],
    removed: int,
    levels: int = LEVELS,
) -> Score:
    """Compute the FMS of one concept.

    Args:
        fitted: Values `(n, neurons)`, float32, and whether each input has the
            concept, `(n,)`. The values are changed during the call and then
            restored.
        scored: Values and concept of the other half.
        removed: Number of neurons to remove, `p`.
        levels: Number of levels of the tree below its root.
    """
    values, positive = fitted
    tree = _grown(values, positive, 1 + levels)
    root = int(tree.tree_.feature[0])
    if root < 0:
        return Score(-1, np.nan, np.nan, np.nan)
    accuracy = _accuracies(tree, *scored)
    first, more = accuracy[1], accuracy[2 : 2 + levels]
    kept, best, last = [], root, 0.5
    for _ in range(removed):
        kept.append((best, values[:, best].copy()))
        values[:, best] = 0  # A constant cannot split the inputs.
        stump = _grown(values, positive, 1)
        best = int(stump.tree_.feature[0])
        last = 0.5
        if best < 0:
            break
        last = _accuracies(stump, *scored)[1]
    for column, before in kept:
        values[:, column] = before
    overall = 1 - np.mean(more - first) if levels else 1.0
    return Score(root, float(first), float(2 * (first - last)), float(overall))


def _grown(values: Array, positive: Array, depth: int) -> Any:
    sklearn_tree = need("sklearn.tree", "measures", "`analyze(fms=...)`")
    made = sklearn_tree.DecisionTreeClassifier(
        criterion="gini",
        max_depth=depth,
        class_weight="balanced",
        random_state=0,  # It decides between equal splits.
    )
    return made.fit(values, positive)


def _accuracies(made: Any, values: Array, positive: Array) -> Array:
    """Compute the balanced accuracy of the first levels of a tree."""
    tree = made.tree_
    # A tie counts as "no", as in the script of the authors.
    yes = tree.value[:, 0, 1] > tree.value[:, 0, 0]
    at = np.zeros(len(values), "int64")
    rows = np.arange(len(values))
    found = []
    for _ in range(made.max_depth + 1):
        said = yes[at]
        right = said[positive].mean() + (~said[~positive]).mean()
        found.append(right / 2)
        feature = tree.feature[at]
        left = values[rows, np.maximum(feature, 0)] <= tree.threshold[at]
        below = np.where(left, tree.children_left[at], tree.children_right[at])
        at = np.where(feature < 0, at, below)
    return np.array(found)


def of_labels(spool: Spool, sets: LabelSets, removed: int) -> Array:
    """Compute the FMS of each label at the neuron that detects it best.

    Args:
        spool: Values of the layer. A uniform sample of them is used if they
            exceed `MEMORY`.
        sets: Labels of each code.
        removed: Number of neurons to remove, `p`.

    Returns:
        FMS, `(neurons, labels)`, float32, NaN for all other neurons. A label
        has only NaN unless each half has at least two rows with it and two
        without it. A row counts if it is labelled and has a finite value of
        each neuron, apart from the neurons that never have one.
    """
    found = np.full((spool.neurons, len(sets.names)), np.nan, "float32")
    values, tags = spool.sample(max(2, MEMORY // (4 * spool.neurons)))
    if tags is None:
        return found
    # A neuron without values becomes a constant, which cannot split.
    values[:, ~np.isfinite(values).any(0)] = 0
    usable = (tags[:, 0] >= 0) & np.isfinite(values).all(1)
    values, (codes, inputs) = values[usable], tags[usable].T
    # Multiplying by a power of two changes no rule.
    _, exponent = np.frexp(np.abs(values).max(0, initial=0))
    values = np.ldexp(values, _EXPONENT - exponent)
    second = held_out(inputs)
    groups = Groups(*sets.pairs(codes), len(codes), len(sets.names))
    # Both are contiguous copies; `concept` changes the first temporarily.
    first, other = values[~second], values[second]
    for label in range(len(sets.names)):
        positive = groups.mask(label)
        halves = positive[~second], positive[second]
        if min(min(half.sum(), (~half).sum()) for half in halves) < _FEWEST:
            continue
        score = concept((first, halves[0]), (other, halves[1]), removed)
        if score.neuron >= 0:
            found[score.neuron, label] = score.fms
    return found
