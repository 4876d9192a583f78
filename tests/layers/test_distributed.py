"""Many devices learn what one learns from the whole batch.

One launch of real replicas on this machine does all that is compared here
with one device, in this process: see `helpers/distributed/`.
"""

import contextlib
import importlib
import json
import sys

import numpy as np
import processes
import pytest
from keras import ops
from scripts import HELPERS
from steps import BACKEND
from steps import fast_step
from steps import state

from keras_memel import MEmeL
from keras_memel import Moments
from keras_memel import analyze
from keras_memel.core import sync

FOLDER = HELPERS / "distributed"
sys.path.insert(0, str(FOLDER))
scenario = importlib.import_module("scenario")

LAUNCH = {
    "jax": ["jax_devices.py"],
    "tensorflow": ["tensorflow_replicas.py"],
    "torch": [
        *("-m", "torch.distributed.run"),
        *("--standalone", "--nproc-per-node", "2", "torch_ranks.py"),
    ],
}
only = {
    backend: pytest.mark.skipif(backend != BACKEND, reason=f"of {backend}")
    for backend in LAUNCH
}
several_ranks = pytest.mark.skipif(
    BACKEND == "jax", reason="one program, whose arrays are global"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder with the results of the replicas."""
    found = tmp_path_factory.mktemp("distributed")
    processes.run(*LAUNCH[BACKEND], found, cwd=FOLDER)
    return found


@pytest.fixture(scope="module")
def ranks(folder):
    return [scenario.load(file) for file in sorted(folder.glob("rank_*.npz"))]


def assert_close(found, expected, rtol=1e-5, atol=1e-5):
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=rtol, atol=atol, err_msg=name
        )


def one_device(layer):
    advance = fast_step(layer)
    y, g = zip(*(advance(*arrays) for arrays in zip(*scenario.values())))
    return {**state(layer), "y": np.stack(y), "g": np.stack(g)}


def by_name(arrays):
    """Return arrays by name, without the numbered name of the layer."""
    return {path.split("/")[-1]: array for path, array in arrays.items()}


def together(ranks, run, name):
    """Outputs or gradients of the whole batch, in the order of one device."""
    parts = [rank[run][name] for rank in ranks if name in rank[run]]
    if len(parts) == 1:
        return parts[0].reshape(scenario.values()[0].shape)
    starts = [0, 0]
    steps = []
    for sizes in scenario.PARTS:
        for rank, size in enumerate(sizes):
            steps.append(parts[rank][starts[rank] : starts[rank] + size])
            starts[rank] += size
    return np.concatenate(steps).reshape(scenario.values()[0].shape)


LAYERS = {**scenario.LAYERS, **scenario.SCANS}


@pytest.mark.parametrize("name", LAYERS)
def test_statistics_outputs_and_gradients_are_those_of_one_device(name, ranks):
    runs = [run for run in ranks[0] if run.split()[0] == name]
    if not runs:
        pytest.skip("compiling takes long: see the script")
    layer = LAYERS[name]()
    expected = one_device(layer)
    assert expected["steps"] == scenario.STEPS
    for run in runs:
        found = {
            **by_name(ranks[0][run]),
            "y": together(ranks, run, "y"),
            "g": together(ranks, run, "g"),
        }
        assert_close(found, expected)
        # Something was selected, and something not finite was seen.
        assert found["inhibited_rate"] > 0
        # The candidates of a scan are of a tanh, for which inf is 1.
        assert found["skipped_updates"] == (1 if name == "scan" else 2)


def test_a_trained_model_is_that_of_one_device(ranks):
    # DistributedDataParallel averages what its ranks sum.
    model = scenario.model(0.5 if BACKEND == "torch" else 1.0)
    x, y = scenario.training_data()
    model.fit(x, y, scenario.BATCH, shuffle=False, verbose=0)
    expected = scenario.state(model.weights)
    first = scenario.state(scenario.model().weights)
    moved = np.abs(expected["dense/kernel"] - first["dense/kernel"]).max()
    assert moved > 0.05
    runs = [run for run in ranks[0] if run.startswith("fit")]
    assert len(runs) == (3 if BACKEND == "jax" else 1)
    for run in runs:
        assert_close(ranks[0][run], expected)


@only["tensorflow"]
def test_workers_of_many_machines_learn_what_one_device_does(tmp_path):
    ports = processes.free_ports(2)
    processes.together(
        *(
            ("tensorflow_workers.py", tmp_path, rank, *ports)
            for rank in range(2)
        ),
        cwd=FOLDER,
    )
    workers = [scenario.load(tmp_path / f"rank_{rank}.npz") for rank in (0, 1)]
    x, r, mask = (a[: scenario.WORKER_STEPS] for a in scenario.values())
    layer = scenario.LAYERS["penalty"]()
    advance = fast_step(layer)
    y, g = zip(*(advance(*arrays) for arrays in zip(x, r, mask)))
    first, second = (by_name(worker["penalty"]) for worker in workers)
    assert_close(first, state(layer))
    for key in state(layer):
        np.testing.assert_array_equal(first[key], second[key], err_msg=key)
    for key, whole in (("y", y), ("g", g)):
        starts, parts = [0, 0], []
        for sizes in scenario.PARTS[: len(whole)]:
            for rank, size in enumerate(sizes):
                end = starts[rank] + size
                part = workers[rank]["penalty"][key]
                parts.append(part[starts[rank] : end])
                starts[rank] = end
        found = np.concatenate(parts)
        assert_close({key: found}, {key: np.concatenate(whole)})
    assert first["steps"] == scenario.WORKER_STEPS


@only["tensorflow"]
def test_a_report_of_a_mirrored_model_counts_each_input_once(ranks):
    model = scenario.model()
    x, y = scenario.training_data()
    model.fit(x, y, scenario.BATCH, shuffle=False, verbose=0)
    layers = analyze(model, x[: scenario.BATCH], layers="dense", verbose=0)
    expected = {
        name: getattr(layers.layers["dense"], name)
        for name in scenario.REPORTED
    }
    assert_close(ranks[0]["analyze"], expected, rtol=1e-4)


@several_ranks
def test_ranks_agree_bit_for_bit(ranks):
    first, second = ranks
    assert {"far", "fit", "top_1", "penalty"} <= set(first)
    for run, arrays in first.items():
        for name, value in arrays.items():
            of_both = not run.startswith("alone") and run != "refused"
            if of_both and name not in ("y", "g"):
                np.testing.assert_array_equal(
                    value, second[run][name], err_msg=f"{run}: {name}"
                )


@several_ranks
def test_the_first_step_is_exact_far_from_zero(ranks):
    exact = scenario.far_values().astype("float64")
    found = by_name(ranks[0]["far"])
    np.testing.assert_array_equal(found["count"], len(exact))
    np.testing.assert_allclose(found["moving_mean"], exact.mean(0), rtol=2e-7)
    # A float32 near 1e4 has an error of 5e-4.
    np.testing.assert_allclose(
        found["moving_variance"], exact.var(0, ddof=1), rtol=2e-3
    )


@only["torch"]
def test_one_message_a_step_holds_three_numbers_a_neuron(folder):
    sent = json.loads((folder / "messages_0.json").read_text())
    positions, channels = scenario.TIME * scenario.WIDTH, scenario.WIDTH
    assert sent["top_1"] == sent["threshold"] == [3 * positions + 1]
    assert sent["penalty"] == [3 * channels + 1]
    # The number of selected values is only known after the statistics, so it
    # needs a second message.
    assert sent["rate_current"] == [3 * positions, 1]


@only["torch"]
@pytest.mark.parametrize("name", scenario.ALONE)
def test_a_process_group_shares_its_own_batches_only(name, ranks):
    for rank, results in enumerate(ranks):
        layer = scenario.ALONE[name]()
        advance = fast_step(layer)
        for number, arrays in enumerate(zip(*scenario.values())):
            x, r, mask = (
                scenario.shared(np.stack([a] * (number + 1)), number, rank)
                for a in arrays
            )
            advance(x, 2 * r, mask)
        found = by_name(results[f"alone {name}"])
        assert_close(found, state(layer))
    first, second = (by_name(r[f"alone {name}"]) for r in ranks)
    assert np.abs(first["moving_mean"] - second["moving_mean"]).max() > 0.02


@only["torch"]
def test_a_group_of_other_processes_is_refused(ranks):
    for results in ranks:
        message = str(results["refused"]["error"])
        assert "that this process belongs to" in message
        assert "Received: process_group=" in message


def test_a_process_group_must_be_one():
    expected = "except on PyTorch" if BACKEND != "torch" else "must be a"
    with pytest.raises(ValueError, match=f"`process_group` .*{expected}"):
        MEmeL(process_group="data")
    layer = MEmeL()
    layer.build((None, 3))
    with pytest.raises(ValueError, match="Received: process_group=1"):
        layer.process_group = 1
    assert layer.process_group is None
    assert "process_group" not in layer.get_config()


@only["jax"]
def test_devices_send_statistics_and_no_values(folder):
    sent = json.loads((folder / "facts.json").read_text())["sent"]
    for name, messages in sent.items():
        assert messages
        layer, how = name.split()
        channels = layer in ("top_3_current", "penalty", "random")
        neurons = 48 if channels else 16 * 48
        for kind, elements in messages:
            if layer == "top_3_current" and how == "neurons":
                # The k-th largest value per sample, over several devices.
                assert elements <= 16 * 16 * 48, (name, kind)
            else:
                assert kind == "all-reduce", name
                assert elements <= neurons, name


@only["jax"]
def test_what_follows_the_devices_follows_those_in_use(folder):
    """The process has four; an array without a mesh is on one of them."""
    facts = json.loads((folder / "facts.json").read_text())
    assert facts["spread"] == {
        "plain": False,
        "plain in jit": False,
        "one of many": False,
        "rows": True,
        "rows in jit": True,
        "derived in jit": True,
        "set_mesh": True,
        "distribution": True,
    }
    # A trace cannot detect this case, but its result is correct.
    assert facts["in_shardings"] < 1e-4


@only["jax"]
def test_copies_are_equal_and_laid_out_as_asked(folder):
    fit = json.loads((folder / "facts.json").read_text())["fit"]
    assert all(facts["equal"] for facts in fit.values())
    for name, facts in fit.items():
        spec = facts["layouts"]["memel_1/moving_mean"]
        assert ("model" in spec) == (name == "ModelParallel neurons")
        assert "model" not in facts["layouts"]["memel_1/threshold"]


# One replica, in this process.


@contextlib.contextmanager
def one_rank():
    import torch

    group = torch.distributed
    group.init_process_group(
        "gloo", store=group.HashStore(), rank=0, world_size=1
    )
    try:
        yield
    finally:
        group.destroy_process_group()


@only["torch"]
def test_one_rank_sends_nothing():
    import torch

    layer = scenario.LAYERS["rate_current"]()
    x = torch.zeros((2, scenario.TIME, scenario.WIDTH))
    with one_rank(), torch.profiler.profile() as profile:
        layer(x, training=True)
        # One message, to show that the profiler would see those of the layer.
        torch.distributed.all_reduce(torch.ones(1))
    sent = [e.name for e in profile.events() if e.name == "gloo:all_reduce"]
    assert len(sent) == 1


@only["tensorflow"]
@pytest.mark.parametrize("kind", ["MirroredStrategy", "OneDeviceStrategy"])
def test_one_replica_sends_nothing(kind):
    import tensorflow as tf

    strategy = {
        "MirroredStrategy": lambda: tf.distribute.MirroredStrategy(["CPU:0"]),
        "OneDeviceStrategy": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    }[kind]()
    with strategy.scope():
        layer = scenario.LAYERS["rate_current"]()
        layer.build((2, scenario.TIME, scenario.WIDTH))

    @tf.function
    def step(x):
        return strategy.run(layer, (x,), {"training": True})

    x = tf.zeros((2, scenario.TIME, scenario.WIDTH))
    graph = step.get_concrete_function(x).graph.as_graph_def()
    nodes = [*graph.node]
    for function in graph.library.function:
        nodes += function.node_def
    # Only messages between replicas are float64, so this step sends none.
    double = tf.float64.as_datatype_enum
    assert len(nodes) > 10
    assert not [n.name for n in nodes if n.attr["T"].type == double]
    step(x)
    assert state(layer)["steps"] == 1


@only["tensorflow"]
def test_outside_of_the_replicas_a_call_sees_the_whole_batch(rng):
    import tensorflow as tf

    x = rng.normal(size=(8, 3)).astype("float32")
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        layer = MEmeL(axis=-1)
        layer(x, training=True)
    np.testing.assert_allclose(state(layer)["moving_mean"], x.mean(0), 1e-5)


@only["tensorflow"]
def test_a_strategy_whose_replicas_do_not_step_together_is_refused():
    import tensorflow as tf

    strategy = tf.distribute.experimental.CentralStorageStrategy()
    with strategy.scope():
        layer = MEmeL()
        layer.build((2, 3))
    with pytest.raises(ValueError, match="type CentralStorage"):
        strategy.run(layer, (tf.zeros((2, 3)),), {"training": True})
    strategy.run(layer, (tf.zeros((2, 3)),))  # inference needs no replicas


@only["jax"]
@pytest.mark.parametrize("mapped", ["pmap", "shard_map"])
def test_a_mapped_trace_is_refused(mapped):
    import jax

    layer = MEmeL()
    layer.build((2, 3))
    values = [v.value for v in layer.non_trainable_variables]

    def step(x, training):
        return layer.stateless_call([], values, x, training=training)[0]

    def run(training):
        if mapped == "pmap":
            return jax.pmap(lambda x: step(x, training))(np.ones((1, 2, 3)))
        mesh = jax.sharding.Mesh(jax.devices(), ("batch",))
        rows = jax.sharding.PartitionSpec("batch")
        return jax.shard_map(
            lambda x: step(x, training),
            mesh=mesh,
            in_specs=rows,
            out_specs=rows,
        )(np.ones((2, 3)))

    with pytest.raises(ValueError, match="mapped over the axes"):
        run(True)
    np.testing.assert_array_equal(np.ravel(run(False)), 1.0)


def test_an_unknown_backend_is_refused(monkeypatch):
    monkeypatch.setattr(sync, "_BACKEND", "numpy")
    with pytest.raises(ValueError, match="Received: backend='numpy'"):
        MEmeL()(ops.ones((2, 3)), training=True)


def test_with_one_replica_everything_stays_what_it_is():
    batch = Moments(*(ops.ones((1, 3)) for _ in range(3)))
    number = ops.array(2.0)
    merged, same = sync.merge(batch, number)
    assert merged is batch
    assert same is number
    assert sync.total(number)[0] is number
    assert sync.weighted(number, number, number) is number
