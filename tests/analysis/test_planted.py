"""Neurons that are known to be there: what the benchmark's cells find."""

import csv

import pytest
from scripts import ROOT
from scripts import load

pytest.importorskip("sklearn")
pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def planted():
    module = load(ROOT / "benchmarks" / "planted.py")
    module.INPUTS = 2400
    return module


@pytest.mark.parametrize("kind", ["dense", "conv", "recurrent"])
def test_rare_and_clear_is_found_whatever_the_layer(planted, kind):
    found = planted.cell(kind, "relu", frequency=0.02, noise=0.1, seed=0)
    assert found["roc_auc"] >= 0.95
    assert found["found"] == 1
    assert found["sensitivity"] >= 0.95
    assert found["specificity"] >= 0.95
    assert found["unit_auc"] >= 0.95


def test_too_frequent_is_missed_as_arithmetic_says(planted):
    # A unit that is on for a share p has phi = (1 - p) / p, which is 4 at 20 %
    # and 9 at 10 %.
    missed = planted.cell("dense", "relu", frequency=0.2, noise=0.1, seed=0)
    assert missed["sensitivity"] < 0.05
    caught = planted.cell("dense", "relu", frequency=0.1, noise=0.1, seed=0)
    assert caught["sensitivity"] > 0.95


def test_the_stored_table_has_all_cells_and_the_easy_end(planted):
    with (planted.STORE / "planted.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = {
        (row["layer"], row["activation"], row["frequency"], row["noise"])
        for row in rows
    }
    number = len(planted.LAYERS) * len(planted.ACTIVATIONS)
    number *= len(planted.FREQUENCIES) * len(planted.NOISES)
    assert len(rows) == len(cells) == number
    for row in rows:
        assert 0 <= float(row["sensitivity"]) <= 1
        assert 0 <= float(row["specificity"]) <= 1
        easy = float(row["noise"]) == 0.1 and float(row["frequency"]) <= 0.1
        if easy:
            assert float(row["roc_auc"]) >= 0.95, row
