"""Check MEmeL on an accelerator in under three minutes, on PyTorch.

    KERAS_BACKEND=torch python benchmarks/accelerator.py [--json FILE]

Print a line with PASS or FAIL for each check:

    agreement   outputs, gradients and statistics equal those of the CPU
    syncs       a training step never waits for the device
    graph       `torch.compile(fullgraph=True)` traces a step as one graph, and
                the compiled step equals the eager one, also with CUDA graphs
    speed       `MEmeL("rate")` takes at most the time of BatchNormalization,
                and at most 1.5 times the limit of memory bandwidth

The limit is 2.125 copies of the tensor: values read and written forward, the
gradient and one byte of mask read and one gradient written backward. The time
of a layer is that of a step, forward and backward, minus that of the same step
without a layer. Layers take turns in each round, and the device measures.
Without a GPU, `--device cpu` runs all but the checks of syncs and CUDA graphs.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import pathlib
import statistics
import sys
import time

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np
import torch

from keras_memel import MEmeL
from keras_memel import Random
from keras_memel import TopK

LAYERS = {
    "BatchNormalization()": lambda **k: keras.layers.BatchNormalization(**k),
    "LayerNormalization()": lambda **k: keras.layers.LayerNormalization(**k),
    "Dropout(0.1)": lambda **k: keras.layers.Dropout(0.1, **k),
    "MEmeL()": lambda **k: MEmeL(late_start=1, **k),
    "rate": lambda **k: MEmeL("rate", axis=-1, late_start=1, **k),
    "threshold": lambda **k: MEmeL("threshold", axis=-1, late_start=1, **k),
    "TopK(10)": lambda **k: MEmeL(TopK(10), axis=-1, late_start=1, **k),
    "TopK(100)": lambda **k: MEmeL(TopK(100), axis=-1, late_start=1, **k),
    "Random(0.02)": lambda **k: MEmeL(
        Random(0.02, seed=0), axis=-1, late_start=1, **k
    ),
}
SHAPES = ((32, 128, 768), (16, 56, 56, 128), (64, 4096))
DTYPES = ("float32", "bfloat16")
# Random selections differ between devices and cannot be traced: Keras samples
# outside of graphs.
EXACT = ("MEmeL()", "rate", "threshold", "TopK(10)")
COPIES = 2.125
MOST_LIMITS = 1.5


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=90, help="of timing")
    parser.add_argument("--json", type=pathlib.Path, help="write results here")
    parser.add_argument("--shape", type=int, nargs="+", help="one, for a trial")
    options = parser.parse_args(arguments)
    if keras.backend.backend() != "torch":
        parser.error("needs KERAS_BACKEND=torch")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device")
    start = time.perf_counter()
    shapes = [tuple(options.shape)] if options.shape else SHAPES
    results = measure(options.device, shapes, options.seconds)
    results["seconds"] = round(time.perf_counter() - start, 1)
    checks = verdicts(results)
    for name, passed, detail in checks:
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {detail}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    return 0 if all(passed for _, passed, _ in checks) else 1


def measure(device, shapes, seconds):
    """Run every check; return plain numbers and texts."""
    small = (8, 64, 96)
    results = {
        "device": "cpu"
        if device == "cpu"
        else torch.cuda.get_device_name(torch.cuda.current_device()),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("keras", "torch")
        },
        "agreement": {n: disagreement(n, small, device) for n in EXACT},
        "graph": {n: graph_error(n, small, device) for n in EXACT},
        "times": [],
    }
    if device == "cuda":
        results["syncs"] = {n: sync_error(n, SHAPES[0]) for n in LAYERS}
        results["launches"] = {n: launches(n, SHAPES[0]) for n in LAYERS}
    each = seconds / (len(shapes) * len(DTYPES))
    for shape in shapes:
        for dtype in DTYPES:
            results["times"] += times(shape, dtype, device, each)
    return results


def verdicts(results):
    """Return a name, whether it passed, and a detail per check."""
    checks = []

    def check(name, faults, good):
        checks.append((name, not faults, "; ".join(faults) or good))

    worst = {n: e for n, e in results["agreement"].items() if e > 1e-5}
    check(
        "agreement",
        [f"{n} differs from the CPU by {e:.2g}" for n, e in worst.items()],
        f"{len(results['agreement'])} layers equal the CPU within 1e-5",
    )
    if "syncs" in results:
        waits = {n: e for n, e in results["syncs"].items() if e}
        ours = [f"{n}: {e}" for n, e in waits.items() if is_ours(n)]
        counted = ", ".join(
            f"{n} {number}" for n, number in results["launches"].items()
        )
        check("syncs", ours, f"none; kernel launches of a step: {counted}")
    broken = [f"{n}: {e}" for n, e in results["graph"].items() if e]
    check("graph", broken, f"{len(results['graph'])} layers are one graph")
    for row in results["times"]:
        if row["layer"] != "rate":
            continue
        where = f"rate on {tuple(row['shape'])} {row['dtype']}"
        said = (
            f"{row['ms']:.3f} ms, {row['to_batchnorm']:.2f} of "
            f"BatchNormalization, {row['to_limit']:.2f} limits"
        )
        good = row["to_batchnorm"] <= 1 and row["to_limit"] <= MOST_LIMITS
        check(where, [] if good else [said], said)
    return checks


def is_ours(name):
    return isinstance(LAYERS[name](), MEmeL)


def step_of(layer, shape, dtype, device, call=None):
    """Return a training step, forward and backward, on fixed random data."""
    generator = np.random.default_rng(0)
    x, r = generator.standard_t(4, (2, *shape)).astype("float32")
    kind = getattr(torch, dtype)
    x = torch.tensor(x, device=device, dtype=kind, requires_grad=True)
    r = torch.tensor(r, device=device, dtype=kind)
    with keras.device(device):
        if layer is not None:
            layer.build(shape)
    if call is None:  # an nn.Module may have a length, and so be false
        call = layer if layer is not None else lambda x, training: x

    def step():
        x.grad = None
        y = call(x, training=True)
        y.backward(r)
        return y.detach(), x.grad

    return step


def outcome(name, shape, device, steps=3, call=None):
    """Return outputs, gradients and weights after some steps, in NumPy."""
    with keras.device(device):
        layer = LAYERS[name]()
        step = step_of(
            layer, shape, "float32", device, call(layer) if call else None
        )
        for _ in range(steps):
            found = step()
        found = [*found, *(weight.value for weight in layer.weights)]
    return [t.detach().cpu().numpy().astype("float64") for t in found]


def difference(ours, theirs):
    """Return the largest difference, relative where values exceed 1."""
    return max(
        float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b)), initial=0))
        for a, b in zip(ours, theirs, strict=True)
    )


def disagreement(name, shape, device):
    return difference(outcome(name, shape, device), outcome(name, shape, "cpu"))


def graph_error(name, shape, device):
    """Return why a step is not one graph, or differs from eager; else ""."""
    ways = {"eager": {"backend": "eager"}}
    if device == "cuda":
        ways = {
            "inductor": {},
            "CUDA graphs": {"mode": "reduce-overhead"},
        }
    expected = outcome(name, shape, device)
    for way, settings in ways.items():
        torch.compiler.reset()
        try:
            found = outcome(
                name,
                shape,
                device,
                call=functools.partial(
                    torch.compile, fullgraph=True, **settings
                ),
            )
        except Exception as error:
            first = str(error).strip().splitlines()
            return f"{way}: {first[0] if first else type(error).__name__}"
        if (off := difference(found, expected)) > 1e-4:
            return f"{way}: differs from eager by {off:.2g}"
    return ""


def sync_error(name, shape):
    """Return what makes a step wait for the device; else ""."""
    with keras.device("cuda"):
        step = step_of(LAYERS[name](), shape, "float32", "cuda")
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return ""


def launches(name, shape):
    """Return the number of kernels that a step launches."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile

    with keras.device("cuda"):
        step = step_of(LAYERS[name](), shape, "float32", "cuda")
        for _ in range(3):
            step()
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            step()
            torch.cuda.synchronize()
    return sum(
        event.count
        for event in seen.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )


