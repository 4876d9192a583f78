"""One backend a process, and which tests it runs; what several files need."""

import functools
import gc
import importlib.util
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The models are tiny, and there is a process for each core: more threads only
# wait for one another, on a busy machine for several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "KERAS_BACKEND" not in os.environ:  # the first one that is installed
    for name in ("jax", "tensorflow", "torch"):
        if importlib.util.find_spec(name):
            os.environ["KERAS_BACKEND"] = name
            break

import keras
import numpy as np
import pytest
import radar_frames
from hypothesis import settings

BACKEND = keras.backend.backend()

# Tracing makes the first example slow; examples are few but wide.
settings.register_profile("tests", deadline=None, derandomize=True)
settings.load_profile("tests")


def pytest_addoption(parser):
    parser.addoption(
        "--fail-on-skip",
        action="store_true",
        help="fail a test that skips: nothing that it needs may be missing",
    )
    parser.addoption(
        "--all",
        action="store_true",
        help="on JAX and TensorFlow, also the tests that are marked `once`",
    )


def pytest_collection_modifyitems(config, items):
    """Leaves out what is marked `once`, unless its file or `quick` is asked
    for."""
    quick = "quick" in config.getoption("markexpr")
    if BACKEND == "torch" or config.getoption("all") or quick:
        return
    asked = [argument.split("::")[0] for argument in config.args]
    asked = [pathlib.Path(path).resolve() for path in asked]
    kept, out = [], []
    for item in items:
        once = item.get_closest_marker("once") and item.path not in asked
        (out if once else kept).append(item)
    config.hook.pytest_deselected(items=out)
    items[:] = kept


# What XLA says of a function that the processor lacks.
MISSING = "Failed to materialize symbols"


@functools.cache
def compiles_float16():
    """XLA does so only for processors with AVX, which convert to float16."""
    ones = keras.ops.ones(2, "float16")
    try:
        if BACKEND == "tensorflow":
            import tensorflow as tf

            tf.function(lambda x: x + 1.0, jit_compile=True)(ones)
        else:
            ones + 1.0
    except Exception as error:
        if MISSING not in str(error):
            raise
        return False
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except Exception as error:
        if MISSING in str(error) and not compiles_float16():
            pytest.skip("XLA has no float16 on this processor")
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.skipped and item.config.getoption("fail_on_skip"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with --fail-on-skip: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """A whole file skips if its library is missing."""
    report = yield
    if report.skipped and collector.config.getoption("fail_on_skip"):
        report.outcome = "failed"
        report.longrepr = f"skipped, with --fail-on-skip: {report.longrepr}"
    return report


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests that compile much and compute little: XLA optimizes less."""
    if BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


# Rooms whose tests are of structure, or compute in NumPy what they check. Those
# of the numbers of a step are compiled as users compile.
QUICK_ROOMS = {"analysis", "insertion", "monitoring", "reports"}


@pytest.fixture(scope="module", autouse=True)
def compiled_by_room(request):
    if request.path.parent.name in QUICK_ROOMS:
        request.getfixturevalue("quick_compilation")


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage():
    """Exclude all objects from before a file from garbage collection, and from
    the search of `insert` for models. A backend has a million objects, and
    Keras (quantization) and statsmodels (Holm) collect garbage at each call.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def study():
    """A loader of the studies' scripts."""
    return lambda name: importlib.import_module(f"examples.studies.{name}")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def data(rng):
    """Inputs and targets for the models of `watched.py`."""
    x = rng.normal(1.0, 2.0, (16, 6)).astype("float32")
    return x, x[:, :2] + 1


@pytest.fixture
def radar(tmp_path):
    """A folder with the days of `radar_frames.py`."""
    radar_frames.write_days(tmp_path)
    return tmp_path


@pytest.fixture
def drawn_by_numpy(monkeypatch):
    """First weights: JAX compiles for seconds to draw them in many shapes."""

    def draw(self, shape, dtype=None):
        return np.random.uniform(-0.3, 0.3, shape)  # noqa: NPY002 - as seeded

    for kind in ("GlorotUniform", "Orthogonal"):
        monkeypatch.setattr(getattr(keras.initializers, kind), "__call__", draw)


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)
