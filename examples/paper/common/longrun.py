"""Precision, devices, checkpoints, logs and a plan of long runs.

A family of experiments uses it as follows:

    longrun.add_arguments(parser)
    ...
    with longrun.devices(options):  # make, compile and fit the model inside
        data = longrun.Batches(x, y, batch, seed, transform=augment)
        test = longrun.Batches(x_test, y_test, batch, shuffle=False)
        model = build(...)
        model.compile(...)
        if options.dry_run:
            longrun.plan(model, options, len(data), epochs, text={"data": ...},
                         step=lambda: model.train_on_batch(*data[0]))
        else:
            history = longrun.fit(model, data, options, folder, epochs,
                                  validation_data=test)

`fit` resumes a killed run and reaches the same numbers as an uninterrupted
one: call it again with the same arguments. This works because
- the order of samples, and the samples that `transform` takes from its
  generator, depend only on seed, epoch and step;
- a checkpoint contains the variables of the model, the states of its random
  layers (which Keras' BackupAndRestore omits), those of the optimizer (its
  step, its moving average of the weights), the metrics and the history; and it
  replaces the previous one atomically;
- learning rates follow the optimizer's step (`keras.optimizers.schedules`).
Callbacks with a state, such as EarlyStopping, start anew.

On many devices (`--devices all`) JAX and TensorFlow divide each batch
automatically. On PyTorch, start one process per device: `torchrun --standalone
--nproc-per-node 2 examples/paper/imagenet/train.py ...`. Each process receives
its rows of a batch. The gradients are averaged before the optimizer step. The
first process writes and prints; its training loss is that of its rows.
"""

import contextlib
import functools
import os
import pathlib
import statistics
import sys
import time

import keras
import numpy as np

from examples.paper.common.arms import TUNED
from examples.paper.common.checkpoint import Checkpoint
from examples.paper.common.checkpoint import read
from examples.paper.common.checkpoint import variables
from examples.paper.common.parallel import BACKEND
from examples.paper.common.parallel import average_gradients
from examples.paper.common.parallel import devices
from examples.paper.common.parallel import number_of_devices
from examples.paper.common.parallel import rank_and_ranks
from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import find
from keras_memel import inserted
from keras_memel import paper
from keras_memel.insertion.paths import in_scans

PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
__all__ = ["Batches", "add_arguments", "add_arms", "arms", "check"]
__all__ += ["check_length"]
__all__ += [
    "check",
    "devices",
    "fit",
    "number_of_devices",
    "outline",
    "plan",
    "rank_and_ranks",
]
__all__ += ["read", "refusals", "start", "variables"]
# Options that may differ between two starts of one run.
NOT_OF_A_RUN = {"arms", "check", "data", "delta", "devices", "diagnose"}
NOT_OF_A_RUN |= {"dry_run", "k", "out", "save_every", "seeds", "steps_of"}
NOT_OF_A_RUN |= {"workers"}


def add_arguments(parser):
    add = parser.add_argument
    add("--small", action="store_true", help="minutes on two cores")
    add("--seed", type=int, default=0)
    add("--epochs", type=int)
    add("--batch", type=int, help="samples a step, over all devices")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs"))
    add("--precision", choices=PRECISIONS, default="float32")
    add("--devices", choices=("one", "all"), default="one")
    add("--save-every", type=int, help="in steps; otherwise in each epoch")
    add("--dry-run", action="store_true", help="print the plan, and stop")
    add("--diagnose", action="store_true", help="see probe.py")
    text = (
        "tuned arms whose step --diagnose measures, such as 'dropout=rate 0.1'"
    )
    add("--steps-of", nargs="*", default=[], metavar="ARM=SETTING", help=text)


