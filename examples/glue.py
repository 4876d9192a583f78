"""BERT on GLUE, as in Wang et al. (2024), Table 1.

    python examples/glue.py --task RTE --data FOLDER        # the paper's run
    python examples/glue.py --task RTE --dry-run            # what it would be
    python examples/glue.py --small                         # minutes, a laptop
    python examples/glue.py --data FILE                     # your sentences

FOLDER holds the official tsv files; without it, tensorflow-datasets loads the
task. FILE has a sentence, a tab and its label (0 or 1), or a score whose sign
is its label, in each line, and is split by chance. `--model` is any preset of
a BERT that `keras_hub.models.TextClassifier.from_preset` takes: a name,
hf://..., or a folder.

The arms of a seed share the weights of the new head, the order of batches and
the draws of dropout. Each arm is trained with each learning rate; the best on
the validation set counts, and only it is tested where a test set has labels.
The labels of GLUE's own test sets are secret: `--submit` writes the answers
as gluebenchmark.com takes them. MEmeL-Tune is MEmeL with `--k` and `--delta`,
which `python examples/tune.py glue` finds.

A killed run goes on when it is started again. The small run shows that it
works, not whether MEmeL helps.
"""

import argparse
import csv
import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import glue_tasks
import keras
import longrun
import numpy as np
from glue_tasks import SENTENCES
from glue_tasks import TASKS
from glue_tasks import Part

from keras_memel import MEmeL
from keras_memel import compare
from keras_memel import insert
from keras_memel import inserted
from keras_memel import paper
from keras_memel import strip

ARMS = {**paper.arms, "MEmeL-Tune": None, "L2E": paper.l2e}
PAPER = {
    "task": "sentences",
    "model": "bert_base_en_uncased",
    "batch": 32,
    "epochs": 3,
    "length": 128,
    "learning_rates": [2e-5, 3e-5, 4e-5, 5e-5],
    "where": "middle:4",  # blocks 4 to 7 of 12
    "train": None,  # all
    "validation": 1000,
    "test": 1000,
}
SMALL = {
    **PAPER,
    "model": "hf://sentence-transformers/all-MiniLM-L6-v2",
    "epochs": 1,
    "length": 32,
    "learning_rates": [5e-5],
    "train": 1280,
    "validation": 500,
    "test": 500,
}
MOVIES = pathlib.Path(__file__).parent / "data" / "movie_sentences.tsv"
# What the scores of a training do not depend on.
NOT_OF_A_TRAINING = {
    *("arms", "data", "delta", "devices", "dry_run", "k", "learning_rates"),
    *("out", "save_every", "seed", "seeds", "skip_broken", "small", "submit"),
    "test_it",
}

logging.getLogger("absl").setLevel("ERROR")  # no remarks on threads


