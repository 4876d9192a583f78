"""Selections and inhibitions of one's own: what they may do, and are kept."""

import re

import keras
import numpy as np
import pytest
from keras import ops
from steps import assert_state
from steps import state
from steps import step

from keras_memel import ConvGRU2D
from keras_memel import Inhibition
from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Rate
from keras_memel import Selection
from keras_memel import Threshold
from keras_memel import TopK
from keras_memel import insert
from keras_memel import inserted
from keras_memel import kernels


@keras.saving.register_keras_serializable("test_selections_own")
class Above(Selection):
    """No state."""

    def __init__(self, limit):
        self.limit = limit

    def __call__(self, score):
        return score > self.limit

    def get_config(self):
        return {"limit": self.limit}


@keras.saving.register_keras_serializable("test_selections_own")
class Rising(Selection):
    """A limit that rises by the share it selected, and counts its steps."""

    def __init__(self, limit=0.5):
        self.limit = limit

    def initial_state(self):
        return {"limit_now": self.limit, "updates": 0.0}

    def __call__(self, score, limit_now, updates):
        return score > limit_now

    def update(self, share, limit_now, updates):
        return {"limit_now": limit_now + share, "updates": updates + 1.0}

    def get_config(self):
        return {"limit": self.limit}


class Everything(Selection):
    """An unregistered selection that returns a shape to broadcast."""

    def __call__(self, score):
        return ops.ones((1,) * len(score.shape), "bool")


@keras.saving.register_keras_serializable("test_selections_own")
class Halve(Inhibition):
    def __init__(self, factor=0.5):
        self.factor = factor

    def __call__(self, values, mask, mean):
        return ops.where(mask, self.factor * values, values)

    def get_config(self):
        return {"factor": self.factor}


class Shrink(Inhibition):
    """An unregistered inhibition that adds a loss and changes no value."""

    def loss(self, values, mask, mean):
        return ops.sum(ops.where(mask, ops.square(values - mean), 0.0))


def trained(layer, rng, steps=4):
    x = rng.normal(size=(steps, 4, 6)).astype("float32")
    r = rng.normal(size=(steps, 4, 6)).astype("float32")
    return [(x[t], r[t], *step(layer, x[t], r[t])) for t in range(steps)]


def test_a_selection_of_ones_own_selects(rng):
    layer = MEmeL(Above(1.0), Halve(0.25), late_start=1)
    *_, (x, r, y, gradient) = trained(layer, rng)
    chosen = y != x
    assert 0 < chosen.mean() < 1
    np.testing.assert_array_equal(y, np.where(chosen, 0.25 * x, x))
    np.testing.assert_array_equal(gradient, np.where(chosen, 0.25 * r, r))
    rate = float(ops.convert_to_numpy(layer.inhibited_rate.value))
    assert rate == pytest.approx(chosen.mean())


def test_a_selection_of_ones_own_keeps_state(rng):
    layer = MEmeL(Rising(), late_start=1)
    limit, shares = 0.5, []
    for x, _, y, _ in trained(layer, rng):
        shares.append((x != y).mean())
    assert shares[0] == 0 < shares[1]
    now = state(layer)
    assert now["limit_now"] == pytest.approx(limit + sum(shares))
    # There is no update in the late start, when no value can be selected.
    assert now["updates"] == 3


@pytest.mark.parametrize("selection", [Rate(0.3), Rising()])
def test_the_share_is_that_of_the_values_that_could_be_selected(selection, rng):
    """A neuron without a history, here for want of a finite batch, has no
    score: its values count neither as selected nor as passed over."""
    layer = MEmeL(selection, late_start=1)
    x = rng.normal(size=(2, 8, 4)).astype("float32")
    x[0, :, 0] = np.inf
    step(layer, x[0], np.ones_like(x[0]))
    before = {
        key: ops.convert_to_tensor(np.copy(state(layer)[key]))
        for key in selection.initial_state()
    }
    y, _ = step(layer, x[1], np.ones_like(x[1]))
    chosen = y != x[1]
    assert not chosen[:, 0].any()
    assert 0 < chosen[:, 1:].mean() < 1
    share = np.float32(chosen[:, 1:].mean())
    for key, expected in selection.update(share, **before).items():
        found = state(layer)[key]
        np.testing.assert_allclose(
            found, ops.convert_to_numpy(expected), rtol=1e-5
        )


