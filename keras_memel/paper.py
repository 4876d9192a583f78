"""Provide the settings of the papers as arguments of `MEmeL`.

    insert(model, "middle:4", MEmeL(**kdd2024))     # BERT and Swin in [M]
    insert(model, "middle:2", MEmeL(**l2e))         # the language models of [L]

`arms` contains the rows of the tables in [M] as arms for `compare`, except
MEmeL-Tune. `tuned` returns the settings of MEmeL-Tune.

References:
    [M] Wang et al. (2024), Learning from Emergence (arXiv 2312.11560).
    [L] Wang et al. (2025), Learning Towards Emergence (arXiv 2503.23298).

Example:

>>> MEmeL(**{**kdd2024, "late_start": 100}).late_start
100
"""

from typing import Any

from keras_memel.core.inhibitions import ReverseDeactivation
from keras_memel.core.selections import TopK

kdd2024: dict[str, Any] = {
    # Select the value with the highest monosemantic scale in each sample.
    "selection": "top_k",
    # Replace it with the running mean, and reverse its gradient (Eq. 12).
    "inhibition": "reverse",
    # Each channel at each position is a neuron. Use -1 if the length of the
    # inputs varies.
    "axis": None,
    # n_f and l_s of the authors' code: the history counts as at most 10
    # batches, and inhibition starts in the 11th step.
    "forget_steps": 10,
    "late_start": 10,
    # Fraction of the mean variance of all neurons that is added to each
    # variance in the scale (Algorithm 2).
    "epsilon": 0.01,
    # Algorithm 1 uses the history, the authors' code "current".
    "score_with": "history",
}
"""MEmeL of the KDD 2024 paper: one value per sample, Reverse Deactivation.

The paper inserts the layer after the four middle blocks of BERT (4 to 7 of 12)
and of the third stage of Swin: `"middle:4"`. These settings are the defaults
of `MEmeL`.
"""

l2e: dict[str, Any] = {
    # Select 2 % of all values with a moving threshold. The best rates in the
    # paper are 1 % to 3 %, higher for larger models.
    "selection": "rate",
    # Penalize their distance from the mean instead of replacing them (Eq. 5).
    "inhibition": "penalty",
    # Each channel is a neuron.
    "axis": -1,
}
"""MEmeL of Learning Towards Emergence: a 2 % moving threshold, a penalty.

In the paper, the two middle layers of a language model work best: `"middle:2"`.
"""

arms: dict[str, dict[str, Any] | None] = {
    "original": None,
    "naive (a)": {**kdd2024, "inhibition": "naive_a"},
    "naive (b)": {**kdd2024, "inhibition": "naive_b"},
    "MEmeL": kdd2024,
}
"""Rows of Tables 1 to 3 of the KDD 2024 paper, except MEmeL-Tune.

"original" is the model without the layer.
"""

tune_grid: dict[str, tuple[int, ...]] = {
    "k": (1, 5, 10, 50, 100),
    "delta": (1, 5, 10, 50, 100),
}
"""Grid of MEmeL-Tune: values per sample, factor of the reversed gradient."""


def tuned(k: int, delta: float) -> dict[str, Any]:
    """Return the settings of MEmeL-Tune, which tunes `k` and `delta`.

    The paper selects both on the validation data.

    Args:
        k: Number of values per sample, `n_n` in the paper.
        delta: Factor of the reversed gradient.

    Returns:
        Arguments of `MEmeL`, as a new dictionary.

    Raises:
        ValueError: If `k` is below 1, or `delta` is not a finite number.

    Example:

    >>> MEmeL(**tuned(k=5, delta=10)).selection
    TopK(k=5)
    """
    return {
        **kdd2024,
        "selection": TopK(k),
        "inhibition": ReverseDeactivation(delta),
    }
