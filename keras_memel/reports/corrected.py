"""Correct p-values over all layers of a report."""

import dataclasses

import numpy as np

from keras_memel.reports import ranking
from keras_memel.reports.layer_report import LayerReport


def corrected(layers: dict[str, LayerReport]) -> dict[str, LayerReport]:
    """Return the layers with p-values that are corrected over all layers."""
    p = [layer.roc_auc_p for layer in layers.values()]
    found = ranking.holm(np.concatenate(p))
    ends = np.cumsum([len(layer) for layer in layers.values()])
    return {
        path: dataclasses.replace(layer, p_corrected=own)
        for (path, layer), own in zip(
            layers.items(), np.split(found, ends[:-1])
        )
    }