def times(shape, dtype, device, seconds):
    """Return a row of times per layer, from interleaved rounds."""
    with keras.device(device):
        steps = {"none": step_of(None, shape, dtype, device)}
        for name, make in LAYERS.items():
            layer = make(dtype=dtype)
            steps[name] = step_of(layer, shape, dtype, device)
        source = torch.empty(shape, device=device, dtype=getattr(torch, dtype))
        target = torch.empty_like(source)
        steps["copy"] = lambda: target.copy_(source)
        found = interleaved(steps, device, seconds)
    middle = {name: statistics.median(t) for name, t in found.items()}
    limit = COPIES * middle["copy"]
    extra = {name: middle[name] - middle["none"] for name in LAYERS}
    return [
        {
            "layer": name,
            "shape": list(shape),
            "dtype": dtype,
            "ms": round(ms, 4),
            "to_batchnorm": round(ms / extra["BatchNormalization()"], 3),
            "to_limit": round(ms / limit, 3),
            "rounds": len(found["none"]),
        }
        for name, ms in extra.items()
    ]


def interleaved(steps, device, seconds):
    """Return milliseconds of each round, by step, for about `seconds`."""
    for step in steps.values():
        for _ in range(3):
            step()
    found = {name: [] for name in steps}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(found["none"]) < 5:
        for name, step in steps.items():
            found[name].append(timed(step, device))
    return found


def timed(step, device):
    if device == "cpu":
        start = time.perf_counter()
        step()
        return 1e3 * (time.perf_counter() - start)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


if __name__ == "__main__":
    sys.exit(main())
