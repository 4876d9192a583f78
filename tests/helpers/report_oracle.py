"""The figures of a report from all values: NumPy, SciPy, scikit-learn, slow."""

import numpy as np
from scipy import optimize
from scipy import stats
from sklearn import metrics

from keras_memel.reports.halves import held_out


def oracle(z, own, inputs=None, labelled=None, epsilon=0.0, threshold=9.0):
    """Compute the expected attributes of a `LayerReport`, by name.

    Args:
        z: All values of each neuron, `(n, neurons)`.
        own: Whether each value has each label, `(n, labels)`; or the labels.
        inputs: Number of the input of each value; `None`: its own.
        labelled: Whether each value has a label at all.
        epsilon, threshold: As in `analyze`.
    """
    own = np.asarray(own)
    if own.ndim == 1:
        own = own[:, None] == np.arange(own.max() + 1)
    n = len(z)
    inputs = np.arange(n) if inputs is None else inputs
    labelled = np.ones(n, bool) if labelled is None else labelled
    second = held_out(inputs)
    variances = z.var(0, ddof=1)
    scale = variances + epsilon * variances.mean()
    rows = [
        {
            "mean": v.mean(),
            "variance": v.var(ddof=1),
            "kurtosis": stats.kurtosis(v),
            "minimum": v.min(),
            "maximum": v.max(),
            "dead": False,
            "over_threshold": np.mean(phi >= threshold),
            "ms_max": phi.max(),
            "top_ms": np.sort(best_of_inputs(phi, inputs))[::-1][:8],
            "ms_quantile": np.sort(phi)[::-1][int(np.ceil(0.01 * n)) - 1],
            "label_count": own[labelled].sum(0),
            "label_mean": [v[column & labelled].mean() for column in own.T],
            "label_ms": [phi[column & labelled].mean() for column in own.T],
        }
        | scores(v, phi, own, inputs, labelled & ~second, labelled & second)
        for v, phi in zip(z.T, ((z - z.mean(0)) ** 2 / scale).T)
    ]
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}


def best_of_inputs(phi, inputs):
    return [phi[inputs == number].max() for number in np.unique(inputs)]


def scores(v, phi, own, inputs, first, second):
    """One half chooses the label and the rule, the other scores them."""
    both = [column[first].any() and column[second].any() for column in own.T]
    (labels,) = np.nonzero(both)

    def best(values):
        return labels[np.argmax([values(label) for label in labels])]

    label = best(lambda i: phi[first & own[:, i]].mean())
    loudest = best(lambda i: v[first & own[:, i]].mean())
    means = {i: v[second & own[:, i]].mean() for i in labels}
    high = means.pop(loudest)
    rest = np.mean(list(means.values())) if means else np.nan
    rules = {i: best_rule(v[first], own[first, i]) for i in labels}
    gain = {
        i: round(found - baseline(own[first, i]), 6)
        for i, (found, _) in rules.items()
    }
    f1_label = max(gain, key=gain.get)
    label_f1 = [
        f1(rules[i][1](v[second]), own[second, i]) if i in rules else np.nan
        for i in range(own.shape[1])
    ]
    positive, scale = own[second, label], phi[second]
    auc = p = null = np.nan
    if 0 < positive.sum() < len(positive):
        auc = metrics.roc_auc_score(positive, scale)
        spread, skewness = null_moments(scale, positive, inputs[second])
        pairs = positive.sum() * (~positive).sum()
        p = upper_tail((auc - 0.5) * pairs / spread, skewness)
        highest = optimize.brentq(
            lambda z: upper_tail(z, skewness) - 0.05, 0, 20, xtol=1e-12
        )
        null = min(1.0, 0.5 + highest * spread / pairs)
    return {
        "label": label,
        "mean_on_label": v[second & own[:, label]].mean(),
        "direction": np.sign(v[second & own[:, label]].mean() - v.mean()),
        "ms_on_label": phi[second & own[:, label]].mean(),
        "roc_auc": auc,
        "roc_auc_p": p,
        "roc_auc_null": null,
        "average_precision": metrics.average_precision_score(positive, scale),
        "ks_statistic": stats.ks_2samp(
            scale[positive], scale, method="asymp"
        ).statistic,
        "fkr": fkr(scale, positive, 0.02),
        "label_f1": label_f1,
        "f1_label": f1_label,
        "f1": label_f1[f1_label],
        "f1_baseline": baseline(own[second, f1_label]),
        "class_selectivity": (high - rest) / (high + rest)
        if v.min() >= 0
        else np.nan,
    }


def f1(chosen, positive):
    return 2 * (chosen & positive).sum() / (chosen.sum() + positive.sum())


def baseline(positive):
    return f1(np.ones(len(positive), bool), positive)


def best_rule(values, positive):
    """Every threshold tried, in both directions: the best F1, and its rule."""
    best = -1.0, None
    for rule in (np.greater_equal, np.less_equal):
        for t in np.unique(values):
            hits = (rule(values, t) & positive).sum()
            found = 2 * hits / (rule(values, t).sum() + positive.sum())
            if found > best[0] + 1e-9:
                best = found, lambda v, rule=rule, t=t: rule(v, t)
    return best


def fkr(phi, positive, rate):
    """[Wang et al. 2025] Eq. 4 at the threshold that a share `rate` reaches."""
    tau = np.sort(phi)[::-1][int(np.ceil(rate * len(phi))) - 1]
    return 1 - positive[phi >= tau].mean()


def null_moments(phi, positive, inputs):
    """Compute the moments of the rank sum of unrelated labels, pair by pair."""
    r = stats.rankdata(phi)
    r = r - r.mean()
    y = positive - positive.mean()
    same = (inputs[:, None] == inputs) & ~np.eye(len(r), dtype=bool)
    variance, covariance = np.mean(y**2), 0.0
    if same.any():
        covariance = np.mean(np.outer(y, y)[same]).clip(0, variance)
    number = len(np.unique(inputs))
    total = variance * (r @ r) + covariance * np.outer(r, r)[same].sum()
    spread = np.sqrt(number / (number - 1) * total)
    alone = sum(r**3)
    together = sum(r[inputs == one].sum() ** 3 for one in np.unique(inputs))
    share = covariance / variance
    third = np.mean(y**3) * ((1 - share) * alone + share * together)
    return spread, third / spread**3


def upper_tail(z, skewness):
    """At least that of a normal distribution; see `ranking.detection`."""
    if skewness < 1e-6:
        return stats.norm.sf(z)
    shape = 4 / skewness**2
    cubic = np.cbrt(max(1 + z / np.sqrt(shape), 0))
    gaussian = (cubic - (1 - 1 / (9 * shape))) * np.sqrt(9 * shape)
    return max(stats.norm.sf(z), stats.norm.sf(gaussian))


def check(layer, expected, rtol=1e-5):
    """Compare; `expected` may lack some of what `oracle` returns."""
    found = {
        "ms_quantile": lambda: layer.ms_quantile(0.99),
        "fkr": lambda: layer.false_killing_rate(0.02),
    }
    # With a single label, the two means may be equal. Then there is no
    # direction.
    apart = np.abs(expected["mean_on_label"] - expected["mean"]) > 1e-6
    expected = expected | {
        "direction": np.where(apart, expected["direction"], layer.direction)
    }
    for key, value in expected.items():
        np.testing.assert_allclose(
            found.get(key, lambda key=key: getattr(layer, key))(),
            value,
            rtol=rtol,
            atol=1e-5,
            err_msg=key,
        )
