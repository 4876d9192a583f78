"""Bad input is refused in words; good input of every kind is understood.

An error names the argument, what was expected, and what was received.
"""

import keras
import numpy as np
import pytest
from keras import ops
from steps import step

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Observe
from keras_memel import Random
from keras_memel import RandomK
from keras_memel import Rate
from keras_memel import ReverseDeactivation
from keras_memel import Selection
from keras_memel import Threshold
from keras_memel import TopK
from keras_memel import inhibitions
from keras_memel import selections

NAN, INF = float("nan"), float("inf")
WHOLE = "a whole number of at least 1"
SHARE = "between 0 and 1, both excluded"
AXES = "None, an integer, or a tuple of integers"
SELECTIONS = "one of ['random', 'random_k', 'rate', 'threshold', 'top_k']"
INHIBITIONS = "one of ['naive_a', 'naive_b', 'observe', 'penalty', 'reverse']"


def table(*rows):
    """One case for each value of each row."""
    return [
        pytest.param(
            make, name, value, expected, id=f"{make.__name__}-{name}-{value!r}"
        )
        for make, name, expected, values in rows
        for value in values
    ]


@pytest.mark.parametrize(
    ("make", "name", "value", "expected"),
    table(
        (TopK, "k", WHOLE, [0, -1, 1.0, 2.5, NAN, "1", None, True, [1]]),
        (Rate, "rate", SHARE, [0, 0.0, 1, 1.5, -0.1, NAN, INF, "0.1", None]),
        (Rate, "gain", "between 0 and 1", [0.0, 1.0, -1, NAN, "fast"]),
        (Random, "rate", SHARE, [0.0, 1.0, NAN, "0.02", True]),
        (Random, "seed", "an integer or None", [-1, 0.5, "one", False]),
        (RandomK, "k", WHOLE, [0, 1.0, True]),
        (RandomK, "seed", "an integer or None", [-1, 0.5]),
        (Threshold, "threshold", "above 0", [0.0, -9.0, NAN, INF, "9", None]),
        (
            ReverseDeactivation,
            "delta",
            "a finite number",
            [NAN, INF, "1", None],
        ),
        (LogPenalty, "weight", "at least 0", [-1e-3, NAN, INF, "1", None]),
        (LogPenalty, "tiny", "above 0", [0.0, -1.0, NAN, "1e-6"]),
        (MEmeL, "selection", SELECTIONS, ["topk", "", 3, None, {"k": 1}]),
        (MEmeL, "selection", SELECTIONS, [Observe(), Observe, abs]),
        (MEmeL, "inhibition", INHIBITIONS, ["reversed", 1.0, None, TopK()]),
        (MEmeL, "score_with", "'history' or 'current'", ["past", None, 1]),
        (MEmeL, "epsilon", "at least 0", [-0.01, NAN, INF, "0.01", None]),
        (MEmeL, "forget_steps", "at least 1, or None", [0, -1, 10.0, "10"]),
        (MEmeL, "late_start", "at least 0", [-1, 2.5, None, "10", True]),
        (MEmeL, "at_inference", "a bool", [1, 0, None, "yes"]),
        (MEmeL, "axis", AXES, [1.0, "1", True, (), (1, 2.0), (1, None)]),
    ),
)
def test_a_wrong_argument_is_named(make, name, value, expected):
    with pytest.raises(
        ValueError, match=f"Argument `{name}` must be"
    ) as raised:
        make(**{name: value})
    message = str(raised.value)
    assert expected in message
    assert f"Received: {name}={value!r}" in message


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (TopK, {"k": np.int64(3)}),
        (Rate, {"rate": np.float32(0.5), "gain": 0.999}),
        (Random, {"rate": 0.999, "seed": 0}),
        (RandomK, {"k": np.int64(3), "seed": np.int64(0)}),
        (Threshold, {"threshold": 1}),
        (ReverseDeactivation, {"delta": -100}),
        (LogPenalty, {"weight": 0, "tiny": 1e-12}),
        (MEmeL, {"epsilon": 0, "late_start": 0, "forget_steps": 1}),
        (MEmeL, {"axis": np.int64(-1), "forget_steps": np.int32(2)}),
        (MEmeL, {"axis": [1, 3]}),
    ],
)
def test_the_ends_of_each_range_and_numpy_numbers_are_accepted(make, settings):
    config = make(**settings).get_config()
    for name, value in settings.items():
        found = config[name]
        assert found == (tuple(value) if isinstance(value, list) else value)
        # JSON can represent these types.
        assert type(found) in (int, float, tuple)


