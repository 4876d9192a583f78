"""See and inhibit monosemantic neurons while a network trains.

Keras 3, on TensorFlow, JAX and PyTorch. `model.add(MEmeL())` is all it takes.
"""

from keras_memel import inhibitions
from keras_memel import paper
from keras_memel import plots
from keras_memel import selections
from keras_memel import sync
from keras_memel.analysis import analyze
from keras_memel.attach.hosts import save
from keras_memel.callbacks import MonosemanticityMonitor
from keras_memel.cells import ConvGRU2DCell
from keras_memel.decrease import decrease_ratio
from keras_memel.evidence import compare
from keras_memel.inhibitions import Inhibition
from keras_memel.inhibitions import LogPenalty
from keras_memel.inhibitions import Observe
from keras_memel.inhibitions import ReverseDeactivation
from keras_memel.insertion import find
from keras_memel.insertion import insert
from keras_memel.insertion import inserted
from keras_memel.insertion import strip
from keras_memel.layer import MEmeL
from keras_memel.moments import Moments
from keras_memel.moments import batch_moments
from keras_memel.moments import pool
from keras_memel.neurons import LayerReport
from keras_memel.recurrent import ConvGRU2D
from keras_memel.report import Report
from keras_memel.scores import monosemantic_scale
from keras_memel.selections import Random
from keras_memel.selections import Rate
from keras_memel.selections import Selection
from keras_memel.selections import Threshold
from keras_memel.selections import TopK
from keras_memel.study.comparison import Comparison
from keras_memel.study.contrasts import Contrast
from keras_memel.study.runs import RunStore

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Contrast",
    "ConvGRU2D",
    "ConvGRU2DCell",
    "Inhibition",
    "LayerReport",
    "LogPenalty",
    "MEmeL",
    "Moments",
    "MonosemanticityMonitor",
    "Observe",
    "Random",
    "Rate",
    "Report",
    "ReverseDeactivation",
    "RunStore",
    "Selection",
    "Threshold",
    "TopK",
    "analyze",
    "batch_moments",
    "compare",
    "decrease_ratio",
    "find",
    "inhibitions",
    "insert",
    "inserted",
    "monosemantic_scale",
    "paper",
    "plots",
    "pool",
    "save",
    "selections",
    "strip",
    "sync",
]