def parse(arguments=None):
    """Options of this program, with the paper's where none are given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    longrun.add_arguments(parser)
    add = parser.add_argument
    add("--task", choices=[*TASKS, SENTENCES.name])
    add("--data", type=pathlib.Path, help="a folder, or a file of sentences")
    add("--model", help=f"default: {PAPER['model']}")
    add("--length", type=int, help="of a text, in tokens")
    add("--learning-rates", type=float, nargs="+", metavar="RATE")
    add("--where", help='as in keras_memel.find; default: "middle:4"')
    add("--arms", nargs="+", choices=ARMS, metavar="ARM", help=str([*ARMS]))
    add("--k", type=int, help="of MEmeL-Tune: values of a text")
    add("--delta", type=float, help="of MEmeL-Tune: times the gradient")
    add("--seeds", type=int, default=1, help="ten for a verdict")
    add("--train", type=int, help="the first rows only")
    for part in ("validation", "test"):
        add(f"--{part}", type=int, help="sentences of FILE to hold out")
    add("--skip-broken", action="store_true", help="leave broken rows out")
    add("--submit", action="store_true", help="answer GLUE's test set")
    options = parser.parse_args(arguments)
    if options.task in TASKS and options.small:
        parser.error("--small is of the sentences; leave --task out")
    for name, default in (SMALL if options.small else PAPER).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    if options.small and options.data is None:
        options.data = MOVIES
    if options.task == SENTENCES.name and options.data is None:
        names = ", ".join(TASKS)
        parser.error(
            f"what is to be learned? Pass --task, one of {names}, or --data "
            "FILE with sentences of your own, or --small"
        )
    tuned = (options.k is not None) + (options.delta is not None)
    wanted = "MEmeL-Tune" in (options.arms or ())
    if tuned == 1 or (wanted and not tuned):
        parser.error(
            "MEmeL-Tune needs --k and --delta, the best on the validation "
            "set: python examples/tune.py glue finds them"
        )
    if options.arms is None:
        # Two are minutes on a single core; `--arms` names the others.
        options.arms = ["MEmeL"] if options.small else [*paper.arms]
        options.arms += ["MEmeL-Tune"] if tuned else []
    options.test_it = True  # the search for settings sets False
    return options


def settings(options):
    """What all trainings of these options have in common."""
    return {
        name: value
        for name, value in vars(options).items()
        if name not in NOT_OF_A_TRAINING
    }


def arms_of(options):
    """Arguments of MEmeL by the name of the arm, the original first."""
    arms = {name: ARMS[name] for name in ["original", *options.arms]}
    if "MEmeL-Tune" in arms:
        arms["MEmeL-Tune"] = paper.tuned(options.k, options.delta)
    return arms


@dataclasses.dataclass(frozen=True)
class Data:
    """What is learned, tokenized: inputs and labels of each part."""

    task: glue_tasks.Task
    train: tuple
    validation: dict  # by `task.validation`
    test: dict  # of sets with labels, or to be submitted


def load_data(options, seed):
    """Reads and tokenizes a task, once for all arms and learning rates."""
    task = TASKS.get(options.task, SENTENCES)
    # Only of sentences does the split depend on the seed.
    return _load_data(
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
    # Microsoft's file of MRPC has them; no other one of GLUE.
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
    if train is None:
        train = len(rows) - validation - test
    if train < 1 or len(rows) < train + validation + test:
        raise SystemExit(
            f"--train, --validation and --test need "
            f"{max(train, 1) + validation + test} sentences. "
            f"Received: {len(rows)}"
        )
    order = np.random.default_rng(seed).permutation(len(rows))
    parts, first = {}, 0
    sizes = {"train": train, "validation": validation, "test": test}
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


def _keras_hub():
    try:
        import keras_hub
    except ImportError as error:
        raise SystemExit(
            "This example needs keras_hub: pip install 'keras-memel[hub]'. "
            f"Importing it failed with: {error}"
        ) from None
    return keras_hub.models


def _from_preset(make, name, **arguments):
    try:
        return make(name, **arguments)
    except Exception as error:
        raise SystemExit(
            f"No model {name!r}. Pass --model FOLDER, a preset on this "
            "machine, or --model NAME, a preset that keras_hub can download "
            f"(https://keras.io/keras_hub/presets). It failed with: {error!r}"
        ) from None


def _preprocessor(name, length):
    make = _keras_hub().TextClassifierPreprocessor.from_preset
    return _from_preset(make, name, sequence_length=length)


def _tokenizer(name, length):
    preprocessor = _preprocessor(name, length)

    def tokenize(rows):
        parts = []
        for first in range(0, len(rows), 4096):
            columns = zip(*rows.texts[first : first + 4096])
            texts = tuple(list(column) for column in columns)
            # A pair without `y` would be taken for texts and labels.
            parts.append(preprocessor(texts, y=None))
        return {
            key: np.concatenate([np.asarray(p[key]) for p in parts]).astype(
                "int32"
            )
            for key in parts[0]
        }

    return tokenize


def build(arm, options, outputs):
    """The network of an arm, not compiled, which takes tokens."""
    classifier = _from_preset(
        _keras_hub().TextClassifier.from_preset,
        options.model,
        num_classes=outputs,
        dtype=keras.config.dtype_policy(),
        preprocessor=_preprocessor(options.model, options.length),
    )
    if arm is not None:
        # The preprocessor tells the number of positions, each of whose
        # channels is a neuron; padding is masked.
        insert(classifier, options.where, MEmeL(**arm))
    # Its own `fit` takes texts, in the order in which they come.
    inputs = {
        name: keras.Input((options.length,), dtype="int32", name=name)
        for name in classifier.input
    }
    return keras.Model(inputs, classifier(inputs))


@keras.saving.register_keras_serializable("keras_memel_examples")
class WarmUpThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Of BERT: up in a line for a tenth of the steps, then down to 0."""

    def __init__(self, peak, steps, share=0.1):
        super().__init__()
        self.peak, self.steps, self.share = peak, steps, share

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        up = max(1.0, self.share * self.steps)
        rising = (step + 1) / up
        falling = (self.steps - step) / max(1.0, self.steps - up)
        return self.peak * keras.ops.clip(
            keras.ops.minimum(rising, falling), 0.0, 1.0
        )

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "share": self.share}


