"""Masks and batch axes of PyTorch modules: which values belong to an input."""

import keras
import numpy as np
import pytest

from keras_memel import MEmeL
from keras_memel import analyze
from keras_memel import insert
from keras_memel import inserted

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

import torch
from torch import nn

BATCH, LENGTH, WIDTH = 12, 10, 8
RATE = {"selection": "rate", "axis": -1}


class Model(nn.Module):
    """Embedding, and further modules that `body` calls."""

    def __init__(self, body, **modules):
        super().__init__()
        self.embed = nn.Embedding(50, WIDTH)
        self.body = body
        for name, module in modules.items():
            self.add_module(name, module)


class Text(Model):
    def forward(self, input_ids, attention_mask=None):
        return self.body(self, self.embed(input_ids), attention_mask)


@pytest.fixture
def ids(rng):
    return rng.integers(1, 50, (BATCH, LENGTH))


@pytest.fixture
def mask(rng):
    """Texts of 2 to 9 tokens."""
    lengths = rng.integers(2, LENGTH, (BATCH, 1))
    return (np.arange(LENGTH) < lengths).astype("int64")


def outputs_of(model, layer, *inputs):
    """Return the output of a layer, in NumPy."""
    found = []
    hook = layer.register_forward_hook(lambda _, args, out: found.append(out))
    model.eval()
    with torch.no_grad():
        model(*map(torch.as_tensor, inputs))
    hook.remove()
    return found[0].double().numpy()


