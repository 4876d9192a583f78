"""A Sequential as the host of a MEmeL."""

import copy
import io
import pickle

import keras
import numpy as np
import pytest

from keras_memel import MEmeL
from keras_memel import analyze
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
from torch.utils.checkpoint import checkpoint_sequential

X = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


class Net(nn.Module):
    def __init__(self, kind=nn.Sequential, run=lambda net, x: net(x)):
        super().__init__()
        torch.manual_seed(0)
        self.net = kind(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)
        self.run = run

    def forward(self, x):
        return self.head(self.run(self.net, x))


def memel(**kwargs):
    return MEmeL(**{"axis": -1, "late_start": 0, **kwargs})


def hosting(**kwargs):
    return insert(Net(**kwargs), "net", memel(), example=X)


def train(model, steps=3):
    for step in range(steps):
        model.zero_grad()
        x = (X + step).requires_grad_()  # Reentrant checkpointing needs it.
        model(x).square().sum().backward()
    return model


def steps(model):
    return int(inserted(model)["net"].steps)


@pytest.mark.quick
def test_a_subclass_gets_its_memel_after_its_whole_forward():
    model = Net(Residual)
    expected = analyze(model, X, layers="net", verbose=0)["net"].mean
    insert(model, "net", memel())
    found = analyze(model, X, layers="net", verbose=0)["net"].mean
    assert np.array_equal(found, expected)
    model(X)
    moving_mean = inserted(model)["net"].moving_mean
    torch.testing.assert_close(moving_mean, torch.tensor(expected).float())


def test_an_output_of_several():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            lstm = nn.LSTM(4, 5, batch_first=True)
            self.net = nn.Sequential(nn.Linear(4, 4), lstm)

        def forward(self, x):
            return self.net(x)[0]

    model = insert(Encoder(), "net", memel(), output=0)
    model(torch.randn(2, 3, 4)).sum().backward()
    assert inserted(model)["net"].moving_mean.shape == (5,)


@pytest.mark.quick
@pytest.mark.parametrize("kind", [nn.Sequential, Residual])
def test_the_memel_is_no_part(kind):
    def parts(net):
        sliced = [*net[:-1], *net[:], *(net + net)]
        return [len(net), *net, net[-1], net[2], *sliced]

    model = Net(kind)
    net = model.net
    expected = parts(net)
    insert(model, "net", memel())
    assert parts(net) == expected
    assert isinstance(net, kind)
    assert (type(net[:-1]), type(net[1:])) == (kind, kind)
    with pytest.raises(IndexError):
        net[3]
    assert list(net.children())[-1] is inserted(model)["net"]
    assert strip(model).net is net
    assert type(net) is kind
    assert parts(net) == expected


def test_a_slice_runs_the_parts_only():
    model = Net(run=lambda net, x: net[:-1](x)).eval()
    expected = model(X)
    insert(model, "net", memel())
    assert torch.equal(model(X), expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.append(nn.Tanh()),
        lambda net: net.extend([nn.Tanh(), nn.Tanh()]),
        lambda net: net.insert(1, nn.Tanh()),
        lambda net: net.__setitem__(-1, nn.Linear(4, 4)),
        lambda net: net.__delitem__(1),
        lambda net: net.__delitem__(slice(0, 2)),
        lambda net: net.pop(-1),
        lambda net: net.__iadd__(nn.Sequential(nn.Tanh())),
        lambda net: net.__imul__(2),
    ],
)
def test_a_change_of_the_parts_leaves_the_memel_last(change):
    plain, model = Net(), hosting()
    for net in (plain.net, model.net):
        change(net)
    names = list(plain.net._modules)
    assert list(model.net._modules) == [*names, "memel"]
    assert [type(part) for part in model.net] == [type(p) for p in plain.net]
    assert steps(train(model)) == 3


def saved_whole(model):
    torch.save(model, file := io.BytesIO())
    file.seek(0)
    return torch.load(file, weights_only=False)


def run_all(net, x):
    return net(x)


@pytest.mark.parametrize("kind", [nn.Sequential, Residual])
@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_whole],
)
def test_a_copy_is_independent(copied, kind):
    model = train(hosting(kind=kind, run=run_all))
    other = train(copied(model), 2)
    assert (steps(model), steps(other)) == (3, 5)
    assert isinstance(other.net, kind)
    assert len(other.net) == 3
    assert type(strip(other).net) is kind
    assert steps(model) == 3


