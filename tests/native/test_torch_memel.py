"""TorchMEmeL does what the Keras layer does, in a `torch.nn.Module`."""

import copy
import io
import itertools
import pickle

import keras
import numpy as np
import pytest

from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import RandomK
from keras_memel import Rate
from keras_memel import Selection
from keras_memel import Threshold
from keras_memel import TopK

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from keras_memel import TorchMEmeL
from keras_memel.native.torch_replay import MOST_WITHOUT_GRAPH

NAMES = ("moving_mean", "moving_variance", "count", "count_low", "steps")
NAMES += ("inhibited_rate", "skipped_updates", "skipped_updates_low")


class AboveMean(Selection):
    def __call__(self, score):
        return score > score.mean()


class Halve(Inhibition):
    def __call__(self, values, mask, mean):
        return torch.where(mask, 0.5 * values, values)


SELECTIONS = {
    "top_1": TopK(1),
    "top_3": TopK(3),
    "rate": Rate(0.1),
    "threshold": Threshold(2.0),
    "random": Random(0.2, seed=3),
    "random_k": RandomK(3, seed=3),
    "own": AboveMean(),
}
INHIBITIONS = {
    "reverse": "reverse",
    "naive_a": "naive_a",
    "naive_b": "naive_b",
    "penalty": LogPenalty(0.3),
    "observe": "observe",
    "own": Halve(),
}


def state_of(layer):
    names = [*NAMES, *layer._state_keys]
    if layer.forget_steps is None:
        names += ["moving_mean_low", "moving_variance_low"]
    values = [getattr(layer, name) for name in names]
    return {
        name: keras.ops.convert_to_numpy(getattr(value, "value", value))
        for name, value in zip(names, values)
    }


def assert_same_state(first, second):
    first, second = state_of(first), state_of(second)
    assert list(first) == list(second)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


# All of them, with both ways to score in turn.
@pytest.mark.parametrize(
    ("score_with", "masked", "axis", "inhibition", "selection"),
    [
        (("history", "current")[sum(numbers) % 2], *settings)
        for numbers, settings in zip(
            itertools.product(range(2), range(3), range(6), range(7)),
            itertools.product(
                (False, True), (None, -1, 1), INHIBITIONS, SELECTIONS
            ),
        )
    ],
)
def test_equals_the_keras_layer(
    score_with, masked, axis, inhibition, selection
):
    settings = {
        "selection": SELECTIONS[selection],
        "inhibition": INHIBITIONS[inhibition],
        "axis": axis,
        "late_start": 1,
        "forget_steps": None if score_with == "current" else 3,
        "score_with": score_with,
    }
    layer, module = MEmeL(**settings), TorchMEmeL(**settings)
    random = torch.Generator().manual_seed(1)
    for step in range(5):
        x = 1 + torch.randn(4, 5, 6, generator=random) * (1 + step)
        if step == 3:
            x[0, 0, 0] = torch.nan
        r = torch.randn(4, 5, 6, generator=random)
        mask = torch.rand(4, 5, generator=random) < 0.7 if masked else None
        first = x.clone().requires_grad_()
        second = x.clone().requires_grad_()
        expected = layer(first, mask=mask, training=True)
        (expected * r).sum().add(sum(layer.losses)).backward()
        found = module(second, mask=mask)
        (found * r).sum().backward()
        torch.testing.assert_close(
            found, expected, rtol=0, atol=0, equal_nan=True
        )
        torch.testing.assert_close(
            second.grad, first.grad, rtol=1e-6, atol=1e-6, equal_nan=True
        )
        assert_same_state(module, layer)
    assert float(module.inhibited_rate) > 0
    x = torch.randn(4, 5, 6)
    assert module.eval()(x) is x


@pytest.mark.quick
def test_inhibits_at_inference_if_asked():
    layer = MEmeL(axis=-1, late_start=0, at_inference=True)
    module = TorchMEmeL.from_layer(layer)
    x = torch.randn(8, 6)
    layer(x, training=True), module(x)
    x = torch.randn(8, 6)
    found = module.eval()(x)
    assert (found != x).any()
    assert torch.equal(found, layer(x, training=False))
    assert_same_state(module, layer)


def assert_float32(memel):
    assert {b.dtype for b in memel.buffers() if b.is_floating_point()} == {
        torch.float32
    }
    assert memel.steps.dtype == torch.int64


