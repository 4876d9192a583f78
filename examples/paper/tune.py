"""MEmeL-Tune: tune k, delta, and the layers.

    python examples/paper/tune.py --small  # minutes, a laptop
    # the paper's grid
    python examples/paper/tune.py glue --task RTE --data FOLDER
    python examples/paper/tune.py glue --task RTE --where middle:2 middle:4
    python examples/paper/tune.py nowcasting --data FOLDER --trials 10

The family is glue, imagenet or nowcasting. Arguments that are not listed below
go to its program, whose `--help` lists them. Its `run` trains each setting, and
the validation set alone scores it. The paper's grid has 25 settings: values per
sample and factors of the reversed gradient, 1, 5, 10, 50 and 100 each. The best
settings are printed as arguments for the program of the family.

KerasTuner stores the trials. If you start the script again, it resumes the
search and a training that was killed. To search on many machines that share
`--out`, start the same command on each, in a separate environment:

    KERASTUNER_ORACLE_IP=10.0.0.1    the machine of the chief, for all
    KERASTUNER_ORACLE_PORT=8000      for all
    KERASTUNER_TUNER_ID=chief        of one, which trains nothing itself
    KERASTUNER_TUNER_ID=worker0      of the others: worker1, worker2, ...

A worker that is started again with its name goes on with its trial.
"""

import argparse
import copy
import hashlib
import importlib
import itertools
import os
import shlex
import sys
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import numpy as np

try:
    import keras_tuner
except ImportError as error:
    raise SystemExit(
        "This example needs KerasTuner: pip install keras-tuner. Importing it "
        f"failed with: {error}"
    ) from None

from examples.paper.common import longrun
from keras_memel import paper

FAMILIES = {
    family: f"examples.paper.{family}.train"
    for family in ("glue", "imagenet", "nowcasting")
}
PAPER = {
    "k": paper.tune_grid["k"],
    "delta": [float(delta) for delta in paper.tune_grid["delta"]],
    "trials": None,  # all
}
SMALL = {
    "k": [1, 100],
    "delta": [1.0, 10.0],
    "trials": 3,
}
SMALL_WHERE = ["middle:2", "middle:4"]


class Grid(keras_tuner.Oracle):
    """Try all settings, or a random selection, each once.

    The next setting follows from the finished ones, so a killed search resumes.
    KerasTuner's GridSearch does not resume (keras-tuner#1055), and its
    RandomSearch stops before it has found the last settings.
    """

    def __init__(self, settings, **arguments):
        super().__init__(**arguments)
        self.settings = settings

    def populate_space(self, trial_id):
        for values in self.settings:
            if not self._duplicate(values):
                return {"status": "RUNNING", "values": dict(values)}
        return {"status": "STOPPED"}


class Settings(keras_tuner.HyperModel):
    """Build an arm, and fit it with the `run` of its family."""

    def __init__(self, family, options, values):
        super().__init__()
        self.family, self.options, self.values = family, options, values

    def build(self, hp):
        chosen = {name: hp.Choice(name, v) for name, v in self.values.items()}
        options = copy.copy(self.options)
        if "where" in chosen:
            options.where = chosen["where"]
        return paper.tuned(chosen["k"], chosen["delta"]), options

    def fit(self, hp, built, seed):
        arm, options = built
        try:
            # The search uses only the validation score, never a test score.
            score = self.family.run(arm, seed, options)["validation"]
        except FloatingPointError as error:
            print(f"{hp.values}: {error}", flush=True)
            return -np.inf  # the training diverged: worse than any
        except Exception:
            traceback.print_exc()  # KerasTuner stores it and continues.
            raise
        return float(score)


class Tuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Tuner of KerasTuner in which a model is an arm without stored weights."""

    def run_trial(self, trial, seeds):
        hp = trial.hyperparameters
        built = self.hypermodel.build(hp)
        return [self.hypermodel.fit(hp, built, seed) for seed in seeds]


def parse(arguments=None):
    """Return the options of this program, and the arguments of the family."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(
        usage=f"tune.py [{'|'.join(FAMILIES)}] [options, also of the family]",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--k", type=int, nargs="+", help="values of a sample")
    add("--delta", type=float, nargs="+", help="times the gradient, reversed")
    add("--where", nargs="+", help='places, such as "middle:2" "middle:4"')
    add("--trials", type=int, help="settings to try, by chance; default: all")
    add("--seeds", type=int, default=1, help="runs of a setting, averaged")
    add("--small", action="store_true", help="minutes on two cores")
    add("--dry-run", action="store_true", help="print the settings, and stop")
    # Parse the family by hand: its options are unknown here, and argparse would
    # treat "FILE" of "--data FILE" as the family.
    named = bool(words) and not words[0].startswith("-")
    family = words.pop(0) if named else "glue"
    if family not in FAMILIES:
        parser.error(f"unknown family. Received: {family}")
    options, words = parser.parse_known_args(words)
    options.family = family
    for name in ("trials", "seeds"):
        value = getattr(options, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1. Received: {value}")
    for k in options.k or ():
        if k < 1:
            parser.error(f"--k must be at least 1. Received: {k}")
    for delta in options.delta or ():
        if not np.isfinite(delta):
            parser.error(f"--delta must be finite. Received: {delta}")
    if options.small:
        words.append("--small")
    for name, default in (SMALL if options.small else PAPER).items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    return options, words


def space(options, own):
    """Return the values of each setting, and the settings in trial order."""
    values = {"k": list(options.k), "delta": list(options.delta)}
    if hasattr(own, "where"):
        default = SMALL_WHERE if options.small else [own.where]
        values["where"] = list(options.where or default)
    elif options.where:
        raise SystemExit(
            f"The layers of {options.family} have their places: leave --where "
            f"out. Received: --where {' '.join(options.where)}"
        )
    settings = [
        dict(zip(values, setting))
        for setting in itertools.product(*values.values())
    ]
    if options.trials is not None and options.trials < len(settings):
        order = np.random.default_rng(own.seed).permutation(len(settings))
        settings = [settings[i] for i in order[: options.trials]]
    return values, settings


def main(arguments=None):
    """Search, and return the best setting, with its "validation"."""
    options, words = parse(arguments)
    family = importlib.import_module(FAMILIES[options.family])
    own = family.parse(words)
    if hasattr(own, "test_it"):
        own.test_it = own.submit = False  # a test set is not even read
    values, settings = space(options, own)
    program = f"{FAMILIES[options.family].replace('.', '/')}.py"
    print(
        f"{len(settings)} settings of {options.family}, {options.seeds} "
        f"run(s) each, from "
        + ", ".join(f"{name} {v}" for name, v in values.items()),
        flush=True,
    )
    if options.dry_run:
        words = shlex.join([*words, "--dry-run"])
        print(f"Plan of one run: python {program} {words}")
        return None
    # Different options start a separate search.
    what = {k: v for k, v in vars(own).items() if k not in ("out", "devices")}
    what = repr((sorted(map(repr, what.items())), settings, options.seeds))
    digest = hashlib.sha256(what.encode()).hexdigest()[:8]
    tuner = Tuner(
        Grid(
            settings,
            objective=keras_tuner.Objective("validation", "max"),
            max_trials=len(settings),
        ),
        Settings(family, own, values),
        directory=str(own.out),
        project_name=f"tune_{options.family}_{digest}",
    )
    worker = tuner._is_worker()
    tuner.search(seeds=range(own.seed, own.seed + options.seeds))
    if worker:
        return None  # the chief reports
    return report(tuner, values, words, program)


def report(tuner, values, words, program):
    """Print all settings, the best first, and the command to train with it."""
    trials = [tuner.oracle.trials[key] for key in sorted(tuner.oracle.trials)]
    print(f"\nIn {tuner.project_dir}:")
    for trial in sorted(trials, key=_order):
        score = f"{trial.score:.4f}" if trial.score is not None else "failed"
        setting = trial.hyperparameters.values
        notes = (trial.message or "").strip().splitlines()[-1:]
        parts = [f"{name} {setting[name]}" for name in values] + notes
        print(f"  {score.replace('-inf', 'diverged'):>8s}  {', '.join(parts)}")
    best = min(trials, key=_order)
    if best.score is None or not np.isfinite(best.score):
        raise SystemExit("No setting could be trained.")
    found = dict(best.hyperparameters.values)
    print(f"\nBest on the validation set, {best.score:.4f}:")
    arguments = ["--arms", "original", "MEmeL", "MEmeL-Tune"]
    arguments += ["--k", str(found["k"]), "--delta", f"{found['delta']:g}"]
    if "where" in found:
        arguments += ["--where", found["where"]]
    print(f"  python {program} {shlex.join([*words, *arguments])}")
    return {**found, "validation": best.score}


def _order(trial):
    # The best first, failed ones last, equal ones in trial order.
    return trial.score is None, -(trial.score or 0.0), trial.trial_id


if __name__ == "__main__":
    longrun.start(main)
