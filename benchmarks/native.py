"""Measure how much a MEmeL adds to a training step of a small BERT.

    KERAS_BACKEND=torch python benchmarks/native.py [--json FILE]

BERT of 4 layers, 128 wide, on 16 texts of 64 tokens with padding, AdamW; a
layer after each of the middle two. Rounds go through all models in turn. The
time is CPU time of one thread, so that other work on the machine changes it
little; of each round the ratio to the plain model is taken, and of the ratios
the median and the quartiles. A second plain model tells how much of that is
noise.
"""

import argparse
import json
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformers

from keras_memel import MEmeL
from keras_memel import insert

BATCH, LENGTH = 16, 64
LAYERS = {
    "none": None,
    "none again": None,
    "MEmeL('rate', axis=-1)": MEmeL("rate", axis=-1, late_start=0),
    "MEmeL(axis=-1)": MEmeL(axis=-1, late_start=0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here too")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    steps = {name: training(layer) for name, layer in LAYERS.items()}
    for step in steps.values():
        for _ in range(4):
            step()
    times = {name: [] for name in steps}
    for number in range(args.rounds):
        # Another one first each time: its caches are cold.
        names = list(steps)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.process_time()
            steps[name]()
            times[name].append(time.process_time() - start)
    rows = [row(name, times, args.rounds) for name in list(LAYERS)[1:]]
    for found in rows:
        print(found)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def row(name, times, rounds):
    ratios = [a / b for a, b in zip(times[name], times["none"])]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "layer": name,
        "base_ms": round(1e3 * statistics.median(times["none"]), 1),
        "extra_percent": round(100 * (middle - 1), 1),
        "quartiles": [round(100 * (low - 1), 1), round(100 * (high - 1), 1)],
        "rounds": rounds,
        "versions": {
            package: version(package)
            for package in ("keras", "torch", "transformers")
        },
    }


def training(layer):
    """A training step of a model with a layer, or without."""
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            vocab_size=1000,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=LENGTH,
        )
    )
    if layer is not None:
        insert(model, "middle:2", layer)
    lengths = torch.randint(20, LENGTH + 1, (BATCH, 1))
    batch = {
        "input_ids": torch.randint(0, 1000, (BATCH, LENGTH)),
        "attention_mask": (torch.arange(LENGTH) < lengths).long(),
        "labels": torch.arange(BATCH) % 2,
    }
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step():
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
