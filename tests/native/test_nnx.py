"""The layer as a Flax NNX module, which is chosen before Keras is imported."""

import importlib.util

import pytest
from processes import run
from scripts import HELPERS
from steps import BACKEND

pytestmark = [
    pytest.mark.skipif(BACKEND != "jax", reason="of JAX"),
    pytest.mark.skipif(
        not importlib.util.find_spec("flax"), reason="Flax is not installed"
    ),
]


def test_a_layer_is_a_module_of_flax():
    run("nnx_modules.py", cwd=HELPERS, KERAS_NNX_ENABLED="true")
