"""prompt: what each neuron does at each token, also of generated ones."""

import contextlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_memel import MEmeL
from keras_memel import analyze
from keras_memel import insert
from keras_memel import prompt

BACKEND = keras.backend.backend()
# In byte-pair tokens, G with a dot means a blank. keras_hub pads with 0.
TOKENS = ["!", "a", "b", "c", "d", "e", "Ġ", "ab", "Ġa", "Ġab"]
TOKENS += ["<|endoftext|>"]


def letters(text):
    return [1 + ord(letter) - ord("a") for letter in text]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(27, 4, name="embedding"),
            keras.layers.Dense(3, "tanh", name="hidden"),
            keras.layers.GlobalAveragePooling1D(name="mean"),
            keras.layers.Dense(2, name="out"),
        ]
    )


def hidden(model, ids):
    table = ops.convert_to_numpy(model.layers[0].embeddings)
    kernel, bias = (ops.convert_to_numpy(w) for w in model.layers[1].weights)
    return np.tanh(table[np.asarray(ids)] @ kernel + bias)


@pytest.mark.quick
def test_each_token_has_the_values_of_each_neuron(model):
    found = prompt(model, "memel", tokenizer=letters)
    assert found.tokens == ["13", "5", "13", "5", "12"]
    assert found.generated_from is None
    # Layers without a value per token are left out.
    assert list(found.activations) == ["embedding", "hidden"]
    values = found.activations["hidden"]
    assert (values.dtype, values.shape) == ("float32", (5, 3))
    expected = hidden(model, letters("memel"))
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    for given in (
        np.array([letters("memel")]),
        ops.convert_to_tensor([letters("memel")]),
    ):
        again = prompt(model, given, "hidden")
        assert list(again.activations) == ["hidden"]
        np.testing.assert_allclose(again.activations["hidden"], values)


def test_the_most_deviating_neurons_come_first(model):
    found = prompt(model, "memel", "hidden", tokenizer=letters)
    values = hidden(model, letters("memel")).astype("float64")
    expected = (values - values.mean(0)) / values.std(0, ddof=1)
    np.testing.assert_allclose(found.deviations("hidden"), expected, atol=1e-4)
    table = found.to_dataframe()
    assert table["deviation"].abs().is_monotonic_decreasing
    for _, row in table.iterrows():
        at, neuron = row["position"], row["neuron"]
        assert at == np.abs(expected[:, neuron]).argmax()
        np.testing.assert_allclose(row["activation"], values[at, neuron], 1e-4)
        np.testing.assert_allclose(row["deviation"], expected[at, neuron], 1e-3)
        assert row["token"] == found.tokens[at]
        assert not row["generated"]
    assert len(found.to_dataframe(top=2)) == 2
    assert repr(found) == "<PromptReport of 5 tokens, neurons {'hidden': 3}>"
    with pytest.raises(ValueError, match=r"\['hidden'\].*'out'"):
        found.deviations("out")


def test_against_a_report(model):
    x = np.random.default_rng(0).integers(1, 27, (50, 6))
    report = analyze(model, x, layers=["hidden"], verbose=0)
    found = prompt(model, "memel", tokenizer=letters, report=report)
    assert list(found.activations) == ["hidden"]
    seen = hidden(model, x).reshape(-1, 3).astype("float64")
    values = hidden(model, letters("memel"))
    expected = (values - seen.mean(0)) / seen.std(0, ddof=1)
    np.testing.assert_allclose(found.deviations("hidden"), expected, rtol=1e-3)
    # With a report, a single token has deviations; without one, it has none.
    one = prompt(model, "m", "hidden", tokenizer=letters, report=report)
    np.testing.assert_allclose(one.deviations("hidden"), expected[:1], 1e-3)
    alone = prompt(model, "m", "hidden", tokenizer=letters)
    assert np.isnan(alone.deviations("hidden")).all()
    assert alone.to_dataframe()["deviation"].isna().all()


def test_neurons_that_do_not_vary_come_last():
    model = keras.Sequential(
        [keras.Input((None, 2)), keras.layers.ReLU(name="z")]
    )
    z = np.array([[[0.1, 1.0], [0.1, 5.0], [0.1, 1.0]]])
    found = prompt(model, z, "z")
    assert found.tokens == ["0", "1", "2"]
    table = found.to_dataframe()
    assert table["neuron"].tolist() == [1, 0]
    assert table["deviation"].isna().tolist() == [False, True]


