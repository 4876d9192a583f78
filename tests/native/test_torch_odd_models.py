"""Models that share, convert, wrap or replace the hosts of MEmeLs."""

import copy
import warnings

import keras
import pytest

from keras_memel import LogPenalty
from keras_memel import MEmeL
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

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.b(self.a(x).tanh())


def two(**kwargs):
    torch.manual_seed(0)
    settings = {"axis": -1, "late_start": 0, **kwargs}
    return insert(Two(), "a", MEmeL(**settings), example=X)


def shared():
    torch.manual_seed(0)
    linear = nn.Linear(6, 6)
    return nn.Sequential(linear, nn.Tanh(), linear)


def test_a_shared_module_holds_one_memel(tmp_path):
    model = insert(shared(), "0", MEmeL(axis=-1, late_start=0))
    names = list(shared().state_dict())
    model(X).sum().backward()
    (found,) = inserted(model).values()
    assert (int(found.steps), float(found.count[0])) == (2, 16)
    save(model, tmp_path / "model.pt")
    again = restore(shared(), tmp_path / "model.pt")
    assert torch.equal(model.eval()(X), again.eval()(X))
    assert int(inserted(again)["0"].steps) == 2
    assert list(strip(model).state_dict()) == names


@pytest.mark.parametrize("calls", [1, 2])
def test_equal_inputs_are_told_apart_under_checkpointing(calls):
    """Two calls with the same values and other statistics."""
    gradients = []
    for checkpointed in (False, True):
        model = two()
        model(X)

        def run(model=model, checkpointed=checkpointed):
            y = X
            for _ in range(calls):
                if checkpointed:
                    y = checkpoint(model, y, use_reentrant=False)
                else:
                    y = model(y)
            return y.square().sum()

        losses = [run() for _ in range(3)]
        sum(losses).backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("inner", [False, True])
def test_a_compiled_module_is_not_run_again_in_silence(inner):
    torch._dynamo.reset()
    model = two()
    if inner:
        compiled = torch.compile(model, backend="aot_eager")
        y = checkpoint(compiled, X, use_reentrant=False)
    else:
        y = torch.compile(
            lambda x: checkpoint(model, x, use_reentrant=False),
            backend="aot_eager",
        )(X)
    with pytest.raises(RuntimeError, match="compiled MEmeL again"):
        y.sum().backward()
    assert int(model.a.memel.steps) == 1
    torch._dynamo.reset()


def test_functions_of_torch_func_take_it_in_evaluation():
    model = two(at_inference=True)
    model(X), model(2 * X)
    weights = {k: v.detach() for k, v in model.named_parameters()}

    def loss(weights, x):
        y = torch.func.functional_call(model, weights, (x[None],))
        return y.square().sum()

    per_sample = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))
    with pytest.raises(RuntimeError, match=r"`torch\.func`"):
        per_sample(weights, X)
    model.eval()
    found = per_sample(weights, X)["a.weight"]
    for x, gradient in zip(X, found):
        model.zero_grad()
        loss(dict(model.named_parameters()), x).backward()
        torch.testing.assert_close(gradient, model.a.weight.grad)
    assert int(model.a.memel.steps) == 2


def test_functional_call_updates_the_buffers_that_it_is_given():
    model = two()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    torch.func.functional_call(model, buffers, (X,))
    assert int(model.a.memel.steps) == 0
    assert int(buffers["a.memel.steps"]) == 1


@pytest.mark.filterwarnings("ignore:torch")
def test_a_conversion_that_drops_it_says_so():
    model = two().eval()
    quantized = torch.ao.quantization.quantize_dynamic(
        model, {nn.Linear}, dtype=torch.qint8
    )
    with pytest.warns(UserWarning, match="removed the MEmeL"):
        y = quantized(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(quantized(X), y)
    assert inserted(quantized) == {}
    assert list(inserted(model)) == ["a"]


def test_a_memel_that_is_replaced_or_deleted_is_gone():
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
    insert(model, "0", MEmeL(axis=-1))
    # This is a usual way to change a classifier. It replaces a part.
    model[0][-1] = nn.Linear(6, 2)
    assert list(inserted(model)) == ["0"]
    assert model(X).shape == (8, 2)
    model[0].memel = nn.Tanh()
    assert inserted(model) == {}
    assert not any("_memel" in name for name in vars(strip(model)[0]))

    model = two()
    del model.a.memel
    with pytest.warns(UserWarning, match="removed the MEmeL"):
        model(X)
    assert inserted(strip(model)) == {}
    assert not model.a._forward_hooks


def test_a_strip_of_a_part_leaves_nothing_around_it():
    model = insert(nn.Sequential(Two(), Two()), "0.a", MEmeL(axis=-1))
    strip(model[0])
    model(X)
    for part in model.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
        assert not any("memel" in name for name in vars(part))


def test_a_strip_within_training_keeps_optimizer_and_hooks():
    model, seen = two(), []
    own = model.a.register_forward_hook(lambda *call: seen.append(1))
    optimizer = torch.optim.Adam(model.parameters())
    for change in (None, strip, lambda m: insert(m, "a", MEmeL(axis=-1))):
        if change is not None:
            change(model)
        optimizer.zero_grad()
        model(X).sum().backward()
        optimizer.step()
    assert float(optimizer.state[model.a.weight]["step"]) == 3
    assert int(inserted(model)["a"].steps) == 1
    assert len(seen) == 3
    assert own.id in strip(model).a._forward_hooks


def test_hosts_within_hosts():
    model = nn.Sequential(Two(), Two())
    names = list(model.state_dict())
    insert(model, ["0", "0.a", "0.b"], MEmeL(axis=-1, late_start=0))
    for _ in range(2):
        model(X).sum().backward()
    assert {int(m.steps) for m in inserted(model).values()} == {2}
    assert list(inserted(model)) == ["0", "0.a", "0.b"]
    assert list(strip(model).state_dict()) == names


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 6)})
    model["head"] = nn.Linear(6, 9, bias=False)
    model["head"].weight = model["embed"].weight
    insert(model, "embed", MEmeL(axis=-1))
    copied = copy.deepcopy(model)
    for found in (model, copied, strip(model)):
        assert found["head"].weight is found["embed"].weight


