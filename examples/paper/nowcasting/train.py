"""Nowcast precipitation with ConvGRUs, with and without MEmeL.

    python examples/paper/nowcasting/train.py --small
    python examples/paper/nowcasting/train.py --data FOLDER  # HKO-7, full size
    # your own fields
    python examples/paper/nowcasting/train.py --data FILE.npz

The script trains the encoder-forecaster of Shi et al. (2017) on the balanced
loss. Each arm starts from the same weights and uses the same batches in two
stages, as in Table 5 of Wang et al. (2024): pretraining with MEmeL on the six
candidate states, then fine-tuning without it. The script scores both on
held-out windows, and compares them with persistence (the last input frame).

--data accepts stage_iv (hourly fields under hurricane Florence, in this
repository), a file or a folder (see data.py and hko7.py), digits (SYNTHETIC:
moving digits as in Moving MNIST), or random (noise of the true shapes, for
--dry-run). --small is stage_iv with a small network; --network shi with
--frames 5 20 is the benchmark of Shi et al. at 480 x 480.

At full size: 20 epochs of 1,000 steps, and 2 of fine-tuning; frames of 120 x
120 as in the code of Wang et al., 10 inputs and 10 forecasts, 6 minutes apart.
The papers state neither how 480 becomes 120, nor how often the learning rate
falls: here, by means of 4 x 4 pixels, and every 10,000 steps. A killed run
resumes if you start it again with the same arguments.
"""

import argparse
import contextlib
import copy
import functools
import hashlib
import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import keras
import numpy as np

from examples.paper.common import longrun
from examples.paper.common import probe
from examples.paper.common.longrun import arms
from examples.paper.nowcasting import hko7
from examples.paper.nowcasting import metrics
from examples.paper.nowcasting import model as networks
from examples.paper.nowcasting.sources import sources
from keras_memel import ConvGRU2D
from keras_memel import MEmeL
from keras_memel import paper

# Defaults of the arguments that the command line omits.
FULL = {
    "network": "paper",
    "epochs": 20,
    "finetune_epochs": 2,
    "steps": 1000,
    "batch": 4,
    "rate": 1e-4,
    "decay_every": 10_000,
    "stride": 5,
}
SMALL = {
    "network": "small",
    "epochs": 3,
    "finetune_epochs": 1,
    "steps": None,
    "batch": 8,
    "rate": 2e-3,
    "decay_every": 42,
    "stride": 8,
}
# The same run whatever they are.
NOT_OF_A_RUN = {"gif"}


