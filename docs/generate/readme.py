"""Write the results into README.md, from the files that hold the runs.

    python docs/generate/readme.py

No number of the README is typed in: what stands between a pair of comments
`<!-- name: begin -->` and `<!-- name: end -->` is made here, from
examples/results/**/quickstart.jsonl and benchmarks/results/overhead_*.json.
"""

import importlib.util
import json
import pathlib

from keras_memel import RunStore

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
# Of each setting of the benchmark: what the table is of, and a cell. Its
# memory is in docs/cost.md.
SPEED = {
    "layer alone": (
        "Milliseconds that a layer adds to forward and backward on "
        "`{shape}`, and how often that is what BatchNormalization adds",
        "{extra_ms:.1f} ({ratio_to_batchnorm:.2f})",
    ),
    "transformer": (
        "Per cent that it adds to a training step of a small transformer on "
        "`{shape}`, after both blocks",
        "{extra_percent:.1f}",
    ),
}


def quickstart_section(root):
    """What examples/quickstart.py saw, or None before it has run."""
    file = root / "examples" / "results" / "quickstart.jsonl"
    if not file.exists():
        return None
    spec = importlib.util.spec_from_file_location(
        "quickstart", ROOT / "examples" / "quickstart.py"
    )
    quickstart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(quickstart)
    runs = RunStore(file).read()
    where = [run["environment"] for run in runs]
    parts = [
        f"{quickstart.tables(quickstart.compared(runs))}\n",
        "Differences in percentage points, of 10 paired seeds; "
        f"{quickstart.WRONG_SHARE:.0%} of {quickstart.TRAINING_IMAGES} "
        f"training labels wrong; {quickstart.EPOCHS} epochs; {versions(where)}."
        "\n\nThe same experiment on each backend, points and verdict:\n",
    ]
    files = [file, *sorted(file.parent.glob("*/quickstart.jsonl"))]
    for number, stored in enumerate(files):
        comparison = quickstart.compared(RunStore(stored).read())
        rows = [
            contrast
            for contrast in comparison.contrasts
            if contrast.metric == "accuracy"
            and contrast.arm == quickstart.MEMEL
        ]
        if number == 0:
            parts += [
                " | ".join(
                    ["| backend"]
                    + [f"{row.arm} less {row.other}" for row in rows]
                )
                + " |",
                "|---" * (1 + len(rows)) + "|",
            ]
        cells = [f"{100 * row.mean:+.1f} {row.verdict}" for row in rows]
        backend = BACKENDS[comparison.runs[0]["environment"]["backend"]]
        parts.append(f"| {' | '.join([backend, *cells])} |")
    return "\n".join(parts)


def speed_section(root):
    """What benchmarks/overhead.py measured, or None before it has run."""
    files = sorted((root / "benchmarks/results").glob("overhead_*.json"))
    rows = [
        row
        for file in files
        for row in json.loads(file.read_text(encoding="utf-8"))
    ]
    if not rows:
        return None
    parts = []
    for setting, (title, cell) in SPEED.items():
        seen = [row for row in rows if row["setting"] == setting]
        backends = [b for b in BACKENDS if any(r["backend"] == b for r in seen)]
        parts += [
            f"{title.format(shape=tuple(seen[0]['shape']))}:\n",
            f"| layer | {' | '.join(BACKENDS[b] for b in backends)} |",
            "|---" + "|--:" * len(backends) + "|",
        ]
        for layer in dict.fromkeys(row["layer"] for row in seen):
            cells = {
                row["backend"]: cell.format(**row)
                for row in seen
                if row["layer"] == layer
            }
            line = " | ".join(cells.get(backend, "") for backend in backends)
            parts.append(f"| `{layer}` | {line} |")
        parts.append("")
    return "\n".join([*parts, f"Two cores, {versions(rows)}."])


def versions(rows):
    """The versions of all rows, "jax 0.10.2, keras 3.15.1"."""
    pairs = {pair for row in rows for pair in row["versions"].items()}
    return ", ".join(f"{name} {number}" for name, number in sorted(pairs))


def render(text, root=ROOT):
    """`text` with each section made anew; one without files stays as it is."""
    for name, make in (
        ("quickstart", quickstart_section),
        ("speed", speed_section),
    ):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"Expected one {begin} and one {end}.")
        section = make(root)
        if section is not None:
            before, rest = text.split(begin)
            after = rest.split(end)[1]
            text = f"{before}{begin}\n{section}\n{end}{after}"
    return text


def main():
    readme = ROOT / "README.md"
    text = render(readme.read_text(encoding="utf-8"))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
