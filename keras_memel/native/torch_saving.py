"""Saving PyTorch modules with their insertions."""

import json
import os
import pathlib
from typing import Any

import keras
import torch
from torch import nn

from keras_memel.native import torch_hooks
from keras_memel.native import torch_insert
from keras_memel.native import torch_paths
from keras_memel.native.torch_memel import TorchMEmeL


def save(model: nn.Module, filepath: Any) -> None:
    """As `keras_memel.save`."""
    root = torch_paths.unwrap(model)
    torch.save(
        {
            "insertions": torch_insert.describe(root),
            "state_dict": root.state_dict(),
        },
        filepath,
    )


def restore(model: nn.Module, source: Any) -> nn.Module:
    """As `keras_memel.restore`."""
    root = torch_paths.unwrap(model)
    insertions, state, whole = _read(root, source)
    present = torch_paths.inserted(root)
    modules = dict(root.named_modules())
    missing = [i["path"] for i in insertions if i["path"] not in modules]
    if missing:
        raise ValueError(
            "Argument `model` must have the modules after which the file has "
            f"MEmeLs. Received: a {type(root).__name__} without {missing}"
        )
    for insertion in insertions:
        if insertion["path"] in present:
            continue
        template = keras.saving.deserialize_keras_object(insertion["layer"])
        memel = TorchMEmeL.from_layer(template)
        parameter = next(root.parameters(), None)
        if parameter is not None:
            memel.to(parameter.device)
        host = modules[insertion["path"]]
        torch_hooks.attach(host, memel, insertion["output"])
    torch_insert.refresh(root)
    if whole:
        root.load_state_dict(state)
        return model
    for path, memel in torch_paths.inserted(root).items():
        prefix = f"{path}.memel."
        own = {
            name.removeprefix(prefix): value
            for name, value in state.items()
            if name.startswith(prefix)
        }
        if not own:
            raise ValueError(
                f"The statistics of the MEmeL after {path!r} are not in the "
                f"file. Received: source={source!r}"
            )
        memel.load_state_dict(own)
    return model


def _read(
    model: nn.Module, source: Any
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """Insertions, state, and whether the state is that of the whole model."""
    path = pathlib.Path(os.fspath(source))
    if path.is_file():
        # A serialized layer is made of plain numbers and names.
        file = torch.load(path, map_location="cpu", weights_only=True)
        return file["insertions"], file["state_dict"], True
    if not (path / "config.json").is_file():
        raise ValueError(
            "Argument `source` must be a file of `keras_memel.save`, or a "
            "folder of `save_pretrained`. "
            f"Received: source={source!r}"
        )
    insertions = json.loads((path / "config.json").read_text()).get(
        "keras_memel", []
    )
    state: dict[str, Any] = {}
    for file in sorted(path.glob("*.safetensors")):
        from safetensors import safe_open

        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                if ".memel." in name:
                    state[name] = opened.get_tensor(name)
    for file in sorted(path.glob("pytorch_model*.bin")):
        state |= torch.load(file, map_location="cpu", weights_only=True)
    return insertions, state, False