def model_of(**settings):
    torch.manual_seed(0)
    settings = {"axis": -1, "late_start": 1, **settings}
    return nn.Sequential(
        nn.Linear(6, 8), TorchMEmeL(**settings), nn.Tanh(), nn.Linear(8, 6)
    )


@pytest.mark.quick
def test_has_no_parameters_and_stays_float32():
    model = model_of(selection="rate")
    model(torch.randn(4, 6))
    memel = model[1]
    assert not list(memel.parameters())
    model.requires_grad_(False).requires_grad_(True)
    assert not memel.moving_variance.requires_grad
    model.to(torch.bfloat16)
    # More than the integers that bfloat16 holds.
    for _ in range(10):
        model(torch.randn(33, 6, dtype=torch.bfloat16))
    assert float(memel.steps) == 11
    assert float(memel.count[0]) == 4 + 10 * 33
    assert_float32(memel)
    model.double().half()
    assert_float32(memel)


def test_state_dict_goes_into_a_model_that_has_seen_nothing():
    model = model_of(selection=Random(0.3, seed=1))
    for _ in range(3):
        model(torch.randn(4, 6))
    fresh = model_of(selection=Random(0.3, seed=2))
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(4, 6)
    assert torch.equal(fresh(x), model(x))
    assert_same_state(fresh[1], model[1])
    assert "1.moving_mean" in model.state_dict()


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_has_a_state_of_its_own(copied):
    model = model_of()
    loss = model(torch.randn(4, 6)).sum()
    other = copied(model)
    loss.backward()
    x = torch.randn(4, 6)
    assert torch.equal(model(x), other(x))
    other(x)
    assert float(model[1].steps) == 2
    assert float(other[1].steps) == 3


def test_torch_save_keeps_the_module():
    model = model_of(selection="rate")
    model(torch.randn(4, 6))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    x = torch.randn(4, 6)
    assert torch.equal(model(x), again(x))
    assert_same_state(model[1], again[1])


def test_meta_device_starts_from_the_initial_state():
    with torch.device("meta"):
        model = model_of(selection="rate", shape=(None, 8))
    memel = model[1]
    assert memel.moving_mean.is_meta
    model.to_empty(device="cpu")
    for part in (model[0], model[3]):
        part.reset_parameters()
    assert_same_state(memel, TorchMEmeL("rate", axis=-1, shape=(None, 8)))
    model(torch.randn(4, 6))
    assert float(memel.steps) == 1


def test_settings_go_to_a_layer_and_back():
    layer = MEmeL(Rate(0.1), "penalty", (1, 2), None, 3, 0.5, "current", True)
    layer.trainable = False
    module = TorchMEmeL.from_layer(layer)
    again, first = module.to_layer().get_config(), layer.get_config()
    assert {**again, "name": ""} == {**first, "name": ""}
    changed = TorchMEmeL.from_layer(module, late_start=4)
    assert (changed.late_start, changed.epsilon) == (4, 0.5)


def test_the_state_of_a_selection_has_names_of_its_own():
    class Clash(Selection):
        def initial_state(self):
            return {"late_start": 0.0}

        def __call__(self, score, late_start):
            return score > late_start

    with pytest.raises(ValueError, match=r"`initial_state`.*'late_start'"):
        TorchMEmeL(Clash())


def test_a_frozen_module_is_the_identity():
    module = TorchMEmeL(axis=-1, late_start=0, trainable=False)
    x = torch.randn(4, 6)
    assert module(x) is x
    assert float(module.steps) == 0


# ---------------------------------------------------------------------------
# Activation checkpointing


