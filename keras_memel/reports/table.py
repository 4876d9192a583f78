"""Compute the columns of the table of neurons."""

from typing import TYPE_CHECKING
from typing import Any

import numpy as np

if TYPE_CHECKING:
    from keras_memel.reports.layer_report import LayerReport


def columns(layer: "LayerReport", rate: float) -> dict[str, Any]:
    """Return the columns of one layer, described in `Report.to_dataframe`."""
    neurons: Any = np.arange(len(layer))
    if len(layer.shape) > 1:
        neurons = np.empty(len(layer), dtype=object)
        neurons[:] = layer.neurons
    columns: dict[str, Any] = {
        "layer": layer.path,
        "neuron": neurons,
        "count": layer.count,
        "nonfinite": layer.nonfinite,
        "mean": layer.mean,
        "variance": layer.variance,
        "minimum": layer.minimum,
        "maximum": layer.maximum,
        "kurtosis": layer.kurtosis,
        "dead": layer.dead,
        "dormant": layer.dormant(),
        "rare": layer.rare,
        "ms_50": layer.ms_quantile(0.5),
        "ms_90": layer.ms_quantile(0.9),
        "ms_99": layer.ms_quantile(0.99),
        "ms_max": layer.ms_max,
        "over_threshold": layer.over_threshold,
    }
    if layer.label is not None and layer.f1_label is not None:
        names = np.array([*layer.labels, np.nan], dtype=object)
        columns |= {
            "label": names[layer.label],
            "direction": layer.direction,
            "label_mean": layer.mean_on_label,
            "ms_on_label": layer.ms_on_label,
            "roc_auc": layer.roc_auc,
            "roc_auc_null": layer.roc_auc_null,
            "p_corrected": layer.p_corrected,
            "average_precision": layer.average_precision,
            "ks_statistic": layer.ks_statistic,
            "false_killing_rate": layer.false_killing_rate(rate),
            "f1_label": names[layer.f1_label],
            "f1": layer.f1,
            "f1_baseline": layer.f1_baseline,
            "class_selectivity": layer.class_selectivity,
        }
    if layer.fms is not None and layer.label_fms is not None:
        known = np.isfinite(layer.fms)
        best = np.nan_to_num(layer.label_fms, nan=-np.inf).argmax(1)
        columns["fms_label"] = names[np.where(known, best, -1)]
        columns["fms"] = layer.fms
    if layer.monoscore is not None:
        columns["monoscore"] = layer.monoscore
    return columns
