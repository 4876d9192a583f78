"""torchvision beside a PyTorch that its compiled part was not built for.

The wheel on PyPI is built for PyTorch with CUDA. Beside PyTorch without it, its
compiled part does not load, and the import fails where torchvision describes
the operators of that part. Declared by name, they are there to be described;
only models that call them (detection) do not run.
"""

import importlib

import torch

OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold)"
    " -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold)"
    " -> Tensor",
}


def import_torchvision():
    """Import torchvision, with its operators declared where they are missing.

    Returns:
        Whether its own operators are there.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        for name, schema in OPERATORS.items():
            torch.library.define(name, schema)
        importlib.import_module("torchvision")
        return False
    return True
