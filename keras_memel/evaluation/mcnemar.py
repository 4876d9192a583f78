"""Test pairs of networks example by example.

runs with `correct` --by pair and seed--> table
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from keras_memel.evaluation.contrasts import mcnemar
from keras_memel.evaluation.run_store import Run
from keras_memel.utils.optional_imports import need


def mcnemar_table(
    runs: Iterable[Run],
    pairs: Iterable[tuple[str, str]],
    seeds: Iterable[int],
) -> Any:
    """Return the table of `Comparison.mcnemar`."""
    pandas = need("pandas", "evidence", "`Comparison.mcnemar`")
    answers = {
        (run["arm"], run["seed"]): np.array(list(run["correct"])) == "1"
        for run in runs
        if "correct" in run
    }
    rows = []
    for arm, other in pairs:
        for seed in seeds:
            if not {(arm, seed), (other, seed)} <= answers.keys():
                continue
            ours, theirs = answers[arm, seed], answers[other, seed]
            if len(ours) != len(theirs):
                raise ValueError(
                    "McNemar's test needs the same test examples for both "
                    f"arms. Received: {len(ours)} of {arm} and "
                    f"{len(theirs)} of {other} with seed {seed}"
                )
            rows.append([arm, other, seed, *mcnemar(ours, theirs)])
    names = ["arm", "other", "seed", "only_arm", "only_other", "p"]
    return pandas.DataFrame(rows, columns=names)
