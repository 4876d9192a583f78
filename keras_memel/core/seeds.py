"""Seeds of the layers that come from one."""

import copy

import numpy as np

from keras_memel.core.selection import Selection


def of_site(selection: Selection, number: int) -> Selection:
    """The selection of the site of this number: itself, or with a new seed."""
    seed = getattr(selection, "seed", None)
    if not (selection.random and seed is not None and number):
        return selection
    # From one seed all copies would draw the same, step by step.
    drawn = np.random.SeedSequence(seed, spawn_key=(number,))
    selection = copy.copy(selection)
    selection.seed = int(drawn.generate_state(1)[0] >> 1)  # type: ignore[attr-defined]
    return selection
