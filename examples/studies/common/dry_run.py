"""The plan of a study, which `--dry-run` prints."""

from examples.studies.common import training
from keras_memel import RunStore

ROOT = training.EXAMPLES.parent


def sizes(what="digits", train=training.TRAIN, epochs=training.EPOCHS):
    """Describe the training of a small network."""
    return (
        f"{train} {what} for training, {training.VALIDATION} for validation; "
        f"{epochs} epochs, batches of {training.BATCH}"
    )


def show(stores, seeds, sizes, page):
    """Print what a study would run, and run nothing.

    Args:
        stores: From each file of runs to its arms.
        seeds: Number of seeds.
        sizes: Text on the data and the training of one run.
        page: Name of the page that the study writes.
    """
    left = 0
    for file, arms in stores.items():
        runs = RunStore(file).read() if file.is_file() else []
        done = {(run["arm"], run["seed"]) for run in runs if "error" not in run}
        todo = {(arm, seed) for arm in arms for seed in range(seeds)} - done
        left += len(todo)
        lines(
            file=file.relative_to(ROOT),
            arms=f"{len(arms)}: {', '.join(arms)}",
            seeds=f"{seeds}: {len(arms) * seeds} runs, {len(todo)} not stored",
        )
    lines(
        sizes=sizes,
        writes=f"docs/studies/{page}.md",
        runs=f"{left} to train",
    )


def lines(**texts):
    """Print one line per title."""
    for title, text in texts.items():
        print(f"{title:10s}{text}")
