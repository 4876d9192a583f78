"""decrease_ratio: one step by hand in NumPy, and the order of the arms."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_memel import MEmeL
from keras_memel import RandomK
from keras_memel import TopK
from keras_memel import decrease_ratio
from keras_memel import insert
from keras_memel import paper

RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(3, 4)), RNG.normal(size=4)
V, C = RNG.normal(size=(4, 1)), RNG.normal(size=1)
X = RNG.normal(size=(50, 3)).astype("float32")
# Nearly solved: the loss wants every value where it is, as in Lemma 3.3.
Y = ((X @ W + B) @ V + C + 0.01 * RNG.normal(size=(50, 1))).astype("float32")
RATE = 0.05


def model():
    made = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    made.set_weights([W, B, V, C])
    made.compile(keras.optimizers.SGD(RATE, momentum=0.9), "mse")
    return made


def by_hand(delta, k=1):
    """One step from these weights on each of two batches: on paper.

    The `k` values of highest phi are inhibited, and the highest is measured.
    """
    history = X[:30] @ W + B
    mean, variance = history.mean(0), history.var(0, ddof=1)
    scale = variance + 0.01 * variance.mean()
    sums = np.zeros(4)
    for part in (slice(30, 40), slice(40, 50)):
        x, y = X[part].astype("float64"), Y[part].astype("float64")
        z = x @ W + B
        phi = (z - mean) ** 2 / scale
        chosen = phi == phi.max(1, keepdims=True)
        changed = phi >= np.sort(phi, 1)[:, -k, None]
        inhibited = z if delta is None else np.where(changed, mean, z)
        error = 2 * (inhibited @ V + C - y) / len(x)
        gradient = error @ V.T
        if delta is not None:
            gradient = np.where(changed, -delta * gradient, gradient)
        new = x @ (W - RATE * x.T @ gradient) + B - RATE * gradient.sum(0)
        later = (new - mean) ** 2 / scale
        for i, one in enumerate([phi, later, abs(new - z), abs(z - mean)]):
            sums[i] += one[chosen].sum()
    return 1 - sums[1] / sums[0], sums[2] / sums[3]


def test_every_arm_is_the_step_that_paper_and_pencil_give():
    made = model()
    made.optimizer.build(made.trainable_variables)
    variables = [*made.variables, *made.optimizer.variables]
    before = [np.array(ops.convert_to_numpy(v.value)) for v in variables]

    table = decrease_ratio(
        made, X, Y, "hidden", batch_size=10, warm_up=3, axis=-1
    )

    arms = {"original": None, "naive (a)": 0, "naive (b)": -1, "RD": 1}
    assert list(table.index) == list(arms)
    for arm, delta in arms.items():
        ratio, update = by_hand(delta)
        found = table.loc[arm]
        np.testing.assert_allclose(found["decrease_ratio"], ratio, atol=5e-6)
        np.testing.assert_allclose(found["total_update_ratio"], update, 1e-3)
        assert found["values"] == 20
    ratios = table["decrease_ratio"]
    assert ratios["RD"] > 0 > ratios["naive (b)"]
    # Model and optimizer are as before.
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(variable.value), value
        )


def test_arms_of_your_own_are_measured_on_the_same_values():
    arms = {
        "RD, 2 values": {"selection": TopK(2), "inhibition": "reverse"},
        # 2 of the 4 values per sample; the arm computes other statistics.
        "naive (a), 2": {"selection": TopK(2), "inhibition": "naive_a"},
        "plain": None,
        "L2E": {**paper.l2e},
        "random": {"selection": RandomK(4), "inhibition": "naive_a"},
    }
    for settings in arms.values():
        if settings is not None:
            settings["axis"] = -1
    arms["RD, 2 values"]["forget_steps"] = 2
    arms["RD, 2 values"]["late_start"] = 1000
    table = decrease_ratio(
        model(), X, Y, "hidden", arms=arms, batch_size=10, warm_up=3, axis=-1
    )
    assert list(table.index) == list(arms)
    steps = {"RD, 2 values": (1, 2), "naive (a), 2": (0, 2), "plain": (None,)}
    # All 4 values per sample: a random choice selects all of them.
    steps["random"] = (0, 4)
    for arm, what in steps.items():
        ratio, update = by_hand(*what)
        found = table.loc[arm]
        np.testing.assert_allclose(found["decrease_ratio"], ratio, atol=5e-6)
        np.testing.assert_allclose(found["total_update_ratio"], update, 1e-3)
    assert table["values"].tolist() == 5 * [20]
    # The penalty moves the values towards their mean.
    assert table.loc["L2E", "decrease_ratio"] > table.loc["plain"].iloc[0]


def test_other_neurons_of_an_arm_leave_the_measure():
    """The positions of an arm with axis=-1 share statistics; those measured
    do not."""
    made = keras.Sequential(
        [
            keras.Input((6, 3)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    made.compile(keras.optimizers.SGD(RATE), "mse")
    x = RNG.normal(size=(48, 6, 3)).astype("float32") + np.arange(6)[:, None]
    arms = {
        "by position": {"inhibition": "observe", "axis": None},
        "by channel": {"inhibition": "observe", "axis": -1},
    }
    table = decrease_ratio(
        made, x, x[:, 0, :1], "hidden", arms=arms, batch_size=8, warm_up=3
    )
    first, second = table.to_numpy()
    np.testing.assert_array_equal(first, second)  # the same step
    assert abs(first[0]) > 1e-4


def test_bad_arguments():
    made = model()
    for arms in ({}, [None], {"RD": "reverse"}, {"RD": MEmeL()}):
        with pytest.raises(ValueError, match="`arms` must be a dictionary"):
            decrease_ratio(made, X, Y, "hidden", arms=arms, batch_size=10)
    with pytest.raises(ValueError, match="1 batches of 32"):
        decrease_ratio(made, X, Y, "hidden")
    with pytest.raises(ValueError, match="'hidden'"):
        decrease_ratio(made, X, Y, "hiden", batch_size=2)
    with pytest.raises(ValueError, match="strip"):
        decrease_ratio(insert(made, "hidden", MEmeL()), X, Y, "hidden")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="compiled"):
        decrease_ratio(plain, X, Y, "dense*")
    for policy in ("float32", "mixed_float16"):
        made = model()
        made.dtype_policy = policy  # which has `compile` scale the loss
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
        made.compile(optimizer, "mse")
        with pytest.raises(ValueError, match="gradient_accumulation_steps=4"):
            decrease_ratio(made, X, Y, "hidden", batch_size=10)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="of PyTorch")
def test_a_pytorch_module_takes_the_same_steps():
    import torch
    from torch import nn

    made = nn.Sequential()
    made.add_module("hidden", nn.Linear(3, 4))
    made.add_module("head", nn.Linear(4, 1))
    for layer, kernel, bias in zip(made, (W, V), (B, C)):
        layer.weight.data = torch.tensor(kernel.T, dtype=torch.float32)
        layer.bias.data = torch.tensor(bias, dtype=torch.float32)
    optimizer = torch.optim.SGD(made.parameters(), RATE, momentum=0.9)
    before = [parameter.clone() for parameter in made.parameters()]

    def step(x, y):
        assert made.training
        optimizer.zero_grad()
        (made(x) - y).square().mean().backward()
        optimizer.step()

    table = decrease_ratio(
        made.eval(),
        *(X, Y, "hidden"),
        step=step,
        optimizer=optimizer,
        axis=-1,
        batch_size=10,
        warm_up=3,
    )
    for arm, delta in (("original", None), ("naive (a)", 0), ("RD", 1)):
        ratio, update = by_hand(delta)
        found = table.loc[arm]
        np.testing.assert_allclose(found["decrease_ratio"], ratio, atol=5e-6)
        np.testing.assert_allclose(found["total_update_ratio"], update, 1e-3)
        assert found["values"] == 20
    for parameter, value in zip(made.parameters(), before):
        assert torch.equal(parameter, value)
        assert parameter.grad is None
    assert not optimizer.state
    assert not made.training
    assert not list(made.buffers())
    with pytest.raises(ValueError, match="`step` must be a function"):
        decrease_ratio(made, X, Y, "hidden", batch_size=10, warm_up=3)


def test_a_keras_model_has_a_step_of_its_own():
    with pytest.raises(ValueError, match="`step` and `optimizer`"):
        decrease_ratio(
            model(), X, Y, "hidden", step=print, batch_size=10, warm_up=3
        )


@pytest.mark.once
@pytest.mark.parametrize("number", [60, 100])
def test_targets_of_another_length_are_refused(number, rng):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    x = rng.normal(size=(80, 6))
    with pytest.raises(ValueError, match="must have one length"):
        decrease_ratio(model, x, np.zeros((number, 3)), "dense*", batch_size=4)
