"""Write docs/cost.md: the cost of a layer, computed and measured.

    python docs/generate/cost.py

The numbers of the page are computed here, or read from what scaling.py and
overhead.py stored in benchmarks/results/.
"""

import json
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}

# Bytes per float32 value: read for the moments, and for the score and the
# output; output and mask written; gradient and mask read, gradient written.
FORWARD = 4 + 4 + 4 + 1
BACKWARD = 4 + 1 + 4
STEP = FORWARD + BACKWARD
COPY = 4 + 4

# The model has 1e9 parameters and trains on 1,000 devices. The figures of a
# device come from the data sheet of the NVIDIA A100 80GB. The share of its
# arithmetic that training reaches is an assumption.
WIDTH, BLOCKS, LENGTH, SAMPLES, LAYERS = 2048, 24, 2048, 4, 4
DEVICES, BANDWIDTH, FLOPS, REACHED = 1000, 2.0e12, 312e12, 0.4

PAGE = """# What a layer costs

<!-- Written by docs/generate/cost.py. -->

## By count

With V values in the activation, N neurons and R replicas, a training step
moves, for each MEmeL with a rate or a threshold:

| | bytes | of which |
|---|--:|---|
| memory, forward | {forward} V | values read for moments and for scores, \
output and mask written |
| memory, backward | {backward} V | gradient and mask read, gradient written |
| memory, neurons | about 100 N | statistics, and numbers computed from them |
| kept for backward | V | the mask, one byte per value |
| sent by each replica | 8 (3 N + 1) | count, sum and sum of squares of each \
neuron, and the number selected, float64; 0 bytes if R = 1 |

The cost of arithmetic is negligible: about twenty operations per value,
compared with thousands in a matrix product. The minimum time is therefore that
of {step} bytes per value, {copies:.2f} times that of a copy of the values
({copy} bytes). The end of this page shows measurements. `TopK` reads the
values once more, and sorts them if k > 1. PyTorch, without a compiler, reads
the values once more for the output, from the cache if the batch is small. None
of this depends on the number of parameters.

## 1e9 parameters on {devices:,} devices

{blocks} blocks of width {width} ({parameters:.1e} parameters), {samples}
samples of {length} tokens per device, `MEmeL("rate", axis=-1)` after {layers}
blocks, counted in float32. These numbers are computed, not measured:

| | one layer | all {layers} | compared with |
|---|--:|--:|---|
| memory moved, MB | {moved:.0f} | {moved_all:.0f} | |
| its time at {bandwidth:.1f} TB/s, ms | {time:.2f} | {time_all:.2f} | \
{step_time:.0f} ms per step at {reached:.0%} of {tera:.0f} TFLOP/s: \
**{percent:.2f} %** |
| sent, kB | {sent:.0f} | {sent_all:.0f} | {gradients:.1f} GB of gradients in \
bfloat16: {sent_percent:.3f} % |
| sent with `axis=None`, MB | {none:.0f} | {none_all:.0f} | \
{none_percent:.0f} % of the gradients: use `axis=-1` |

The share falls as a model grows: parameters grow with the square of the
width, values with the width itself. Sums over {devices:,} devices are so
small that each takes one latency, about 0.1 ms; {layers} of them are
negligible.

## Compared with other layers

`benchmarks/overhead.py` measures every layer in the same interleaved rounds.
The tables show medians. A number below zero means that the layer adds less
than a shared machine can resolve.
{beside}

{versions}

## Compared with the limit
{limits}
On TensorFlow the layer is traced once for batches of all sizes. XLA compiles
it anew for each batch size: a smaller last batch costs about half a second per
layer, once per run. A batch size that divides the number of inputs avoids it.

## By size

`benchmarks/scaling.py` on two cores, float32. The tables show the extra time
compared with the same step without a layer, as medians of interleaved rounds. A
copy, timed in the same rounds, measures the speed of memory; the count above
predicts {copies:.2f} copies if the values do not fit into the cache. Below 1e5
values a fixed cost per step dominates: some tenths of a millisecond, the most
on PyTorch, which calls its operations one by one. Above 1e7 values, each step
allocates arrays from the operating system and frees them; so do the copy and
the step without a layer. On JAX the extra time is then a small difference of
large and noisy numbers (seven rounds with 1e7 values, five with 1e8). Its last
two rows only show that it is not large.
{measured}
"""


