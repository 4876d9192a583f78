"""The identity of an arm is its content, and nothing else."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from recorder import quiet
from recorder import score

from keras_memel import MEmeL
from keras_memel.evaluation.identity import identify

pytestmark = pytest.mark.once


class State:
    def __init__(self, rate):
        self.rate = rate


CHANGED = np.zeros(5000)
CHANGED[2500] = 9.0


@pytest.mark.parametrize(
    ("make", "other"),
    [
        (lambda: MEmeL("rate"), MEmeL("threshold")),
        (lambda: MEmeL("rate", name="m"), MEmeL("threshold", name="m")),
        (lambda: keras.layers.Dropout(0.1), keras.layers.Dropout(0.2)),
        (lambda: keras.layers.Dense(2), keras.layers.Dense(2, name="mine")),
        (lambda: keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.2)),
        (lambda: np.zeros(5000), CHANGED),
        (lambda: np.zeros(4), np.zeros((2, 2))),
        (lambda: np.zeros(4), np.zeros(4, "float32")),
        (lambda: keras.ops.zeros(3), keras.ops.ones(3)),
        (lambda: State(1), State(2)),
        (lambda: {"a": {1, 2}, "b": 3}, {"a": {1, 3}, "b": 3}),
        (lambda: 1, True),
        (lambda: "1", 1),
        (lambda: (1,), [1]),
        (lambda: score, quiet),
    ],
)
def test_equal_content_is_equal_and_other_content_is_not(make, other):
    assert identify(make()) == identify(make())
    assert identify(make()) != identify(other)


def test_automatic_names_within_a_model_do_not_count():
    def model():
        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(2, "relu")(inputs)
        return keras.Model(inputs, keras.layers.Dense(2)(hidden))

    first, second = model(), model()
    # The weights are content.
    assert identify(first) != identify(second)
    second.set_weights(first.get_weights())
    assert identify(first) == identify(second)


def test_the_order_of_a_dictionary_does_not_count():
    assert identify({"a": 1, "b": 2}) == identify({"b": 2, "a": 1})


SCRIPT = """
import keras
from keras_memel import MEmeL
from keras_memel.evaluation.identity import identify
for _ in range({layers}):
    MEmeL()
print(identify([{{"a", "b", "c", "d"}}, MEmeL(), keras.layers.Dropout(0.5)]))
"""


def test_the_text_is_the_same_in_any_process_and_under_any_hash_seed():
    texts = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(layers=number)],
            env={**os.environ, "PYTHONHASHSEED": str(number)},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for number in (1, 2)
    }
    assert len(texts) == 1


@pytest.mark.parametrize(
    "argument", [object(), lambda: 0, [lambda: 0], {"a": object()}]
)
def test_what_has_no_content_is_refused_with_the_cure(argument, tmp_path):
    arms = {"a": argument, "b": 1}
    with pytest.raises(ValueError, match=r"pass only names.*'a', which is or"):
        quiet(score, arms, 1, store=tmp_path / "runs.jsonl")
    # Without a store, arms need no identity.
    quiet(lambda arm, seed: 0.0, arms, 1)
