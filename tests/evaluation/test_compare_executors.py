"""compare in executors of other libraries: loky, Dask, Ray.

`nox -s executors` installs them.
"""

import concurrent.futures
import os

import pytest
from recorder import quiet

pytestmark = pytest.mark.once

SECONDS = 120


class RayExecutor(concurrent.futures.Executor):
    """Ray's tasks as futures."""

    def __init__(self, ray):
        self.submit_task = ray.remote(lambda function, *args: function(*args))

    def submit(self, function, *args):
        return self.submit_task.remote(function, *args).future()


@pytest.fixture
def loky():
    module = pytest.importorskip("loky")
    executor = module.get_reusable_executor(2, timeout=SECONDS)
    yield executor
    executor.shutdown(wait=True)


@pytest.fixture
def dask():
    # Do not import `distributed`: a folder of the tests has the same name.
    module = pytest.importorskip("dask.distributed")
    cluster = module.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    )
    with cluster, module.Client(cluster) as client:
        yield client.get_executor()


@pytest.fixture
def ray():
    module = pytest.importorskip("ray")
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield RayExecutor(module)
    module.shutdown()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["loky", "dask", "ray"])
def test_an_executor_of_another_library_runs_a_study(name, request, tmp_path):
    executor = request.getfixturevalue(name)

    def train(arm, seed):  # It is not importable, so it is sent by value.
        if (arm, seed) == ("b", 1):
            raise RuntimeError("no")
        return {"score": seed + len(arm), "pid": os.getpid()}

    store = tmp_path / "runs.jsonl"
    found = quiet(train, ["a", "b"], 3, store=store, executor=executor)
    assert len(found.runs) == 6
    (failed,) = found.failed
    assert "RuntimeError: no" in failed["error"]
    pids = {run["scores"]["pid"] for run in found.runs if "scores" in run}
    assert os.getpid() not in pids