def test_it_is_a_submodule_for_all_else():
    model = train(hosting())
    found = inserted(model)["net"]
    assert dict(model.named_modules())["net.memel"] is found
    assert "net.memel.moving_mean" in model.state_dict()
    assert "net.memel.steps" in dict(model.named_buffers())
    assert not found.eval().training
    assert model.train().net.memel.training
    model.to("meta")
    assert found.moving_mean.is_meta


def test_save_and_restore(tmp_path):
    model = train(hosting(kind=Residual))
    save(model, tmp_path / "model.pt")
    again = restore(Net(Residual), tmp_path / "model.pt")
    train(model), train(again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_state_of_a_plain_model_and_of_one_with_a_memel():
    state = train(hosting()).state_dict()
    names = [f"net.memel.{n}" for n in hosting().net.memel.state_dict()]
    assert [name for name in state if "memel" in name] == names
    assert steps(_loaded(hosting(), state)) == 3
    keys = Net().load_state_dict(state, strict=False)
    assert keys.unexpected_keys == names


def _loaded(model, state):
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_sequential_runs_it(reentrant):
    def run(net, x):
        if net.training:
            return checkpoint_sequential(net, 2, x, use_reentrant=reentrant)
        return net(x)

    plain, model = train(hosting()), train(hosting(run=run))
    for ours, theirs in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    for ours, theirs in zip(model.parameters(), plain.parameters()):
        if ours.grad is not None:
            assert torch.equal(ours.grad, theirs.grad)


def test_a_loop_over_the_parts_does_not_call_the_host():
    def run(net, x):
        for part in net:
            x = part(x)
        return x

    model = insert(Net(run=run), "net", memel())
    with pytest.warns(UserWarning, match="calls one by one"):
        model(X)
    assert steps(model) == 0


@pytest.mark.parametrize("kind", [nn.Sequential, Residual])
@pytest.mark.parametrize("at", ["net", ["net", "net.2"]])
def test_compiles_to_one_graph(kind, at):
    torch._dynamo.reset()
    eager = insert(Net(kind), at, memel(), example=X)
    model = insert(Net(kind), at, memel(), example=X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    train(eager), train(compiled)
    for ours, theirs in zip(model.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(compiled.eval()(X), eager.eval()(X))
    strip(compiled)
    assert torch.equal(compiled(X), strip(eager)(X))
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:While compiling")
@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_is_the_plain_one(strict):
    model = train(hosting(kind=Residual)).eval()
    program = torch.export.export(model, (X,), strict=strict)
    assert torch.equal(program.module()(X), strip(model)(X))


@pytest.mark.parametrize("kind", [nn.Sequential, Residual])
def test_a_symbolic_trace_is_the_plain_one(kind):
    model = nn.Sequential(Net(kind, run_all), nn.Tanh())
    insert(model, ["0", "0.net"], memel(), example=X)
    model.eval()
    traced = torch.fx.symbolic_trace(model)
    assert torch.equal(traced(X), model(X))


def test_a_host_is_of_the_kind_of_its_siblings():
    def blocks():
        return [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(4)]

    model = nn.Sequential(*blocks(), nn.Linear(4, 2))
    expected = find(model, "middle:2")
    insert(model, "2", memel())
    assert find(model, "middle:2") == expected


def test_data_parallel_in_evaluation_and_apply():
    model, seen = hosting(), []
    model.apply(lambda part: seen.append(type(part).__name__))
    assert "TorchMEmeL" in seen
    assert repr(model).count("TorchMEmeL") == 1
    assert "Sequential(" in repr(model)
    replica = model.net._replicate_for_data_parallel()
    assert len(replica) == 3


def test_a_container_that_calls_its_parts_is_refused():
    class Dense(nn.ModuleDict):
        def forward(self, x):
            for part in self.values():
                x = part(x)
            return x

    model = nn.Sequential(Dense({"a": nn.Linear(4, 4)}))
    with pytest.raises(ValueError, match="calls its own parts"):
        insert(model, "0", memel())
