"""Two processes train a PyTorch module as one does: DDP and FSDP2."""

import importlib
import sys

import keras
import numpy as np
import processes
import pytest
from scripts import HELPERS

if keras.backend.backend() != "torch":
    pytest.skip("PyTorch modules need PyTorch", allow_module_level=True)

FOLDER = HELPERS / "distributed"
sys.path.insert(0, str(FOLDER))
torch_modules = importlib.import_module("torch_modules")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return the final arrays of each rank, by run and name."""
    folder = tmp_path_factory.mktemp("modules")
    processes.run(
        *("-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "2", "torch_modules.py", folder),
        cwd=FOLDER,
    )
    found = []
    for file in sorted(folder.glob("rank_*.npz")):
        runs = {}
        for key, value in np.load(file).items():
            run, name = key.split("|")
            runs.setdefault(run, {})[name] = value
        found.append(runs)
    return found


def assert_equal(found, expected):
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-6, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("name", torch_modules.RUNS)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one(ranks, kind, name):
    model = torch_modules.train(torch_modules.make(name))
    expected = torch_modules.state(model)
    assert expected["layer.0.memel.inhibited_rate"] > 0
    for rank in ranks:
        assert_equal(rank[f"{kind}/{name}"], expected)


def test_a_process_group_reaches_what_is_inserted(ranks):
    half = torch_modules.ROWS // 2
    for number, rank in enumerate(ranks):
        part = slice(half * number, half * (number + 1))
        model = torch_modules.train(torch_modules.make("penalty"), part)
        assert_equal(rank["alone"], torch_modules.state(model))
