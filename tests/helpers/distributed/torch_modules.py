"""PyTorch modules under DDP and FSDP2: what one rank of several does.

    python -m torch.distributed.run --standalone --nproc-per-node 2 \
        torch_modules.py FOLDER

`train` on all rows in one process is what the ranks must agree with.
"""

import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
import torch
from torch import distributed
from torch import nn

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Rate
from keras_memel import Threshold
from keras_memel import insert
from keras_memel import inserted

RUNS = {
    "top_k": {"selection": "top_k"},
    "penalty": {"selection": Rate(0.1), "inhibition": LogPenalty(0.5)},
    "current": {"selection": Threshold(2.0), "score_with": "current"},
}
ROWS = 8


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.layer = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.head = nn.Linear(6, 2)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layer:
            x = x + layer(x).tanh()
        return self.head(x).mean(1)


def make(name, **kwargs):
    torch.manual_seed(0)
    memel = MEmeL(axis=-1, late_start=1, **RUNS[name], **kwargs)
    example = {"input_ids": torch.zeros(1, 5, dtype=torch.long)}
    return insert(Text(), "layer.[01]", memel, example=example)


def rows(step):
    """Ids, a mask that leaves the ranks unlike numbers, and targets."""
    random = torch.Generator().manual_seed(step)
    # No token occurs twice in a text: the values would be tied, and `TopK`
    # would select by the rounding of a batch, which differs between the ranks.
    ids = torch.rand(ROWS, 20, generator=random).argsort(1)[:, :5]
    mask = torch.arange(5) < torch.arange(1, ROWS + 1)[:, None]
    return ids, mask.long(), torch.randn(ROWS, 2, generator=random)


def train(model, part=slice(None)):
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    for step in range(5):
        ids, mask, targets = (values[part] for values in rows(step))
        optimizer.zero_grad()
        loss = (model(ids, attention_mask=mask) - targets).square().mean()
        loss.backward()
        optimizer.step()
    return model


def state(model):
    """All of a model, as NumPy arrays by names that no wrapper changes."""
    found = {}
    for name, value in model.state_dict().items():
        value = value.full_tensor() if hasattr(value, "full_tensor") else value
        found[name.removeprefix("module.")] = value.detach().numpy()
    return found


def main(folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    part = slice(ROWS // 2 * rank, ROWS // 2 * (rank + 1))
    mesh = init_device_mesh("cpu", (2,))
    found = {}
    for name in RUNS:
        parallel = nn.parallel.DistributedDataParallel(make(name))
        found[f"ddp/{name}"] = state(train(parallel, part))
        sharded = make(name)
        for layer in sharded.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        found[f"fsdp/{name}"] = state(train(sharded, part))
    # Each rank has a separate model and a separate group.
    groups = [distributed.new_group([other]) for other in range(2)]
    alone = make("penalty", process_group=groups[rank])
    assert all(
        memel.process_group is groups[rank]
        for memel in inserted(alone).values()
    )
    found["alone"] = state(train(alone, part))
    np.savez(
        pathlib.Path(folder, f"rank_{rank}.npz"),
        **{
            f"{run}|{name}": value
            for run, values in found.items()
            for name, value in values.items()
        },
    )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
