"""benchmarks/accelerator.py: its logic, on the CPU."""

import json

import keras
import pytest
from scripts import ROOT
from scripts import load

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(
        keras.backend.backend() != "torch", reason="the script is of PyTorch"
    ),
]


@pytest.fixture(scope="module")
def script():
    return load(ROOT / "benchmarks" / "accelerator.py")


def results(**changed):
    row = {"layer": "rate", "shape": [8, 4], "dtype": "float32", "ms": 1.0}
    return {
        "agreement": {"rate": 1e-7},
        "graph": {"rate": ""},
        "syncs": {"rate": "", "MEmeL()": "", "Dropout(0.1)": "a wait"},
        "launches": {"rate": 20},
        "times": [{**row, "to_batchnorm": 0.9, "to_limit": 1.4}],
        **changed,
    }


def failing(script, **changed):
    checks = script.verdicts(results(**changed))
    return [(name, detail) for name, passed, detail in checks if not passed]


def test_what_is_good_passes_and_the_waits_of_others_are_theirs(script):
    assert failing(script) == []


@pytest.mark.parametrize(
    ("changed", "name", "detail"),
    [
        ({"agreement": {"rate": 0.1}}, "agreement", "rate differs from the"),
        ({"graph": {"rate": "eager: no"}}, "graph", "rate: eager: no"),
        ({"syncs": {"rate": "a wait"}}, "syncs", "rate: a wait"),
    ],
)
def test_each_fault_fails_its_check(script, changed, name, detail):
    ((failed, said),) = failing(script, **changed)
    assert failed == name
    assert detail in said


@pytest.mark.parametrize(
    ("to_batchnorm", "to_limit", "fails"),
    [(1.0, 1.5, 0), (1.01, 1.0, 1), (0.5, 1.51, 1)],
)
def test_the_bounds_of_speed(script, to_batchnorm, to_limit, fails):
    (row,) = results()["times"]
    row |= {"to_batchnorm": to_batchnorm, "to_limit": to_limit}
    assert len(failing(script, times=[row])) == fails


def test_it_runs_on_a_cpu(script, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(script, "EXACT", ("rate",))
    file = tmp_path / "results.json"
    shape = ("--shape", "4", "16", "128", "--seconds", "0.1")
    script.main(["--device", "cpu", *shape, "--json", str(file)])
    shown = capsys.readouterr().out.splitlines()
    assert "PASS  agreement: 1 layers equal the CPU within 1e-5" in shown
    assert "PASS  graph: 1 layers are one graph" in shown
    found = json.loads(file.read_text("utf-8"))
    assert len(found["times"]) == 2 * len(script.LAYERS)
    assert {row["rounds"] >= 5 for row in found["times"]} == {True}


def test_a_layer_that_breaks_the_graph_is_named(script, monkeypatch):
    error = script.graph_error("Random(0.02)", (2, 4, 8), "cpu")
    assert error.startswith("eager: ")


def test_no_device_is_said_in_a_line(script, capsys):
    with pytest.raises(SystemExit):
        script.main(["--device", "cuda"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "finds no CUDA device" in last


def test_off_the_cpu_there_is_one_block():
    import torch

    from keras_memel import kernels

    for device, number in (("cpu", 3), ("meta", 1)):
        values = torch.empty((3, kernels.own.BLOCK_SIZE), device=device)
        assert len(kernels.own.blocks(values, None)) == number
