"""Load the data of train.py: the parts of a task, tokenized."""

import dataclasses
import functools

import numpy as np

from examples.paper.common import labels
from examples.paper.glue import model as glue_model
from examples.paper.glue import tasks as glue_tasks
from examples.paper.glue.tasks import SENTENCES
from examples.paper.glue.tasks import TASKS
from examples.paper.glue.tasks import Part


@dataclasses.dataclass(frozen=True)
class Data:
    """Store the tokenized inputs and labels of each part."""

    task: glue_tasks.Task
    train: tuple
    validation: dict  # one per name in `task.validation`
    test: dict  # sets with labels, or for submission


def load_data(options, seed):
    """Read and tokenize a task, once for all arms and learning rates."""
    task = TASKS.get(options.task, SENTENCES)
    # The split depends on the seed for sentences only.
    data = _load_data(
        task.name,
        options.data,
        options.model,
        options.length,
        options.train,
        (options.validation, options.test, seed) if task is SENTENCES else None,
        options.test_it,
        options.submit,
        options.skip_broken,
    )
    return _spoiled(data, options.wrong, seed) if options.wrong else data


def _spoiled(data, share, seed):
    """Return data with wrong training and validation labels."""
    classes = data.task.outputs

    def spoil(x, y, part):
        return x, labels.spoil(y, classes, share, seed, part)

    return dataclasses.replace(
        data,
        train=spoil(*data.train, "train"),
        validation={
            which: spoil(*both, f"validation {which}")
            for which, both in data.validation.items()
        },
    )


@functools.lru_cache(maxsize=1)
def _load_data(
    name, data, model, length, train, split, test_it, submit, skip_broken
):
    broken = [] if skip_broken else None
    task = TASKS.get(name, SENTENCES)
    if task is SENTENCES:
        parts = _split(glue_tasks.read_sentences(data, broken), train, *split)
    else:
        read = functools.partial(glue_tasks.read, task, data)
        parts = {("train", ""): _head(read("train", "", broken), train)}
        for which in task.validation:
            parts["validation", which] = read("validation", which, broken)
            if submit or (test_it and _has_test_labels(task, data)):
                # The answers are numbered: no row may be left out.
                parts["test", which] = read("test", which)
    for what in broken or ():
        print(f"left out: {what}")
    if not test_it:
        parts.pop(("test", ""), None)
    tokenize = _tokenizer(model, length)
    print(
        f"{task.name}: "
        + ", ".join(
            f"{len(rows):,} rows of {part} {which}".rstrip()
            for (part, which), rows in parts.items()
        ),
        flush=True,
    )
    found = {"train": {}, "validation": {}, "test": {}}
    for (part, which), rows in parts.items():
        found[part][which] = tokenize(rows), _targets(rows)
    return Data(task, found["train"][""], found["validation"], found["test"])


def _has_test_labels(task, data):
    # Of all files of GLUE, only Microsoft's MRPC has test labels.
    if task.name != "MRPC" or data is None:
        return False
    folder = data / task.name if (data / task.name).is_dir() else data
    tests = [folder / "test.tsv", folder / "msr_paraphrase_test.txt"]
    return not tests[0].is_file() and tests[1].is_file()


def _head(rows, number):
    if number is None:
        return rows
    return Part(rows.texts[:number], rows.labels[:number])


def _split(rows, train, validation, test, seed):
    left = len(rows) - validation - test
    sizes = {
        "train": left if train is None else train,
        "validation": validation,
        "test": test,
    }
    if min(sizes.values()) < 1 or sum(sizes.values()) > len(rows):
        wanted = f"--train {train} " if train is not None else ""
        raise SystemExit(
            "Each part needs at least one sentence of its own: "
            f"{wanted}--validation {validation} --test {test}. "
            f"Received: {len(rows)} sentences"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    parts, first = {}, 0
    for part, size in sizes.items():
        chosen = order[first : first + size]
        texts = [rows.texts[i] for i in chosen]
        parts[part, ""] = Part(texts, rows.labels[chosen])
        first += size
    return parts


def _targets(rows):
    if rows.labels is None or rows.labels.dtype.kind == "i":
        return rows.labels
    return rows.labels[:, None]  # of a regression


def _tokenizer(name, length):
    preprocessor = glue_model.preprocessor(name, length)

    def tokenize(rows):
        parts = []
        for first in range(0, len(rows), 4096):
            columns = zip(*rows.texts[first : first + 4096])
            texts = tuple(list(column) for column in columns)
            # Without `y`, a pair would be treated as texts and labels.
            parts.append(preprocessor(texts, y=None))
        return {
            key: np.concatenate([np.asarray(p[key]) for p in parts]).astype(
                "int32"
            )
            for key in parts[0]
        }

    return tokenize
