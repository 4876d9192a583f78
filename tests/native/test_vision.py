"""Models of images: timm's checkpointing, torchvision's channels first."""

import keras
import pytest

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch

torchvision = pytest.importorskip("torchvision")
timm = pytest.importorskip("timm")

pytestmark = pytest.mark.filterwarnings("ignore")


def vit():
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=16,
        patch_size=8,
        embed_dim=16,
        depth=4,
        num_heads=2,
        num_classes=3,
    )


def train(model, steps=8):
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(4, 3, 16, 16, generator=random)
        model(x).square().mean().backward()
        optimizer.step()
    return model


def test_checkpointing_of_timm_changes_nothing():
    states = []
    for checkpointed in (False, True):
        model = insert(vit(), "middle:2", MEmeL(axis=-1, late_start=1))
        model.set_grad_checkpointing(checkpointed)
        states.append(train(model).state_dict())
        assert list(inserted(model)) == ["blocks.1", "blocks.2"]
    assert int(states[0]["blocks.1.memel.steps"]) == 8
    assert float(states[0]["blocks.1.memel.count"][0]) == 8 * 4 * 5
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_channels_of_a_residual_network():
    torch.manual_seed(0)
    model = torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 2, 1, 1], num_classes=3
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    before = model(x)
    names = list(model.state_dict())
    insert(model, "layer2.*", MEmeL(axis=1, late_start=0))
    model.train()
    for _ in range(2):
        model(x).sum().backward()
    for memel in inserted(model).values():
        assert memel.moving_mean.shape == (128,)
        assert float(memel.count[0]) == 2 * 2 * 4 * 4
        assert float(memel.inhibited_rate) > 0
    strip(model)
    assert list(model.state_dict()) == names
    for part in model.modules():  # The two steps moved these averages only.
        if isinstance(part, torch.nn.BatchNorm2d):
            part.reset_running_stats()
    assert torch.equal(model.eval()(x), before)
