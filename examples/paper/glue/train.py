"""BERT on GLUE, as in Wang et al. (2024), Table 1.

    # the paper's run
    python examples/paper/glue/train.py --task RTE --data FOLDER
    python examples/paper/glue/train.py --task RTE --dry-run  # print the plan
    python examples/paper/glue/train.py --small  # minutes, a laptop
    python examples/paper/glue/train.py --data FILE  # your sentences

FOLDER contains the official tsv files; without it, tensorflow-datasets loads
the task. Each line of FILE has a sentence, a tab and its label (0 or 1), or a
score whose sign is its label. The file is split at random. `--model` is any
preset of a BERT for `keras_hub.models.TextClassifier.from_preset`: a name,
hf://..., or a folder.

The arms of a seed share the weights of the new head, the order of batches and
the random numbers of dropout. Each arm is trained with each learning rate. The
best on the validation set counts, and only it is tested if a test set has
labels. The labels of GLUE's test sets are secret: `--submit` writes the answers
in the format of gluebenchmark.com. MEmeL-Tune is MEmeL with `--k` and
`--delta`, which `python examples/paper/tune.py glue` finds.

A killed run resumes when it is started again. The small run shows that the
script works, not whether MEmeL helps.
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

import keras
import numpy as np

from examples.paper.common import labels
from examples.paper.common import longrun
from examples.paper.common import probe
from examples.paper.glue import tasks as glue_tasks
from examples.paper.glue.data import load_data
from examples.paper.glue.model import build
from examples.paper.glue.model import compile_model
from examples.paper.glue.tasks import SENTENCES
from examples.paper.glue.tasks import TASKS
from keras_memel import MEmeL
from keras_memel import compare
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
LONGER = "--train or --epochs"
MOVIES = pathlib.Path(__file__).parents[2] / "data" / "movie_sentences.tsv"
# Options that do not change the scores of a training.
NOT_OF_A_TRAINING = {
    *("arms", "data", "delta", "devices", "dry_run", "k", "learning_rates"),
    *("out", "save_every", "seed", "seeds", "skip_broken", "small", "submit"),
    *("steps_of", "test_it"),
}
PROBED = 320  # rows of a diagnosis: 20 batches of 16 for `decrease_ratio`

logging.getLogger("absl").setLevel("ERROR")  # no remarks on threads


def parse(arguments=None):
    """Return the options, with the paper's values as defaults."""
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
    labels.add_argument(parser)
    options = parser.parse_args(arguments)
    labels.check(parser, options.wrong)
    longrun.check(
        parser,
        options,
        positive=("learning_rates",),
        **dict.fromkeys(("train", "test", "length"), 1),
    )
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
    given = [value is not None for value in (options.k, options.delta)]
    if options.arms is None:
        # Two are minutes on a single core; `--arms` names the others.
        options.arms = ["MEmeL"] if options.small else [*paper.arms]
        options.arms += ["MEmeL-Tune"] if any(given) else []
    wanted = "MEmeL-Tune" in options.arms
    if any(value != wanted for value in given):
        parser.error(
            "MEmeL-Tune needs --k and --delta, and they need MEmeL-Tune: "
            "python examples/paper/tune.py glue finds the best ones"
        )
    if options.wrong and options.task in TASKS:
        classes = TASKS[options.task].classes
        if not classes:
            parser.error(
                f"--wrong needs a task with classes, not {options.task}"
            )
    options.test_it = True  # the search for settings sets False
    return options


def settings(options):
    """Return the settings that all trainings of these options share."""
    return {
        name: value
        for name, value in vars(options).items()
        if name not in NOT_OF_A_TRAINING
    }


def arms_of(options):
    """Return the arguments of MEmeL by arm, the original first."""
    arms = {name: ARMS[name] for name in ["original", *options.arms]}
    if "MEmeL-Tune" in arms:
        arms["MEmeL-Tune"] = paper.tuned(options.k, options.delta)
    return arms


def check(options, seed):
    """Check that data and model can be loaded, before any training."""
    data = load_data(options, seed)
    with longrun.devices(options):
        build(None, options, data.task.outputs)


