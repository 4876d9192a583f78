"""Public module of the selections, which `core/selections.py` defines."""

from keras_memel.core.selection import Selection
from keras_memel.core.selections import Random
from keras_memel.core.selections import RandomK
from keras_memel.core.selections import Rate
from keras_memel.core.selections import Threshold
from keras_memel.core.selections import TopK
from keras_memel.core.selections import get
from keras_memel.core.selections import serialize

__all__ = [
    "Random",
    "RandomK",
    "Rate",
    "Selection",
    "Threshold",
    "TopK",
    "get",
    "serialize",
]
