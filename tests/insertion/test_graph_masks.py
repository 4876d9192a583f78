"""The padding mask that the graph of a model has for the output of a layer."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops
from test_padding import SOURCE
from test_padding import TARGET
from test_padding import TIME
from test_padding import Block
from test_padding import Cross
from test_padding import Masked
from test_padding import tokens

from keras_memel.insertion.padding import Padding
from keras_memel.insertion.sequences import graph_of

pytestmark = pytest.mark.quick


def mask_after(model, name, given):
    """The mask that the graph knows after the layer of a name."""
    graph = graph_of(model)
    found = graph.mask_of(model.get_layer(name), graph.runtime_inputs(given))
    if found is None or isinstance(found, Padding):
        return found
    return ops.convert_to_numpy(found)


def text(length=None):
    """The inputs of a text, and what is given for them."""
    named = {
        "token_ids": tokens("token_ids", length),
        "padding_mask": tokens("padding_mask", length),
    }
    return named, {"token_ids": SOURCE, "padding_mask": SOURCE}


@pytest.mark.parametrize(
    ("length", "of_mask", "belongs"),
    [(4, 4, True), (None, 4, True), (4, None, True), (6, 4, False)],
)
def test_a_mask_belongs_to_inputs_of_its_length(length, of_mask, belongs):
    named = {
        "values": keras.Input((length, 2), name="values"),
        "padding_mask": tokens("padding_mask", of_mask),
    }
    outputs = layers.Dense(2, name="dense")(named["values"])
    given = {"values": np.ones((3, 4, 2)), "padding_mask": SOURCE}
    found = mask_after(keras.Model(named, outputs), "dense", given)
    assert found is None if not belongs else (found == SOURCE).all()


@pytest.mark.parametrize(
    ("layer", "keeps"),
    [
        (layers.Dense(2), True),
        (layers.Activation("relu"), True),
        (layers.Conv1D(2, 3, padding="same"), True),
        (layers.Conv1D(2, 3), False),
        (layers.Conv1D(2, 3, strides=2, padding="same"), False),
        (layers.Permute((2, 1)), False),
        (layers.GlobalAveragePooling1D(), False),
        (keras.Sequential([layers.Dense(2)]), True),
        (keras.Sequential([layers.Conv1D(2, 3)]), False),
    ],
    ids=lambda one: one.name if isinstance(one, keras.Layer) else "",
)
def test_a_mask_ends_where_positions_do_not_stay(layer, keeps):
    named, given = text()
    values = layers.Embedding(9, 2)(named["token_ids"])
    model = keras.Model(named, layer(values))
    found = mask_after(model, layer.name, given)
    assert (found == SOURCE).all() if keeps else found is Padding.UNKNOWN


def test_a_pooled_text_that_is_repeated_has_no_mask():
    """This holds even with as many channels as positions."""
    named, given = text(TIME)
    values = layers.Embedding(9, TIME)(named["token_ids"])
    pooled = layers.GlobalAveragePooling1D()(values)
    repeated = layers.RepeatVector(TIME, name="repeated")(pooled)
    found = mask_after(keras.Model(named, repeated), "repeated", given)
    assert found is Padding.UNKNOWN


def test_a_layer_that_takes_one_length_only_keeps_the_mask():
    named, given = text(TIME)
    values = layers.Embedding(9, 2)(named["token_ids"])
    model = keras.Model(named, layers.Reshape((TIME, 2), name="same")(values))
    np.testing.assert_array_equal(mask_after(model, "same", given), SOURCE)


def test_a_layer_that_takes_one_length_only_may_return_another():
    named, given = text(TIME)
    values = layers.Embedding(9, 2)(named["token_ids"])
    longer = layers.Reshape((2 * TIME, 1), name="longer")(values)
    found = mask_after(keras.Model(named, longer), "longer", given)
    assert found is Padding.UNKNOWN


def test_a_mask_has_the_whole_name_of_its_input_or_a_prefix_of_it():
    named = {
        name: tokens(name) for name in ("frames", "frames_mask", "padding_mask")
    }
    values = layers.Embedding(9, 2, name="embed")(named["frames"])
    given = {"frames": SOURCE, "frames_mask": TARGET, "padding_mask": SOURCE}
    found = mask_after(keras.Model(named, values), "embed", given)
    np.testing.assert_array_equal(found, TARGET)


def test_values_without_padding_next_to_a_text_may_have_its_padding():
    """The second input of a layer may be added to the first one."""
    named, given = text()
    named["images"] = keras.Input((TIME, 2), name="images")
    values = layers.Embedding(9, 2)(named["token_ids"])
    model = keras.Model(named, Cross(name="both")(named["images"], values))
    given = {**given, "images": np.ones((3, TIME, 2))}
    assert mask_after(model, "both", given) is Padding.UNKNOWN


def test_a_mask_that_is_computed_for_an_inner_model_is_not_known():
    named, _ = text()
    values = layers.Embedding(9, 2, name="embed")(named["token_ids"])
    inner = keras.Model(list(named.values()), values, name="inner")
    ids, mask = tokens("token_ids"), tokens("padding_mask")
    model = keras.Model([ids, mask], inner([ids, ops.maximum(mask, 0)]))
    assert mask_after(model, "inner", [SOURCE, SOURCE]) is Padding.UNKNOWN


def test_a_mask_that_is_passed_to_a_layer_goes_before_that_of_its_input():
    named, given = text()
    named["attended"] = tokens("attended")
    x = layers.Embedding(9, 2)(named["token_ids"])
    x = Masked(name="masked")(x, attention_mask=named["attended"])
    model = keras.Model(named, Block(name="after")(x))
    given = {**given, "attended": TARGET}
    for name in ("masked", "after"):
        np.testing.assert_array_equal(mask_after(model, name, given), TARGET)


@pytest.mark.parametrize("length", [None, TIME])
def test_the_mask_of_a_text_keeps_the_patches_before_it(length):
    named, given = text(length)
    named["images"] = keras.Input((3, 2), name="images")
    values = layers.Embedding(9, 2)(named["token_ids"])
    x = layers.Concatenate(1, name="joined")([named["images"], values])
    x = Masked(name="masked")(x, attention_mask=named["padding_mask"])
    model = keras.Model(named, Block(name="after")(x))
    given = {**given, "images": np.ones((3, 3, 2))}
    expected = np.concatenate([np.ones((3, 3)), SOURCE], axis=1)
    for name in ("joined", "masked", "after"):
        np.testing.assert_array_equal(mask_after(model, name, given), expected)


def test_channels_of_a_text_are_joined_under_its_mask():
    named, given = text()
    embed = layers.Embedding(9, 2)
    both = [embed(named["token_ids"]), embed(named["token_ids"])]
    model = keras.Model(named, layers.Concatenate(-1, name="joined")(both))
    np.testing.assert_array_equal(mask_after(model, "joined", given), SOURCE)


def test_an_unknown_number_of_patches_leaves_the_mask_open():
    named, given = text()
    named["images"] = keras.Input((None, 2), name="images")
    values = layers.Embedding(9, 2)(named["token_ids"])
    join = layers.Concatenate(1, name="joined")
    model = keras.Model(named, join([named["images"], values]))
    given = {**given, "images": np.ones((3, 3, 2))}
    assert mask_after(model, "joined", given) is Padding.UNKNOWN


def test_values_of_two_texts_have_the_mask_of_neither():
    named = {
        f"{side}_{kind}": tokens(f"{side}_{kind}")
        for side in ("encoder", "decoder")
        for kind in ("token_ids", "padding_mask")
    }
    embed = layers.Embedding(9, 2)
    both = [
        embed(named[f"{side}_token_ids"]) for side in ("encoder", "decoder")
    ]
    model = keras.Model(named, layers.Add(name="both")(both))
    given = dict.fromkeys(named, SOURCE)
    assert mask_after(model, "both", given) is Padding.UNKNOWN


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_a_model_knows_its_inputs_by_the_keys_of_its_own():
    named, _ = text()
    values = layers.Embedding(9, 2, name="embed")(named["token_ids"])
    keys = {"mask": named["padding_mask"], "ids": named["token_ids"]}
    model = keras.Model(keys, values)
    found = mask_after(model, "embed", {"ids": TARGET, "mask": SOURCE})
    np.testing.assert_array_equal(found, SOURCE)


def test_inputs_of_an_inner_model_may_come_in_another_order():
    named, _ = text()
    values = layers.Embedding(9, 2, name="embed")(named["token_ids"])
    inner = keras.Model(list(named.values()), values, name="inner")
    outer = {"padding_mask": tokens("padding_mask"), "z": tokens("z")}
    again = inner([outer["z"], outer["padding_mask"]])
    model = keras.Model(outer, Block(name="after")(again))
    given = {"z": TARGET, "padding_mask": SOURCE}
    for name in ("inner", "after"):
        np.testing.assert_array_equal(mask_after(model, name, given), SOURCE)


def test_a_mask_that_was_left_out_is_none():
    named, given = text()
    values = layers.Embedding(9, 2, name="embed")(named["token_ids"])
    model = keras.Model(named, values)
    del given["padding_mask"]
    assert mask_after(model, "embed", given) is None
