"""Save PyTorch modules with their insertions."""

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
    """Implement `keras_memel.save`."""
    root = torch_paths.unwrap(model)
    torch.save(
        {
            "insertions": torch_insert.describe(root),
            "state_dict": root.state_dict(),
        },
        filepath,
    )


def restore(model: nn.Module, source: Any) -> nn.Module:
    """Implement `keras_memel.restore`."""
    root = torch_paths.unwrap(model)
    insertions, state, whole = _read(root, source)
    present = torch_paths.inserted(root)
    modules = dict(root.named_modules())
    missing = [i["path"] for i in insertions if i["path"] not in modules]
    if missing:
        raise ValueError(
            "Argument `model` must contain all modules that are followed by a "
            "MEmeL in the file. "
            f"Received: a {type(root).__name__} without {missing}"
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
                "Argument `source` must contain the statistics of every "
                f"MEmeL. Received: source={source!r} without those of the "
                f"MEmeL after {path!r}"
            )
        memel.load_state_dict(own)
    return model


def _read(
    model: nn.Module, source: Any
) -> tuple[list[dict[str, Any]], dict[str, Any], bool]:
    """Read insertions and state, and whether it is the whole model's state."""
    path = pathlib.Path(os.fspath(source))
    if path.is_file():
        # A serialized layer consists of plain numbers and names.
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
