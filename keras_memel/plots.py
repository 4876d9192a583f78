"""Public module of the plots, which `reports` defines."""

from keras_memel.reports.plots import __getattr__ as __getattr__
from keras_memel.reports.plots import activation_by_label
from keras_memel.reports.plots import false_killing_rate
from keras_memel.reports.plots import label_map
from keras_memel.reports.plots import ms_distribution
from keras_memel.reports.training_plots import decrease_ratios
from keras_memel.reports.training_plots import ms_over_training

__all__ = [
    "activation_by_label",
    "decrease_ratios",
    "false_killing_rate",
    "label_map",
    "ms_distribution",
    "ms_over_training",
]
