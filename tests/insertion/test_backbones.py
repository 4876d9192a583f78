"""Padding in all backbones of keras_hub that read texts: it counts nowhere."""

import keras
import numpy as np
import pytest
from backbones import BACKBONES
from backbones import BATCH
from backbones import UNKNOWN
from backbones import inputs

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel.insertion.forward import LOST_PADDING

pytestmark = [
    # keras_hub and its dependencies warn.
    pytest.mark.filterwarnings("ignore"),
]

# JAX compiles operation by operation: a few there, and all on PyTorch.
ON_EACH_BACKEND = ("Roberta", "T5", "PaliGemma")


def expected(parts, x):
    """How often a neuron is counted in a call on inputs `x`."""
    return sum(
        round(BATCH * part)
        if isinstance(part, (int, float))
        else np.count_nonzero(x[part])
        for part in parts
    )


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ON_EACH_BACKEND
        else pytest.param(name, marks=pytest.mark.once)
        for name in BACKBONES
    ],
)
def test_each_sequence_is_counted_by_its_own_mask(name):
    pytest.importorskip("keras_hub")
    make, where = BACKBONES[name]
    model = make()
    x = inputs(model)
    parts = {}
    for pattern, sequence in where.items():
        before = set(inserted(model))
        insert(model, pattern, MEmeL(axis=-1, inhibition="observe"), output=0)
        parts |= dict.fromkeys(set(inserted(model)) - before, sequence)

    model(keras.tree.map_structure(keras.ops.convert_to_tensor, x), training=1)

    for path, layer in inserted(model).items():
        if parts[path] == UNKNOWN:
            assert vars(layer).get(LOST_PADDING), path
            continue
        count = keras.ops.convert_to_numpy(layer.count)
        assert set(count) == {expected(parts[path], x)}, path
        assert not vars(layer).get(LOST_PADDING), path
