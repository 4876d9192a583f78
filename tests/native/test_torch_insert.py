"""find, insert, inserted, strip, save and restore on PyTorch modules."""

import collections
import copy
import json
import pickle
import warnings

import keras
import numpy as np
import pytest

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import restore
from keras_memel import save
from keras_memel import strip

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from keras_memel import TorchMEmeL


class Block(nn.Module):
    def __init__(self, output="tensor"):
        super().__init__()
        self.dense = nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)
        self.output = output

    def forward(self, x, attention_mask=None):
        y = x + self.dense(x).tanh()
        kinds = {
            "tensor": y,
            "tuple": (y, x),
            "list": [x, y],
            "dict": {"states": y, "before": x},
        }
        return kinds[self.output]


class Text(nn.Module):
    """Blocks that get a mask of four axes, as those of Hugging Face do."""

    def __init__(self, output="tensor", remat=None):
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.layer = nn.ModuleList(Block(output) for _ in range(4))
        self.head = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
        self.remat = remat

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        wide = None
        if attention_mask is not None:
            wide = attention_mask[:, None, None, :]
        for block in self.layer:
            if self.remat is None:
                x = block(x, wide)
            else:
                x = checkpoint(block, x, wide, use_reentrant=self.remat)
            if isinstance(x, dict):
                x = x["states"]
            elif not torch.is_tensor(x):
                x = x[1 if isinstance(x, list) else 0]
        return self.head(x)


def text(seed=0, **kwargs):
    torch.manual_seed(seed)
    return Text(**kwargs)


def batch(seed=0):
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 9, (4, 5), generator=random)
    mask = torch.ones(4, 5)
    mask[0, 3:] = 0
    return ids, mask


def memel(**kwargs):
    return MEmeL(**{"axis": -1, "late_start": 1, **kwargs})


def train(model, steps=3, **kwargs):
    for step in range(steps):
        ids, mask = batch(step)
        model.zero_grad()
        model(ids, mask, **kwargs).square().sum().backward()
    return model


@pytest.mark.quick
def test_find():
    model = text()
    assert find(model, "layer.*") == [f"layer.{i}" for i in range(4)]
    assert find(model, "layer.[12].dense") == ["layer.1.dense", "layer.2.dense"]
    assert find(model, "middle:2") == ["layer.1", "layer.2"]
    assert find(model, ".head.0") == ["head.0"]
    assert find(model, "dense") == [f"layer.{i}.dense" for i in range(4)]
    assert find(model, model.layer[3]) == ["layer.3"]
    assert find(model, lambda part: isinstance(part, nn.Embedding)) == ["embed"]
    assert "layer.0.dense" in find(model)
    # A star stays within a name.
    assert find(model, "layer.*") != find(model, "layer.**")


@pytest.mark.parametrize(
    "where", ["layr.1", ["layer.1", "layer.9"], nn.Linear(1, 1), "middle:5"]
)
def test_each_pattern_must_match(where):
    model = text()
    with pytest.raises(ValueError, match=r"at least one|middle"):
        insert(model, where, memel())
    assert inserted(model) == {}


def test_a_path_of_find_names_its_module():
    names = ["a[1]", "a1", "b*", "bc", "middle:1"]
    model = nn.ModuleDict({name: nn.Linear(2, 2) for name in names})
    assert find(model, "**") == names
    for name in names:
        assert find(model, name) == [name]


@pytest.mark.quick
def test_counts_the_positions_that_the_mask_leaves():
    model = insert(text(), "layer.[12]", memel())
    train(model)
    assert list(inserted(model)) == ["layer.1", "layer.2"]
    for found in inserted(model).values():
        assert float(found.count[0]) == 3 * 18
        assert float(found.steps) == 3
        assert found.noted_mask is None


@pytest.mark.parametrize("how", ["positional", "keyword"])
def test_a_position_that_is_masked_changes_nothing(how):
    states = []
    for value in (1, 2):
        model = insert(text(), "layer.1", memel(late_start=0))
        ids, mask = batch()
        ids[0, 3:] = value
        if how == "positional":
            model(ids, mask)
        else:
            model(input_ids=ids, attention_mask=mask)
        (found,) = inserted(model).values()
        states.append(found.moving_mean.clone())
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("kind", "output"),
    [("tuple", 0), ("tuple", None), ("list", 1)]
    + [("dict", "states"), ("dict", 0), ("tensor", 0)],
)
def test_an_output_of_several(kind, output):
    plain = train(insert(text(), "layer.2", memel()))
    model = train(insert(text(output=kind), "layer.2", memel(), output=output))
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_an_output_that_is_not_there():
    model = insert(text(output="tuple"), "layer.2", memel(), output=5)
    with pytest.raises(ValueError, match="`output`"):
        train(model)


