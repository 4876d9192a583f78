"""The public path of the reductions over replicas, in `core/sync.py`."""

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