def _train(model, run, forwards):
    random = torch.Generator().manual_seed(2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(8 // forwards):
        xs = [
            torch.randn(5, 6, generator=random).requires_grad_()
            for _ in range(forwards)
        ]
        optimizer.zero_grad()
        torch.stack([run(model, x).square().sum() for x in xs]).sum().backward()
        optimizer.step()
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("forwards", [1, 2, 4])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("selection", ["top_k", Rate(0.2), Random(0.3, seed=1)])
@pytest.mark.parametrize("inhibition", ["reverse", LogPenalty(0.3)])
def test_checkpointing_changes_nothing(
    selection, inhibition, reentrant, forwards
):
    settings = {"selection": selection, "inhibition": inhibition}
    plain, again = model_of(**settings), model_of(**settings)

    def checkpointed(model, x):
        return checkpoint(model, x, use_reentrant=reentrant)

    expected = _train(plain, lambda model, x: model(x), forwards)
    found = _train(again, checkpointed, forwards)
    assert float(again[1].steps) == 8
    assert_same_state(again[1], plain[1])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_checkpointing_scores_with_the_current_statistics():
    plain, again = (model_of(score_with="current") for _ in range(2))
    expected = _train(plain, lambda model, x: model(x), 2)
    found = _train(
        again, lambda model, x: checkpoint(model, x, use_reentrant=False), 2
    )
    assert_same_state(again[1], plain[1])
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("forwards", [1, 2])
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("selection", [Random(0.3, seed=1), RandomK(2, seed=1)])
def test_a_draw_at_inference_is_the_same_in_the_second_run(
    selection, reentrant, forwards
):
    plain, again = (
        model_of(selection=selection, late_start=0, at_inference=True)
        for _ in range(2)
    )
    for model in (plain, again):
        model(torch.ones(4, 6))
        model.eval()
        model[1].moving_mean.fill_(3.0)

    def checkpointed(model, x):
        return checkpoint(model, x, use_reentrant=reentrant)

    expected = _train(plain, lambda model, x: model(x), forwards)
    found = _train(again, checkpointed, forwards)
    assert_same_state(again[1], plain[1])
    assert torch.equal(again[1].seed_state, plain[1].seed_state)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


def test_refuses_replicas_whose_statistics_are_lost():
    """`nn.DataParallel` calls this method on each device but one."""
    model = model_of()
    with pytest.raises(RuntimeError, match="DistributedDataParallel"):
        model[1]._replicate_for_data_parallel()
    replica = model.eval()[1]._replicate_for_data_parallel()
    x = torch.randn(4, 8)
    assert replica(x) is x


def test_nothing_is_kept_after_a_forward_without_backward():
    model = model_of()
    for _ in range(20):
        loss = checkpoint(model, torch.randn(4, 6), use_reentrant=False).sum()
        assert len(model[1]._calls) == 1
        del loss
    assert len(model[1]._calls) == 0
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(4, 6))
    assert len(model[1]._calls) == MOST_WITHOUT_GRAPH


def test_a_lost_first_run_raises():
    model = model_of()
    xs = [torch.randn(4, 6).requires_grad_() for _ in range(20)]
    losses = [checkpoint(model, x, use_reentrant=True).sum() for x in xs]
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        sum(losses).backward()


def test_the_keras_layer_warns_where_it_is_inert():
    """Once; not where Keras calls it, nor where `training` is passed."""
    layer = MEmeL(axis=-1, late_start=0, name="inert")
    layer(torch.randn(4, 6).requires_grad_())
    model = nn.Sequential(nn.Linear(6, 6), layer).eval()
    model(torch.randn(4, 6))
    with pytest.warns(UserWarning, match=r"'inert'.*TorchMEmeL"):
        model.train()(torch.randn(4, 6))
    model(torch.randn(4, 6))
    assert int(layer.steps) == 0


def test_the_keras_layer_warns_inside_of_a_keras_model():
    inner = keras.Sequential([keras.Input((6,)), MEmeL(name="deep")])
    model = nn.Sequential(nn.Linear(6, 6), inner)
    with pytest.warns(UserWarning, match="'deep'"):
        model(torch.randn(4, 6))


@pytest.mark.parametrize("training", [True, False])
def test_the_keras_layer_refuses_to_be_run_again(training):
    settings = {} if training else {"selection": Random(0.5)}
    layer = MEmeL(axis=-1, late_start=0, at_inference=not training, **settings)
    x = torch.randn(4, 6).requires_grad_()
    y = checkpoint(
        lambda x: layer(x, training=training), x, use_reentrant=False
    )
    with pytest.raises(RuntimeError, match=r"checkpoint.*TorchMEmeL"):
        y.sum().backward()


# ---------------------------------------------------------------------------
# Compilation, precision, accumulation


@pytest.mark.parametrize(
    ("selection", "inhibition"),
    [("top_k", "reverse"), ("random", "naive_a"), ("rate", "penalty")],
)
def test_compiles_to_one_graph(selection, inhibition):
    torch._dynamo.reset()
    settings = {
        "selection": selection,
        "inhibition": inhibition,
        "late_start": 0,
    }
    eager = model_of(**settings, shape=(None, 8))
    graph = copy.deepcopy(eager)
    compiled = torch.compile(graph, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        x = torch.randn(16, 6)
        first, second = eager(x), compiled(x)
        first.sum().backward()
        second.sum().backward()
        if selection != "random":
            torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
            for ours, theirs in zip(eager.parameters(), graph.parameters()):
                torch.testing.assert_close(
                    ours.grad, theirs.grad, rtol=1e-5, atol=1e-6
                )
    assert float(graph[1].steps) == 3
    assert torch.allclose(graph[1].moving_mean, eager[1].moving_mean)
    torch._dynamo.reset()


def test_a_compiled_placebo_draws_anew():
    torch._dynamo.reset()
    module = TorchMEmeL(Random(0.5), axis=-1, late_start=0, shape=(None, 6))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(64, 6)
    compiled(x)
    first, second = compiled(x) != x, compiled(x) != x
    assert 0.3 < float(first.float().mean()) < 0.7
    assert (first != second).any()
    torch._dynamo.reset()


def test_a_compiled_placebo_draws_k_of_each_sample():
    torch._dynamo.reset()
    module = TorchMEmeL(RandomK(3), axis=-1, late_start=0, shape=(None, 6))
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    x = torch.randn(64, 6)
    compiled(x)
    chosen = compiled(x) != x
    assert (chosen.sum(1) == 3).all()
    assert len(torch.unique(chosen, dim=0)) > 1
    torch._dynamo.reset()


def test_autocast():
    model = model_of(selection="rate", late_start=0)
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16):
            y = model(torch.randn(16, 6))
        assert y.dtype == torch.bfloat16
        y.float().sum().backward()
    assert float(model[1].steps) == 3
    assert model[1].moving_mean.dtype == torch.float32


def test_a_grad_scaler_leaves_the_penalty_as_it_is():
    """Its scale goes into the gradient of the penalty, and out again."""
    gradients = []
    for scale in (1.0, 1024.0):
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        model = model_of(inhibition=LogPenalty(0.5), late_start=0)
        model[1].loss_scale = scaler.get_scale
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for seed in range(2):
            random = torch.Generator().manual_seed(seed)
            optimizer.zero_grad()
            loss = model(torch.randn(16, 6, generator=random)).sum()
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_a_loss_that_is_divided_divides_the_penalty():
    """Micro-batches of accumulated gradients; here of one batch, twice."""
    gradients = []
    for parts in (1, 2):
        model = model_of(inhibition=LogPenalty(0.5), late_start=0)
        model[1].loss_scale = 1 / parts
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
        model(x)
        state = copy.deepcopy(model[1].state_dict())
        for _ in range(parts):
            model[1].load_state_dict(state)
            (model(x).sum() / parts).backward()
        gradients.append(model[0].weight.grad)
    torch.testing.assert_close(*gradients)


def test_an_average_of_weights_has_the_statistics_too():
    model = model_of(shape=(None, 8))
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    model(torch.randn(4, 6))
    average.update_parameters(model)
    assert float(model[1].steps) == 1
    x = torch.randn(4, 6)
    assert average.eval()(x).shape == (4, 6)


def test_micro_batches_count_as_steps():
    model = model_of(late_start=4)
    for _ in range(4):
        model(torch.randn(4, 6)).sum().backward()
    assert float(model[1].steps) == 4
    assert float(model[1].inhibited_rate) == 0
    model(torch.randn(4, 6))
    assert float(model[1].inhibited_rate) > 0


@pytest.mark.parametrize(
    ("inputs", "mask", "message"),
    [
        (torch.ones(4, 6, dtype=torch.int32), None, "floating-point"),
        (torch.ones(4), None, "batch axis"),
        (torch.ones(4, 5), None, "neurons of the statistics"),
        (torch.ones(4, 6), torch.ones(3), "leading dimensions"),
    ],
)
def test_refuses(inputs, mask, message):
    module = TorchMEmeL(axis=-1)
    if inputs.ndim > 1:
        module.build((None, 6))
    with pytest.raises(ValueError, match=message):
        module(inputs, mask)