@pytest.mark.parametrize(
    ("where", "message"),
    [("layer", "list of modules"), ("layer.1", "already")],
)
def test_refuses(where, message):
    model = insert(text(), "layer.1", memel())
    with pytest.raises(ValueError, match=message):
        insert(model, where, memel())


def test_refuses_what_is_no_memel():
    with pytest.raises(ValueError, match="`layer` must be a MEmeL"):
        insert(text(), "layer.1", nn.Identity())
    with pytest.raises(ValueError, match="`model` must be a PyTorch module"):
        restore(keras.Sequential([keras.Input((2,))]), "model.pt")
    with pytest.raises(ValueError, match="`source` must be a file"):
        restore(text(), "no_such_file")


def test_another_backend_says_what_to_set(monkeypatch):
    # The environments of the tests hold one backend each.
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    for verb in (find, inserted, strip):
        with pytest.raises(ValueError, match="KERAS_BACKEND=torch"):
            verb(text())


def test_refuses_an_attribute_of_the_same_name():
    model = text()
    model.layer[0].memel = 1
    with pytest.raises(ValueError, match="attribute `memel`"):
        insert(model, "layer.0", memel())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_refuses_scripts():
    scripted = nn.Sequential(torch.jit.trace(nn.Tanh(), torch.ones(1, 2)))
    with pytest.raises(ValueError, match="script"):
        insert(scripted, "0", memel())


def test_a_module_as_the_template():
    module = TorchMEmeL("rate", axis=-1, late_start=2, loss_scale=0.5)
    model = insert(text(), "layer.[12]", module)
    for found in inserted(model).values():
        assert found is not module
        assert (found.late_start, found.loss_scale) == (2, 0.5)


def test_a_mask_whose_true_means_padding():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True))
    insert(model, "0.linear2", memel())
    padding = torch.arange(3) >= torch.tensor([[3], [1]])
    model[0](torch.randn(2, 3, 8), src_key_padding_mask=padding)
    assert float(inserted(model)["0.linear2"].count[0]) == 4


def test_refuses_modules_whose_batch_is_second():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8))
    with pytest.raises(ValueError, match="batch_first=True"):
        insert(model, "0", memel())
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True))
    insert(model, "0", memel())
    model(torch.randn(2, 3, 8)).sum().backward()
    assert float(inserted(model)["0"].steps) == 1


def test_a_sequential_host_runs_it_once():
    model = insert(text(), "head", memel())
    train(model)
    (found,) = inserted(model).values()
    assert float(found.steps) == 3
    assert float(found.count[0]) == 3 * 18
    strip(model)
    assert len(model.head) == 2


@pytest.mark.quick
def test_strip_leaves_nothing():
    model = text().eval()
    ids, mask = batch()
    before, attributes = model(ids, mask), _everything(model)
    insert(model, ["layer.*", "head"], memel())
    assert torch.equal(model(ids, mask), before)
    assert _everything(model) != attributes
    train(model.train())
    strip(model).eval()
    assert _everything(model) == attributes
    assert inserted(model) == {}
    assert torch.equal(model(ids, mask), before)


def _everything(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    hooks += ("_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return {
        path: (sorted(vars(part)), *(len(getattr(part, h)) for h in hooks))
        for path, part in model.named_modules()
    } | dict.fromkeys(model.state_dict())


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_is_independent(copied):
    model = train(insert(text(), "layer.1", memel()))
    other = train(copied(model), 2)
    assert float(inserted(model)["layer.1"].steps) == 3
    assert float(inserted(other)["layer.1"].steps) == 5
    assert float(inserted(other)["layer.1"].count[0]) == 5 * 18
    strip(other)
    train(model, 1)
    assert float(inserted(model)["layer.1"].steps) == 4


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("selection", ["top_k", "rate"])
def test_checkpointing_counts_once(reentrant, selection):
    plain = insert(text(), "layer.*", memel(selection=selection))
    model = insert(text(remat=reentrant), "layer.*", memel(selection=selection))
    train(plain, 8)
    train(model, 8)
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        if theirs.grad is not None:
            assert torch.equal(ours.grad, theirs.grad)


def test_an_insertion_after_compilation_is_seen():
    torch._dynamo.reset()
    compiled = torch.compile(Block(), backend="aot_eager", fullgraph=True)
    x, mask = torch.randn(4, 5, 6), batch()[1]
    compiled(x, mask)
    insert(compiled, "dense", memel(late_start=0), example=(x, mask))
    for _ in range(3):
        compiled(x, mask).sum().backward()
    found = inserted(compiled)["dense"]
    assert float(found.steps) == 3
    assert float(found.count[0]) == 3 * 18
    strip(compiled)
    compiled(x, mask)
    assert float(found.steps) == 3
    torch._dynamo.reset()


def test_an_example_gives_the_sizes():
    model = text()
    ids, mask = batch()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    insert(model, "layer.1", memel(axis=None), example=(ids, mask))
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert inserted(model)["layer.1"].moving_mean.shape == (5, 6)
    assert float(inserted(model)["layer.1"].steps) == 0
    with pytest.raises(ValueError, match="never called"):
        insert(model, "unused", memel(), example={"input_ids": ids})


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "mapping"])
def test_an_example_of_arrays(kind):
    ids, mask = (part.numpy() for part in batch())
    named = {"input_ids": ids, "attention_mask": mask}
    example = {
        "tuple": (ids, mask),
        "list": [ids, None],
        "dict": named,
        "mapping": collections.UserDict(named),
    }[kind]
    model = insert(text(), "layer.1", memel(axis=None), example=example)
    assert inserted(model)["layer.1"].moving_mean.shape == (5, 6)


