"""MonoScore and FMS from their formulas: float64, every pair, every rule."""

import numpy as np


def monoscore(z, embeddings, inputs=None):
    """Pair by pair.

    Args:
        z: All values of each neuron, `(n, neurons)`.
        embeddings: The vector of each value, `(n, dimensions)`.
        inputs: Number of the input of each value: a pair is of two inputs.
    """
    z, e = np.asarray(z, "float64"), np.asarray(embeddings, "float64")
    inputs = np.arange(len(z)) if inputs is None else inputs
    e = e / np.linalg.norm(e, axis=1, keepdims=True)
    pair = np.triu(inputs[:, None] != inputs, 1)
    found = []
    for v in z.T:
        a = (v - v.min()) / (v.max() - v.min())
        weight = (a[:, None] * a)[pair]
        found.append((weight * (e @ e.T)[pair]).sum() / weight.sum())
    return np.array(found)


def splits(values, weight, positive):
    """Every rule of the lowest Gini impurity, as (neuron, threshold)."""
    found = []
    for neuron, v in enumerate(values.T):
        order = np.argsort(v, kind="stable")
        w, v = weight[order], v[order]
        below, hits = np.cumsum(w), np.cumsum(w * positive[order])
        impurity = np.zeros(len(v))
        for total, own in ((below, hits), (below[-1] - below, hits[-1] - hits)):
            p = own / np.where(total > 0, total, 1)
            impurity += total * 2 * p * (1 - p)
        (cuts,) = np.nonzero(v[1:] > v[:-1])
        for i in cuts:
            found.append((impurity[i], neuron, (v[i] + v[i + 1]) / 2))
    lowest = min((one[0] for one in found), default=0)
    return [one[1:] for one in found if one[0] < lowest + 1e-9]


class Trees:
    """All trees that Gini allows, as the range of what they score.

    Of two rules of equal impurity a tree may take any.
    """

    def __init__(self, fitted, scored):
        self.values, self.positive = fitted[0].astype("float64"), fitted[1]
        self.other = scored[0].astype("float64")
        self.weight, self.other_weight = (
            np.where(one, 0.5 / one.sum(), 0.5 / (~one).sum())
            for one in (fitted[1], scored[1])
        )
        self.other_positive = scored[1]
        self.known = {}

    def accuracies(self, rows, others):
        """Lowest and highest accuracy of the answer for these rows."""
        side = self.weight[rows] * np.where(self.positive[rows], 1, -1)
        own, its = self.other_weight[others], self.other_positive[others]
        both = own[its].sum(), own[~its].sum()
        excess = side.sum()
        if abs(excess) < 1e-9:  # Rounding decides.
            return min(both), max(both)
        return (both[0 if excess > 0 else 1],) * 2

    def parts(self, rows, others, neuron, threshold):
        low, its_low = (
            v[:, neuron] <= threshold
            for v in (self.values[rows], self.other[others])
        )
        return [
            (rows[low], others[its_low]),
            (rows[~low], others[~its_low]),
        ]

    def splits(self, rows, left=None):
        left = range(self.values.shape[1]) if left is None else left
        found = splits(
            *(self.values[np.ix_(rows, left)], self.weight[rows]),
            self.positive[rows],
        )
        return [(left[neuron], threshold) for neuron, threshold in found]

    def sums(self, rows, others, levels):
        """Range of the sum of accuracies of this node and `levels` below."""
        key = rows.tobytes(), others.tobytes(), levels
        if key not in self.known:
            self.known[key] = self._sums(rows, others, levels)
        return self.known[key]

    def _sums(self, rows, others, levels):
        own = np.array(self.accuracies(rows, others))
        rules = self.splits(rows) if levels else []
        if not rules or len(np.unique(self.positive[rows])) == 1:
            return own * (levels + 1)
        below = [
            sum(
                self.sums(*part, levels - 1)
                for part in self.parts(rows, others, *rule)
            )
            for rule in rules
        ]
        return own + [min(one[0] for one in below), max(o[1] for o in below)]

    def stumps(self, removed, left):
        """Every (neuron, accuracy) of a root after others were removed."""
        every = np.arange(len(self.values)), np.arange(len(self.other))
        rules = self.splits(every[0], left)
        if not rules:
            yield -1, 0.5
        for neuron, threshold in rules:
            if removed:
                rest = [one for one in left if one != neuron]
                yield from self.stumps(removed - 1, rest)
            else:
                parts = self.parts(*every, neuron, threshold)
                for at in (0, 1):
                    yield (
                        neuron,
                        sum(self.accuracies(*part)[at] for part in parts),
                    )


def fms(fitted, scored, removed, levels=5):
    """Each neuron that may detect the concept best, with a range of scores.

    Returns:
        List of (neuron, lowest FMS, highest FMS); without equal rules there
        is one, and both are equal. Empty if no rule exists.
    """
    trees = Trees(fitted, scored)
    rows, others = np.arange(len(fitted[1])), np.arange(len(scored[1]))
    neurons = list(range(fitted[0].shape[1]))
    found = []
    for neuron, threshold in trees.splits(rows):
        parts = trees.parts(rows, others, neuron, threshold)
        first = sum(trees.accuracies(*part)[0] for part in parts)
        more = sum(trees.sums(*part, levels) for part in parts) - first
        gain = more / levels - first
        rest = [one for one in neurons if one != neuron]
        last = {a for _, a in trees.stumps(removed - 1, rest)}
        low, high = (
            first * (2 * (first - a) + 1 - g) / 2
            for a, g in ((max(last), gain[1]), (min(last), gain[0]))
        )
        found.append((neuron, low, high))
    return found
