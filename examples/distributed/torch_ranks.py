"""MEmeL on many devices with PyTorch.

    torchrun --standalone --nproc-per-node 2 examples/distributed/torch_ranks.py

One process a GPU, or as many as one likes without. Gradients are averaged by
DistributedDataParallel, and the statistics of MEmeL are summed by itself: for
that it is enough that the process group exists.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--dry-run", action="store_true", help="print the plan, and stop"
)
if parser.parse_args().dry_run:
    print("devices   one process per device, started by torchrun")
    print("sizes     1,797 digits, 5 epochs, batches of 32 per process, seed 0")
    print("files     none")
    raise SystemExit

import torch

gpu = torch.cuda.is_available()
rank = int(os.environ["LOCAL_RANK"])
if gpu:
    torch.cuda.set_device(rank)  # before Keras makes tensors

import keras
import sklearn.datasets
from torch.utils.data import DataLoader
from torch.utils.data import TensorDataset
from torch.utils.data.distributed import DistributedSampler

from keras_memel import MEmeL

torch.distributed.init_process_group("nccl" if gpu else "gloo")
device = f"cuda:{rank}" if gpu else "cpu"
keras.utils.set_random_seed(0)
images, labels = sklearn.datasets.load_digits(return_X_y=True)
data = TensorDataset(
    torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
)
# Half of the samples each, and so as many steps: all ranks run every step.
sampler = DistributedSampler(data, seed=0)

memel = MEmeL("rate", axis=-1)
model = keras.Sequential(
    [
        keras.Input((64,)),
        keras.layers.Dense(256),
        memel,
        keras.layers.ReLU(),
        keras.layers.Dense(10),
    ]
).to(device)
parallel = torch.nn.parallel.DistributedDataParallel(model)
optimizer = torch.optim.Adam(parallel.parameters())
for epoch in range(5):
    sampler.set_epoch(epoch)
    right_and_all = torch.zeros(2, device=device)
    for x, y in DataLoader(data, batch_size=32, sampler=sampler):
        logits = parallel(x.to(device), training=True)
        loss = torch.nn.functional.cross_entropy(logits, y.to(device))
        # Layers such as a MEmeL with `LogPenalty` add terms to the loss.
        loss = loss + sum(model.losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = (logits.argmax(1).cpu() == y).sum()
        right_and_all += torch.tensor([right, len(y)], device=device)
torch.distributed.all_reduce(right_and_all)

if rank == 0:
    print(f"{torch.distributed.get_world_size()} processes")
    right, number = right_and_all
    print(f"accuracy {right / number:.3f}")
    print(f"{float(memel.inhibited_rate):.2%} of the last batch inhibited")
    print(f"samples seen by each neuron: {int(memel.count.value.min()):,}")
for turn in range(torch.distributed.get_world_size()):
    torch.distributed.barrier()
    if turn == rank:
        print(f"rank {rank}: threshold {float(memel.threshold.value):.6f}")
torch.distributed.destroy_process_group()