def test_a_selection_of_ones_own_cannot_select_what_has_no_score(rng):
    layer = MEmeL(Everything(), Halve(), late_start=2)
    changed = [(x != y).mean() for x, _, y, _ in trained(layer, rng)]
    assert changed == [0, 0, 1, 1]
    x = rng.normal(size=(4, 6)).astype("float32")
    x[0, 0] = np.nan
    y, _ = step(layer, x, np.ones_like(x))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    rate = float(ops.convert_to_numpy(layer.inhibited_rate.value))
    assert rate == pytest.approx(23 / 24)


def test_an_inhibition_of_ones_own_adds_its_loss(rng):
    layer = MEmeL(Everything(), Shrink(), late_start=1)
    steps = trained(layer, rng, steps=2)
    x0 = steps[0][0]
    x, r, y, gradient = steps[1]
    np.testing.assert_array_equal(y, x)
    expected = r + 2 * (x - x0.mean(axis=0))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_names_that_the_layer_has_are_refused_as_state():
    class Clash(Above):
        def initial_state(self):
            return {"steps": 0.0}

    with pytest.raises(ValueError, match="not attributes of the layer") as e:
        MEmeL(Clash(1.0)).build((None, 3))
    assert "Received: 'steps' from Clash" in str(e.value)


def test_a_selection_must_select(rng):
    class Idle(Selection):
        pass

    with pytest.raises(NotImplementedError, match="Idle must override"):
        trained(MEmeL(Idle(), late_start=0), rng)


