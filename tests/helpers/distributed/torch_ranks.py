"""A rank of two, with gloo:

torchrun --standalone --nproc-per-node 2 torch_ranks.py FOLDER
"""

import json
import pathlib
import sys

import keras
import numpy as np
import scenario
import torch
from torch.nn.parallel import DistributedDataParallel

import keras_memel

EVERY = {**scenario.LAYERS, **scenario.BLIND, **scenario.SCANS}


def run_layer(layer, rank):
    layer.build((None, scenario.TIME, scenario.WIDTH))
    arrays = scenario.values()
    outputs = []
    for step in range(scenario.STEPS):
        x, r, mask = (
            torch.tensor(scenario.shared(array, step, rank)) for array in arrays
        )
        x.requires_grad_()
        y = layer(x, mask=mask, training=True)
        # The gradient of the mean of the ranks' losses.
        (2 * (y * r).sum() + sum(layer.losses)).backward()
        outputs.append((y.detach().numpy(), x.grad.numpy() / 2))
    y, g = zip(*outputs)
    return {"y": np.concatenate(y), "g": np.concatenate(g)}


def fit(model, rank):
    """Train like `model.fit`, which Keras does not distribute on PyTorch."""
    parallel = DistributedDataParallel(model)
    arrays = [
        array.reshape(scenario.STEPS, scenario.BATCH, *array.shape[1:])
        for array in scenario.training_data()
    ]
    for step in range(scenario.STEPS):
        x, y = (
            torch.tensor(scenario.shared(array, step, rank)) for array in arrays
        )
        model.zero_grad()
        found = parallel(x, training=True)
        loss = model.compute_loss(x, y, found, training=True)
        loss.backward()
        with torch.no_grad():
            model.optimizer.apply(
                [v.value.grad for v in model.trainable_weights],
                model.trainable_weights,
            )


def messages(layer):
    """Elements of every all-reduce of a training step."""
    x = torch.zeros((2, scenario.TIME, scenario.WIDTH))
    layer(x, training=True)
    with torch.profiler.profile(record_shapes=True) as profile:
        layer(x, training=True)
    return [
        int(np.prod(event.input_shapes[0]))
        for event in profile.events()
        if event.name == "gloo:all_reduce"
    ]


def main(folder):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    keras.utils.set_random_seed(0)
    results = {}
    for name, make in EVERY.items():
        layer = make()
        outputs = run_layer(layer, rank)
        results[name] = {**scenario.state(layer.weights), **outputs}
    # Processes that share no batch, as with tensor parallelism, have separate
    # groups.
    alone = [torch.distributed.new_group([number]) for number in range(2)]
    for name, make in scenario.ALONE.items():
        layer = make()
        memel = layer.scan.memel if name == "scan" else layer
        memel.process_group = alone[rank]
        outputs = run_layer(layer, rank)
        results[f"alone {name}"] = {**scenario.state(layer.weights), **outputs}
    try:
        keras_memel.MEmeL(process_group=alone[1 - rank])
    except ValueError as error:
        results["refused"] = {"error": np.array(str(error))}
    layer = scenario.far_layer()
    layer(torch.tensor(np.split(scenario.far_values(), 2)[rank]), training=True)
    results["far"] = scenario.state(layer.weights)
    model = scenario.model()
    fit(model, rank)
    results["fit"] = scenario.state(model.weights)
    scenario.save(folder / f"rank_{rank}.npz", results)
    sent = {name: messages(make()) for name, make in scenario.LAYERS.items()}
    (folder / f"messages_{rank}.json").write_text(json.dumps(sent))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