def check(parser, options, positive=(), below_one=(), shares=(), **least):
    """Reject invalid numbers before a run starts. `None` is not checked.

    positive: options that must be above 0, and finite.
    below_one: options that must be at least 0 and below 1.
    shares: options that must be at least 0 and at most 1.
    least: the lowest value of further options.
    """
    least = {"seed": 0, "epochs": 1, "batch": 1, "save_every": 1, **least}
    least |= {"seeds": 1, "k": 1}
    valid = {
        name: (f"at least {lowest}", lambda x, lowest=lowest: x >= lowest)
        for name, lowest in least.items()
    }
    valid |= dict.fromkeys(positive, ("above 0", lambda x: 0 < x < np.inf))
    valid |= dict.fromkeys(
        below_one, ("at least 0 and below 1", lambda x: 0 <= x < 1)
    )
    valid |= dict.fromkeys(
        shares, ("at least 0 and at most 1", lambda x: 0 <= x <= 1)
    )
    valid["delta"] = "finite", np.isfinite
    for name, (words, is_valid) in valid.items():
        value = getattr(options, name, None)
        values = value if isinstance(value, list | tuple) else [value]
        if not all(x is None or is_valid(x) for x in values):
            parser.error(
                f"--{name.replace('_', '-')} must be {words}. Received: "
                f"{' '.join(map(str, values))}"
            )
    known = [f"{a}={s}" for a, found in TUNED.items() for s in found]
    for text in options.steps_of:
        if text not in known:
            parser.error(
                "--steps-of must be settings of examples/paper/plan.py, such "
                f"as {known[0]!r}. Received: {text}"
            )
    folder = next(p for p in (options.out, *options.out.parents) if p.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        parser.error(
            f"--out must be a folder that can be written, and {folder} is "
            f"none. Received: --out {options.out}"
        )


def start(main):
    """Run the `main` of a script; Ctrl-C ends it with a single line."""
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        raise SystemExit(130) from None


def add_arms(parser):
    """Add the options that select arms of the paper, for `arms`."""
    add = parser.add_argument
    names = [*paper.arms, "MEmeL-Tune"]
    add("--arms", nargs="+", choices=names, default=["original", "MEmeL"])
    add("--k", type=int, help="of MEmeL-Tune: values of a sample")
    add("--delta", type=float, help="of MEmeL-Tune: factor of the gradient")


def arms(options):
    """Return the settings of MEmeL by arm; `None` for no MEmeL."""
    tune = options.k, options.delta
    wanted = "MEmeL-Tune" in options.arms
    if any((value is not None) != wanted for value in tune):
        raise SystemExit(
            "MEmeL-Tune needs --k and --delta, and they need MEmeL-Tune: "
            "examples/paper/tune.py finds the best ones. Received: "
            f"--arms {' '.join(options.arms)} --k {tune[0]} --delta {tune[1]}"
        )
    every = dict(paper.arms)
    if options.k is not None:
        every["MEmeL-Tune"] = paper.tuned(*tune)
    return {name: every[name] for name in options.arms}


def check_length(arm, steps, longer, stage="training"):
    """Reject a run that ends before the late start, without inhibition.

    arm: arguments of `MEmeL`, or `None`. longer: the options to raise.
    """
    if arm is None:
        return
    late_start = MEmeL(**arm).late_start
    if steps <= late_start:
        raise SystemExit(
            f"MEmeL inhibits nothing in its first {late_start} steps: raise "
            f"{longer}. Received: {steps} steps of {stage}"
        )


class Batches(keras.utils.PyDataset):
    """Yield batches that depend only on seed, epoch and step.

    x, y: arrays, or trees of arrays, with the samples on their first axis.
    transform: `transform(x, y, rng)` returns the `(x, y)` to train on, from the
        rows of a batch: it reads files or augments. `rng` is NumPy's. It may
        raise SystemExit with the name of a broken file.
    shuffle: for training: a different order in each epoch, and full batches
        only. `False`: the given order, and every sample.
    """

    def __init__(self, x, y, batch, seed=0, transform=None, shuffle=True):
        super().__init__()
        self.x, self.y, self.batch, self.seed = x, y, batch, seed
        self.transform, self.shuffle = transform, shuffle
        self.size = len(keras.tree.flatten(x)[0])
        self.epoch = 0
        self.first = 0  # steps of this epoch that were done before a restart
        self._order = functools.lru_cache(2)(self._order)
        parts = number_of_devices()
        if shuffle and (batch < 1 or batch > self.size or batch % parts):
            raise SystemExit(
                f"A batch must be a multiple of the {parts} device(s), and "
                f"not more than the {self.size} samples. Received: {batch}"
            )
        # JAX cannot divide the last batch among its devices, and Keras uses the
        # layout of the first batch for all. So each device gets all batches.
        while BACKEND == "jax" and self.size % parts and not self.batch % parts:
            self.batch -= 1

    def __len__(self):
        left_over = 0 if self.shuffle else self.batch - 1
        return (self.size + left_over) // self.batch - self.first

    def _order(self, epoch):
        if not self.shuffle:
            return np.arange(self.size)
        return np.random.default_rng([self.seed, epoch]).permutation(self.size)

    def __getitem__(self, step):
        step, epoch, rank, ranks = step + self.first, self.epoch, 0, 1
        if self.shuffle:
            rank, ranks = rank_and_ranks()
        rows = self._order(epoch)[step * self.batch : (step + 1) * self.batch][
            rank::ranks
        ]
        x, y = keras.tree.map_structure(lambda a: a[rows], (self.x, self.y))
        if self.transform is None:
            return x, y
        rng = np.random.default_rng([self.seed, epoch, step, rank])
        try:
            return self.transform(x, y, rng)
        except SystemExit as refusal:
            self.refusal = refusal
            raise RuntimeError(str(refusal)) from refusal


@contextlib.contextmanager
def refusals(*data):
    """End the program with the error of a `transform` about its files.

    TensorFlow reads in threads, where SystemExit does not end the program.
    """
    try:
        yield
    except Exception:
        for part in data:
            if getattr(part, "refusal", None) is not None:
                raise part.refusal from None
        raise


def fit(model, data, options, folder, epochs, settings=None, **arguments):
    """Start or resume training, as `model.fit`. Return the history.

    model: built and compiled. data: a `Batches`. folder: the folder of this run
    only, for checkpoint.npz, log.csv and tensorboard/. settings: further
    settings that identify the run, such as its arm. arguments: those of
    `model.fit`. A finished run is not repeated: its weights are loaded.
    """
    what = {**vars(options), **(settings or {})}
    what["model"] = f"{len(model.weights)} of {model.count_params()} numbers"
    what = {k: str(v) for k, v in what.items() if k not in NOT_OF_A_RUN}
    model.optimizer.build(model.trainable_variables)
    average_gradients(model.optimizer)
    keep = Checkpoint(pathlib.Path(folder), data, what, options.save_every)
    callbacks = [*_monitor(model), *arguments.pop("callbacks", ()), keep]
    arguments.setdefault("verbose", 2)
    if rank_and_ranks()[0] > 0:
        arguments["verbose"] = 0
    while True:
        keep.load(model)
        # The rest of an epoch is fitted separately, and then loaded again,
        # because `model.fit` ends by replacing weights with a moving average.
        end = keep.epoch + 1 if keep.step else epochs
        with refusals(data, arguments.get("validation_data")):
            model.fit(
                data,
                initial_epoch=keep.epoch,
                epochs=end,
                callbacks=callbacks,
                shuffle=False,  # Keras would use its own generator.
                **arguments,
            )
        if end == epochs or model.stop_training:
            return keep.history


def plan(model, options, steps_per_epoch, epochs, step, text=None, runs=1):
    """Print the plan of a run, with the measured time of some steps.

    step: runs one training step. text: lines by title: the arms, the data.
    runs: the number of runs, over arms and seeds.
    """
    model.optimizer.build(model.trainable_variables)
    start = time.perf_counter()
    step()
    first, times = time.perf_counter() - start, []
    for _ in range(3):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    weights = sum(read(v).nbytes for v in model.weights) / 1e6
    state = sum(read(v).nbytes for v in variables(model)) / 1e6
    steps = steps_per_epoch * epochs
    hours = seconds * steps / 3600
    lines = {
        **(text or {}),
        "on": f"{BACKEND}, {number_of_devices()} device(s), "
        f"{options.precision}",
        "model": f"{model.count_params():,} numbers, {weights:,.1f} MB; a "
        f"checkpoint has {state:,.1f} MB",
        "steps": f"{steps_per_epoch:,} an epoch, {epochs} epochs: {steps:,}",
        "measured": f"{seconds:.3f} s a step, after a first of {first:.1f} s",
        "estimate": f"{hours:,.2f} hours a run, {hours * runs:,.2f} for "
        f"{runs}, without validation",
    }
    show(lines)
    return {"seconds": seconds, "steps": steps, "hours": hours * runs}


def outline(options, epochs, text, runs):
    """Print what a run would be, without its data or its model.

    Args:
        options: Of the program.
        epochs: Number of epochs.
        text: Lines by title.
        runs: Number of runs, of arms and seeds.
    """
    show(
        {
            **text,
            "on": f"{BACKEND}, {options.precision}",
            "runs": f"{runs}, {epochs} epochs each, batches of {options.batch}",
            "measured": "no step; for its time pass --data, and a local folder "
            "as the model",
            "files": options.out,
        }
    )


def show(lines):
    """Print one line per title."""
    for title, line in lines.items():
        print(f"{title:10s}{line}")


def _monitor(model):
    try:
        own = find(model, lambda layer: isinstance(layer, MEmeL))
    except ValueError:
        own = []
    there = own or inserted(model) or in_scans(model)
    return [MonosemanticityMonitor()] if there else []
