"""Write docs/quickstart.md and its figure from the stored runs.

    python docs/generate/quickstart.py

Every number of the page comes from examples/results/**/quickstart.jsonl.
"""

import importlib.util
import pathlib

from keras_memel import RunStore

ROOT = pathlib.Path(__file__).parents[2]
BACKENDS = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
RESULTS = ROOT / "examples" / "results"

PAGE = """# Does MEmeL help when labels are wrong?

<!-- Written by docs/generate/quickstart.py. -->

{answer}

![Difference in test accuracy of each pair of arms, one dot per seed]\
(quickstart.png)

{tables}

Differences are in percentage points, from {seeds} paired seeds, after {epochs}
epochs on {images} images.
Versions: {versions}.

## On each backend

Points and verdict:

{backends}

## How it is measured

`python examples/quickstart.py` trains the 40 networks on your machine. Each
seed fixes the split, the wrong labels, the initial weights and the order of the
batches for all arms. No arm is tuned: dropout uses the usual rate of 50 %,
and MEmeL and its placebo inhibit 10 % of the values. The placebo is the same
layer with values selected at random. Any effect that both share is due to
noise.

"Better" and "worse" need ten seeds and p < 0.05 in both a sign-flip test and a
studentized bootstrap, with Holm's correction over the table. Any other
result is "not shown". "Detectable" is the mean difference that such a run shows
in about three cases of four. [How to test it](evidence.md) explains the tests,
and [When to use it](when_to_use.md) has the results with tuned arms and other
data.

The runs are stored in [examples/results](../examples/results).
"""
# The answer holds if the verdicts are those of `ANSWERED`.
ANSWER = """**In this experiment MEmeL raises test accuracy over plain \
training and over its placebo, and it is not shown to be better than \
dropout.** 20 % of the training labels are wrong, and no arm is tuned."""
ANSWERED = {
    "plain": {"better"},
    "placebo 10 %": {"better"},
    "dropout 50 %": {"not shown", "worse"},
}


def load_script():
    """Return the module examples/quickstart.py."""
    spec = importlib.util.spec_from_file_location(
        "quickstart", ROOT / "examples" / "quickstart.py"
    )
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def page():
    """Return the text of the page."""
    script = load_script()
    files = [RESULTS / "quickstart.jsonl"]
    files += sorted(RESULTS.glob("*/quickstart.jsonl"))
    found = [script.compared(RunStore(file).read()) for file in files]
    runs = found[0].runs
    return PAGE.format(
        answer=ANSWER,
        tables=script.tables(found[0]),
        seeds=len({run["seed"] for run in runs}),
        images=script.TRAINING_IMAGES,
        epochs=script.EPOCHS,
        versions=versions([run["environment"] for run in runs]),
        backends="\n".join(by_backend(script, found)),
    )


def by_backend(script, found):
    """Return a Markdown table: a row per backend, a column per comparison."""
    lines = []
    for comparison in found:
        rows = [
            contrast
            for contrast in comparison.contrasts
            if contrast.metric == "accuracy" and contrast.arm == script.MEMEL
        ]
        for row in rows:
            if row.verdict not in ANSWERED[row.other]:
                raise AssertionError(
                    f"The answer of the page does not hold: {row.arm} vs. "
                    f"{row.other} is {row.verdict!r}."
                )
        if not lines:
            pairs = [f"{row.arm} vs. {row.other}" for row in rows]
            lines = [
                f"| backend | {' | '.join(pairs)} |",
                "|---" * (1 + len(rows)) + "|",
            ]
        cells = [f"{100 * row.mean:+.1f} {row.verdict}" for row in rows]
        backend = BACKENDS[comparison.runs[0]["environment"]["backend"]]
        lines.append(f"| {' | '.join([backend, *cells])} |")
    return lines


def versions(rows):
    """Return the versions of all runs: "jax 0.10.2, keras 3.15.1"."""
    pairs = {pair for row in rows for pair in row["versions"].items()}
    return ", ".join(f"{name} {number}" for name, number in sorted(pairs))


def main():
    (ROOT / "docs" / "quickstart.md").write_text(page(), encoding="utf-8")
    script = load_script()
    runs = RunStore(RESULTS / "quickstart.jsonl").read()
    figure = script.figure(script.compared(runs))
    figure.savefig(ROOT / "docs" / "quickstart.png", dpi=120)


if __name__ == "__main__":
    main()