@pytest.mark.parametrize(
    ("selection", "inhibition", "custom_objects"),
    [
        (Above(1.0), Halve(0.25), None),
        (Rising(0.25), "observe", None),
        (
            Everything(),
            Shrink(),
            {"Everything": Everything, "Shrink": Shrink},
        ),
    ],
    ids=["registered", "with_state", "custom_objects"],
)
def test_ones_own_are_saved_and_loaded(
    selection, inhibition, custom_objects, rng, tmp_path
):
    layer = MEmeL(selection, inhibition, late_start=1)
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = rng.normal(size=(12, 6)).astype("float32")
    model.fit(x, x[:, :2], batch_size=4, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(
        tmp_path / "model.keras", custom_objects=custom_objects
    ).layers[0]
    assert type(again.selection) is type(layer.selection)
    assert again.selection.get_config() == layer.selection.get_config()
    assert type(again.inhibition) is type(layer.inhibition)
    assert again.inhibition.get_config() == layer.inhibition.get_config()
    assert state(layer)["steps"] == 3
    assert_state(again, state(layer))


def test_ones_own_without_a_registration_says_what_is_missing():
    config = MEmeL(Everything()).get_config()
    with pytest.raises(TypeError, match=re.compile("Everything")):
        MEmeL.from_config(config)


def test_ones_own_need_no_registration_to_be_inserted(rng):
    dense = keras.layers.Dense(6, name="h")
    model = keras.Sequential([keras.Input((6,)), dense, keras.layers.Dense(2)])
    layer = MEmeL(Everything(), Shrink(), late_start=1)
    insert(model, "h", layer)
    (copy,) = inserted(model).values()
    assert copy.selection is layer.selection
    assert copy.inhibition is layer.inhibition
    model.compile("sgd", "mse")
    x = rng.normal(size=(12, 6)).astype("float32")
    model.fit(x, x[:, :2], batch_size=4, verbose=0)
    assert state(copy)["steps"] == 3
    assert state(copy)["inhibited_rate"] == 1


@pytest.mark.parametrize("base", [Selection, Inhibition])
def test_arguments_without_a_config_are_not_replaced_by_defaults(base):
    class Forgotten(base):
        def __init__(self, factor=9.0):
            self.factor = factor

    class Added(Forgotten):
        def get_config(self):
            return {**super().get_config(), "factor": self.factor}

    own = Forgotten(2.0)
    assert repr(own) == "Forgotten(...)"
    assert repr(Added(2.0)) == "Added(factor=2.0)"
    layer = MEmeL(**{base.__name__.lower(): own}, late_start=0)
    with pytest.raises(NotImplementedError, match="Forgotten must override"):
        layer.get_config()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    with pytest.raises(NotImplementedError, match=r"arguments \['factor'\]"):
        insert(model, "dense*", layer)
    assert not inserted(model)


class AtRandom(TopK):
    """A placebo for TopK: as many, drawn blindly."""

    random = True

    def __call__(self, score, seed):
        drawn = keras.random.uniform(ops.shape(score), seed=seed)
        return super().__call__(ops.where(score >= 0, drawn, -1.0))


class Least(Threshold):
    """All that a Threshold leaves, the values without a score included."""

    def __call__(self, score):
        return ops.logical_not(super().__call__(score))


class OfTheBatch(TopK):
    """The k highest scores of the whole batch."""

    def __call__(self, score):
        flat = ops.reshape(score, (1, -1))
        return ops.reshape(super().__call__(flat), ops.shape(score))


class Named(TopK):
    """Overrides nothing that a shorter way is taken for."""

    def get_config(self):
        return super().get_config()


class SummedPenalty(LogPenalty):
    def loss(self, values, mask, mean):
        number = ops.maximum(ops.sum(ops.cast(mask, "float32")), 1.0)
        return super().loss(values, mask, mean) * number


def warm(selection, rng):
    layer = MEmeL(selection, late_start=1)
    x = rng.normal(size=(2, 8, 40)).astype("float32")
    y = [step(layer, part, np.ones_like(part))[0] for part in x]
    np.testing.assert_array_equal(y[0], x[0])
    return y[1] != x[1]


def test_an_overridden_selection_is_called_in_place_of_the_short_way(
    rng, monkeypatch
):
    # PyTorch: several blocks of samples, if it took some at a time.
    monkeypatch.setattr(kernels.own, "BLOCK_SIZE", 60, raising=False)
    assert warm(AtRandom(3), rng).sum(axis=1).tolist() == [3] * 8
    assert warm(OfTheBatch(3), rng).sum() == 3
    chosen = warm(Named(3), np.random.default_rng(0))
    expected = warm(TopK(3), np.random.default_rng(0))
    np.testing.assert_array_equal(chosen, expected)


def test_an_overridden_selection_cannot_select_what_has_no_score(rng):
    layer = MEmeL(Least(), Halve(), axis=-1, late_start=1)
    x = rng.normal(size=(2, 4, 6)).astype("float32")
    mask = np.arange(4) < 3
    step(layer, x, np.ones_like(x))
    y, _ = step(layer, x, np.ones_like(x), mask=np.stack([mask, ~mask]))
    changed = (x != y).any(-1)
    np.testing.assert_array_equal(changed, np.stack([mask, ~mask]))


def test_what_a_class_promises_ends_with_what_it_promises_it_of():
    assert TopK.skips_negative
    assert TopK.by_sample
    assert Named.skips_negative
    assert Named.by_sample
    assert not AtRandom.skips_negative
    assert not AtRandom.by_sample
    assert LogPenalty.loss_is_mean
    assert not SummedPenalty.loss_is_mean

    class Again(OfTheBatch):
        skips_negative = True

    assert Again.skips_negative


def test_a_scan_does_not_pass_over_an_overridden_call():
    class Loud(MEmeL):
        def call(self, inputs, mask=None, training=None):
            return super().call(inputs, mask=mask, training=training)

    with pytest.raises(ValueError, match=r"override `call`.*type Loud"):
        ConvGRU2D(1, 1, memel=Loud())
