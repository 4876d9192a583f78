"""prompt of PyTorch modules: as of Keras models; and of Hugging Face ones."""

import keras
import numpy as np
import pytest

from keras_memel import prompt

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch
from torch import nn


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(27, 6)
        self.layer = nn.Linear(6, 5)

    def forward(self, input_ids, attention_mask=None):
        return self.layer(self.embed(input_ids))


def letters(text):
    return [1 + ord(letter) - ord("a") for letter in text]


def test_each_token_has_the_values_of_each_neuron():
    model = Text().train()
    found = prompt(model, "memel", tokenizer=letters)
    assert found.tokens == ["13", "5", "13", "5", "12"]
    assert list(found.activations) == ["embed", "layer"]
    with torch.no_grad():
        values = model(torch.tensor([letters("memel")]))[0].numpy()
    np.testing.assert_allclose(found.activations["layer"], values, rtol=1e-6)
    assert model.training
    padded = {
        "input_ids": torch.tensor([[0, *letters("memel")]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1, 1, 1]]),
    }
    again = prompt(model, padded, "layer")
    assert again.tokens == found.tokens
    np.testing.assert_allclose(again.activations["layer"], values, rtol=1e-6)
    with pytest.raises(ValueError, match="causal language"):
        prompt(model, "memel", tokenizer=letters, generate=1)


def neox():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    return transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            max_position_embeddings=32,
            initializer_range=0.5,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )


def tokenizer():
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = [*"<?!", *(f"word{i}" for i in range(37))]
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {word: number for number, word in enumerate(words)}, unk_token="?"
        )
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="?"
    )


@pytest.mark.filterwarnings("ignore")
def test_values_are_those_that_the_model_had_while_it_generated():
    model = neox().train()
    block = "gpt_neox.layers.1.mlp.dense_h_to_4h"
    text = "word3 word14 word1 word5"
    found = prompt(model, text, block, tokenizer=tokenizer(), generate=5)
    assert found.tokens[:4] == text.split()
    assert found.generated_from == 4
    assert model.training
    model.eval()
    steps = []
    hook = model.get_submodule(block).register_forward_hook(
        lambda module, args, output: steps.append(output[0].numpy())
    )
    ids = torch.tensor([tokenizer()(text)["input_ids"]])
    with torch.no_grad():
        made = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=5
        )
    hook.remove()
    assert found.tokens == tokenizer().convert_ids_to_tokens(made[0].tolist())
    seen = np.concatenate(steps)
    assert len(seen) == len(found.tokens) - 1
    np.testing.assert_allclose(
        found.activations[block][:-1], seen, rtol=1e-3, atol=1e-4
    )
    plain = prompt(model, text, tokenizer=tokenizer())
    assert plain.generated_from is None
    assert block in plain.activations


class Named:
    def __call__(self, text):
        return letters(text)

    def convert_ids_to_tokens(self, ids):
        return [f"t{one}" for one in ids]


class Tokens(Text):
    def forward(self, tokens, attention_mask=None):
        return super().forward(tokens)


def test_the_ids_are_not_the_mask_nor_those_of_the_encoder():
    x = {
        "attention_mask": np.array([[1, 1, 1]]),
        "tokens": np.array([[5, 6, 7]]),
    }
    for given in (x, dict(reversed(x.items()))):
        found = prompt(Tokens(), given, "layer", tokenizer=Named())
        assert found.tokens == ["t5", "t6", "t7"]
    transformers = pytest.importorskip("transformers")
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=50,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        )
    )
    x = {
        "inputs_embeds": np.zeros((1, 3, 8), "float32"),
        "attention_mask": np.array([[1, 1, 1]]),
    }
    found = prompt(bert, x, "encoder.layer.0", tokenizer=Named())
    assert found.tokens == ["0", "1", "2"]
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(
            vocab_size=50,
            d_model=8,
            d_kv=4,
            d_ff=16,
            num_layers=1,
            num_decoder_layers=1,
            num_heads=2,
        )
    )
    x = {
        "input_ids": np.array([[5, 6, 7]]),
        "attention_mask": np.array([[1, 1, 0]]),
        "decoder_input_ids": np.array([[0, 8, 9]]),
    }
    blocks = ["encoder.block.0", "decoder.block.0"]
    for layer, tokens in (
        (blocks[0], ["t5", "t6"]),
        (blocks[1], ["t0", "t8", "t9"]),
        ("lm_head", ["t0", "t8", "t9"]),
    ):
        assert prompt(t5, x, layer, tokenizer=Named()).tokens == tokens
    with pytest.raises(ValueError, match="encoder or of the decoder"):
        prompt(t5, x, blocks, tokenizer=Named())
    assert prompt(t5, x, tokenizer=Named()).tokens == ["t5", "t6"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "left", "types"])
def test_padding_and_types_are_those_of_the_generation(kind):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=50,
            n_embd=8,
            n_layer=1,
            n_head=2,
            n_positions=32,
            initializer_range=0.5,
            bos_token_id=2,
            eos_token_id=3,
            pad_token_id=0,
        )
    ).eval()
    x = {"input_ids": np.array([[2, 4, 5]])}
    if kind == "left":
        x = {
            "input_ids": np.array([[0, 0, 2, 4, 5]]),
            "attention_mask": np.array([[0, 0, 1, 1, 1]]),
        }
    if kind == "types":
        x["token_type_ids"] = np.array([[7, 8, 9]])
    block, seen = "transformer.h.0", []

    def note(module, args, output):
        whole = output[0] if isinstance(output, tuple) else output
        seen.append(whole.detach().reshape(-1, 8))

    hook = model.get_submodule(block).register_forward_hook(note)
    found = prompt(model, x, block, generate=4)
    hook.remove()
    number = len(found.tokens) - 1
    assert number >= 3
    during = torch.cat(seen[:-1]).numpy()[-number:]  # The last is `prompt`'s.
    np.testing.assert_allclose(
        found.activations[block][:-1], during, rtol=1e-3, atol=1e-4
    )
    x["position_ids"] = np.arange(x["input_ids"].shape[1])[None]
    with pytest.raises(ValueError, match="`position_ids`"):
        prompt(model, x, block, generate=4)