def compile_model(model, rate, steps):
    """As BERT was trained (arXiv 1810.04805, appendix A.2)."""
    optimizer = keras.optimizers.AdamW(
        WarmUpThenDecay(rate, steps),
        weight_decay=0.01,
        epsilon=1e-6,
        global_clipnorm=1.0,
    )
    # Neither biases nor the scales of normalization.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = (
        keras.losses.MeanSquaredError()
        if model.output_shape[-1] == 1
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.compile(optimizer=optimizer, loss=loss, metrics=[])


def run(arm, seed, options):
    """Trains with each learning rate; the scores of the best one.

    Args:
        arm: Arguments of MEmeL, or None for the original.
        seed: Of the head, the order and dropout; of sentences, of the split.
        options: As `parse` returns.

    Returns:
        "validation", the first metric of the task on its validation set, which
        chose the learning rate; "test" where a test set has labels; and, with
        the names of set and metric, what else there is to say.
    """
    data = load_data(options, seed)
    tried = []
    for rate in options.learning_rates:
        try:
            tried.append((train(arm, seed, rate, data, options), rate))
        except FloatingPointError as error:
            if len(options.learning_rates) == 1:
                raise
            print(f"seed {seed}  {name_of(arm)}  {rate:g}: {error}")
    if not tried:
        raise FloatingPointError("training diverged with every learning rate")
    # Of equals the first; `test` has no say.
    best, rate = max(tried, key=lambda pair: pair[0]["scores"]["validation"])
    if options.submit:
        submit(data.task, best["folder"])
    if len(tried) > 1:
        print(f"seed {seed}  {name_of(arm)}: best with {rate:g}", flush=True)
    return best["scores"]


def train(arm, seed, rate, data, options):
    """One training, or what it left if it is finished: scores and folder."""
    what = {"arm": arm, "seed": seed, "rate": rate, "tested": [*data.test]}
    what |= {"data": str(options.data), **settings(options)}
    digest = hashlib.sha256(repr(sorted(what.items())).encode()).hexdigest()
    folder = pathlib.Path(options.out) / "glue" / data.task.name
    folder /= f"{name_of(arm)}, seed {seed}, {rate:g}, {digest[:8]}"
    result = folder / "result.json"
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        return {"scores": found["scores"], "folder": folder}

    # Before devices are chosen, which it would forget.
    keras.backend.clear_session()
    with longrun.devices(options):
        keras.utils.set_random_seed(seed)
        model = build(arm, options, data.task.outputs)
        batches = longrun.Batches(*data.train, options.batch, seed)
        steps = len(batches) * options.epochs
        check_length(arm, steps, options)
        compile_model(model, rate, steps)
        start = time.perf_counter()
        longrun.fit(
            model,
            batches,
            argparse.Namespace(save_every=options.save_every),
            folder,
            options.epochs,
            settings=what,
            verbose=0,
        )
        seconds = time.perf_counter() - start
        notes = ""
        if inserted(model):
            rates = [float(m.inhibited_rate) for m in inserted(model).values()]
            notes = (
                f", {100 * statistics.fmean(rates):.4f} % inhibited at the end"
            )
        if not (arm or {}).get("at_inference"):
            strip(model)  # what is used is the plain model
        scores, answers = evaluate(model, data, options.batch)
        print(
            f"seed {seed}  {name_of(arm):10s}  learning rate {rate:g}  "
            + "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
            + f"  ({seconds:.0f} s of training{notes})",
            flush=True,
        )
        if longrun.rank_and_ranks()[0] == 0:
            np.savez(folder / "answers.npz", **answers)
            new = result.with_suffix(".new")
            found = {"settings": what, "scores": scores, "seconds": seconds}
            new.write_text(json.dumps(found, default=str, indent=1), "utf-8")
            new.replace(result)
            # It is large, and all that it was good for is in the result.
            (folder / "checkpoint.npz").unlink(missing_ok=True)
    return {"scores": scores, "folder": folder}


