"""MEmeL in models of keras_hub and keras.applications."""

import keras
import numpy as np
import pytest
from models import mean
from models import numbers
from models import same
from models import statistics
from models import steps

from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip
from keras_memel.paper import kdd2024

pytestmark = [
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
]

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 8)
LENGTHS = 3 + np.arange(8) % 5
PADDING = (np.arange(8) < LENGTHS[:, None]).astype("int32")
TOKENS = {
    "token_ids": RNG.integers(5, 30, (8, 8)) * PADDING,
    "padding_mask": PADDING,
}
IMAGES = RNG.normal(size=(8, 16, 16, 3)).astype("float32")
VALUES = RNG.normal(size=(8, 8, 8)).astype("float32")


def hub():
    return pytest.importorskip("keras_hub")


def bert(layers=4, preprocessor=None):
    backbone = hub().models.BertBackbone(
        vocabulary_size=30,
        num_layers=layers,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
        dropout=0.0,
    )
    model = hub().models.BertTextClassifier(
        backbone=backbone,
        num_classes=2,
        dropout=0.0,
        preprocessor=preprocessor,
    )
    compile_classifier(model)
    segments = np.zeros((8, 8), "int32")
    return model, {**TOKENS, "segment_ids": segments}, LABELS


def compile_classifier(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss=loss)


def swin():
    backbone = hub().models.SwinTransformerBackbone(
        image_shape=(16, 16, 3),
        embed_dim=4,
        depths=(1, 3),
        num_heads=(1, 1),
        window_size=2,
        patch_size=4,
        drop_path=0.0,
    )
    model = hub().models.SwinTransformerImageClassifier(
        backbone=backbone, num_classes=2, preprocessor=None
    )
    compile_classifier(model)
    return model, IMAGES, LABELS


def gpt_neo_x():
    model = hub().models.GPTNeoXBackbone(
        vocabulary_size=30,
        num_layers=4,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        rotary_percentage=1.0,
        max_sequence_length=8,
        dropout=0.0,
    )
    model.compile("sgd", "mse")
    return model, dict(TOKENS), VALUES


def resnet():
    backbone = hub().models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64],
        stackwise_num_blocks=[1, 2],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
        image_shape=(16, 16, 3),
    )
    model = hub().models.ResNetImageClassifier(
        backbone=backbone, num_classes=2, preprocessor=None
    )
    compile_classifier(model)
    return model, IMAGES, LABELS


def mobile_net():
    model = keras.applications.MobileNetV2(
        input_shape=(32, 32, 3), weights=None, alpha=0.35, classes=2
    )
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model, IMAGES.repeat(2, 1).repeat(2, 2), LABELS


MODELS = {
    "bert": (bert, "middle:2", {"axis": -1}),
    "swin": (swin, "middle:1", {}),
    "gpt_neo_x": (gpt_neo_x, "middle:2", {"axis": -1}),
    "resnet": (resnet, "stack1_block*_add", {}),
    "mobile_net": (mobile_net, "block_[25]_add", {}),
}
PAPER = ("bert", "swin")
once = pytest.mark.once


def outputs(model, x):
    return keras.tree.flatten(model.predict_on_batch(x))


@pytest.mark.parametrize(
    "name",
    # The paper's, and those of others.
    [n if n in PAPER else pytest.param(n, marks=once) for n in MODELS],
)
def test_insert_fit_save_load_strip(name, tmp_path):
    keras.utils.set_random_seed(0)
    make, where, arguments = MODELS[name]
    model, x, y = make()
    kind, before = type(model), outputs(model, x)
    weights = numbers(model.weights)

    insert(model, where, MEmeL(late_start=1, **arguments))
    assert list(inserted(model)) == find(model, where)
    assert same(outputs(model, x), before)
    strip(model)
    assert same(outputs(model, x), before)
    assert same(numbers(model.weights), weights)

    insert(model, where, MEmeL(late_start=1, **arguments))
    model.fit(x, y, batch_size=4, verbose=0)
    assert set(steps(model)) == {2.0}
    assert all(float(m.inhibited_rate) > 0 for m in inserted(model).values())

    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded) is kind
    assert same(statistics(loaded), statistics(model))
    after = outputs(model, x)
    for a, b in zip(outputs(loaded, x), after):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    number = len(model.weights)
    strip(model)
    assert len(model.weights) == len(weights) < number
    assert same(outputs(model, x), after)