def expect(report, rows):
    """Compare with the moments of rows, `(rows, neurons)`."""
    assert (report.count == len(rows)).all()
    np.testing.assert_allclose(report.mean, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(
        report.variance, rows.var(0, ddof=1), rtol=1e-3, atol=1e-8
    )


def transposed(model, x, _):
    return model.inner(x.transpose(1, 2)).relu().amax(-1)


def flattened(model, x, _):
    return model.inner(x.reshape(-1, WIDTH)).reshape(len(x), -1, 4)


def in_heads(model, x, _):
    return model.inner(x.reshape(*x.shape[:2], 2, WIDTH // 2))


def heads_first(model, x, _):
    x = x.reshape(*x.shape[:2], 2, WIDTH // 2).transpose(1, 2)
    return model.inner(x)


LAYOUTS = {
    "channels first": (
        transposed,
        lambda: nn.Conv1d(WIDTH, 4, 3, padding=1),
        lambda values, valid: np.moveaxis(values, 1, 2)[valid],
    ),
    "channels first, as many as positions": (
        transposed,
        lambda: nn.Conv1d(WIDTH, LENGTH, 3, padding=1),
        lambda values, valid: np.moveaxis(values, 1, 2)[valid],
    ),
    "flattened": (
        flattened,
        lambda: nn.Linear(WIDTH, 4),
        lambda values, valid: values[valid.reshape(-1)],
    ),
    "flattened, normalized": (
        flattened,
        lambda: nn.Sequential(nn.Linear(WIDTH, 4), nn.BatchNorm1d(4)),
        lambda values, valid: values[valid.reshape(-1)],
    ),
    "heads": (
        in_heads,
        lambda: nn.LayerNorm(WIDTH // 2),
        lambda values, valid: values[valid].reshape(-1, WIDTH // 2),
    ),
    "heads first": (
        heads_first,
        lambda: nn.LayerNorm(WIDTH // 2),
        lambda values, valid: np.moveaxis(values, 1, 2)[valid].reshape(
            -1, WIDTH // 2
        ),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_is_left_out_wherever_the_positions_are(layout, ids, mask):
    body, inner, rows_of = LAYOUTS[layout]
    model, x = Text(body, inner=inner()), {"input_ids": ids}
    x["attention_mask"] = mask
    where = "inner.1" if "normalized" in layout else "inner"
    layer = model.get_submodule(where)
    values = outputs_of(model, layer, ids, mask)
    report = analyze(model, x, layers=where, batch_size=5, verbose=0)[where]
    expect(report, rows_of(values, mask.astype(bool)))
    axis = 1 if layout.startswith("channels first") else -1
    insert(model, where, MEmeL("rate", axis=axis)).train()
    model(*map(torch.as_tensor, (ids, mask)))
    counted = len(rows_of(values, mask.astype(bool)))
    assert float(inserted(model)[where].count.max()) == counted


@pytest.mark.parametrize("inner", [nn.Linear(WIDTH, 4), nn.BatchNorm1d(WIDTH)])
def test_merged_axes_keep_the_number_of_the_input(inner, ids):
    model = Text(flattened, inner=inner)
    if isinstance(inner, nn.BatchNorm1d):
        model.body = lambda model, x, _: model.inner(x.reshape(-1, WIDTH))
    ids[7] = 49
    ids[np.arange(BATCH) != 7] %= 49
    report = analyze(model, ids, layers="inner", verbose=0, batch_size=5)
    layer = report["inner"]
    assert layer.sizes == (LENGTH,)
    values = outputs_of(model, model.inner, ids)
    neurons = values.shape[-1]
    values = values.reshape(BATCH, LENGTH, neurons)
    far = (values - values.mean((0, 1))) ** 2
    for neuron in range(neurons):
        where = layer.top_input[neuron, 0], layer.top_position[neuron, 0]
        assert far[*where, neuron] == pytest.approx(far[..., neuron].max())
    labels = np.arange(BATCH) == 7
    report = analyze(model, ids, labels, layers="inner", verbose=0)
    np.testing.assert_allclose(
        report["inner"].label_mean[:, 1], values[7].mean(0), atol=1e-6
    )


def test_windows_belong_to_their_image(rng):
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 2)

        def forward(self, images):
            windows = images.reshape(len(images) * 4, 4, 3)
            return self.inner(windows).reshape(len(images), -1)

    model = Windows()
    x = rng.normal(size=(6, 16, 3)).astype("float32")
    x[4] += 9
    found = analyze(model, x, layers="inner", verbose=0)["inner"]
    assert found.sizes == (4, 4)
    assert (found.top_input[:, 0] == 4).all()


@pytest.mark.parametrize("number", [30, 5])
def test_a_batch_on_the_second_axis_is_refused(number, rng):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.LSTM(WIDTH, 3)  # batch_first=False

        def forward(self, x):
            return self.inner(x.transpose(0, 1))[0][-1]

    x = rng.normal(size=(number, 5, WIDTH)).astype("float32")
    with pytest.raises(ValueError, match="batch_first=True"):
        analyze(Recurrent(), x, layers="inner", verbose=0)


def test_merged_axes_that_begin_with_another_one_are_refused(ids):
    def flattened_steps(model, x, _):
        return model.inner(x.transpose(0, 1).reshape(-1, WIDTH))

    model = Text(flattened_steps, inner=nn.Linear(WIDTH, 4))
    with pytest.raises(ValueError, match="one row per input"):
        analyze(model, ids, layers="inner", verbose=0)


def test_rows_that_depend_on_the_values_are_refused(rng):
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x[x[:, 0] > 0])

    x = rng.normal(size=(20, 3)).astype("float32")
    with pytest.raises(ValueError, match="one row per input"):
        analyze(Routed(), x, layers="inner", verbose=0)


class Translator(Model):
    """A wrapper of `nn.Transformer`, with a layer after it."""

    def __init__(self):
        super().__init__(None)
        self.inner = nn.Transformer(
            *(WIDTH, 2, 1, 1, 16), batch_first=True, dropout=0.0
        )
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, src, tgt, src_key_padding_mask=None):
        src, tgt = self.embed(src), self.embed(tgt)
        key = src_key_padding_mask
        return self.head(self.inner(src, tgt, src_key_padding_mask=key))


@pytest.mark.parametrize("length", [5, LENGTH])
def test_a_decoder_does_not_have_the_mask_of_its_encoder(length, ids, mask):
    x = {"src": ids, "tgt": ids[:, :length], "src_key_padding_mask": mask == 0}
    encoder, decoder = (f"inner.{name}coder.layers.0" for name in ("en", "de"))
    model = Translator()
    report = analyze(model, x, layers=[encoder, decoder, "head"], verbose=0)
    assert (report[encoder].count == mask.sum()).all()
    assert (report[decoder].count == BATCH * length).all()
    assert (report["head"].count == BATCH * length).all()
    insert(model, [encoder, decoder, "head"], MEmeL(**RATE)).train()
    model(*(torch.as_tensor(value) for value in x.values()))
    counts = [float(memel.count[0]) for memel in inserted(model).values()]
    assert counts == [mask.sum(), BATCH * length, BATCH * length]


def test_an_image_does_not_have_the_mask_of_the_text(rng, ids, mask):
    class Vision(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 4)

        def forward(self, pixel_values):
            return self.inner(pixel_values)

    class Both(Model):
        def forward(self, input_ids, pixel_values, attention_mask=None):
            text = self.embed(input_ids).mean(1)
            return text.sum(1) + self.vision(pixel_values).sum((1, 2))

    patches = rng.normal(size=(BATCH, LENGTH, 3)).astype("float32")
    x = {"input_ids": ids, "pixel_values": patches, "attention_mask": mask}
    model = Both(None, vision=Vision())
    report = analyze(model, x, layers=["embed", "vision.inner"], verbose=0)
    assert (report["embed"].count == mask.sum()).all()
    assert (report["vision.inner"].count == BATCH * LENGTH).all()


def test_positions_that_are_pooled_have_no_mask(ids, mask):
    def pooled(model, x, _):
        return model.inner(x.reshape(len(x), LENGTH // 2, 2, WIDTH).mean(2))

    model = Text(pooled, inner=nn.Linear(WIDTH, 4))
    x = {"input_ids": ids, "attention_mask": mask}
    report = analyze(model, x, layers="inner", verbose=0)
    assert (report["inner"].count == BATCH * LENGTH // 2).all()


def test_a_step_of_generation_has_the_end_of_the_mask(ids, mask):
    model = Text(lambda model, x, _: model.inner(x), inner=nn.Linear(8, 4))
    insert(model, "inner", MEmeL(**RATE)).train()
    left_padded = np.ascontiguousarray(mask[:, ::-1])
    left_padded[:3, -2:] = 0
    model(torch.as_tensor(ids[:, -2:]), torch.as_tensor(left_padded))
    counted = left_padded[:, -2:].sum()
    assert float(inserted(model)["inner"].count[0]) == counted < 2 * BATCH


@pytest.mark.parametrize("kind", ["additive", "allowed", "forbidden"])
def test_a_mask_of_pairs_is_not_one_of_positions(kind, ids):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x, attention_mask=None):
            return self.inner(x)

    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    pairs = {
        "additive": torch.zeros(causal.shape).masked_fill(~causal, -np.inf),
        "allowed": causal,
        "forbidden": ~causal,
    }[kind]

    class Causal(Model):
        def forward(self, ids):
            return self.block(self.embed(ids), pairs)

    model = Causal(None, block=Block())
    for size in (5, LENGTH):  # LENGTH: the mask has the shape of the batch
        found = analyze(
            model, ids[:10], layers="block", batch_size=size, verbose=0
        )
        assert (found["block"].count == 10 * LENGTH).all()


def test_an_encoder_of_pytorch_with_padding(ids, mask):
    class Encoder(Model):
        def forward(self, src, src_key_padding_mask=None):
            key = src_key_padding_mask
            return self.inner(self.embed(src), src_key_padding_mask=key)

    layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True)
    model = Encoder(None, inner=nn.TransformerEncoder(layer, 2))
    x = {"src": ids, "src_key_padding_mask": mask == 0}
    layers = ["inner.layers.0", "inner.layers.1.linear1"]
    report = analyze(model, x, layers=layers, verbose=0)
    model.train()  # Dropout is 0, and no fast path replaces the layers.
    seen = []
    module = model.get_submodule(layers[0])
    hook = module.register_forward_hook(lambda _, args, out: seen.append(out))
    with torch.no_grad():
        model(*(torch.as_tensor(value) for value in x.values()))
    hook.remove()
    expect(report[layers[0]], seen[0].double().numpy()[mask.astype(bool)])
    assert (report[layers[1]].count == mask.sum()).all()
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_default_leaves_out_what_has_no_input(ids):
    class Tables(Model):
        def forward(self, input_ids):
            places = self.places(torch.arange(LENGTH)[None])
            return self.head((self.embed(input_ids) + places).mean(1))

    model = Tables(
        None,
        places=nn.Embedding(LENGTH, WIDTH),
        head=nn.Linear(WIDTH, 2),
        unused=nn.Linear(2, 2),
    )
    labels = np.arange(BATCH) % 2
    report = analyze(model, ids, labels, verbose=0)
    assert list(report.layers) == ["embed", "head"]
    with pytest.raises(ValueError, match="one row per input"):
        analyze(model, ids, layers="places", verbose=0)
    with pytest.raises(ValueError, match="never called"):
        analyze(model, ids, layers="unused", verbose=0)

    class Nothing(Model):
        def forward(self, x):
            return x * 2.0

    with pytest.raises(ValueError, match="one row per input"):
        analyze(Nothing(None), np.ones((4, 3), "float32"), verbose=0)


def test_inputs_have_the_dtype_of_the_weights_and_not_of_an_index(rng):
    class Reordered(nn.Module):
        def __init__(self):
            super().__init__()
            order = torch.tensor([2, 0, 1])
            self.order = nn.Parameter(order, requires_grad=False)
            self.inner = nn.Linear(3, 2)

        def forward(self, x):
            return self.inner(x[:, self.order].float())

    model, x = Reordered(), rng.random((50, 3)).astype("float32")
    values = outputs_of(model, model.inner, x)
    expect(analyze(model, x, layers="inner", verbose=0)["inner"], values)
