"""Tables 1 to 8 of Wang et al. (2024) on three small networks, with controls.

    python examples/paper/tables.py --dry-run  # the plan, and what is left
    python examples/paper/tables.py --small  # minutes: that it works
    python examples/paper/tables.py --cifar10 FILE --minilm FOLDER

Trains nine arms of each family on paired seeds, and writes OUT/tables.md: the
published numbers, at full size, beside those of small networks on small data,
which neither confirm nor refute them. plan.py fixes sizes, seeds and grids,
common/arms.py the arms. For the two classifiers all is done again with 20 %
wrong labels.

    Table 1, 2, 3   arms on the three families
    Table 4         what one step does to monosemantic values
    Table 5         nowcasting: after pretraining, and after fine-tuning
    Table 6, 7, 8   MEmeL kept on when tested

and three questions that the paper leaves open: how many values are
monosemantic before and after, what the network loses without them, and on how
many examples two networks of a seed differ.

Every finished run is kept in OUT/<condition>.jsonl: start the command again,
after a stop or with more seeds, and it goes on. Start it many times, on
machines that share OUT, and the processes share the seeds.

On PyTorch, each process computes with one thread. For a single process on many
free cores, set the environment variable OMP_NUM_THREADS.
"""

import argparse
import concurrent.futures
import functools
import hashlib
import importlib
import multiprocessing
import os
import pathlib
import shlex
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs
# Processes share the cores: on a busy machine, more threads than cores wait
# for one another, which can take several times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from examples.paper import pages
from examples.paper import plan
from examples.paper.common import arms
from examples.paper.common import longrun
from examples.paper.common import sharing
from keras_memel import RunStore
from keras_memel import compare


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--small", action="store_true", help="one seed, and smaller runs")
    add("--seeds", type=int, help=f"default: {plan.SEEDS}, or 1 with --small")
    add("--first-seed", type=int, default=0)
    add("--families", nargs="+", choices=plan.FAMILIES)
    add("--wrong", type=float, nargs="+", metavar="SHARE", help="of labels")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/tables"))
    add("--workers", type=int, default=1, help="processes of this command")
    add("--retry-failed", action="store_true", help="run again what failed")
    add("--dry-run", action="store_true", help="print the plan, and stop")
    add("--cifar10", type=pathlib.Path, help="--data of the images")
    add("--minilm", type=pathlib.Path, help="--model of the sentences")
    for name in plan.FAMILIES:
        add(f"--{name}", default="", help="further arguments of the family")
    options = parser.parse_args(arguments)
    if options.seeds is None:
        options.seeds = 1 if options.small else plan.SEEDS
    options.families = list(dict.fromkeys(options.families or plan.FAMILIES))
    if options.wrong is None:
        options.wrong = plan.WRONG[: 1 if options.small else None]
    for name, least in (("seeds", 1), ("first_seed", 0), ("workers", 1)):
        if getattr(options, name) < least:
            parser.error(
                f"--{name.replace('_', '-')} must be at least {least}. "
                f"Received: {getattr(options, name)}"
            )
    if not all(0 <= share < 1 for share in options.wrong):
        parser.error(
            "--wrong must be shares of at least 0 and below 1. Received: "
            f"{' '.join(map(str, options.wrong))}"
        )
    if set(seeds_of(options)) & set(plan.TUNING_SEEDS):
        parser.error(
            f"The seeds {plan.TUNING_SEEDS} choose settings: leave them out. "
            f"Received: --first-seed {options.first_seed} --seeds "
            f"{options.seeds}"
        )
    return options


def seeds_of(options):
    return range(options.first_seed, options.first_seed + options.seeds)


def extra(family, options):
    """Return the arguments of a family on this command line."""
    words = shlex.split(getattr(options, family))
    if family == "imagenet" and options.cifar10:
        words.append(f"--data={options.cifar10}")
    if family == "glue" and options.minilm:
        words.append(f"--model={options.minilm}")
    return words


def options_of(module, words, out):
    """Return the program of a family, and its parsed options."""
    program = importlib.import_module(module)
    return program, program.parse([*words, f"--out={out}", "--diagnose"])


def train(argument, seed, module, further, out):
    """Call `run` of a family, for `compare`."""
    memel, words = argument
    name = hashlib.sha256(repr(argument).encode()).hexdigest()[:12]
    own = out / f"{name}_seed_{seed}"
    program, options = options_of(module, [*words, *further], own)
    scores = program.run(memel, seed, options)
    # It is large, and the scores no longer need it.
    for file in own.rglob("checkpoint.npz"):
        file.unlink()
    return scores


