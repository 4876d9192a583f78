"""See and inhibit monosemantic neurons while a network trains.

`analyze` detects neurons that respond to one thing only. `MEmeL` and `insert`
inhibit them during training, and `compare` tests whether this helps. The
package requires Keras 3 with TensorFlow, JAX or PyTorch.
"""

import keras

from keras_memel import inhibitions
from keras_memel import paper
from keras_memel import plots
from keras_memel import selections
from keras_memel import sync
from keras_memel.analysis import merging as merging
from keras_memel.analysis.analyze import analyze
from keras_memel.analysis.decrease_ratio import decrease_ratio
from keras_memel.analysis.prompt import prompt
from keras_memel.analysis.word_labels import align_labels
from keras_memel.core.inhibitions import Inhibition
from keras_memel.core.inhibitions import LogPenalty
from keras_memel.core.inhibitions import Observe
from keras_memel.core.inhibitions import ReverseDeactivation
from keras_memel.core.moments import Moments
from keras_memel.core.moments import batch_moments
from keras_memel.core.moments import pool
from keras_memel.core.scores import monosemantic_scale
from keras_memel.core.selection import Selection
from keras_memel.core.selections import Random
from keras_memel.core.selections import RandomK
from keras_memel.core.selections import Rate
from keras_memel.core.selections import Threshold
from keras_memel.core.selections import TopK
from keras_memel.evaluation.compare import compare
from keras_memel.evaluation.comparison import Comparison
from keras_memel.evaluation.contrasts import Contrast
from keras_memel.evaluation.run_store import RunStore
from keras_memel.insertion.insert import find
from keras_memel.insertion.insert import insert
from keras_memel.insertion.insert import inserted
from keras_memel.insertion.insert import strip
from keras_memel.insertion.saving import restore
from keras_memel.insertion.saving import save
from keras_memel.layers.conv_gru2d import ConvGRU2D
from keras_memel.layers.conv_gru2d_cell import ConvGRU2DCell
from keras_memel.layers.memel import MEmeL
from keras_memel.monitoring.monitor import MonosemanticityMonitor
from keras_memel.monitoring.readings import readings
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.prompt_report import PromptReport
from keras_memel.reports.report import Report
from keras_memel.utils.version import __version__ as __version__

if keras.backend.backend() == "torch":
    # `TorchMEmeL` requires PyTorch as the backend of Keras.
    from keras_memel.native.torch_memel import TorchMEmeL as TorchMEmeL

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
    "PromptReport",
    "Random",
    "RandomK",
    "Rate",
    "Report",
    "ReverseDeactivation",
    "RunStore",
    "Selection",
    "Threshold",
    "TopK",
    "align_labels",
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
    "prompt",
    "readings",
    "restore",
    "save",
    "selections",
    "strip",
    "sync",
]


def __dir__() -> list[str]:
    """Return the public names, without the subpackages."""
    on_torch = [name for name in ("TorchMEmeL",) if name in globals()]
    return sorted([*__all__, *on_torch, "__version__"])
