"""The authors' module, traced; `golden/README.md` says how."""

from pathlib import Path

import numpy as np
import pytest
from steps import state
from steps import step

from keras_memel import MEmeL
from keras_memel import ReverseDeactivation
from keras_memel import TopK

pytestmark = pytest.mark.quick

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_reproduces_the_authors_module(path):
    trace = np.load(path)
    delta = float(trace["delta"])
    layer = MEmeL(
        TopK(int(trace["k"])),
        ReverseDeactivation(delta),
        axis=None,
        forget_steps=10,
        late_start=10,
        epsilon=0.01,
        score_with="current",
    )
    tolerance = 1e-5 if delta < 5 else 1e-4
    inhibited = 0
    for t, x in enumerate(trace["inputs"]):
        y, gradient = step(layer, x, trace["cotangents"][t])
        np.testing.assert_allclose(y, trace["outputs"][t], atol=tolerance)
        np.testing.assert_allclose(
            gradient, trace["input_grads"][t], atol=tolerance
        )
        inhibited += (y != x).sum()
        if t < 10:
            np.testing.assert_array_equal(y, x)
        now = state(layer)
        if t == 0:  # their code counts the first batch twice
            layer.count.assign(np.full(layer.count.shape, 2.0 * len(x)))
            continue
        np.testing.assert_allclose(
            now["moving_mean"], trace["mean_after"][t], rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            now["moving_variance"], trace["variance_after"][t], rtol=1e-4
        )
    batch = trace["inputs"].shape[1]
    assert inhibited == (t + 1 - 10) * batch * int(trace["k"])


def test_the_traces_are_there():
    assert len(GOLDEN) == 3