class Study:
    """Manage the planned and the finished runs of a condition."""

    def __init__(self, condition, options):
        self.condition, self.options = condition, options
        self.out, self.small = options.out, options.small

    def store(self, stage=""):
        return self.out / f"{self.condition.name}{stage}.jsonl"

    def further(self, chosen):
        """Return arguments of a run that are no part of its settings.

        chosen: the setting of each tuned arm.
        """
        words = extra(self.condition.family, self.options)
        tuned = [f"{arm}={chosen[arm]}" for arm in arms.TUNED if arm in chosen]
        return [*words, "--steps-of", *tuned]

    def compare(self, chosen, seeds, store, settings=()):
        """Make the missing runs, together with other processes."""
        family = self.condition.family
        run = functools.partial(
            train,
            module=plan.FAMILIES[family].module,
            further=self.further(dict(settings)),
            out=self.out / self.condition.name,
        )
        call = functools.partial(
            compare,
            run,
            chosen,
            baseline="original" if "original" in chosen else None,
            store=store,
            retry_failed=self.options.retry_failed,
            progress=False,
        )

        def work(mine):
            if self.options.workers == 1:
                call(seeds=mine)
                return
            spawn = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(
                self.options.workers, spawn
            ) as pool:
                call(seeds=mine, executor=pool)

        locks = store.with_suffix(".locks")
        sharing.share(work, seeds, locks, self.options.workers)
        return call(seeds=seeds)

    def choose(self, trials, store):
        """Return the trial with the best mean validation on tuning seeds."""
        if len(trials) == 1:
            return next(iter(trials))
        found = self.compare(trials, list(plan.TUNING_SEEDS), store)
        means = found.scores("validation").mean(skipna=False)
        if means.isna().all():
            raise SystemExit(f"No setting could be trained: see {store}")
        return means.idxmax()

    def epochs(self):
        """Return the best number of epochs of the original, or `None`."""
        lengths = plan.lengths(self.condition, self.small)
        trials = {f"{n} epochs": (None, self.command(n)) for n in lengths}
        if not trials:
            return None
        best = self.choose(trials, self.store("_length"))
        return lengths[list(trials).index(best)]

    def command(self, epochs):
        return plan.command(self.condition, self.small, epochs)

    def arms(self):
        """Return all arms by name, and their chosen settings."""
        words = self.command(epochs := self.epochs())
        chosen, found = {"epochs": epochs}, dict(arms.FIXED)
        for method, settings in plan.trials(self.small).items():
            trials = {name: (arm, words) for name, arm in settings.items()}
            stage = "_tuning_" + method.lower().replace("-", "_")
            chosen[method] = self.choose(trials, self.store(stage))
            found[method] = settings[chosen[method]]
        return {name: (found[name], words) for name in arms.NAMES}, chosen

    def run(self):
        """Return the comparison and the chosen settings."""
        found, chosen = self.arms()
        seeds = list(seeds_of(self.options))
        runs = self.compare(found, seeds, self.store(), chosen)
        return runs, chosen

    def stored(self):
        """Return the finished runs of all stages."""
        files = self.out.glob(f"{self.condition.name}*.jsonl")
        stages = ("", "_length", "_tuning_")
        return [
            run
            for file in files
            if file.stem.removeprefix(self.condition.name).startswith(
                stages[1:]
            )
            or file.stem == self.condition.name
            for run in RunStore(file).read()
        ]


def check(studies):
    """Check the data and models of all runs before the first."""
    for study in studies:
        family = study.condition.family
        lengths = plan.lengths(study.condition, study.small) or (None,)
        words = study.command(lengths[0]) + extra(family, study.options)
        module = plan.FAMILIES[family].module
        program, options = options_of(module, words, study.out)
        program.check(options, study.options.first_seed)
    try:
        RunStore(studies[0].store()).check_writable(1024)
    except OSError as error:
        raise SystemExit(
            f"--out must be a folder that can be written. Received: {error}"
        ) from None


def show(studies, options):
    """Print the planned runs and their time."""
    total = 0.0
    for study in studies:
        condition = study.condition
        runs = plan.number_of_runs(condition, options.small, options.seeds)
        stored = study.stored()
        seconds = [run["seconds"] for run in stored if "seconds" in run]
        each = plan.FAMILIES[condition.family].seconds
        each = statistics.fmean(seconds) if seconds else each
        left = max(0, sum(runs) - len(stored))
        total += each * left / 3600
        print(
            f"{condition.name}: {runs[0]} runs of {len(arms.NAMES)} arms and "
            f"{options.seeds} seeds, {runs[1]} to choose settings; "
            f"{len(stored)} finished; {each:.0f} s per run "
            f"({'measured' if seconds else 'expected'}), "
            f"{each * left / 3600:.1f} hours left"
        )
        for words in {
            shlex.join(plan.command(condition, options.small, n))
            for n in plan.lengths(condition, options.small) or (None,)
        }:
            print(f"  {words}")
    for method, settings in plan.trials(options.small).items():
        print(f"{method}: {'; '.join(settings)}")
    print(f"{total:.1f} hours in all, for one process of one thread")


def main(arguments=None):
    options = parse(arguments)
    studies = [
        Study(condition, options)
        for condition in plan.conditions(options.families, options.wrong)
    ]
    if options.dry_run:
        show(studies, options)
        return None
    check(studies)
    found = {study.condition: study.run() for study in studies}
    text = pages.page(found)
    path = options.out / "tables.md"
    path.write_text(text, encoding="utf-8")
    print(text, f"\nwritten: {path}", sep="", flush=True)
    return text


if __name__ == "__main__":
    longrun.start(main)