@pytest.mark.parametrize("axis", [0, -3, 3, -4, (1, 3), (0, 1), (-1, -3)])
def test_an_axis_that_the_inputs_lack_is_named(axis):
    with pytest.raises(ValueError, match="Argument `axis` must name") as raised:
        MEmeL(axis=axis).build((8, 5, 4))
    message = str(raised.value)
    assert "1 to 2 or -2 to -1 for inputs of rank 3" in message
    assert f"Received: axis={axis}" in message


@pytest.mark.parametrize("axis", [(1, 1), (2, -1), (-2, 2, 1)])
def test_an_axis_named_twice_is_refused(axis):
    with pytest.raises(ValueError, match="must name each axis once") as raised:
        MEmeL(axis=axis).build((8, 5, 4))
    assert f"Received: axis={axis}" in str(raised.value)


@pytest.mark.parametrize(
    ("axis", "shape", "unknown"),
    [
        (None, (None, None, 4), 1),
        (None, (None, 3, None), 2),
        (-1, (None, 3, None), 2),
        ((1, 2), (8, None, 4), 1),
    ],
)
def test_a_neuron_axis_of_unknown_size_is_refused(axis, shape, unknown):
    layer = MEmeL(axis=axis)
    with pytest.raises(ValueError, match="axes of known size") as raised:
        layer(keras.Input(batch_shape=shape))
    message = str(raised.value)
    assert "Pass `axis=-1`" in message
    assert f"fix the size of axis {unknown}" in message
    assert f"Received: axis={axis}, input_shape={shape}" in message


def test_the_cure_that_the_error_names_works(rng):
    model = keras.Sequential([keras.Input((None, 4)), MEmeL(axis=-1)])
    for length in (3, 5):
        model(rng.normal(size=(2, length, 4)), training=True)
    assert float(model.layers[0].steps) == 2
    assert model.layers[0].moving_mean.shape == (4,)


def test_k_above_the_values_of_a_sample_is_refused_at_build():
    MEmeL(TopK(12)).build((None, 3, 4))
    with pytest.raises(ValueError, match="Argument `k` of `TopK`") as raised:
        MEmeL(TopK(13)).build((None, 3, 4))
    message = str(raised.value)
    assert "at most the number of values of a sample" in message
    assert "Received: k=13 for samples of shape (3, 4)" in message
    assert "12 values" in message


def test_k_above_the_values_of_a_sample_is_refused_at_the_call(rng):
    layer = MEmeL(TopK(13), axis=-1)
    layer.build((None, None, 4))
    step(layer, *rng.normal(size=(2, 2, 4, 4)).astype("float32"))
    with pytest.raises(ValueError, match="Argument `k` of `TopK`") as raised:
        step(layer, *rng.normal(size=(2, 2, 3, 4)).astype("float32"))
    assert "Received: k=13 for samples of shape (3, 4)" in str(raised.value)
    assert float(layer.steps) == 1


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "complex64"])
def test_inputs_that_are_not_real_numbers_are_refused(dtype):
    x = ops.convert_to_tensor(np.ones((2, 3), dtype))
    with pytest.raises(ValueError, match="Argument `inputs`") as raised:
        MEmeL()(x, training=True)
    message = str(raised.value)
    assert "must be of a floating-point dtype" in message
    assert f"Received: inputs of dtype {dtype}" in message


def test_integer_inputs_are_refused_while_the_model_is_built():
    with pytest.raises(ValueError, match="inputs of dtype int32"):
        MEmeL()(keras.Input((3,), dtype="int32"))


@pytest.mark.parametrize("shape", [(3,), ()])
def test_inputs_without_neurons_are_refused(shape):
    with pytest.raises(ValueError, match="Argument `inputs`") as raised:
        MEmeL()(np.ones(shape, "float32"))
    message = str(raised.value)
    assert "a batch axis and at least one other axis" in message
    assert f"Received: input_shape={shape}" in message


@pytest.mark.parametrize(
    "shape", [(), (3,), (2, 4), (1, 3), (2, 1), (2, 3, 1), (2, 3, 4, 1)]
)
def test_a_mask_that_does_not_fit_is_refused(shape):
    x = np.ones((2, 3, 4), "float32")
    with pytest.raises(ValueError, match="Argument `mask`") as raised:
        MEmeL(axis=-1)(x, mask=np.ones(shape, bool), training=True)
    message = str(raised.value)
    assert "must have the leading dimensions of the inputs" in message
    expected = f"Received: mask of shape {shape} for inputs of shape (2, 3, 4)"
    assert expected in message