def evaluate(model, data, batch):
    """Scores, the one that decides first, and the answers of each set."""
    scores, answers = {}, {}
    for part in ("validation", "test"):
        found = {}
        for which, (x, y) in getattr(data, part).items():
            # The labels of a set to be submitted are not known.
            rows = longrun.Batches(
                x, np.zeros(len(x["token_ids"])), batch, shuffle=False
            )
            outputs = model.predict(rows, verbose=0)
            answers[f"{part}_{which}".rstrip("_")] = outputs
            if y is None:
                continue
            scored = glue_tasks.score(data.task, outputs, y)
            for metric, value in scored.items():
                found["_".join(filter(None, (part, which, metric)))] = value
        if found:
            scores[part] = next(iter(found.values()))
            if len(found) > 1:
                scores |= found
    return scores, answers


def check_length(arm, steps, options):
    """A run that ends before the late start would show nothing."""
    if arm is not None and steps <= (late_start := MEmeL(**arm).late_start):
        raise SystemExit(
            f"{name_of(arm)} inhibits nothing in its first {late_start} steps "
            f"of {options.batch} texts: raise --train or --epochs. Received: "
            f"--train {options.train} --epochs {options.epochs}, which make "
            f"{steps} steps"
        )


def name_of(arm):
    for name, arguments in ARMS.items():
        if arm == arguments and name != "MEmeL-Tune":
            return name
    layer = MEmeL(**arm)
    return f"{layer.selection!r} {layer.inhibition!r}"


# Names of the files that gluebenchmark.com takes.
_SUBMITTED = {"matched": "-m", "mismatched": "-mm", "": ""}


def submit(task, folder):
    """Writes the answers to the test set as GLUE's server takes them."""
    with np.load(folder / "answers.npz") as file:
        answers = {key: file[key] for key in file}
    for which in task.validation:
        outputs = answers[f"test_{which}".rstrip("_")]
        path = folder / f"{task.name}{_SUBMITTED[which]}.tsv"
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, delimiter="\t", lineterminator="\n")
            rows.writerow(["index", "prediction"])
            for index, output in enumerate(outputs):
                answer = (
                    task.classes[int(np.argmax(output))]
                    if task.classes
                    else f"{min(5.0, max(0.0, float(output[0]))):.3f}"
                )
                rows.writerow([index, answer])
        print(f"written: {path}")


def plan(options):
    """Measures some steps of the last arm, and says what all would take."""
    arms = arms_of(options)
    data = load_data(options, options.seed)
    with longrun.devices(options):
        model = build(list(arms.values())[-1], options, data.task.outputs)
        batches = longrun.Batches(*data.train, options.batch, options.seed)
        steps = len(batches) * options.epochs
        compile_model(model, options.learning_rates[0], steps)
        longrun.plan(
            model,
            options,
            len(batches),
            options.epochs,
            step=lambda: model.train_on_batch(*batches[0]),
            text={
                "model": options.model,
                "data": f"{data.task.name}, {len(data.train[1]):,} texts of "
                f"{options.length} tokens",
                "arms": ", ".join(arms),
                "rates": ", ".join(f"{r:g}" for r in options.learning_rates),
            },
            runs=len(arms) * options.seeds * len(options.learning_rates),
        )


def main(arguments=None):
    options = parse(arguments)
    if options.dry_run:
        plan(options)
        return None
    print(f"{options.model} on {keras.config.backend()}", flush=True)
    # The store tells runs with other options apart by this.
    what = {"data": str(options.data), "rates": options.learning_rates}
    what |= settings(options)
    arms = {name: (arm, what) for name, arm in arms_of(options).items()}
    # What cannot be run is found before anything is.
    rows = len(load_data(options, options.seed).train[1])
    for arm, _ in arms.values():
        check_length(arm, rows // options.batch * options.epochs, options)
    comparison = compare(
        functools.partial(_run, options=options),
        arms,
        seeds=range(options.seed, options.seed + options.seeds),
        store=options.out / "glue" / options.task / "runs.jsonl",
        retry_failed=True,
        progress=False,
    )
    print(f"\n{comparison}")
    if options.seeds < 10:
        print(
            "Each run differs by its head and batches besides: so few seeds "
            "say nothing for or\nagainst an arm. A verdict takes 10."
        )
    return comparison


def _run(argument, seed, options):
    return run(argument[0], seed, options)


if __name__ == "__main__":
    main()
