"""Comparison.mcnemar: two networks on the same test examples."""

import pytest
import scipy.stats

from keras_memel import Comparison

pytestmark = pytest.mark.once


def answered(arm, seed, right):
    return {"arm": arm, "seed": seed, "scores": {"a": 0.0}, "correct": right}


def test_mcnemar_counts_what_only_one_network_gets_right():
    runs = [
        answered("plain", 0, "1111100000"),
        answered("arm", 0, "1111011110"),
        answered("plain", 1, "10"),
        answered("arm", 1, "10"),
        {"arm": "plain", "seed": 2, "scores": {"a": 0.0}},
        answered("arm", 2, "11"),
    ]
    table = Comparison(runs, ["plain", "arm"]).mcnemar()
    assert list(table["seed"]) == [0, 1]
    assert list(table["only_arm"]) == [4, 0]
    assert list(table["only_other"]) == [1, 0]
    binomial = scipy.stats.binomtest(1, 5).pvalue
    assert table["p"][0] == pytest.approx(binomial)
    assert table["p"][1] == 1.0


def test_mcnemar_refuses_different_examples():
    runs = [answered("plain", 0, "101"), answered("arm", 0, "10")]
    with pytest.raises(ValueError, match=r"Received: 2 of arm and 3 of plain"):
        Comparison(runs).mcnemar()
