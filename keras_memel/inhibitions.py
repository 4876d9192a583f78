"""Public module of the inhibitions, which `core/inhibitions.py` defines."""

from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.inhibitions import LogPenalty
from keras_memel.core.inhibitions import Observe
from keras_memel.core.inhibitions import ReverseDeactivation
from keras_memel.core.inhibitions import get
from keras_memel.core.inhibitions import serialize

__all__ = [
    "Inhibition",
    "LogPenalty",
    "Observe",
    "ReverseDeactivation",
    "get",
    "serialize",
]
