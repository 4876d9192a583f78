"""Derive a seed per inserted layer from one seed."""

import copy

import numpy as np

from keras_memel.core.selection import Selection


def of_site(selection: Selection, number: int) -> Selection:
    """Return the selection of a site: itself, or a copy with a new seed."""
    seed = getattr(selection, "seed", None)
    if not (selection.random and seed is not None and number):
        return selection
    # With one seed, all copies would draw the same values in every step.
    drawn = np.random.SeedSequence(seed, spawn_key=(number,))
    selection = copy.copy(selection)
    selection.seed = int(drawn.generate_state(1)[0] >> 1)  # type: ignore[attr-defined]
    return selection