def test_the_middle_of_bert_base_and_swin_is_the_papers():
    model, *_ = bert(layers=12)
    assert find(model, "middle:4") == [
        f"{model.backbone.name}/transformer_layer_{i}" for i in (4, 5, 6, 7)
    ]
    stages = hub().models.SwinTransformerBackbone(
        image_shape=(32, 32, 3),
        embed_dim=4,
        depths=(2, 2, 6),
        num_heads=(1, 1, 1),
        window_size=2,
        patch_size=4,
    )
    assert find(stages, "middle:4") == [
        f"stage_2/blocks_{i}" for i in (1, 2, 3, 4)
    ]
    assert any(part.path is None for part in stages._flatten_layers())


def test_statistics_of_bert_are_those_of_the_unpadded_tokens():
    keras.utils.set_random_seed(0)
    model, x, _ = bert()
    where = "transformer_layer_[12]"
    taps = keras.Model(
        model.backbone.input,
        [
            model.backbone.get_layer(f"transformer_layer_{i}").output
            for i in (1, 2)
        ],
    )
    values = outputs(taps, x)
    insert(model, where, MEmeL(axis=-1, late_start=100))

    model(x, training=True)

    real = PADDING.astype(bool)
    for layer, site in zip(inserted(model).values(), values):
        unpadded = site[real].astype("float64")
        np.testing.assert_allclose(
            mean(layer), unpadded.mean(0), rtol=1e-5, atol=1e-5
        )
        np.testing.assert_allclose(
            numbers([layer.moving_variance])[0],
            unpadded.var(0, ddof=1),
            rtol=1e-4,
            atol=1e-6,
        )
        assert set(numbers([layer.count])[0]) == {float(PADDING.sum())}
    assert not np.allclose(mean(layer), site.reshape(-1, 8).mean(0), atol=1e-4)


def test_padding_counts_nowhere_inside_bert():
    model, x, _ = bert(layers=2)
    backbone = model.backbone.name
    layer = f"{backbone}/transformer_layer_0/"
    where = [
        f"{backbone}/embeddings_layer_norm",
        f"{backbone}/embeddings_add",
        layer + "self_attention_layer",
        layer + "self_attention_layer/query",
        layer + "feedforward_intermediate_dense",
    ]
    insert(model, where, MEmeL(axis=-1))
    model(x, training=True)

    for path, memel in inserted(model).items():
        heads = 2 if path.endswith("query") else 1
        assert set(numbers([memel.count])[0]) == {heads * PADDING.sum()}, path


def test_padding_changes_nothing_that_is_learned():
    def train(garbage):
        keras.utils.set_random_seed(0)
        model, x, y = bert()
        x = {**x, "token_ids": np.where(PADDING, x["token_ids"], garbage)}
        insert(model, "middle:2", MEmeL(axis=-1, late_start=1))
        model.fit(x, y, batch_size=4, shuffle=False, epochs=2, verbose=0)
        return model

    one, other = train(0), train(29)
    for a, b in zip(statistics(one), statistics(other)):
        for first, second in zip(a, b):
            np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)


def bert_of_texts():
    words = ["a", "fine", "film", "dull", "and", "long", "but", "bright"]
    try:
        tokenizer = hub().models.BertTokenizer(
            vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        )
        preprocessor = hub().models.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=8
        )
    except ImportError as error:
        pytest.skip(f"keras_hub cannot tokenize here: {error}")
    return bert(preprocessor=preprocessor)[0]


