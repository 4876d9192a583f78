"""Public module of the sums over replicas, which `core/sync.py` defines."""

from keras_memel.core.sync import merge
from keras_memel.core.sync import replicas
from keras_memel.core.sync import total
from keras_memel.core.sync import weighted

__all__ = [
    "merge",
    "replicas",
    "total",
    "weighted",
]
