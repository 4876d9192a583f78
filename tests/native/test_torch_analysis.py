"""analyze sees in a PyTorch module what it sees in a Keras model."""

import collections
import dataclasses

import keras
import numpy as np
import pytest
from page_payload import data

from keras_memel import MEmeL
from keras_memel import analyze
from keras_memel import insert

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch
from torch import nn

from keras_memel import TorchMEmeL
from keras_memel.native.torch_paths import walk


def twins():
    """A Keras model and a PyTorch module of the same weights."""
    model = keras.Sequential(
        [
            keras.Input((5, 4)),
            keras.layers.Dense(6, "tanh", name="first"),
            keras.layers.Dense(3, name="second"),
        ]
    )
    module = nn.Sequential()
    module.add_module("first", nn.Sequential(nn.Linear(4, 6), nn.Tanh()))
    module.add_module("second", nn.Linear(6, 3))
    for layer, linear in zip(model.layers, (module[0][0], module[1])):
        kernel, bias = layer.get_weights()
        with torch.no_grad():
            linear.weight.copy_(torch.tensor(kernel.T))
            linear.bias.copy_(torch.tensor(bias))
    return model, module


def assert_same_reports(found, expected):
    """The same fields, and the same parts of each."""
    if dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            assert_same_reports(
                getattr(found, field.name), getattr(expected, field.name)
            )
    elif isinstance(expected, (tuple, list)):
        for first, second in zip(found, expected, strict=True):
            assert_same_reports(first, second)
    elif isinstance(expected, (np.ndarray, float)):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    else:
        assert found == expected


@pytest.mark.parametrize("axis", [-1, None])
def test_equals_the_report_of_keras(axis, rng):
    model, module = twins()
    x = rng.normal(size=(40, 5, 4)).astype("float32")
    labels = np.arange(40) % 3
    reports = [
        analyze(one, x, labels, ["first", "second"], axis=axis, verbose=0)
        for one in (model, module.train())
    ]
    assert list(reports[1].layers) == ["first", "second"]
    for path, expected in reports[0].layers.items():
        assert_same_reports(reports[1].layers[path], expected)
    assert module.training
    assert not any(part._forward_hooks for part in module.modules())


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.layer = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.unused = nn.Linear(2, 2)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layer:
            x = layer(x).tanh()
        return {"states": x, "ids": input_ids}


def text(rng, number=10):
    ids = rng.integers(0, 9, (number, 5))
    mask = (np.arange(5) < rng.integers(1, 6, (number, 1))).astype("int64")
    return Text(), {"input_ids": ids, "attention_mask": mask}


def test_masked_positions_are_left_out(rng):
    model, x = text(rng)
    report = analyze(model, x, layers="layer.*", batch_size=4, verbose=0)
    assert list(report.layers) == ["layer.0", "layer.1"]
    kept = x["attention_mask"].astype(bool)
    with torch.no_grad():
        values = model.layer[0](model.embed(torch.tensor(x["input_ids"])))
    values = values.numpy()[kept].astype("float64")
    found = report.layers["layer.0"]
    assert (found.count == kept.sum()).all()
    np.testing.assert_allclose(found.mean, values.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.variance, values.var(0, ddof=1), rtol=1e-4)


def test_takes_a_loader_with_targets(rng):
    _, module = twins()
    x = torch.tensor(rng.normal(size=(12, 5, 4)))
    data = torch.utils.data.TensorDataset(x, torch.arange(12) % 2)
    loader = torch.utils.data.DataLoader(data, 4)
    report = analyze(
        module, loader, "targets", label_names="ab", layers="second", verbose=0
    )
    assert report.labels == ("a", "b")
    (found,) = report.layers.values()
    assert (found.label_count == 30).all()


def test_looks_in_front_of_a_memel(rng):
    """This holds for a MEmeL that inhibits at inference too, with its axis."""
    _, module = twins()
    x = rng.normal(size=(16, 5, 4)).astype("float32")
    plain = analyze(module, x, layers="first", axis=(1, -1), verbose=0)
    memel = MEmeL(axis=(1, -1), late_start=0, at_inference=True)
    insert(module, "first", memel)
    module(torch.tensor(x))
    steps = int(module[0].memel.steps)
    (found,) = analyze(module, x, verbose=0).layers.values()
    assert_same_reports(found, plain.layers["first"])
    assert int(module[0].memel.steps) == steps == 1


def test_a_memel_of_its_own_shows_what_it_returns(rng):
    module = nn.Sequential(nn.Linear(4, 6), TorchMEmeL(axis=-1))
    x = rng.normal(size=(16, 4)).astype("float32")
    found, plain = (
        analyze(module, x, layers=layers, verbose=0).layers
        for layers in (None, "0")
    )
    assert list(found) == ["1"]
    np.testing.assert_array_equal(found["1"].mean, plain["0"].mean)


def test_without_layers_looks_at_the_modules_with_parameters(rng):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 16, 2),
    )
    x = rng.normal(size=(6, 3, 6, 6)).astype("float32")
    report = analyze(model, x, verbose=0)
    assert {path: part.shape for path, part in report.layers.items()} == {
        "0": (8,),
        "1": (8,),
        "4": (2,),
    }


