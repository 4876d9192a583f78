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