def page(root=ROOT):
    """Return the text of the page."""
    parameters = 12 * BLOCKS * WIDTH**2
    tokens = SAMPLES * LENGTH
    values = tokens * WIDTH
    moved = STEP * values
    step_time = 6 * parameters * tokens / (REACHED * FLOPS)
    sent = 8 * (3 * WIDTH + 1)
    none = 8 * (3 * WIDTH * LENGTH + 1)
    gradients = 2 * parameters
    return PAGE.format(
        forward=FORWARD,
        backward=BACKWARD,
        step=STEP,
        copy=COPY,
        copies=STEP / COPY,
        blocks=BLOCKS,
        width=WIDTH,
        parameters=parameters,
        samples=SAMPLES,
        length=LENGTH,
        layers=LAYERS,
        devices=DEVICES,
        moved=moved / 1e6,
        moved_all=LAYERS * moved / 1e6,
        bandwidth=BANDWIDTH / 1e12,
        time=1e3 * moved / BANDWIDTH,
        time_all=1e3 * LAYERS * moved / BANDWIDTH,
        step_time=1e3 * step_time,
        reached=REACHED,
        tera=FLOPS / 1e12,
        percent=100 * LAYERS * moved / BANDWIDTH / step_time,
        sent=sent / 1e3,
        sent_all=LAYERS * sent / 1e3,
        gradients=gradients / 1e9,
        sent_percent=100 * LAYERS * sent / gradients,
        none=none / 1e6,
        none_all=LAYERS * none / 1e6,
        none_percent=100 * LAYERS * none / gradients,
        beside=beside(root),
        limits=limits(root),
        versions=versions(root),
        measured=measured(root),
    )


def beside(root):
    rows = overhead(root)
    alone = [row for row in rows if row.get("setting") == "layer alone"]
    steps = [row for row in rows if row.get("setting") == "transformer"]
    memory = [row for row in rows if row.get("peak_mb") is not None]
    tables = (
        table(
            "Milliseconds that a layer adds to forward and backward on "
            f"{shape(alone)}, and the ratio to BatchNormalization",
            "layer",
            alone,
            lambda r: f"{r['extra_ms']:.1f} ({r['ratio_to_batchnorm']:.2f})",
        ),
        table(
            "Time that it adds to a training step of a small transformer, in "
            f"%, on {shape(steps)}, inserted after both blocks",
            "layer",
            steps,
            lambda r: f"{r['extra_percent']:.1f}",
        ),
        table(
            "Megabytes that a layer adds to the peak memory of a step with "
            "(128, 128, 768), where one tensor has 48",
            "layer",
            memory,
            lambda r: f"{r['peak_mb']:.0f}",
        ),
    )
    return "\n".join(filter(None, tables))


# The name of each ratio, its layer, and its field in a row.
RATIOS = (
    ("rate / peer", "rate", "to_peer"),
    ("rate / limit", "rate", "to_limit"),
    ("`MEmeL()` / peer", "MEmeL()", "to_peer"),
    ("`TopK(10)` / rate", "TopK(10)", "to_rate"),
    ("`TopK(100)` / rate", "TopK(100)", "to_rate"),
)


