"""Padding masks of models with several sequences reach inserted layers."""

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel.insertion.forward import LOST_PADDING
from keras_memel.insertion.padding import Padding
from keras_memel.insertion.sequences import graph_of

TIME = 4
# Source and target have the same length, so only the graph distinguishes them.
SOURCE = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]], "int32")
TARGET = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], "int32")
BATCH = len(SOURCE)


class Block(layers.Layer):
    """A residual block, which knows nothing of padding."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(2, name="dense")

    def build(self, shape):
        self.dense.build(shape)
        self.built = True

    def call(self, x, attend=None):
        return x + self.dense(x)

    def compute_output_shape(self, x_shape, *args, **kwargs):
        return x_shape


class Cross(Block):
    """A block with a second sequence."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.other = layers.Dense(2, name="other")

    def build(self, x_shape, context_shape):
        super().build(x_shape)
        self.other.build(context_shape)

    def call(self, x, context, attend=None):
        pooled = ops.mean(self.other(context), axis=1, keepdims=True)
        return super().call(x + pooled)


def tokens(name, length=None):
    return keras.Input((length,), dtype="int32", name=name)


def counts(model, x, where="block*"):
    """How often each layer that `where` names counts in one training step."""
    insert(model, where, MEmeL(axis=-1, inhibition="observe"))
    model.compile("sgd", "mse")
    y = model(x, training=False)
    y = keras.tree.map_structure(ops.convert_to_numpy, y)
    model.fit(x, y, batch_size=BATCH, verbose=0)
    found = {}
    for path, layer in inserted(model).items():
        if vars(layer).get(LOST_PADDING):
            found[path] = "lost"
        else:
            found[path] = int(ops.convert_to_numpy(layer.count)[0])
    return found


def translator():
    """An encoder-decoder model."""
    named = {
        "encoder_token_ids": tokens("encoder_token_ids"),
        "encoder_padding_mask": tokens("encoder_padding_mask"),
        "decoder_token_ids": tokens("decoder_token_ids"),
        "decoder_padding_mask": tokens("decoder_padding_mask"),
    }
    embed = layers.Embedding(9, 2, name="block_shared")
    encoded = embed(named["encoder_token_ids"])
    attend = ops.expand_dims(named["encoder_padding_mask"], 1)
    encoded = Block(name="block_encoder")(encoded, attend=attend)
    decoded = embed(named["decoder_token_ids"])
    decoded = Cross(name="block_decoder")(decoded, encoded, attend=attend)
    return keras.Model(named, layers.Dense(2, name="block_head")(decoded))


PADDED = {
    "encoder_token_ids": SOURCE,
    "encoder_padding_mask": SOURCE,
    "decoder_token_ids": TARGET,
    "decoder_padding_mask": TARGET,
}


def test_encoder_and_decoder_of_one_length():
    where = ["block*", "block_decoder/*"]
    assert counts(translator(), PADDED, where) == {
        # Called twice: both sequences.
        "block_shared": SOURCE.sum() + TARGET.sum(),
        "block_encoder": SOURCE.sum(),
        "block_decoder": TARGET.sum(),
        "block_decoder/dense": TARGET.sum(),
        # Cross-attention: a part that receives the source.
        "block_decoder/other": SOURCE.sum(),
        "block_head": TARGET.sum(),
    }


def test_encoder_and_decoder_inside_another_model():
    inner = translator()
    named = {name: tokens(name) for name in inner.input}
    outputs = Block(name="block_after")(inner(named))
    found = counts(keras.Model(named, outputs), PADDED, "block_[ad]*")
    assert {p.split("/")[-1]: n for p, n in found.items()} == {
        "block_decoder": TARGET.sum(),
        "block_after": TARGET.sum(),
    }


def test_the_inputs_of_a_model_in_a_list():
    ids, mask = tokens("token_ids"), tokens("padding_mask")
    embedded = layers.Embedding(9, 2)(ids)
    attend = ops.expand_dims(mask, 1)
    outputs = Block(name="block")(embedded, attend=attend)
    model = keras.Model([ids, mask], outputs)
    assert counts(model, [SOURCE, TARGET]) == {"block": TARGET.sum()}


@pytest.mark.parametrize("as_layer", [True, False])
def test_patches_stand_before_the_text(as_layer):
    named = {
        "images": keras.Input((3, 2), name="images"),
        "token_ids": tokens("token_ids"),
        "padding_mask": tokens("padding_mask"),
    }
    patches = Block(name="block_patches")(named["images"])
    text = layers.Embedding(9, 2)(named["token_ids"])
    join = layers.Concatenate(1) if as_layer else ops.concatenate
    x = join([patches, text]) if as_layer else join([patches, text], axis=1)
    model = keras.Model(named, Block(name="block_joined")(x))
    x = {
        "images": np.ones((BATCH, 3, 2), "float32"),
        "token_ids": SOURCE,
        "padding_mask": SOURCE,
    }
    model = insert(model, "block_joined", MEmeL(axis=-1))
    model(keras.tree.map_structure(ops.convert_to_tensor, x), training=True)
    (layer,) = inserted(model).values()
    assert int(ops.convert_to_numpy(layer.count)[0]) == 3 * BATCH + SOURCE.sum()