def parse(arguments=None):
    """Options of `run`, with what is not given filled in."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    longrun.add_arguments(parser)
    add = parser.add_argument
    add("--data", help="stage_iv, digits, random, FILE.npz or FOLDER")
    longrun.add_arms(parser)
    add("--network", choices=networks.NETWORKS)
    add("--frames", type=int, nargs=2, metavar=("IN", "OUT"))
    add("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    add("--finetune-epochs", type=int, help="without MEmeL; may be 0")
    add("--steps", type=int, help="of an epoch; otherwise all windows")
    add("--rate", type=float, help="learning rate of Adam")
    add("--decay-every", type=int, help="steps after which it falls to 0.7")
    add("--stride", type=int, help="between windows: points, or frames")
    add("--unit", choices=("mm", "m"), help="of FILE.npz; ERA5: m")
    add("--minutes", type=float, help="from field to field of FILE.npz")
    add("--radar-size", type=int, nargs=2, default=hko7.SIZE)
    add("--gaps", choices=("raise", "skip"), default="raise")
    add("--no-masks", action="store_true", help="all pixels of HKO-7 count")
    add("--gif", type=pathlib.Path, help="animate a forecast of the last arm")
    options = parser.parse_args(arguments)
    longrun.check(
        parser,
        options,
        positive=("rate", "minutes"),
        finetune_epochs=0,
        steps=1,
        stride=1,
        decay_every=1,
        frames=1,
        size=1,
        radar_size=1,
    )
    if options.gif and not options.gif.absolute().parent.is_dir():
        parser.error(
            f"--gif must be a file in an existing folder. Received: --gif "
            f"{options.gif}"
        )
    arms(options)  # refuses what does not go together
    check_data(parser, options)
    if options.data is None:
        if options.small:
            options.data = "stage_iv"
        elif options.dry_run:
            options.data = "random"
        else:
            raise SystemExit(
                "No data. Pass --data FOLDER, the frames of HKO-7, which the "
                "Hong Kong Observatory lends for research "
                "(https://github.com/sxjscience/HKO-7); --data FILE.npz; or "
                "--small, for what lies in this repository."
            )
    full = not options.small and (
        options.data == "random" or pathlib.Path(options.data).is_dir()
    )
    for name, value in (FULL if full else SMALL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    network = networks.NETWORKS[options.network]
    options.frames = tuple(options.frames or network.frames)
    options.size = tuple(options.size or network.size)
    return options


def check_data(parser, options):
    """Refuses a --data that is not there, by its own name."""
    named = ("stage_iv", "digits", "random")
    if options.data is None or options.data in named:
        return
    path = pathlib.Path(options.data)
    if path.suffix == ".npz" and path.is_file():
        return
    if not path.is_dir():
        parser.error(
            f"--data must be one of {', '.join(named)}, a file FILE.npz or a "
            f"folder of frames. There is none at --data {options.data}"
        )
    if not any(path.iterdir()):
        parser.error(f"The folder at --data {options.data} is empty")


def check(options, seed):
    """Check that data and model can be loaded, before any training."""
    sources(options)
    build(None, seed, options)


def run(arm, seed, options, parts=None):
    """Train one network; return its scores on the test windows as a dict.

    Args:
        arm: Arguments of MEmeL, or `None` for the original.
        seed: Seed of the initial weights and the order of the windows.
        options: Of `parse`.
        parts: Windows, if they are loaded already.

    `validation` selects settings, higher is better: the share by which the
    B-MSE is below that of persistence on the validation windows.
    """
    with longrun.devices(options):
        return _run(arm, seed, options, parts or sources(options))[1]


def _run(arm, seed, options, parts):
    train = parts["train"].batches(options.batch, seed, steps=options.steps)
    steps = options.epochs * len(train)
    longrun.check_length(arm, steps, "--epochs or --steps", "pretraining")
    plain = build(None, seed, options)
    first = build(arm, seed, options)
    copy_weights(plain, first)
    fit(first, train, "pretrain", arm, seed, options)
    pretrained = score(first, parts["test"], options.batch)
    final = first
    if options.finetune_epochs:
        final = plain
        copy_weights(first, final)
        train = parts["train"].batches(
            # Use different batches than the first epochs.
            options.batch,
            seed + 10_000,
            steps=options.steps,
        )
        fit(final, train, "finetune", arm, seed, options, done=steps)
    validation = score(final, parts["validation"], options.batch)
    scores = {
        "validation": 1 - validation["b_mse"] / validation["persistence_b_mse"],
        **score(final, parts["test"], options.batch),
    }
    for name in ("b_mse", "b_mae"):
        scores[f"pretrained_{name}"] = pretrained[name]
    if options.diagnose:
        scores |= diagnose(first, final, parts, arm, seed, options)
    return final, scores


def build(arm, seed, options):
    keras.utils.set_random_seed(seed)
    return networks.build(options.network, arm, options.frames, options.size)


def copy_weights(source, target):
    """Copy the trainable weights; the state of MEmeL is not copied."""
    for a, b in zip(
        source.trainable_variables, target.trainable_variables, strict=True
    ):
        # Assign a copy, because JAX donates the arrays of a network that it
        # trains.
        b.assign(keras.ops.copy(a))


def compiled(model, options, done=0):
    """Compile; `done` is the number of steps before, which lower the rate."""
    rate = keras.optimizers.schedules.ExponentialDecay(
        options.rate * 0.7 ** (done // options.decay_every),
        options.decay_every,
        0.7,
        staircase=True,
    )
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=metrics.BalancedLoss(),
        metrics=[metrics.BMSE(), metrics.BMAE()],
    )


def fit(model, train, stage, arm, seed, options, done=0):
    compiled(model, options, done)
    own = copy.copy(options)
    for name in NOT_OF_A_RUN:
        delattr(own, name)
    own.seed = seed
    epochs = options.epochs if stage == "pretrain" else options.finetune_epochs
    longrun.fit(
        model,
        train,
        own,
        options.out / f"nowcasting_{label(arm)}_seed{seed}" / stage,
        epochs,
        settings={
            "arm": described(arm),
            "stage": stage,
            "source": str(options.data),
        },
    )


def described(arm):
    """Return a text that identifies an arm."""
    if arm is None:
        return "original"
    config = MEmeL(**arm).get_config()
    config.pop("name")
    return json.dumps(config, sort_keys=True, default=str)


def label(arm):
    """Return a name for the folder of an arm."""
    for name, known in paper.arms.items():
        if described(known) == described(arm):
            words = "".join(c for c in name if c.isalnum() or c == " ")
            return words.replace(" ", "_")
    return hashlib.sha256(described(arm).encode()).hexdigest()[:12]


def score(model, part, batch):
    """Return the scores of a model, and of persistence (`persistence_...`)."""
    own, last = metrics.scores(), metrics.scores()
    for first in range(0, len(part), batch):
        rows = range(first, min(first + batch, len(part)))
        seen, truth = part.read(rows)
        forecast = networks.forecast(model, seen, batch)
        for metric in own:
            metric.update_state(truth, forecast)
        for metric in last:
            metric.update_state(truth, persistence(seen, truth.shape[1]))
    return {metric.name: float(metric.result()) for metric in own} | {
        f"persistence_{metric.name}": float(metric.result()) for metric in last
    }


def diagnose(first, final, parts, arm, seed, options):
    """Measure the monosemantic values after training, see probe.py.

    For the MEmeL arm, MEmeL stays active after pretraining (Table 8). Only for
    the original: the effect of a step of each arm on the states of the
    forecaster (Table 4), and the metric of the network without these values of
    its candidate states.
    """
    scores = {}
    if arm == paper.kdd2024:
        for layer in _grus(first):
            layer.memel.at_inference = True
        first.make_predict_function(force=True)
        found = score(first, parts["test"], options.batch)
        scores |= {
            f"kept_on_{name}": found[name] for name in ("b_mse", "b_mae")
        }
    train = parts["train"].batches(options.batch, seed)
    inputs = [train[i][0] for i in range(min(8, len(train)))]

    @contextlib.contextmanager
    def place(settings, source=final):
        model = build(settings, seed, options)
        copy_weights(source, model)
        yield model, [layer.memel for layer in _grus(model)]

    scores["share_after"] = probe.share(place, inputs)
    if arm is not None:
        return scores
    untrained = functools.partial(place, source=build(None, seed, options))
    scores["share_before"] = probe.share(untrained, inputs)
    x, y = parts["train"].read(
        range(min(20 * options.batch, len(parts["train"])))
    )
    forecaster = [
        layer.name for layer in _grus(final) if "forecaster" in layer.name
    ]

    def evaluate(model):
        return score(model, parts["test"], options.batch)["b_mse"]

    scores |= probe.table_4(final, x, y, forecaster, options.steps_of, seed)
    return scores | probe.ablation(place, inputs, evaluate)


def _grus(model):
    return [layer for layer in model.layers if isinstance(layer, ConvGRU2D)]


def persistence(seen, frames):
    return np.repeat(seen[:, -1:], frames, axis=1)


def plan(options, parts):
    train = parts["train"].batches(
        options.batch, options.seed, steps=options.steps
    )
    model = build(list(arms(options).values())[-1], options.seed, options)
    compiled(model, options)
    sizes = ", ".join(
        f"{len(part):,} to {name}" for name, part in parts.items()
    )
    what = " x ".join(map(str, options.size))
    return longrun.plan(
        model,
        options,
        len(train),
        options.epochs + options.finetune_epochs,
        step=lambda: model.train_on_batch(*train[0]),
        text={
            "arms": ", ".join(options.arms),
            "data": f"{options.data}: windows of {options.frames[0]} + "
            f"{options.frames[1]} frames of {what}, {sizes}",
        },
        runs=len(options.arms),
    )


def table(results):
    """Return a table of scores: persistence, then the arms."""
    columns = ["b_mse", "b_mae"] + [
        f"{kind}_{rate:g}" for kind in ("csi", "hss") for rate in metrics.RATES
    ]
    some = next(iter(results.values()))
    rows = {"persistence": {c: some[f"persistence_{c}"] for c in columns}}
    for name, scores in results.items():
        rows[f"{name}, pretrained"] = {
            c: scores.get(f"pretrained_{c}") for c in columns[:2]
        }
        rows[name] = scores
    lines = [" " * 22 + "".join(f"{c:>9s}" for c in columns)]
    for name, row in rows.items():
        cells = "".join(
            f"{row[c]:9.2f}" if row.get(c) is not None else " " * 9
            for c in columns
        )
        lines.append(f"{name:22s}{cells}".rstrip())
    return "\n".join(lines)


def main(arguments=None):
    options = parse(arguments)
    with longrun.devices(options):
        parts = sources(options)
        if options.dry_run:
            plan(options, parts)
            return None
        if options.data == "random":
            raise SystemExit("--data random is noise, for --dry-run only")
        results, model = {}, None
        for name, arm in arms(options).items():
            print(f"{name}, seed {options.seed}", flush=True)
            model, results[name] = _run(arm, options.seed, options, parts)
        if longrun.rank_and_ranks()[0] > 0:
            return results
        synthetic = " of SYNTHETIC data" if options.data == "digits" else ""
        print(
            f"\n{len(parts['test'])} held-out windows{synthetic}, seed "
            f"{options.seed}, on {keras.config.backend()}; one seed is no "
            f"verdict:\n{table(results)}"
        )
        if options.gif:
            from examples.paper.nowcasting import animation

            animation.animate(model, parts["test"], options.batch, options.gif)
            print(f"wrote {options.gif}")
    return results


if __name__ == "__main__":
    longrun.start(main)
