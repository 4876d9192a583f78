"""Four devices, JAX: python jax_devices.py FOLDER.

`rows` shards the batch (DataParallel), `neurons` the batch and the last axis
(ModelParallel).
"""

import json
import math
import os
import pathlib
import re
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import keras
import numpy as np
import scenario
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from keras.distribution import DataParallel
from keras.distribution import DeviceMesh
from keras.distribution import LayoutMap
from keras.distribution import ModelParallel

from keras_memel import kernels

DEVICES = keras.distribution.list_devices()
MESH = DeviceMesh((2, 2), ("batch", "model"), DEVICES)
AXES = jax.sharding.Mesh(np.array(jax.devices()).reshape(2, 2), MESH.axis_names)
SHARDED = {
    "rows": PartitionSpec(("batch", "model")),
    "neurons": PartitionSpec("batch", None, "model"),
}


def step_function(layer):
    def loss(x, state, r, mask):
        y, state, losses = layer.stateless_call(
            [], state, x, mask=mask, training=True, return_losses=True
        )
        return (y * r).sum() + sum(losses), (y, state)

    return jax.jit(jax.grad(loss, has_aux=True))


def run_layer(layer, spec):
    layer.build((None, scenario.TIME, scenario.WIDTH))
    step = step_function(layer)
    state = jax.device_put(
        [v.value for v in layer.non_trainable_variables],
        NamedSharding(AXES, PartitionSpec()),
    )
    outputs = []
    x, r, mask = scenario.values()
    for arrays in zip(x, r, mask):
        x, r, mask = (
            jax.device_put(
                array, NamedSharding(AXES, PartitionSpec(*spec[: array.ndim]))
            )
            for array in arrays
        )
        g, (y, state) = step(x, state, r, mask)
        outputs.append((np.asarray(y), np.asarray(g)))
    for variable, value in zip(layer.non_trainable_variables, state):
        variable.assign(value)
    y, g = zip(*outputs)
    return {"y": np.concatenate(y), "g": np.concatenate(g)}


def collectives(layer, spec):
    """Kind, and number of elements, of what devices tell one another."""
    shape = (32, 16, 48)
    layer.build(shape)
    x = jax.ShapeDtypeStruct(
        shape, "float32", sharding=NamedSharding(AXES, spec)
    )
    everywhere = NamedSharding(AXES, PartitionSpec())
    state = [
        jax.ShapeDtypeStruct(v.shape, v.value.dtype, sharding=everywhere)
        for v in layer.non_trainable_variables
    ]
    program = step_function(layer).lower(x, state, x, None).compile().as_text()
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return [
        (
            kind,
            max(
                math.prod(map(int, filter(None, sizes.split(","))))
                for sizes in re.findall(r"\w+\[([\d,]*)\]", results)
            ),
        )
        for results, kind in re.findall(rf"= (\S.*?) ({kinds})\(", program)
    ]


def parallel(neurons):
    """ModelParallel: the first Dense split by its units, and with `neurons`
    the statistics of what follows as well."""
    layouts = LayoutMap(MESH)
    layouts[".*dense/kernel"] = (None, "model")
    layouts[".*dense/bias"] = ("model",)
    if neurons:
        statistics = "(moving_mean|moving_variance|count)"
        layouts[f".*memel/{statistics}"] = (None, "model")
        layouts[f".*memel_1/{statistics}"] = ("model",)
    return ModelParallel(layout_map=layouts, batch_dim_name="batch")


def equal_copies(array):
    """Return whether all copies of the same part are bitwise equal."""
    copies = {}
    for shard in array.addressable_shards:
        copies.setdefault(str(shard.index), []).append(np.asarray(shard.data))
    return all(
        (c == group[0]).all() for group in copies.values() for c in group
    )


def spread():
    """Return which arrays the kernels treat as spread over several devices."""
    is_spread = kernels.own.is_spread
    found = {}

    def traced(name, x, function=lambda x: x):
        def look(x):
            found[name] = is_spread(function(x))
            return x

        jax.jit(look)(x)

    x = np.ones((8, 4), "float32")
    plain, other = jax.device_put(x), jax.device_put(x, jax.devices()[2])
    rows = jax.device_put(x, NamedSharding(AXES, PartitionSpec("batch")))
    found["plain"], found["rows"] = is_spread(plain), is_spread(rows)
    found["one of many"] = is_spread(other)
    traced("plain in jit", plain)
    traced("rows in jit", rows)
    traced("derived in jit", rows, lambda x: jax.numpy.tanh(x @ x.T).sum(1))
    with jax.set_mesh(AXES):
        traced("set_mesh", plain)
    keras.distribution.set_distribution(DataParallel(devices=DEVICES))
    traced("distribution", plain)
    keras.distribution.set_distribution(None)
    return found


def wrong_with_in_shardings():
    """How far kernels are off in a program for several devices that they
    take to be one for a single device."""
    x = np.random.default_rng(0).normal(size=(64, 32, 48)).astype("float32")

    def run(x):
        first, second = kernels.sums(x, np.zeros((1, 1, 48), "f"), (0, 1))
        largest = [kernels.kth_largest(x, k) for k in (1, 3)]
        return first, second, *largest, kernels.count(x > 1)

    sharding = NamedSharding(AXES, SHARDED["neurons"])
    found = jax.jit(run, in_shardings=sharding)(x)
    order = np.sort(x.reshape(64, -1), axis=1)[:, :, None, None]
    expected = (
        x.sum((0, 1), keepdims=True, dtype="float64"),
        np.square(x, dtype="float64").sum((0, 1), keepdims=True),
        order[:, -1],
        order[:, -3],
        (x > 1).sum(),
    )
    return max(
        float(np.abs(np.asarray(f) - e).max())
        / max(1.0, float(np.abs(e).max()))
        for f, e in zip(found, expected)
    )


def main(folder):
    results, sent = {}, {}
    reported = {
        "spread": spread(),
        "in_shardings": wrong_with_in_shardings(),
    }
    for how, spec in SHARDED.items():
        # Frames have no axis of neurons as these have.
        scans = scenario.SCANS if how == "rows" else {}
        for name, make in {**scenario.LAYERS, **scans}.items():
            layer = make()
            outputs = run_layer(layer, spec)
            results[f"{name} {how}"] = scenario.state(layer.weights) | outputs
        for name, make in {**scenario.LAYERS, **scenario.BLIND}.items():
            sent[f"{name} {how}"] = collectives(make(), spec)
    x, y = scenario.training_data()
    distributions = {
        "DataParallel": DataParallel(devices=DEVICES),
        "ModelParallel": parallel(neurons=False),
        "ModelParallel neurons": parallel(neurons=True),
    }
    facts = {}
    for name, distribution in distributions.items():
        keras.distribution.set_distribution(distribution)
        model = scenario.model()
        model.fit(x, y, scenario.BATCH, shuffle=False, verbose=0)
        results[f"fit {name}"] = scenario.state(model.weights)
        facts[name] = {
            "equal": all(equal_copies(w.value) for w in model.weights),
            "layouts": {
                "/".join(w.path.split("/")[-2:]): str(w.value.sharding.spec)
                for w in model.weights
            },
        }
    scenario.save(folder / "rank_0.npz", results)
    (folder / "facts.json").write_text(
        json.dumps({"sent": sent, "fit": facts, **reported})
    )


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