def test_images_have_no_padding_and_no_warning():
    named = {
        "images": keras.Input((TIME, TIME, 2), name="images"),
        "token_ids": tokens("token_ids"),
        "padding_mask": tokens("padding_mask"),
    }
    image = layers.Reshape((TIME * TIME, 2), name="block_image")(
        layers.Conv2D(2, 1, name="block_convolution")(named["images"])
    )
    text = layers.Embedding(9, 2, name="block_text")(named["token_ids"])
    pooled = [layers.GlobalAveragePooling1D()(one) for one in (image, text)]
    model = keras.Model(named, layers.Add()(pooled))
    x = {
        "images": np.ones((BATCH, TIME, TIME, 2), "float32"),
        "token_ids": SOURCE,
        "padding_mask": SOURCE,
    }
    assert counts(model, x) == {
        "block_convolution": BATCH * TIME**2,
        "block_image": BATCH * TIME**2,
        "block_text": SOURCE.sum(),
    }


def test_a_convolution_that_shortens_the_sequence_loses_its_mask():
    named = {
        "values": keras.Input((None, 2), name="values"),
        "padding_mask": tokens("padding_mask"),
    }
    same = layers.Conv1D(2, 3, padding="same", name="block_same")
    shorter = layers.Conv1D(2, 3, name="block_shorter")
    outputs = Block(name="block_after")(shorter(same(named["values"])))
    x = {
        "values": np.ones((BATCH, TIME, 2), "float32"),
        "padding_mask": SOURCE,
    }
    model = keras.Model(named, outputs)
    # TensorFlow may not know the length: the graph must know without it.
    graph = graph_of(model)
    inputs = graph.runtime_inputs(x)
    assert graph.mask_of(same, inputs) is SOURCE
    assert graph.mask_of(shorter, inputs) is Padding.UNKNOWN
    assert counts(model, x) == {
        "block_same": SOURCE.sum(),
        "block_shorter": "lost",
        "block_after": "lost",
    }


class Masked(Block):
    """A block that takes a padding mask."""

    def call(self, x, attention_mask=None):
        return super().call(x)


def test_a_mask_that_the_model_computes_is_known_where_it_is_passed():
    ids = tokens("token_ids")
    x = layers.Embedding(9, 2, name="block_embedding")(ids)
    x = Masked(name="block_masked")(x, attention_mask=ops.not_equal(ids, 0))
    model = keras.Model(ids, Block(name="block_after")(x))
    assert counts(model, SOURCE, "block_[ma]*") == {
        "block_masked": SOURCE.sum(),
        "block_after": "lost",
    }


class Translator(keras.Model):
    """The model as a class, which passes its masks to no layer."""

    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(9, 2, name="embed")
        self.block = Block(name="block")

    def call(self, inputs):
        return self.block(self.embed(inputs["encoder_token_ids"]))


def test_a_class_with_two_masks_is_not_guessed():
    model = Translator()
    model(PADDED)
    assert counts(model, PADDED, ["embed", "block"]) == {
        # It receives an input that has a mask, by the names of both.
        "embed": SOURCE.sum(),
        "block": "lost",
    }


class Pictures(keras.Model):
    """Pictures with a text, as high as the text is long."""

    def __init__(self):
        super().__init__()
        self.convolution = layers.Conv2D(2, 1, name="block")

    def build(self, shapes):
        self.convolution.build(shapes["images"])

    def call(self, inputs):
        return self.convolution(inputs["images"])


def test_rows_of_a_picture_are_no_positions_of_a_text():
    model = Pictures()
    x = {
        "images": np.ones((BATCH, TIME, TIME, 2), "float32"),
        "token_ids": SOURCE,
        "padding_mask": SOURCE,
    }
    model(x)
    assert counts(model, x) == {"block": "lost"}


def test_a_deep_model_is_followed():
    named = {
        "token_ids": tokens("token_ids"),
        "padding_mask": tokens("padding_mask"),
    }
    x = layers.Embedding(9, 2)(named["token_ids"])
    for _ in range(600):
        x = ops.negative(x)
    model = keras.Model(named, layers.Dense(2, name="block")(x))
    model = insert(model, "block", MEmeL(axis=-1))
    x = {"token_ids": SOURCE, "padding_mask": SOURCE}
    model(x, training=True)
    (layer,) = inserted(model).values()
    assert int(ops.convert_to_numpy(layer.count)[0]) == SOURCE.sum()
