"""find, insert, inserted, strip and analyze on modules of Flax NNX."""

import copy
import pickle

import keras
import numpy as np
import pytest
from steps import BACKEND

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import RandomK
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import TopK
from keras_memel import analyze
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import readings
from keras_memel import save
from keras_memel import strip

if BACKEND != "jax":
    pytest.skip("Flax needs JAX", allow_module_level=True)

import jax
import jax.numpy as jnp

nnx = pytest.importorskip("flax.nnx")
optax = pytest.importorskip("optax")

# They compile much and compute little.
pytestmark = pytest.mark.usefixtures("quick_compilation")

X = np.random.default_rng(0).normal(1.0, 2.0, (6, 16, 5, 4)).astype("float32")
NAMES = ("moving_mean", "moving_variance", "count", "count_low", "steps")
NAMES += ("inhibited_rate", "skipped_updates", "skipped_updates_low")


class Block(nnx.Module):
    def __init__(self, rngs, output="tensor"):
        self.dense = nnx.Linear(4, 4, rngs=rngs)
        self.output = output

    def __call__(self, x):
        y = x + nnx.tanh(self.dense(x))
        return {"tensor": y, "tuple": (y, x), "dict": {"a": x, "b": y}}[
            self.output
        ]


class Network(nnx.Module):
    def __init__(self, seed=0, output="tensor"):
        rngs = nnx.Rngs(seed)
        self.layer = nnx.List([Block(rngs, output) for _ in range(4)])
        self.unused = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        for block in self.layer:
            x = block(x)
            x = x["b"] if isinstance(x, dict) else x
            x = x[0] if isinstance(x, tuple) else x
        return self.head(self.drop(x))


def memel(**kwargs):
    return MEmeL(**{"axis": -1, "late_start": 1, **kwargs})


def network(where="layer.[12]", **kwargs):
    return insert(Network(), where, memel(**kwargs), example=X[0])


def state(module):
    names = [*NAMES, *module._state_keys]
    if module.settings.forget_steps is None:
        names += ["moving_mean_low", "moving_variance_low"]
    return {name: np.asarray(getattr(module, name)[...]) for name in names}


def same(first, second, **kwargs):
    first, second = state(first), state(second)
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], err_msg=name, **kwargs)


def loss_of(model, x):
    return jnp.mean(jnp.square(model(x)))


@nnx.jit
def train(model, optimizer, x):
    value, gradient = nnx.value_and_grad(loss_of)(model, x)
    optimizer.update(model, gradient)
    return value


def optimizer_of(model):
    return nnx.Optimizer(model, optax.sgd(0.01), wrt=nnx.Param)


@pytest.mark.quick
def test_find():
    model = Network()
    assert find(model, "layer.*") == [f"layer.{i}" for i in range(4)]
    assert find(model, "middle:2") == ["layer.1", "layer.2"]
    assert find(model, "layer.[12].dense") == ["layer.1.dense", "layer.2.dense"]
    assert find(model, ".head") == ["head"]
    assert find(model, model.layer[3]) == ["layer.3"]
    assert find(model, lambda part: isinstance(part, nnx.Dropout)) == ["drop"]
    insert(model, "middle:2", memel(), example=X[0])
    assert find(model, "middle:2") == ["layer.1", "layer.2"]


@pytest.mark.parametrize(
    ("where", "settings", "message"),
    [
        ("layr.1", {"example": X[0]}, "at least one module"),
        (["layer.1", "layer.9"], {"example": X[0]}, "at least one module"),
        ("layer.1", {}, "`example`"),
        ("layer", {"example": X[0]}, "cannot be called"),
        ("unused", {"example": X[0]}, "never called"),
        ("layer.1", {"example": X[0], "output": 3}, "`output`"),
    ],
)
def test_refuses(where, settings, message):
    model = Network()
    with pytest.raises(ValueError, match=message):
        insert(model, where, memel(), **settings)
    assert inserted(model) == {}
    assert type(model.layer[1]) is Block


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="already"):
        insert(network(), "layer.1", memel(), example=X[0])
    with pytest.raises(ValueError, match="`layer` must be a MEmeL"):
        insert(Network(), "layer.1", nnx.Dropout(0.1), example=X[0])
    with pytest.raises(ValueError, match="Orbax"):
        save(Network(), "model.keras")
    model = network(axis=None)
    with pytest.raises(ValueError, match="neurons of the statistics"):
        model(X[0][:, :3])


def test_another_backend_says_what_to_set(monkeypatch):
    # The environments of the tests hold one backend each.
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    for verb in (find, inserted, strip):
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
            verb(Network())


