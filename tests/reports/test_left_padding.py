"""The page aligns tokens with the positions that are not padding."""

import keras
import numpy as np
import pytest
from page_payload import data

from keras_memel import analyze

pytestmark = pytest.mark.once


@pytest.mark.parametrize("left", [True, False])
def test_tokens_are_shaded_by_their_own_values(left, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((10,), dtype="int32"),
            keras.layers.Embedding(50, 8, mask_zero=True),
            keras.layers.Dense(4, name="hidden"),
        ]
    )
    ids = np.random.default_rng(0).integers(1, 50, (20, 8))
    x = np.pad(ids, ((0, 0), (2, 0) if left else (0, 2)))
    report = analyze(model, x, layers="hidden", verbose=0)
    texts = [" ".join(f"w{one}" for one in row) for row in ids]
    path = tmp_path / "page.html"
    report.to_html(path, inputs=texts, tokenize=str.split)
    shown = data(path)["prompts"]
    assert shown
    for one in shown:
        row = one["input"]
        own = model.predict(x[row : row + 1], verbose=0)[0]
        own = own[2:] if left else own[:8]
        for neuron, values in zip(one["neurons"], one["values"]):
            np.testing.assert_allclose(values, own[:, neuron], atol=1e-3)
    if left:
        with pytest.warns(UserWarning, match="padded on the left"):
            report.to_html(
                path, inputs=texts, tokenize=lambda text: text.split()[:5]
            )
        assert not data(path)["prompts"]