def run(arm, seed, options):
    """Train with each learning rate; return the scores of the best one.

    Args:
        arm: Arguments of MEmeL, or None for the original.
        seed: Of the head, the order and dropout; of sentences, of the split.
        options: As `parse` returns.

    Returns:
        "validation", the first metric of the task on its validation set, which
        chose the learning rate; "test" where a test set has labels; with the
        names of set and metric, what else there is to say; and "correct", a
        list of booleans, one per test example, of a task with classes.
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
    # The first of equals; the test scores do not influence the choice.
    best, rate = max(tried, key=lambda pair: pair[0]["scores"]["validation"])
    if options.submit:
        submit(data.task, best["folder"])
    if len(tried) > 1:
        print(f"seed {seed}  {name_of(arm)}: best with {rate:g}", flush=True)
    correct = best.get("correct")
    return best["scores"] | (
        {"correct": [c == "1" for c in correct]} if correct else {}
    )


def train(arm, seed, rate, data, options):
    """Train once, or load a finished run; return scores and folder."""
    what = {"arm": arm, "seed": seed, "rate": rate, "tested": [*data.test]}
    what |= {"data": str(options.data), **settings(options)}
    digest = hashlib.sha256(repr(sorted(what.items())).encode()).hexdigest()
    folder = pathlib.Path(options.out) / "glue" / data.task.name
    folder /= f"{name_of(arm)}, seed {seed}, {rate:g}, {digest[:8]}"
    result = folder / "result.json"
    if result.is_file():
        found = json.loads(result.read_text(encoding="utf-8"))
        return {**found, "folder": folder}

    # Before devices are chosen, since this call resets them.
    keras.backend.clear_session()
    with longrun.devices(options):
        before = {}
        if options.diagnose and arm is None:  # the same for all arms
            keras.utils.set_random_seed(seed)
            before = _share(
                build(None, options, data.task.outputs), data, options
            )
            before = {"share_before": before}
        keras.utils.set_random_seed(seed)
        model = build(arm, options, data.task.outputs)
        batches = longrun.Batches(*data.train, options.batch, seed)
        steps = len(batches) * options.epochs
        longrun.check_length(arm, steps, LONGER)
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
        kept_on = {}
        if options.diagnose and arm == paper.kdd2024:
            for memel in inserted(model).values():
                memel.at_inference = True
            found, _ = evaluate(model, data, options.batch)
            kept_on = {f"kept_on_{name}": found[name] for name in found}
        if not (arm or {}).get("at_inference"):
            strip(model)  # the plain model is evaluated
        scores, answers = evaluate(model, data, options.batch)
        correct = "".join(
            "01"[int(np.argmax(output) == label)]
            for which, (_, y) in data.test.items()
            if y is not None and data.task.classes
            for output, label in zip(answers[f"test_{which}".rstrip("_")], y)
        )
        if options.diagnose:
            scores |= before | kept_on
            scores |= diagnose(model, arm, data, options, seed, steps)
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
            found["correct"] = correct
            new.write_text(json.dumps(found, default=str, indent=1), "utf-8")
            new.replace(result)
            # It is large, and the result no longer needs it.
            (folder / "checkpoint.npz").unlink(missing_ok=True)
    return {"scores": scores, "correct": correct, "folder": folder}


def _share(model, data, options):
    place = functools.partial(probe.placed, model, options.where)
    return probe.share(place, _batches(data, options))


def _batches(data, options, number=8):
    """Return some batches of the first validation set."""
    x, y = next(iter(data.validation.values()))
    rows = longrun.Batches(x, y, options.batch, shuffle=False)
    return [rows[i][0] for i in range(min(number, len(y) // options.batch))]


def diagnose(model, arm, data, options, seed, steps):
    """Measure the monosemantic values after training, see probe.py.

    Only for the original: the effect of a step of each arm (Table 4), and the
    metric of the network without these values.
    """
    scores = {"share_after": _share(model, data, options)}
    if arm is not None:
        return scores
    x, y = next(iter(data.validation.values()))
    # Use the middle of the schedule, whose last learning rate is 0.
    model.optimizer.build(model.trainable_variables)
    model.optimizer.iterations.assign(steps // 2)
    x, y = {name: column[:PROBED] for name, column in x.items()}, y[:PROBED]
    some = {
        which: ({k: v[:PROBED] for k, v in x.items()}, y[:PROBED])
        for which, (x, y) in list(data.test.items())[:1]
        if y is not None
    }
    tested = dataclasses.replace(data, validation=some, test={})

    def score(model):
        return evaluate(model, tested, options.batch)[0]["validation"]

    place = functools.partial(probe.placed, model, options.where)
    scores |= probe.table_4(model, x, y, options.where, options.steps_of, seed)
    if some:
        scores |= probe.ablation(place, _batches(data, options), score)
    return scores


def evaluate(model, data, batch):
    """Return the scores, the main one first, and the answers of each set."""
    scores, answers = {}, {}
    for part in ("validation", "test"):
        found = {}
        for which, (x, y) in getattr(data, part).items():
            # The labels of a set to submit are unknown.
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


def name_of(arm):
    for name, arguments in ARMS.items():
        if arm == arguments and name != "MEmeL-Tune":
            return name
    layer = MEmeL(**arm)
    return f"{layer.selection!r} {layer.inhibition!r}"


# Names of the files that gluebenchmark.com accepts.
_SUBMITTED = {"matched": "-m", "mismatched": "-mm", "": ""}


def submit(task, folder):
    """Write the answers to the test set in the format of GLUE's server."""
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
    """Measure some steps of the last arm, and print the plan."""
    arms = arms_of(options)
    text = {
        "preset": options.model,
        "arms": ", ".join(arms),
        "rates": ", ".join(f"{r:g}" for r in options.learning_rates),
    }
    runs = len(arms) * options.seeds * len(options.learning_rates)
    if options.data is None or not pathlib.Path(options.model).is_dir():
        source = options.data or "tensorflow-datasets"
        text["data"] = f"{options.task}, from {source}"
        longrun.outline(options, options.epochs, text, runs)
        return
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
                **text,
                "data": f"{data.task.name}, {len(data.train[1]):,} texts of "
                f"{options.length} tokens",
            },
            runs=runs,
        )


def main(arguments=None):
    options = parse(arguments)
    if options.dry_run:
        plan(options)
        return None
    print(f"{options.model} on {keras.config.backend()}", flush=True)
    # The store distinguishes runs by these options.
    what = {"data": str(options.data), "rates": options.learning_rates}
    what |= settings(options)
    arms = {name: (arm, what) for name, arm in arms_of(options).items()}
    # Check all arms before the first run.
    rows = len(load_data(options, options.seed).train[1])
    for arm, _ in arms.values():
        steps = rows // options.batch * options.epochs
        longrun.check_length(arm, steps, LONGER)

    def train_and_score(argument, seed):
        arm, _ = argument
        return run(arm, seed, options)

    comparison = compare(
        train_and_score,
        arms,
        seeds=range(options.seed, options.seed + options.seeds),
        store=options.out / "glue" / options.task / "runs.jsonl",
        retry_failed=True,
        progress=False,
    )
    print(f"\n{comparison}")
    if options.seeds < 10:
        print(
            "Runs also differ by their head and batches: so few seeds show "
            "no effect of an arm.\nA verdict needs 10."
        )
    return comparison


if __name__ == "__main__":
    longrun.start(main)