def test_an_exported_program_is_the_plain_one():
    model = two()
    model(X)
    program = torch.export.export(model.eval(), (X,))
    assert torch.equal(program.module()(X), strip(model)(X))


def test_a_default_dtype_leaves_the_statistics_alone():
    torch.set_default_dtype(torch.float64)
    try:
        memel = MEmeL("rate", axis=-1, late_start=0)
        model = insert(Two(), "a", memel, example=X.double())
        for _ in range(2):
            assert model(X.double()).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    kinds = {b.dtype for b in model.buffers()}
    assert kinds == {torch.float32, torch.int64}


@pytest.mark.parametrize(
    "convert",
    [
        torch.Tensor.to_sparse,
        lambda x: torch.nested.nested_tensor(
            [x[:3], x[3:]], layout=torch.jagged
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_refuses_what_is_not_dense(convert):
    class Convert(nn.Module):
        def forward(self, x):
            return convert(x)

    model = insert(nn.Sequential(Convert()), "0", MEmeL(axis=-1))
    with pytest.raises(ValueError, match="dense"):
        model(X)


def test_a_mask_among_other_keywords():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(6, 6)

        def forward(self, x, **kwargs):
            return self.inner(x)

    model = insert(Around(), "inner", MEmeL(axis=-1))
    x, mask = torch.randn(2, 3, 6), torch.tensor([[1, 1, 0], [1, 0, 0]])
    model(x, attention_mask=mask)
    model(x, other=mask)
    assert float(model.inner.memel.count[0]) == 3 + 6
    model(x, src_key_padding_mask=mask)  # true means padding
    assert float(model.inner.memel.count[0]) == 3 + 6 + 3


def test_restore_takes_a_path_as_it_is(tmp_path):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            names = ["a[1]", "a1", "middle:1"]
            self.part = nn.ModuleDict({n: nn.Linear(6, 6) for n in names})

        def forward(self, x):
            for part in self.part.values():
                x = part(x)
            return x

    model = Named()
    places = [model.part["a[1]"], model.part["middle:1"]]
    insert(model, places, MEmeL(axis=-1))
    model(X)
    save(model, tmp_path / "model.pt")
    again = restore(Named(), tmp_path / "model.pt")
    assert list(inserted(again)) == ["part.a[1]", "part.middle:1"]
    other = nn.Sequential(nn.Linear(6, 6))
    with pytest.raises(ValueError, match=r"without \['part\.a\[1\]'"):
        restore(other, tmp_path / "model.pt")
    assert inserted(other) == {}


def test_a_graph_may_be_used_twice():
    model = two(inhibition=LogPenalty(0.1))
    model(X)
    loss = model(2 * X).sum()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        loss.backward(retain_graph=True)
        gradients.append(model.a.weight.grad.clone())
    assert torch.equal(*gradients)
    assert int(model.a.memel.steps) == 2


def test_a_gradient_of_a_gradient():
    """Compare with the formula itself, which autograd can differentiate."""
    found = []
    for formula in (False, True):
        model = two()
        model(X)
        x = X.clone().requires_grad_()
        y = model(x * 3)
        if formula:
            model = two()
            model(X)
            state = copy.deepcopy(model.a.memel.state_dict())
            memel = model.a.memel
            z = nn.functional.linear(x * 3, model.a.weight, model.a.bias)
            chosen = memel(z.detach()) != z.detach()
            mean = state["moving_mean"]
            z = torch.where(chosen, mean - (z - z.detach()), z)
            y = model.b(z.tanh())
        (gradient,) = torch.autograd.grad(
            y.square().sum(), x, create_graph=True
        )
        gradient.square().sum().backward()
        found.append(model.a.weight.grad)
    torch.testing.assert_close(*found)