def test_an_example_of_one_array_gets_the_dtype_of_the_model():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    insert(model, "0", memel(), example=np.ones((2, 4)))
    assert inserted(model)["0"].moving_mean.shape == (6,)


def test_warns_of_a_host_that_is_never_called():
    model = insert(text(), ["layer.1", "layer.1.unused"], memel())
    with pytest.warns(UserWarning, match=r"layer\.1\.unused.*not called"):
        train(model, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, 1)


def test_each_place_has_a_seed_of_its_own():
    model = insert(text(), "layer.*", memel(selection=Random(0.3, seed=1)))
    seeds = {int(m.seed_state[0]) for m in inserted(model).values()}
    assert len(seeds) == 4
    assert inserted(model)["layer.0"].selection.seed == 1


@pytest.mark.parametrize("selection", ["rate", Random(0.3, seed=2)])
def test_save_and_restore(selection, tmp_path):
    model = train(insert(text(), "layer.[12]", memel(selection=selection)))
    save(model, tmp_path / "model.pt")
    again = restore(text(seed=1), tmp_path / "model.pt")
    assert list(inserted(again)) == ["layer.1", "layer.2"]
    train(model), train(again)
    first, second = model.state_dict(), again.state_dict()
    assert list(first) == list(second)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def pretrained(model, folder, state):
    """A folder such as `save_pretrained` of transformers leaves."""
    save(model, folder / "model.pt")
    file = torch.load(folder / "model.pt", weights_only=True)
    config = {"keras_memel": file["insertions"]}
    (folder / "config.json").write_text(json.dumps(config))
    if state == "pytorch_model.bin":
        torch.save(file["state_dict"], folder / state)
    elif state:
        tensors = pytest.importorskip("safetensors.torch")
        whole = {k: v.clone() for k, v in file["state_dict"].items()}
        tensors.save_file(whole, folder / state)
    return folder


@pytest.mark.parametrize("state", ["pytorch_model.bin", "model.safetensors"])
def test_restore_reads_a_folder_of_save_pretrained(state, tmp_path):
    model = train(insert(text(), "layer.[12]", memel()))
    again = restore(text(seed=1), pretrained(model, tmp_path, state))
    assert list(inserted(again)) == ["layer.1", "layer.2"]
    for path, layer in inserted(model).items():
        found = inserted(again)[path].state_dict()
        for name, value in layer.state_dict().items():
            assert torch.equal(value, found[name]), name
    # The parameters are read by `from_pretrained`.
    assert not torch.equal(
        model.state_dict()["layer.1.dense.weight"],
        again.state_dict()["layer.1.dense.weight"],
    )


def test_restore_refuses_a_folder_without_statistics(tmp_path):
    model = insert(text(), "layer.[12]", memel())
    with pytest.raises(ValueError, match="must contain the statistics"):
        restore(text(), pretrained(model, tmp_path, None))
    assert (tmp_path / "config.json").exists()
    with pytest.raises(ValueError, match="`source` must be a file"):
        restore(text(), tmp_path.parent)


def test_a_module_of_images():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )
    insert(model, "0", memel(axis=1))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    found = inserted(model)["0"]
    assert found.moving_mean.shape == (8,)
    assert float(found.count[0]) == 2 * 6 * 6
    assert isinstance(found, TorchMEmeL)


def test_a_forward_that_fails_leaves_no_mask():
    model = insert(Block(), "dense", memel())
    x, mask = torch.randn(4, 5, 6), batch()[1]
    with pytest.raises(RuntimeError):
        model(x[..., :3], mask)
    model(x)
    assert float(inserted(model)["dense"].count[0]) == 20


def test_generation_takes_the_end_of_the_mask():
    model = insert(text(), "layer.1", memel())
    ids, mask = batch()
    model(ids[:, -1:], mask)
    assert float(inserted(model)["layer.1"].count[0]) == 3
