"""MonoScore and FMS from their formulas: float64, every pair, every rule."""

import itertools

import numpy as np


class Tie(Exception):
    """More than one tree is right."""


def monoscore(z, embeddings, inputs=None):
    """Pair by pair.

    Args:
        z: All values of each neuron, `(n, neurons)`.
        embeddings: The vector of each value, `(n, dimensions)`.
        inputs: Number of the input of each value: a pair is of two inputs.
    """
    z, e = np.asarray(z, "float64"), np.asarray(embeddings, "float64")
    inputs = np.arange(len(z)) if inputs is None else inputs
    found = []
    for v in z.T:
        a = (v - v.min()) / (v.max() - v.min())
        above = below = 0.0
        for i, j in itertools.combinations(range(len(a)), 2):
            if inputs[i] != inputs[j]:
                cosine = e[i] @ e[j]
                cosine /= np.linalg.norm(e[i]) * np.linalg.norm(e[j])
                above += a[i] * a[j] * cosine
                below += a[i] * a[j]
        found.append(above / below)
    return np.array(found)


def best_split(values, weight, positive):
    """The neuron and threshold of the lowest Gini impurity; every one tried."""
    best = np.inf, None, None
    seen = []
    for neuron, v in enumerate(values.T):
        levels = np.unique(v)
        for t in (levels[1:] + levels[:-1]) / 2:
            impurity = 0.0
            for side in (v <= t, v > t):
                total = weight[side].sum()
                p = weight[side & positive].sum() / total
                impurity += total * 2 * p * (1 - p)
            seen.append(impurity)
            if impurity < best[0]:
                best = impurity, neuron, t
    # Of two rules of equal impurity any may be taken.
    if np.sum(np.array(seen) < best[0] + 1e-9) > 1:
        raise Tie
    return best[1:]


def grow(values, weight, positive, depth):
    """A tree: (says yes, neuron, threshold, low, high); a leaf without."""
    yes = weight[positive].sum() > weight[~positive].sum()
    if not depth or positive.all() or not positive.any():
        return (yes,)
    neuron, t = best_split(values, weight, positive)
    if neuron is None:
        return (yes,)
    low = values[:, neuron] <= t
    below = [
        grow(values[side], weight[side], positive[side], depth - 1)
        for side in (low, ~low)
    ]
    return (yes, neuron, t, *below)


def says(tree, row, depth):
    if not depth or len(tree) == 1:
        return tree[0]
    _, neuron, t, low, high = tree
    return says(low if row[neuron] <= t else high, row, depth - 1)


def accuracy(tree, values, positive, depth):
    said = np.array([says(tree, row, depth) for row in values])
    return (said[positive].mean() + (~said[~positive]).mean()) / 2


def fms(fitted, scored, removed, levels):
    """Neuron, A_0, local, global."""
    values, positive = fitted
    values = values.astype("float64")
    weight = np.where(positive, 0.5 / positive.sum(), 0.5 / (~positive).sum())
    tree = grow(values, weight, positive, levels + 1)
    first = accuracy(tree, *scored, 1)
    more = [
        accuracy(tree, *scored, 1 + level) - first
        for level in range(1, levels + 1)
    ]
    left, last = list(range(values.shape[1])), tree
    best = tree[1]
    for _ in range(removed):
        left.remove(best)
        last = grow(values[:, left], weight, positive, 1)
        if len(last) == 1:
            break
        best = left[last[1]]
    # The neurons are numbered anew without those that were removed.
    kept = (scored[0][:, left], scored[1])
    local = 2 * (first - accuracy(last, *kept, 1))
    return tree[1], first, local, 1 - np.mean(more)