def test_padding_is_left_out():
    model = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(27, 4, mask_zero=True, name="embedding"),
        ]
    )
    found = prompt(model, [[0, 3, 1, 0, 2, 0]])
    assert found.tokens == ["3", "1", "2"]
    table = ops.convert_to_numpy(model.layers[0].embeddings)
    np.testing.assert_allclose(
        found.activations["embedding"], table[[3, 1, 2]], rtol=1e-6
    )


def test_vectors_have_one_position():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    found = prompt(model, np.ones((1, 3), "float32"))
    assert found.tokens == ["0"]
    ((_, values),) = found.activations.items()
    assert values.shape == (1, 2)


def test_a_memel_that_acts_at_inference_changes_nothing_before_it(model):
    model = keras.models.clone_model(model)
    plain = prompt(model, "memel", "hidden", tokenizer=letters)
    insert(model, "hidden", MEmeL(axis=-1, late_start=0, at_inference=True))
    found = prompt(model, "memel", tokenizer=letters)
    np.testing.assert_array_equal(
        found.activations["hidden"], plain.activations["hidden"]
    )


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        ("memel", {}, "`tokenizer` is required"),
        ("memel", {"tokenizer": str.split}, "one or more token ids"),
        ("", {"tokenizer": letters}, "which are integers"),
        (np.ones((2, 3), "int32"), {}, r"batch size 1.*\(2, 3\)"),
        (np.ones(3, "int32"), {}, "batch size 1"),
        ("memel", {"tokenizer": letters, "generate": 2}, "causal language"),
        ("memel", {"tokenizer": letters, "generate": -1}, "`generate`"),
        ("memel", {"tokenizer": letters, "layers": "out"}, "per token"),
        ("memel", {"tokenizer": letters, "layers": "hide"}, "'hidden'"),
        ("memel", {"tokenizer": letters, "report": {}}, "must be a Report"),
    ],
)
def test_refuses(model, given, arguments, message):
    with pytest.raises(ValueError, match=message):
        prompt(model, given, **arguments)


def test_refuses_a_report_of_something_else(model):
    x = np.random.default_rng(0).integers(1, 27, (20, 5))

    def asked(report):
        return prompt(
            model, "memel", "hidden", tokenizer=letters, report=report
        )

    with pytest.raises(ValueError, match="'hidden' is missing"):
        asked(analyze(model, x, layers="embedding", verbose=0))
    with pytest.raises(ValueError, match="axis=-1"):
        asked(analyze(model, x, layers="hidden", axis=None, verbose=0))
    given = {"hidden": np.eye(3)}
    with pytest.raises(ValueError, match="directions in"):
        asked(analyze(model, x, directions=given, verbose=0))
    with pytest.raises(ValueError, match="built Keras model"):
        prompt(keras.Sequential([keras.layers.Dense(2)]), "memel")


