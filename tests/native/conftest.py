"""Makes torchvision importable before a test asks for it."""

import importlib.util

import keras

if keras.backend.backend() == "torch" and importlib.util.find_spec(
    "torchvision"
):
    import vision_operators

    vision_operators.import_torchvision()