def test_a_classifier_still_fits_on_raw_strings(tmp_path):
    model = bert_of_texts()
    texts = ["a fine film", "dull and long", "bright but long", "a dull film"]
    insert(model, "middle:2", MEmeL(axis=-1, late_start=0))

    model.fit(texts, [1, 0, 1, 0], batch_size=4, verbose=0)

    tokens = sum(len(text.split()) + 2 for text in texts)
    for layer in inserted(model).values():
        assert set(numbers([layer.count])[0]) == {float(tokens)}
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(
        loaded.predict(texts, verbose=0),
        model.predict(texts, verbose=0),
        atol=1e-6,
    )


def test_the_monitor_reads_raw_strings():
    model = insert(bert_of_texts(), "middle:2", MEmeL(axis=-1))
    texts = ["a fine film and bright", "dull"] * 20
    model.fit(texts, [1, 0] * 20, batch_size=8, verbose=0)
    memels = inserted(model)
    scales = [
        MonosemanticityMonitor(x=x)._scales(model, memels)
        for x in (texts, np.array(texts))
    ]
    assert scales[0].keys() == memels.keys()
    for path, values in scales[1].items():
        np.testing.assert_array_equal(scales[0][path], values)


def test_the_papers_bert_has_a_neuron_for_each_position(tmp_path):
    model = bert_of_texts()
    insert(model, "middle:4", MEmeL(**kdd2024))
    assert {m.count.shape for m in inserted(model).values()} == {(8, 8)}

    model.fit(["a fine film", "dull"], [1, 0], batch_size=2, verbose=0)
    layer = next(iter(inserted(model).values()))
    assert list(numbers([layer.count])[0][:, 0]) == [2, 2, 2, 1, 1, 0, 0, 0]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert same(statistics(loaded), statistics(model))

    plain, *_ = bert()
    with pytest.raises(ValueError, match="axis=-1"):
        insert(plain, "middle:4", MEmeL(**kdd2024))


def test_presets_hold_the_plain_model_and_say_so(tmp_path):
    model, x, _ = bert()
    plain = outputs(model, x)
    insert(model, "middle:2", MEmeL(axis=-1))

    with pytest.warns(UserWarning, match="its 2 inserted MEmeL") as caught:
        model.save_to_preset(tmp_path / "preset")
    assert caught[0].filename == __file__

    assert len(inserted(model)) == 2
    backbone = hub().models.BertBackbone.from_preset(str(tmp_path / "preset"))
    assert inserted(backbone) == {}
    loaded = hub().models.BertTextClassifier.from_preset(
        str(tmp_path / "preset"), preprocessor=None
    )
    for a, b in zip(outputs(loaded, x), plain):
        np.testing.assert_allclose(a, b, atol=1e-6)


@once
@pytest.mark.parametrize("order", ["lora first", "insert first"])
def test_lora_of_a_backbone_and_insertion_mix_in_any_order(order, tmp_path):
    keras.utils.set_random_seed(0)
    model, x, y = bert()
    if order == "lora first":
        model.backbone.enable_lora(2)
    insert(model, "middle:2", MEmeL(axis=-1, late_start=0))
    if order == "insert first":
        model.backbone.enable_lora(2)
    compile_classifier(model)
    model.fit(x, y, batch_size=4, verbose=0)

    assert steps(model) == [2.0, 2.0]
    # Query and value of each block, A and B; and pooler and head, or head.
    lora = [w for w in model.trainable_weights if "lora" in w.path]
    assert len(lora) == 4 * 2 * 2
    model.backbone.save_lora_weights(tmp_path / "w.lora.h5")
    other, *_ = bert()
    other.backbone.enable_lora(2)
    other.backbone.load_lora_weights(tmp_path / "w.lora.h5")
    others = [w for w in other.trainable_weights if "lora" in w.path]
    assert same(numbers(lora), numbers(others))


@once
def test_int8_bert_with_memel():
    model, x, _ = bert(layers=2)
    insert(model, "transformer_layer_0", MEmeL(axis=-1, late_start=0))
    model.quantize("int8")
    reference = outputs(model, x)
    model(x, training=True)
    assert steps(model) == [1.0]
    assert same(outputs(strip(model), x), reference)