def test_attention_hides_its_own_projection(rng):
    layer = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
    model = nn.Sequential(layer, nn.Linear(8, 2))
    x = rng.normal(size=(3, 4, 8)).astype("float32")
    paths = [site.path for site in walk(model)]
    assert "0.self_attn.out_proj" in paths
    layers = analyze(model, x, layers=["0", "1"], verbose=0)
    assert {path: part.shape for path, part in layers.layers.items()} == {
        "0": (8,),
        "1": (2,),
    }


@pytest.mark.parametrize(
    ("layers", "output", "message"),
    [
        ("unused", None, "never called"),
        ("layer.7", None, "at least one module"),
        ("layer.0", 3, "`output`"),
    ],
)
def test_refuses(layers, output, message, rng):
    model, x = text(rng)
    with pytest.raises(ValueError, match=message):
        analyze(model, x, layers=layers, output=output, verbose=0)
    assert not any(part._forward_hooks for part in model.modules())


def test_refuses_an_output_of_integers(rng):
    class Rank(nn.Module):
        def forward(self, x):
            return x.argsort()

    model = nn.Sequential(nn.Linear(4, 4), Rank())
    x = rng.normal(size=(3, 4)).astype("float32")
    with pytest.raises(ValueError, match=r"floating-point.*'1'"):
        analyze(model, x, layers="1", verbose=0)


def test_directions_and_embeddings_equal_those_of_keras(rng):
    model, module = twins()
    x = rng.normal(size=(40, 5, 4)).astype("float32")
    arguments = {
        "directions": {"first": torch.tensor(rng.normal(size=(2, 6)))},
        "embeddings": rng.normal(size=(40, 3)),
        "labels": np.arange(40) % 3,
        "fms": 1,
        "verbose": 0,
    }
    expected, found = (analyze(one, x, **arguments) for one in (model, module))
    assert len(found["first"]) == 2
    assert_same_reports(found["first"], expected["first"])
    assert np.isfinite(found["first"].monoscore).all()


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.layer = nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask=None):
        return self.layer(self.embed(input_ids))


def words():
    ids = np.random.default_rng(0).integers(1, 50, (20, 6))
    mask = np.ones((20, 1), int) * (np.arange(6) < 4)
    return {"input_ids": ids, "attention_mask": mask}


def test_any_mapping_is_accepted_as_inputs():
    model, x = Words(), words()
    expected = analyze(model, x, layers="layer", verbose=0)["layer"].mean
    tensors = {key: torch.as_tensor(value) for key, value in x.items()}
    other = collections.UserDict(tensors)
    lists = {key: value.tolist() for key, value in x.items()}
    targets = torch.zeros(20)
    for given in (
        other,
        lists,
        [other],
        iter([other]),
        iter([(other, targets)]),
        iter([(lists, targets)]),
    ):
        found = analyze(model, given, layers="layer", verbose=0)["layer"].mean
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for wrong in (None, True, "a", [[1], [1, 2]]):
        x = {**lists, "attention_mask": wrong}
        for given in (x, iter([x])):
            with pytest.raises(ValueError, match=r"`x`.*attention_mask"):
                analyze(model, given, layers="layer", verbose=0)


def test_the_page_refuses_a_mapping_and_shows_tensors(tmp_path):
    x = collections.UserDict(words())
    report = analyze(Words(), x, layers="layer", verbose=0)
    for given in (x, dict(x)):
        with pytest.raises(ValueError, match="`inputs` must contain one entry"):
            report.to_html(tmp_path / "page.html", inputs=given)
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    images = torch.rand(20, 3, 8, 8)
    report = analyze(model, images, layers="0", verbose=0)
    pages = []
    for given in (
        images.bfloat16().float().numpy(),
        images.bfloat16(),
        list(images.bfloat16().requires_grad_()),
    ):
        report.to_html(tmp_path / "page.html", inputs=given)
        pages.append(data(tmp_path / "page.html")["inputs"])
    assert pages[0]
    assert pages[0] == pages[1] == pages[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_may_be_bfloat16_or_require_a_gradient(dtype):
    model = nn.Sequential(nn.Linear(4, 6)).to(dtype)
    x = torch.randn(20, 5, 4).to(dtype)
    labels = torch.arange(20) % 2
    expected = analyze(model, x.float().numpy(), labels, verbose=0)
    own = x.clone().requires_grad_()
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(own.detach(), labels.to(dtype)), 5
    )
    for given in (
        (x, labels),
        (own, labels.to(dtype)),
        (own, labels.to(torch.float32).requires_grad_()),
        (iter([own]), labels),
    ):
        found = analyze(model, *given, verbose=0)
        np.testing.assert_array_equal(found["0"].mean, expected["0"].mean)
        np.testing.assert_array_equal(found["0"].label, expected["0"].label)
    found = analyze(model, batches, verbose=0)
    np.testing.assert_allclose(
        found["0"].mean, expected["0"].mean, rtol=1e-5, atol=1e-6
    )


def test_another_output_than_that_of_the_memel_is_refused(rng):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LSTM(4, 3, batch_first=True)

        def forward(self, x):
            return self.inner(x)[0]

    model, x = Both(), rng.normal(size=(9, 5, 4)).astype("float32")
    insert(model, "inner", MEmeL(axis=-1))
    analyze(model, x, layers="inner", output=0, verbose=0)
    with pytest.raises(ValueError, match=r"`output` must be None.*output=1"):
        analyze(model, x, layers="inner", output=1, verbose=0)
