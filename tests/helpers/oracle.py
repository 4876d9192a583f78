"""MEmeL in float64 NumPy, one neuron and one value at a time.

Written from the equations, for reading, not for speed: no shared code with
the library, no broadcasting tricks, loops where the text says "each". The
tests hold the layer to it on every backend.

[M] = Wang et al. 2024, arXiv 2312.11560. [L] = Wang et al. 2025, arXiv
2503.23298.
"""

import itertools
import math
from statistics import NormalDist

import numpy as np


class Oracle:
    """The layer's state and one training step."""

    def __init__(
        self,
        selection=("top_k", 1),
        inhibition=("reverse", 1.0),
        axis=None,
        forget_steps=10,
        late_start=10,
        epsilon=0.01,
        score_with="history",
    ):
        self.selection, self.inhibition = selection, inhibition
        self.axis, self.forget_steps = axis, forget_steps
        self.late_start, self.epsilon = late_start, epsilon
        self.score_with = score_with
        self.steps = 0
        self.inhibited_rate = 0.0
        self.skipped_updates = 0
        self.loss = 0.0
        self.neurons = None
        if selection[0] == "rate":
            rate = selection[1]
            self.threshold = NormalDist().inv_cdf(1 - rate / 2) ** 2

    def step(self, x, cotangent, mask=None, random_mask=None):
        """One training step: outputs and the gradient of `sum(y * r)`."""
        x = np.asarray(x, "float64")
        cotangent = np.asarray(cotangent, "float64")
        axes, shape = self.begin(x.shape)
        valid = np.ones(x.shape, bool)
        if mask is not None:
            mask = np.asarray(mask, bool)
            for position in np.ndindex(*mask.shape):
                valid[position] = mask[position]

        if self.score_with == "history":
            score = self.score(x, axes, valid)
            total = self.update(x, axes, valid)
            statistics = self.before
        else:
            total = self.update(x, axes, valid)
            score = self.score(x, axes, valid)
            statistics = (self.count, self.mean)
        ready = (statistics[0] > 0) & (self.steps >= self.late_start)
        eligible = sum(
            self.batch_count[n] for n in np.ndindex(*shape) if ready[n]
        )
        selected = self.select(score, random_mask)

        y, gradient = x.copy(), cotangent.copy()
        self.loss = 0.0
        kind, *argument = self.inhibition
        logs = []
        for i in np.ndindex(*x.shape):
            if not selected[i]:
                continue
            mean = statistics[1][tuple(i[a] for a in axes)]
            if kind == "reverse":  # [M] Eq. 12, unified with Eq. 10 and 11
                y[i], gradient[i] = mean, -argument[0] * cotangent[i]
            elif kind == "penalty":  # [L] Eq. 5
                logs.append((i, x[i] - mean))
        if kind == "penalty" and logs:
            weight, tiny = argument
            for i, d in logs:
                self.loss += weight * math.log(d * d + tiny) / len(logs)
                gradient[i] += weight * 2 * d / (d * d + tiny) / len(logs)

        self.end(int(selected.sum()), total, eligible)
        return y, gradient

    def begin(self, shape):
        """The neuron axes of such values, and the shape of the neurons."""
        axes = self._neuron_axes(len(shape))
        neurons = tuple(shape[a] for a in axes)
        if self.neurons is None:
            self.neurons = neurons
            self.mean, self.variance = np.zeros(neurons), np.zeros(neurons)
            self.count = np.zeros(neurons)
        return axes, neurons

    def end(self, number, total, eligible):
        """Update the state from the numbers of selected values and of all
        values.
        """
        if total:
            self.inhibited_rate = number / total
        if self.selection[0] == "rate" and eligible:
            _, rate, gain = self.selection
            off = number / eligible / rate - 1
            self.threshold *= math.exp(min(gain * off, 2.0))
            self.threshold = max(self.threshold, 1e-6)
        self.steps += 1

    def _neuron_axes(self, rank):
        if self.axis is None:
            return tuple(range(1, rank))
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return tuple(sorted(a % rank for a in axes))

    def score(self, x, axes, valid):
        """phi, [M] Eq. 7; -1 where there is none."""
        seen = self.count > 0
        ready = self.steps >= self.late_start
        average = self.variance[seen].mean() if seen.any() else 0.0
        score = np.full(x.shape, -1.0)
        for i in np.ndindex(*x.shape):
            n = tuple(i[a] for a in axes)
            if not (valid[i] and seen[n] and ready and np.isfinite(x[i])):
                continue
            denominator = self.variance[n] + self.epsilon * average
            square = (x[i] - self.mean[n]) ** 2
            score[i] = square / denominator if denominator else 0.0
        return score

    def select(self, score, random_mask):
        kind, *argument = self.selection
        if kind == "top_k":
            selected = np.zeros(score.shape, bool)
            for sample, out in zip(score, selected, strict=True):
                kth = np.sort(sample, axis=None)[-argument[0]]
                out[...] = (sample >= kth) & (sample > 0)
            return selected
        if kind == "threshold":
            return score >= argument[0]
        if kind == "rate":
            return score >= self.threshold
        return np.asarray(random_mask, bool) & (score >= 0)

    def update(self, x, axes, valid):
        """[M] Lemma 3.2 for each neuron, with App. C.1's forgetting."""
        self.before = (self.count.copy(), self.mean.copy())
        self.batch_count = np.zeros(self.neurons)
        ranges = [range(size) for size in x.shape]
        for n in np.ndindex(*self.neurons):
            where = list(ranges)
            for a, position in zip(axes, n, strict=True):
                where[a] = [position]
            values = np.array(
                [x[i] for i in itertools.product(*where) if valid[i]]
            )
            b = len(values)
            self.batch_count[n] = b
            if b and not np.isfinite(values).all():
                self.skipped_updates += 1
                continue
            if not b:
                continue
            m = self.count[n]
            if self.forget_steps is not None:
                m = min(m, self.forget_steps * b)
            mu, v = self.mean[n], self.variance[n]
            mu_new = values.sum() / b
            v_new = ((values - mu_new) ** 2).sum() / b  # biased
            if m == 0:
                self.mean[n] = mu_new
                self.variance[n] = b * v_new / (b - 1) if b > 1 else 0.0
            else:
                self.mean[n] = (m * mu + b * mu_new) / (m + b)
                self.variance[n] = m * b * (mu - mu_new) ** 2 / (
                    (m + b - 1) * (m + b)
                ) + (b * v_new + (m - 1) * v) / (m + b - 1)
            self.count[n] += b
        return self.batch_count.sum()
