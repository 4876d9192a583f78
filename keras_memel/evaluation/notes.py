"""Write the remarks that belong to the numbers of a comparison.

failures, missing verdicts, looks, metrics, environments --> sentences
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_memel.evaluation import tables
from keras_memel.evaluation.looks import look_notes

if TYPE_CHECKING:
    from keras_memel.evaluation.comparison import Comparison


def notes_of(comparison: Comparison, metric: str | None) -> list[str]:
    """Return the sentences of `Comparison.notes`."""
    notes = [
        f"{run['arm']}, seed {run['seed']}, failed: "
        f"{run['error'].strip().splitlines()[-1]}"
        for run in comparison.failed
    ]
    why: dict[str, list[str]] = {}
    contrasts = [c for c in comparison.contrasts if metric in (None, c.metric)]
    for c in contrasts:
        if c.why:
            why.setdefault(c.why, []).append(f"{tables.pair(c)} ({c.metric})")
    notes += [
        "No verdict, because "
        + (
            f"{reason}: any pair"
            if len(pairs) == len(contrasts)
            else f"{reason}: {', '.join(pairs)}"
        )
        for reason, pairs in why.items()
    ]
    notes += look_notes(comparison.looks, len(comparison.seeds))
    if comparison.seeds_left_out:
        number = len(comparison.seeds_left_out)
        notes.append(
            f"{number + len(comparison.seeds)} seeds are stored, and only "
            f"{len(comparison.seeds)} of them are compared: wrong verdicts "
            "are more frequent if you choose seeds after you see their scores"
        )
    if metric is None and len(comparison.metrics) > 1 and comparison.seeds:
        notes.append(
            f"There are {len(comparison.metrics)} metrics and no correction "
            "over them: only the verdict on the metric that you named before "
            "the first run counts"
        )
    seen = {
        (
            run["environment"]["device"],
            *sorted(run["environment"]["versions"].items()),
        )
        for run in comparison.runs
        if "environment" in run
    }
    if len(seen) > 1:
        notes.append(
            f"The runs come from {len(seen)} different environments "
            "(versions or devices). Pairing the seeds does not cancel their "
            "differences"
        )
    return notes
