"""Compute the False Killing Rate from the curves of a layer."""

import numpy as np

from keras_memel.reports import ranking
from keras_memel.reports.ranking import Curve
from keras_memel.utils import arguments
from keras_memel.utils.types import Array


def rates(
    curve: Curve | None,
    scored: Array | None,
    rate: float | None,
    threshold: float | None,
) -> Array:
    """Compute `Report.false_killing_rate` for one layer, `(neurons,)`.

    Args:
        curve: As in `LayerReport`.
        scored: As in `LayerReport`.
        rate: As in `Report.false_killing_rate`.
        threshold: As in `Report.false_killing_rate`.
    """
    if curve is None or scored is None:
        raise unlabelled("The False Killing Rate")
    if (rate is None) == (threshold is None):
        raise ValueError(
            "Exactly one of the arguments `rate` and `threshold` must be "
            "given, and the other must be None. "
            f"Received: rate={rate!r}, threshold={threshold!r}"
        )
    if threshold is not None:
        low = arguments.number("threshold", threshold, "at least 0", 0.0)
        low *= 1 - 2.0**-21  # `detection` compares float32.
        reach = (curve.threshold >= low).sum(1) - 1
        rows = np.arange(len(scored))
        selected = curve.selected[rows, reach].astype("float64")
        hits = curve.hits[rows, reach].astype("float64")
        selected[reach < 0] = np.nan
    else:
        share = arguments.number(
            "rate", rate, "above 0 and at most 1", 0.0, 1.0 + 1e-12, False
        )
        rank = np.ceil(np.round(share * scored, 6))
        found = ranking.at_rank(curve, scored, rank)
        selected, hits = found.selected, found.hits
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(selected > 0, 1 - hits / selected, np.nan))


def unlabelled(what: str) -> ValueError:
    """Create the error for a figure that needs labels."""
    return ValueError(
        f"{what} needs labels: pass `labels` to `analyze`. "
        "Received: a report without labels"
    )
