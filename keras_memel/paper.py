"""The settings of the papers, as plain arguments of `MEmeL`.

    insert(model, "middle:4", MEmeL(**kdd2024))     # BERT and Swin in [M]
    insert(model, "middle:2", MEmeL(**l2e))         # the language models of [L]

`arms` and `tuned` are the rows of the tables of [M], for `compare`.

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
    # One value a sample, the one with the largest monosemantic scale.
    "selection": "top_k",
    # Its mean in place of it, and the reversed gradient (Eq. 12).
    "inhibition": "reverse",
    # Each position of each channel is a neuron of its own; -1 if the length
    # of the inputs varies.
    "axis": None,
    # n_f and l_s of the authors' code: it forgets after 10 batches, and
    # inhibits from the 11th on.
    "forget_steps": 10,
    "late_start": 10,
    # Share of the mean variance in the scale of every neuron (Algorithm 2).
    "epsilon": 0.01,
    # Algorithm 1; the code of the authors is "current".
    "score_with": "history",
}
"""MEmeL of the KDD 2024 paper: top-1 of each sample, Reverse Deactivation.

The paper puts it after the four middle blocks of BERT (4 to 7 of 12) and of
the third stage of Swin: `"middle:4"`. These are the defaults of `MEmeL`,
spelled out.
"""

l2e: dict[str, Any] = {
    # 2 % of all values, by a threshold that moves; the paper's best shares
    # are 1 % to 3 %, more for larger models.
    "selection": "rate",
    # A penalty on their distance from the mean instead of a replacement
    # (Eq. 5).
    "inhibition": "penalty",
    # One neuron a channel.
    "axis": -1,
}
"""Learning Towards Emergence: a 2 % moving threshold and a penalty.

The paper finds the two middle layers of a language model best: `"middle:2"`.
"""

arms: dict[str, dict[str, Any] | None] = {
    "original": None,
    "naive (a)": {**kdd2024, "inhibition": "naive_a"},
    "naive (b)": {**kdd2024, "inhibition": "naive_b"},
    "MEmeL": kdd2024,
}
"""What Tables 1 to 3 of the KDD 2024 paper compare, but for MEmeL-Tune.

The original is the model without the layer.
"""

tune_grid: dict[str, tuple[int, ...]] = {
    "k": (1, 5, 10, 50, 100),
    "delta": (1, 5, 10, 50, 100),
}
"""MEmeL-Tune: values of a sample and factor of the reversed gradient."""


def tuned(k: int, delta: float) -> dict[str, Any]:
    """Settings of MEmeL-Tune, whose `k` and `delta` are best on validation.

    Args:
        k: Number of values a sample, `n_n` in the paper.
        delta: Factor of the reversed gradient.

    Example:

    >>> MEmeL(**tuned(k=5, delta=10)).selection
    TopK(k=5)
    """
    return {
        **kdd2024,
        "selection": TopK(k),
        "inhibition": ReverseDeactivation(delta),
    }