@pytest.fixture(scope="module")
def causal(quick_compilation):
    hub = pytest.importorskip("keras_hub")
    keras.utils.set_random_seed(3)
    tokenizer = hub.models.GPT2Tokenizer(
        vocabulary={token: i for i, token in enumerate(TOKENS)},
        merges=["a b", "Ġ a", "Ġ ab"],
    )
    backbone = hub.models.GPT2Backbone(
        vocabulary_size=len(TOKENS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=16,
        name="gpt2_backbone",  # whatever other files of tests have made
    )
    # With the initial weights, the model repeats the first token.
    for weight in backbone.weights:
        values = np.random.default_rng(len(weight.shape)).normal(
            size=weight.shape
        )
        weight.assign(values)
    model = hub.models.GPT2CausalLM(
        backbone,
        preprocessor=hub.models.GPT2CausalLMPreprocessor(
            tokenizer=tokenizer, sequence_length=12
        ),
    )
    model.compile(sampler="greedy")
    return model


BLOCK = "gpt2_backbone/transformer_layer_0"


@pytest.mark.filterwarnings("ignore")
def test_generated_tokens_are_those_of_generate(causal):
    found = prompt(causal, "ab ab cd", BLOCK, generate=4)
    assert found.generated_from == 6
    assert found.tokens[:6] == ["<|endoftext|>", "ab", "Ġab", "Ġ", "c", "d"]
    made = causal.generate("ab ab cd", max_length=10)
    assert "".join(found.tokens[1:]).replace("Ġ", " ") == made
    assert len(found.tokens) == 10
    table = found.to_dataframe()
    assert (table["generated"] == (table["position"] >= 6)).all()
    assert f"{len(found.tokens) - 6} generated" in repr(found)
    # Without generated tokens, the values of the prompt are the same.
    plain = prompt(causal, "ab ab cd", BLOCK)
    assert plain.tokens == found.tokens[:6]
    np.testing.assert_allclose(
        plain.activations[BLOCK],
        found.activations[BLOCK][:6],
        rtol=1e-3,
        atol=1e-4,
    )


@contextlib.contextmanager
def traced_anew(model):
    """While generating, a layer gets what stands in its `call` now.

    JAX tells the values out of its compiled loop; that of TensorFlow, whose
    layer would have symbols only, is left uncompiled.
    """
    before = model.run_eagerly, model.generate_function
    model.run_eagerly = BACKEND == "tensorflow"
    model.generate_function = None
    try:
        yield
    finally:
        model.run_eagerly, model.generate_function = before


def told(values, steps):
    if BACKEND != "jax":
        steps.append(ops.convert_to_numpy(values))
        return
    import jax

    jax.debug.callback(
        lambda own: steps.append(np.asarray(own)), values, ordered=True
    )


@pytest.mark.filterwarnings("ignore")
def test_values_are_those_that_the_model_had_while_it_generated(causal):
    layer = causal.backbone.transformer_layers[0]
    steps, call = [], layer.call

    def noting(*args, **kwargs):
        outputs = call(*args, **kwargs)
        told(outputs[0] if isinstance(outputs, tuple) else outputs, steps)
        return outputs

    layer.call = noting
    try:
        with traced_anew(causal):
            made = causal.generate("ab ab cd", max_length=9)
    finally:
        layer.call = call
    # Without recording, the model generates the same text.
    found = prompt(causal, "ab ab cd", BLOCK, generate=3)
    assert "".join(found.tokens[1:]).replace("Ġ", " ") == made
    # The first step fills the cache; each other one has a single token.
    seen = np.concatenate([one[0] for one in steps[1:]])
    assert len(seen) >= 2
    np.testing.assert_allclose(
        found.activations[BLOCK][5 : 5 + len(seen)],
        seen,
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_numbers_of_tokens_generate_too(causal):
    wanted = prompt(causal, "ab ab cd", BLOCK, generate=3)
    ids = np.array([[10, 7, 9, 6, 3, 4, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 1, 1, 0, 0]])
    for given in (ids[:, :6], {"token_ids": ids, "padding_mask": mask}):
        found = prompt(causal, given, BLOCK, generate=3)
        assert found.tokens == wanted.tokens
        assert found.generated_from == 6
        np.testing.assert_allclose(
            found.activations[BLOCK], wanted.activations[BLOCK], rtol=1e-5
        )


@pytest.mark.once
@pytest.mark.filterwarnings("ignore")
def test_a_classifier_of_keras_hub_reads_a_text():
    hub = pytest.importorskip("keras_hub")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = hub.models.BertTokenizer(
        vocabulary=[*vocabulary, "good", "film", "##s", "a"]
    )
    backbone = hub.models.BertBackbone(
        vocabulary_size=9,
        num_layers=1,
        num_heads=2,
        hidden_dim=4,
        intermediate_dim=8,
        max_sequence_length=8,
        name="reader",  # Pages print the name that Keras gives the first one.
    )
    model = hub.models.BertTextClassifier(
        backbone,
        num_classes=2,
        preprocessor=hub.models.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=8
        ),
    )
    found = prompt(model, "a good films")
    assert found.tokens == ["[CLS]", "a", "good", "film", "##s", "[SEP]"]
    assert all(len(v) == 6 for v in found.activations.values())
    with pytest.raises(ValueError, match="causal language"):
        prompt(model, "a good films", generate=2)
