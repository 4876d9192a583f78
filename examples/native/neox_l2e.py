"""Pretrain a small GPT-NeoX with L2E, in a plain loop.

L2E (Wang et al. 2025, arXiv 2503.23298) selects 2 % of the values of the two
middle layers by a moving threshold, and adds a penalty on their distance from
the mean. The text is made here: sums of small numbers.

    python examples/native/neox_l2e.py
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

import torch
import transformers

from keras_memel import LogPenalty
from keras_memel import MEmeL
from keras_memel import Rate
from keras_memel import insert
from keras_memel import inserted
from keras_memel import readings
from keras_memel import strip

LETTERS = "0123456789+=. "


def batch(size, generator):
    pairs = torch.randint(10, (size, 3, 2), generator=generator).tolist()
    rows = ["".join(f"{a}+{b}={a + b:02d}. " for a, b in row) for row in pairs]
    return torch.tensor([[LETTERS.index(c) for c in row] for row in rows])


def main(steps=300):
    torch.manual_seed(0)
    model = transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=len(LETTERS),
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=64,
        )
    )
    insert(model, "middle:2", MEmeL(Rate(0.02), LogPenalty(), axis=-1))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for step in range(steps):
        ids = batch(32, generator)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {losses[-1]:.3f}")
            for name, value in readings(model).items():
                print(f"    {name}: {value:.4g}")
    counted = {int(memel.steps) for memel in inserted(model).values()}
    strip(model).eval()
    start = torch.tensor([[LETTERS.index(c) for c in "3+4="]])
    ids = model.generate(
        start,
        attention_mask=torch.ones_like(start),
        max_new_tokens=2,
        do_sample=False,
        pad_token_id=0,
    )
    print("".join(LETTERS[i] for i in ids[0].tolist()))
    return losses, counted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )
    options = parser.parse_args()
    words = vars(options)
    dry_run = words.pop("dry_run")
    for name, value in words.items():
        if value < 1:
            parser.error(f"--{name} must be at least 1. Received: {value}")
    if dry_run:
        print("arms      L2E, seed 0")
        print(
            f"sizes     {options.steps} steps of 32 rows, a GPT-NeoX of 4 "
            "layers of width 64"
        )
        print("files     none")
    else:
        main(**words)
