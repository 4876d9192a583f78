"""decrease_ratio: one step by hand in NumPy, and the order of the arms."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_memel import MEmeL
from keras_memel import decrease_ratio
from keras_memel import insert

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)).astype("float32")
Y = RNG.normal(size=(40, 1)).astype("float32")
RATE = 0.05


def model():
    keras.utils.set_random_seed(1)
    made = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, name="hidden"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    made.compile(keras.optimizers.SGD(RATE), "mse")
    return made


def by_hand(weights, delta):
    """The step of a linear network of two layers; gradients on paper."""
    w, b, v, c = (np.asarray(a, "float64") for a in weights)
    history = X[:30].astype("float64") @ w + b
    mean, variance = history.mean(0), history.var(0, ddof=1)
    scale = variance + 0.01 * variance.mean()
    x, y = X[30:].astype("float64"), Y[30:].astype("float64")
    z = x @ w + b
    phi = (z - mean) ** 2 / scale
    chosen = phi == phi.max(1, keepdims=True)
    inhibited = z if delta is None else np.where(chosen, mean, z)
    error = 2 * (inhibited @ v + c - y) / len(x)
    gradient = error @ v.T
    if delta is not None:
        gradient = np.where(chosen, -delta * gradient, gradient)
    new = x @ (w - RATE * x.T @ gradient) + b - RATE * gradient.sum(0)
    later = (new - mean) ** 2 / scale
    return (
        1 - later[chosen].sum() / phi[chosen].sum(),
        np.abs(new - z)[chosen].sum() / np.abs(z - mean)[chosen].sum(),
    )


def test_every_arm_is_the_step_that_paper_and_pencil_give():
    made = model()
    weights = [ops.convert_to_numpy(w) for w in made.weights]
    table = decrease_ratio(
        made, X, Y, "hidden", batch_size=10, warm_up=3, axis=-1
    )
    arms = {"original": None, "naive (a)": 0, "naive (b)": -1, "RD": 1}
    assert list(table.index) == list(arms)
    for arm, delta in arms.items():
        ratio, update = by_hand(weights, delta)
        found = table.loc[arm]
        np.testing.assert_allclose(found["decrease_ratio"], ratio, atol=2e-6)
        np.testing.assert_allclose(found["total_update_ratio"], update, 1e-4)
        assert found["values"] == 10
    # What the method is for: Lemma 3.3.
    ratios = table["decrease_ratio"]
    assert ratios["RD"] > ratios["naive (a)"] > ratios["naive (b)"]


def test_model_and_optimizer_are_as_before():
    made = model()
    made.compile(keras.optimizers.Adam(0.1), "mse")
    made.fit(X, Y, verbose=0)
    variables = [*made.variables, *made.optimizer.variables]
    before = [np.array(ops.convert_to_numpy(v.value)) for v in variables]
    decrease_ratio(made, X, Y, "hidden", batch_size=10, warm_up=3)
    for variable, value in zip(variables, before):
        np.testing.assert_array_equal(
            ops.convert_to_numpy(variable.value), value
        )


def test_bad_arguments():
    made = model()
    with pytest.raises(ValueError, match="1 batches of 32"):
        decrease_ratio(made, X, Y, "hidden")
    with pytest.raises(ValueError, match="'hidden'"):
        decrease_ratio(made, X, Y, "hiden", batch_size=2)
    with pytest.raises(ValueError, match="strip"):
        decrease_ratio(insert(made, "hidden", MEmeL()), X, Y, "hidden")
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="compiled"):
        decrease_ratio(plain, X, Y, "dense*")