@pytest.mark.parametrize(
    ("axis", "selection", "inhibition"),
    [
        (None, TopK(1), "reverse"),
        (-1, TopK(3), "naive_a"),
        (1, Rate(0.1), "naive_b"),
        (-1, Rate(0.1), LogPenalty(0.3)),
        (None, Threshold(2.0), "observe"),
        (1, Random(0.2, seed=3), "reverse"),
        (-1, RandomK(2, seed=3), "reverse"),
    ],
)
def test_equals_the_keras_layer(axis, selection, inhibition):
    from keras_memel.native.nnx_memel import NnxMEmeL

    settings = {"selection": selection, "inhibition": inhibition, "axis": axis}
    settings |= {"late_start": 1, "forget_steps": None if axis else 3}
    layer = MEmeL(**settings)
    layer.build((None, 5, 4))
    module = NnxMEmeL(layer, (None, 5, 4))
    weights = [v.value for v in layer.non_trainable_variables]

    def of_layer(x, weights, r):
        y, weights, losses = layer.stateless_call(
            [], weights, x, training=True, return_losses=True
        )
        return jnp.sum(y * r) + sum(losses), (y, weights)

    def of_module(x, module, r):
        y = module(x)
        return jnp.sum(y * r), y

    random = np.random.default_rng(1)
    for x in X[:4]:
        r = random.normal(size=x.shape).astype("float32")
        expected, (y, weights) = jax.grad(of_layer, has_aux=True)(x, weights, r)
        found, z = nnx.grad(of_module, argnums=0, has_aux=True)(
            jnp.asarray(x), module, r
        )
        np.testing.assert_allclose(z, y, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    for variable, value in zip(layer.non_trainable_variables, weights):
        name = variable.name
        if name in NAMES or name in module._state_keys:
            np.testing.assert_allclose(
                getattr(module, name)[...], value, rtol=1e-6, err_msg=name
            )


@pytest.mark.quick
def test_trains_under_jit_with_an_optimizer():
    model = network()
    parameters = nnx.state(Network(), nnx.Param)
    optimizer = optimizer_of(model)
    losses = [float(train(model, optimizer, x)) for x in [*X] * 3]
    assert losses[-1] < losses[0]
    for found in inserted(model).values():
        assert int(found.steps[...]) == len(losses)
        assert float(found.count[0]) == len(losses) * 16 * 5
        assert float(found.inhibited_rate[...]) > 0
    assert jax.tree.structure(nnx.state(model, nnx.Param)) == (
        jax.tree.structure(parameters)
    )
    assert set(readings(model)) == {
        f"layer.{i}/{name}" for i in (1, 2) for name in ("inhibited_rate",)
    }


def test_compiled_equals_eager():
    compiled, eager = network(selection=Rate(0.1)), network(selection=Rate(0.1))
    step = nnx.jit(lambda model, x: model.layer[1](x))
    for x in X:
        np.testing.assert_allclose(
            step(compiled, x), eager.layer[1](x), rtol=1e-5, atol=1e-6
        )
    same(inserted(compiled)["layer.1"], inserted(eager)["layer.1"], rtol=1e-5)


def test_recomputation_counts_once():
    """`nnx.remat` runs the module again in the backward pass."""
    plain, again = network(), network()

    def rematerialized(model, x):
        x = nnx.remat(lambda model, x: model.layer[1](x))(model, x)
        return jnp.sum(jnp.square(x))

    for x in X:
        first = nnx.grad(lambda m, x: jnp.sum(jnp.square(m.layer[1](x))))(
            plain, x
        )
        second = nnx.grad(rematerialized)(again, x)
    same(inserted(plain)["layer.1"], inserted(again)["layer.1"], rtol=1e-6)
    for ours, theirs in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert int(inserted(again)["layer.1"].steps[...]) == len(X)


def test_evaluation_is_the_plain_model():
    model, plain = network(late_start=0), Network()
    model(X[0])
    before = {path: state(m) for path, m in inserted(model).items()}
    model.eval(), plain.eval()
    np.testing.assert_array_equal(model(X[1]), plain(X[1]))
    for path, values in before.items():
        for name, value in state(inserted(model)[path]).items():
            np.testing.assert_array_equal(value, values[name])
    model.train()
    model(X[1])
    assert int(inserted(model)["layer.1"].steps[...]) == 2


def test_inhibits_in_evaluation_if_asked():
    model = network(late_start=0, at_inference=True)
    model(X[0])
    model.eval()
    plain = Network()
    plain.eval()
    assert (np.asarray(model(X[1])) != np.asarray(plain(X[1]))).any()
    assert int(inserted(model)["layer.1"].steps[...]) == 1


def test_each_draw_and_each_place_is_another():
    model = network("layer.*", selection=Random(0.5, seed=1), late_start=0)
    seeds = {int(m.seed_state[0]) for m in inserted(model).values()}
    assert len(seeds) == 4
    step = nnx.jit(lambda model, x: model.layer[0](x))
    step(model, X[0])
    plain = Network().layer[0](X[1])
    first, second = (np.asarray(step(model, X[1]) == plain) for _ in range(2))
    assert (first != second).any()


@pytest.mark.parametrize(
    "copied",
    [
        nnx.clone,
        copy.deepcopy,
        lambda model: nnx.merge(*nnx.split(nnx.clone(model))),
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
)
def test_a_copy_goes_on_alike_and_is_independent(copied):
    model = network(selection=Random(0.3, seed=1), late_start=0)
    model(X[0])
    other = copied(model)
    assert list(inserted(other)) == ["layer.1", "layer.2"]
    np.testing.assert_array_equal(model.layer[1](X[1]), other.layer[1](X[1]))
    same(model.layer[1].memel, other.layer[1].memel)
    other(X[2])
    assert int(model.layer[1].memel.steps[...]) == 2
    assert int(other.layer[1].memel.steps[...]) == 3


def test_orbax_gives_the_state_back(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    model = network(selection=Random(0.3, seed=1), late_start=0)
    for x in X[:3]:
        model(x)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "model", nnx.state(model))
        checkpointer.wait_until_finished()
        again = network(selection=Random(0.3, seed=2), late_start=0)
        abstract = jax.tree.map(
            orbax.utils.to_shape_dtype_struct, nnx.state(again)
        )
        nnx.update(again, checkpointer.restore(tmp_path / "model", abstract))
    for path, found in inserted(model).items():
        same(found, inserted(again)[path])
    np.testing.assert_array_equal(model(X[3]), again(X[3]))


@pytest.mark.parametrize(
    ("kind", "output"), [("tuple", None), ("tuple", 0), ("dict", "b")]
)
def test_an_output_of_several(kind, output):
    model = Network(output=kind)
    insert(model, "layer.2", memel(), output=output, example=X[0])
    plain, untouched = network("layer.2"), Network(output=kind)
    for x in X[:3]:
        found = model(x)
        np.testing.assert_array_equal(found, plain(x))
        before = untouched(x)
    # The head takes the output that the MEmeL has changed.
    assert np.any(found != before)
    same(model.layer[2].memel, plain.layer[2].memel)


def test_strip_leaves_nothing():
    model, plain = Network(), Network()
    graph = nnx.graphdef(model)
    attributes = [sorted(vars(m)) for _, m in nnx.iter_modules(model)]
    insert(model, ["layer.*", "head"], memel(), example=X[0])
    assert nnx.graphdef(model) != graph
    model(X[0])
    strip(model)
    plain(X[0])  # the same number of draws of its dropout
    assert inserted(model) == {}
    assert nnx.graphdef(model) == graph
    assert attributes == [sorted(vars(m)) for _, m in nnx.iter_modules(model)]
    assert {type(m) for _, m in nnx.iter_modules(model)} == {
        type(m) for _, m in nnx.iter_modules(plain)
    }
    model.eval(), plain.eval()
    np.testing.assert_array_equal(model(X[1]), plain(X[1]))


def leaves(model):
    """The state as NumPy arrays, keys of random numbers too."""
    return [
        np.asarray(
            jax.random.key_data(leaf)
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            else leaf
        )
        for leaf in jax.tree.leaves(nnx.state(model))
    ]


def test_analyze_sees_what_numpy_does():
    model = network(late_start=0)
    model(X[0])
    before = leaves(model)
    x = X[:4].reshape(-1, 5, 4)
    report = analyze(model, x, batch_size=16, verbose=0)
    assert list(report.layers) == ["layer.1", "layer.2"]
    plain = Network()
    values = np.asarray(plain.layer[1](plain.layer[0](x)), "float64")
    found = report.layers["layer.1"]
    assert (found.count == 64 * 5).all()
    np.testing.assert_allclose(found.mean, values.mean((0, 1)), atol=1e-5)
    variance = values.reshape(-1, 4).var(0, ddof=1)
    np.testing.assert_allclose(found.variance, variance, rtol=1e-4)
    for ours, theirs in zip(before, leaves(model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_analyze_without_insertions(rng):
    x = X[0]
    model = Network()
    with pytest.raises(ValueError, match="'unused', which is never called"):
        analyze(model, x, verbose=0)
    report = analyze(model, x, layers=["layer.*", "head"], verbose=0)
    assert list(report.layers) == [f"layer.{i}" for i in range(4)] + ["head"]
