"""One numerical truth: what a backend trained, every backend goes on with.

The files of `parity/` were trained on each backend, and the reference was
computed on one; `parity/make.py` says how.
"""

import keras
import numpy as np
import pytest
from scripts import HELPERS
from scripts import load

FOLDER = HELPERS / "parity"


make = load(FOLDER / "make.py")


@pytest.fixture(scope="module")
def reference():
    """Return the stored arrays, or weights by name, by backend and stage."""
    like = without_low_parts(make.statistics(make.network()))
    with np.load(FOLDER / "reference.npz") as stored:
        return {
            tuple(key.split("_")): make.unflat(value, like)
            if value.ndim == 1
            else value
            for key, value in stored.items()
        }


@pytest.fixture(scope="module", params=make.BACKENDS)
def trained(request):
    """Backend that trained it, what it held when loaded, how it went on."""
    model = keras.saving.load_model(make.file(request.param))
    held = make.statistics(model)
    return request.param, held, make.resume(model)


def without_low_parts(arrays):
    return {k: v for k, v in arrays.items() if not k.endswith("_low")}


def test_the_file_of_every_backend_holds_the_same_numbers(trained, reference):
    backend, held, _ = trained
    saved = reference[backend, "saved"]
    assert without_low_parts(held).keys() == saved.keys()
    for name, value in held.items():
        # The files are from before there were low parts, or integers.
        expected = saved.get(name, np.zeros_like(value))
        np.testing.assert_array_equal(value, expected, err_msg=name)
        integers = name.endswith("steps")
        assert np.issubdtype(value.dtype, np.integer) == integers


def test_every_backend_goes_on_in_the_same_way(trained, reference):
    backend, _, found = trained
    for stage, value in found.items():
        expected = reference[backend, stage]
        if stage in ("outputs", "gradients"):
            value, expected = {stage: value}, {stage: expected}
        for name in expected:
            np.testing.assert_allclose(
                value[name],
                expected[name],
                rtol=1e-5,
                atol=1e-6,
                err_msg=f"{stage} {name}",
            )


@pytest.mark.parametrize("backend", make.BACKENDS)
def test_the_reference_shows_something(backend, reference):
    saved = reference[backend, "saved"]
    stepped = reference[backend, "stepped"]
    after = reference[backend, "trained"]
    for layer in ("rate", "top_3", "never_forgets"):
        assert saved[f"{layer}/steps"] == 25
        assert stepped[f"{layer}/steps"] == 29
        assert after[f"{layer}/steps"] == 32
        assert stepped[f"{layer}/count"].min() == 29 * 8
        for name in ("moving_mean", "moving_variance"):
            moved = after[f"{layer}/{name}"] - saved[f"{layer}/{name}"]
            assert np.abs(moved).max() > 1e-3
    # Top-3 of 6 and top-1 of 6, in every sample; a rate of 2 % may be none.
    assert stepped["top_3/inhibited_rate"] == pytest.approx(3 / 6)
    assert stepped["never_forgets/inhibited_rate"] == pytest.approx(1 / 6)
    assert stepped["rate/threshold"] != saved["rate/threshold"]
    for name in ("first/kernel", "last/bias"):
        np.testing.assert_array_equal(stepped[name], saved[name])
        assert np.abs(after[name] - stepped[name]).max() > 1e-3


def test_the_three_files_are_three_trainings(reference):
    first, second, third = (
        reference[backend, "saved"]["first/kernel"] for backend in make.BACKENDS
    )
    assert np.abs(first - second).max() > 1e-3
    assert np.abs(second - third).max() > 1e-3


def test_the_files_are_of_the_network_that_the_script_makes():
    model = keras.saving.load_model(make.file(make.BACKENDS[0]))
    made = make.network()
    for ours, theirs in zip(made.layers, model.layers, strict=True):
        assert ours.get_config() == theirs.get_config()
