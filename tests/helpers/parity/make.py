"""Makes the files of this folder, which `test_parity.py` reads.

    trained_<backend>.keras   a small network, trained for a while on <backend>
    reference.npz             what those files hold, and what resuming does

A change of what the layer saves or computes makes them stale. To make them
again, from the root of the repository, in an environment for each backend:

    KERAS_BACKEND=jax        python tests/helpers/parity/make.py
    KERAS_BACKEND=tensorflow python tests/helpers/parity/make.py
    KERAS_BACKEND=torch      python tests/helpers/parity/make.py
    KERAS_BACKEND=jax        python tests/helpers/parity/make.py reference

Whether older files still load is then a question to answer first: they stand
for those that users have.
"""

import shutil
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
from keras import layers
from keras import ops

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[2]), str(HERE.parent)]

from loops import train  # noqa: E402
from steps import step  # noqa: E402

from keras_memel import MEmeL  # noqa: E402
from keras_memel import TopK  # noqa: E402

BACKENDS = ("jax", "tensorflow", "torch")


def file(backend):
    return HERE / f"trained_{backend}.keras"


def network():
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(6, "tanh", name="first"),
            MEmeL("rate", axis=-1, name="rate"),
            layers.Dense(6, "tanh", name="second"),
            MEmeL(TopK(3), name="top_3"),
            layers.Dense(6, "tanh", name="third"),
            MEmeL(forget_steps=None, name="never_forgets"),
            layers.Dense(2, name="last"),
        ],
        name="network",
    )


def data(seed, steps):
    """Inputs, and targets or cotangents."""
    rng = np.random.default_rng(seed)
    x = rng.standard_t(3, size=(steps, 8, 5)).astype("float32")
    return x, np.tanh(x[..., :2])


def statistics(model):
    """Every weight, by the names of its layer and its own."""
    return {
        f"{layer.name}/{w.path.split('/')[-1]}": ops.convert_to_numpy(w.value)
        for layer in model.layers
        for w in layer.weights
    }


def resume(model):
    """Some steps on: arrays that must be the same on every backend."""
    x, r = data(seed=1, steps=4)
    results = [step(model, x[t], r[t]) for t in range(len(x))]
    found = {
        "outputs": np.stack([y for y, _ in results]),
        "gradients": np.stack([gradient for _, gradient in results]),
    }
    found["stepped"] = statistics(model)
    # Now the weights move too.
    batches = list(zip(*data(seed=2, steps=3), strict=True))
    train(model, keras.optimizers.SGD(0.1), batches)
    found["trained"] = statistics(model)
    return found


def flat(arrays):
    """One vector of them all, by the order of their names."""
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def unflat(vector, like):
    """The inverse of `flat`, with the names and shapes of `like`."""
    names = sorted(like)
    ends = np.cumsum([like[name].size for name in names])
    assert len(vector) == ends[-1]
    parts = np.split(vector, ends[:-1])
    return {n: p.reshape(like[n].shape) for n, p in zip(names, parts)}


def make_trained():
    keras.utils.set_random_seed(0)
    model = network()
    train(
        model,
        keras.optimizers.SGD(0.1),
        list(zip(*data(seed=0, steps=25), strict=True)),
    )
    path = file(keras.backend.backend())
    model.save(path)
    compress(path)


def compress(path):
    # Keras stores, and HDF5 pads: a tenth is left of it.
    stored = path.with_suffix(".stored.keras")
    shutil.move(path, stored)
    with (
        zipfile.ZipFile(stored) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    stored.unlink()


def make_reference():
    found = {}
    for backend in BACKENDS:
        model = keras.saving.load_model(file(backend))
        arrays = {"saved": statistics(model)} | resume(model)
        for name, value in arrays.items():
            value = flat(value) if isinstance(value, dict) else value
            found[f"{backend}_{name}"] = value
    np.savez_compressed(HERE / "reference.npz", **found)


if __name__ == "__main__":
    make_reference() if sys.argv[1:] == ["reference"] else make_trained()