@pytest.mark.parametrize(
    ("axis", "good", "bad"),
    [
        (None, (5, 3, 4), (2, 3, 5)),
        (None, (5, 3, 4), (2, 2, 4)),
        (None, (5, 3, 4), (2, 4)),
        (-1, (2, 7, 4), (2, 3, 5)),
        (-1, (2, 7, 4), (2, 4)),
        (1, (2, 3, 7), (2, 4, 7)),
    ],
)
def test_a_second_width_is_refused(axis, good, bad):
    layer = MEmeL(axis=axis)
    layer(np.ones((2, 3, 4), "float32"))
    layer(np.ones(good, "float32"))
    with pytest.raises(
        ValueError, match=r"Input 0 .* of layer 'memel"
    ) as raised:
        layer(np.ones(bad, "float32"))
    assert "is incompatible with the layer: expected" in str(raised.value)
    assert str(bad) in str(raised.value)


# Every way to name a selection or an inhibition.


@pytest.mark.parametrize(
    ("get", "identifier", "kind", "config"),
    [
        (selections.get, "top_k", TopK, {"k": 1}),
        (selections.get, "rate", Rate, {"rate": 0.02, "gain": 0.1}),
        (selections.get, "threshold", Threshold, {"threshold": 9.0}),
        (selections.get, "random", Random, {"rate": 0.02, "seed": None}),
        (selections.get, "random_k", RandomK, {"k": 1, "seed": None}),
        (selections.get, TopK, TopK, {"k": 1}),
        (selections.get, TopK(5), TopK, {"k": 5}),
        (selections.get, Rate(0.1, 0.2), Rate, {"rate": 0.1, "gain": 0.2}),
        (selections.get, Random(0.1, 3), Random, {"rate": 0.1, "seed": 3}),
        (inhibitions.get, "reverse", ReverseDeactivation, {"delta": 1.0}),
        (inhibitions.get, "naive_a", ReverseDeactivation, {"delta": 0.0}),
        (inhibitions.get, "naive_b", ReverseDeactivation, {"delta": -1.0}),
        (
            inhibitions.get,
            "penalty",
            LogPenalty,
            {"weight": 1e-3, "tiny": 1e-6},
        ),
        (inhibitions.get, "observe", Observe, {}),
        (inhibitions.get, Observe, Observe, {}),
        (
            inhibitions.get,
            ReverseDeactivation(5),
            ReverseDeactivation,
            {"delta": 5.0},
        ),
    ],
)
def test_get_takes_names_objects_classes_and_configs(
    get, identifier, kind, config
):
    found = get(identifier)
    assert type(found) is kind
    assert found.get_config() == config
    module = selections if isinstance(found, Selection) else inhibitions
    again = get(module.serialize(found))
    assert type(again) is kind
    assert again is not found
    assert again.get_config() == config


def test_get_returns_an_object_as_it_is():
    selection, inhibition = TopK(2), Observe()
    assert selections.get(selection) is selection
    assert inhibitions.get(inhibition) is inhibition


def test_a_config_of_the_other_kind_is_refused():
    with pytest.raises(ValueError, match="Argument `selection`"):
        selections.get(inhibitions.serialize(Observe()))
    with pytest.raises(ValueError, match="Argument `inhibition`"):
        inhibitions.get(selections.serialize(TopK()))


def test_the_layer_config_holds_every_argument():
    layer = MEmeL(
        Rate(0.1),
        "naive_b",
        axis=(1, -1),
        forget_steps=None,
        late_start=3,
        epsilon=0.5,
        score_with="current",
        at_inference=True,
        name="watch",
        trainable=False,
        dtype="mixed_bfloat16",
    )
    again = MEmeL.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.selection.rate == 0.1
    assert again.inhibition.delta == -1.0
    assert again.axis == (1, -1)
    assert again.forget_steps is None
    assert again.late_start == 3
    assert again.epsilon == 0.5
    assert again.score_with == "current"
    assert again.at_inference is True
    assert again.name == "watch"
    assert again.trainable is False
    assert again.compute_dtype == "bfloat16"


def test_a_config_survives_json():
    layer = MEmeL(TopK(2), axis=(1, 2), name="watch")
    config = keras.saving.serialize_keras_object(layer)
    model = keras.Sequential([keras.Input((3, 4)), layer])
    again = keras.models.model_from_json(model.to_json()).layers[0]
    # JSON turns tuples into lists, and Keras back into tuples.
    assert again.get_config() == config["config"] | {
        "dtype": again.get_config()["dtype"]
    }
    assert again.axis == (1, 2)


def test_parts_print_as_what_makes_them():
    assert repr(TopK(5)) == "TopK(k=5)"
    assert repr(ReverseDeactivation()) == "ReverseDeactivation(delta=1.0)"
    assert repr(Observe()) == "Observe()"