def limits(root):
    """Return the tables of benchmarks/peers.py."""
    rows = [
        row
        for backend in BACKENDS
        for file in root.glob(f"benchmarks/results/peers_{backend}.json")
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]
    if not rows:
        return ""
    parts = [
        "\n`benchmarks/peers.py` times a training step of one layer, forward "
        "and\nbackward, minus that of the same step without a layer. The peer "
        "is the faster of\n`BatchNormalization` and `Dropout(0.1)`. The limit "
        "is 2.125 copies of the values: what\na layer must at least read and "
        'write. Rate is `MEmeL("rate", axis=-1)`. Below 1 the\nlayer is '
        "faster.",
    ]
    for inputs in dict.fromkeys(row["inputs"] for row in rows):
        some = [row for row in rows if row["inputs"] == inputs]
        found = [
            {"ratio": name, "backend": row["backend"], "value": row[key]}
            for name, layer, key in RATIOS
            for row in some
            if row["layer"] == layer
        ]
        title = f"{inputs.capitalize()}, {shape(some)}"
        parts.append(
            table(title, "ratio", found, lambda r: f"{r['value']:.2f}")
        )
    return "\n".join(parts) + "\n"


def overhead(root):
    return [
        row
        for file in sorted(root.glob("benchmarks/results/overhead_*.json"))
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]


def shape(rows):
    return f"`{tuple(rows[0]['shape'])}`" if rows else ""


def versions(root):
    """Return the versions in the measurements of overhead.py."""
    pairs = {
        pair
        for row in overhead(root)
        for pair in row.get("versions", {}).items()
    }
    named = ", ".join(f"{name} {number}" for name, number in sorted(pairs))
    return f"Two cores, {named}." if named else ""


def measured(root):
    rows = [
        json.loads(line)
        for backend in BACKENDS
        for file in root.glob(f"benchmarks/results/scaling_{backend}.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines()
    ]
    tables = (
        table(title, key, [row for row in rows if row["part"] == part], cell)
        for part, key, title, cell in (
            (
                "values",
                "values",
                "`MEmeL('rate', axis=-1)`, 768 neurons: nanoseconds per value, "
                "and as a multiple of a copy",
                lambda r: f"{r['ns_per_value']:.2f} ({r['copies']:.1f})",
            ),
            (
                "neurons",
                "neurons",
                "The same with 1e7 values",
                lambda r: f"{r['ns_per_value']:.2f} ({r['copies']:.1f})",
            ),
            (
                "k",
                "selection",
                "Selections, `axis=-1`, (32, 128, 768): milliseconds, and the "
                "ratio to `Rate`",
                lambda r: f"{r['extra_ms']:.1f} ({r['ratio_to_rate']:.2f})",
            ),
            (
                "bert",
                "layer",
                "A training step of the size of BERT-base (12 blocks of 768, "
                "128 tokens, batch 2, Adam), with a layer after each of the "
                "middle four blocks: added time in %, with quartiles over the "
                "rounds",
                lambda r: (
                    f"{r['extra_percent']:+.1f} "
                    f"({r['quartiles'][0]:+.1f} to {r['quartiles'][1]:+.1f})"
                ),
            ),
            (
                "replicas",
                "replicas, neurons",
                "The message between processes on these two cores (gloo), in "
                "bytes and milliseconds",
                lambda r: f"{r['bytes']:,}, {r['ms']:.2f}",
            ),
        )
    )
    return "\n".join(filter(None, tables))


def table(title, key, rows, cell):
    if not rows:
        return ""
    keys = key.split(", ")
    cells = {}
    for row in rows:
        label = ", ".join(
            row[k]
            if k == "ratio"
            else f"`{row[k]}`"
            if k in ("selection", "layer")
            else f"{row[k]:,}"
            for k in keys
        )
        cells.setdefault(label, {})[row["backend"]] = cell(row)
    backends = [b for b in BACKENDS if any(r["backend"] == b for r in rows)]
    lines = [
        f"\n{title}:\n",
        f"| {key} | {' | '.join(BACKENDS[b] for b in backends)} |",
        "|---" + "|--:" * len(backends) + "|",
    ]
    for label, by_backend in cells.items():
        line = " | ".join(by_backend.get(b, "") for b in backends)
        lines.append(f"| {label} | {line} |")
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "cost.md").write_text(page(), encoding="utf-8")
