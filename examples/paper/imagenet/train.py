"""Swin Transformers on ImageNet, with and without inserted MEmeLs.

    python examples/paper/imagenet/train.py --data FOLDER  # train/ and val/
    python examples/paper/imagenet/train.py --preset NAME  # another Swin
    python examples/paper/imagenet/train.py --small  # CIFAR-10, minutes

FOLDER has a folder of images for each class in train/ and in val/; without
it, imagenet2012 of tensorflow-datasets is read. The paper [Wang et al. 2024,
arXiv 2312.11560] fine-tunes Swin-T/S/B for 30 epochs, with MEmeLs after the
middle four blocks of the third stage: so does `--preset NAME` (keras_hub's,
trained on the 1,000 classes; or a folder of your own, such as one trained on
22,000). Without a preset, training starts from random weights and takes 300
epochs. The settings of both are those that the authors of Swin published.

`--small` trains a Swin of three stages on CIFAR-10 (by keras.datasets, or
--data cifar10.npz, or --data cifar-10-batches-py) from random weights.

The arms of a seed share the images set aside for validation, the first
weights, and the order and augmentation of the images. Choices are made on
images set aside from the training set; the test images (ImageNet's val/) are
for the last score. A killed run goes on where it was when the same command is
given again; longrun.py says how, and how to use many devices.
"""

import argparse
import functools
import os
import pathlib
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # no remarks on GPUs

import keras
import numpy as np

from examples.paper.common import hub
from examples.paper.common import labels
from examples.paper.common import longrun
from examples.paper.common import probe
from examples.paper.common.longrun import arms
from examples.paper.imagenet import images
from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel import paper
from keras_memel import strip

SIZES = {
    "tiny": {
        "embed_dim": 96,
        "depths": (2, 2, 6, 2),
        "num_heads": (3, 6, 12, 24),
        "window_size": 7,
    },
    "small": {
        "embed_dim": 96,
        "depths": (2, 2, 18, 2),
        "num_heads": (3, 6, 12, 24),
        "window_size": 7,
    },
    "base": {
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
        "window_size": 7,
    },
}
SMALL = {
    "embed_dim": 24,
    "depths": (1, 1, 4),
    "num_heads": (1, 2, 4),
    "window_size": 4,
    "patch_size": 2,
}
# Settings of Swin's authors. Learning rates are for batches of 512.
SCRATCH = {
    "epochs": 300,
    "batch": 1024,
    "learning_rate": 5e-4,
    "least_rate": 0.01,
    "warmup": 20,
    "weight_decay": 0.05,
    "ema": 0.9999,
    "validation": 10_000,
    "randaugment": 0.1,
    "mixup": 0.8,
    "cutmix": 1.0,
    "erase": 0.25,
}
FINE_TUNING = {
    **SCRATCH,
    "epochs": 30,
    "learning_rate": 2e-5,
    "warmup": 5,
    "weight_decay": 1e-8,
}
# Settings with which a small network learns in a minute.
MINUTES = {
    **SCRATCH,
    "epochs": 6,
    "batch": 64,
    "learning_rate": 1.6e-2,
    "warmup": 1,
    "ema": 0.95,
    "train": 3200,
    "validation": 1000,
    "test": 2000,
    "randaugment": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "erase": 0.0,
}
DROP_PATH = {"tiny": 0.2, "small": 0.3, "base": 0.5}
FINE_DROP_PATH = {"tiny": 0.1, "small": 0.2, "base": 0.2}
SMOOTHING = 0.1
PROBED = 320  # images of a diagnosis: 20 batches for `decrease_ratio`


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    longrun.add_arguments(parser)
    add = parser.add_argument
    longrun.add_arms(parser)
    add("--seeds", type=int, default=1, help="this many, from --seed on")
    add("--data", type=pathlib.Path)
    add("--check", action="store_true", help="open all images before training")
    add("--swin", choices=SIZES, default="tiny", help="its size")
    add("--preset", help="of keras_hub: a name or a folder")
    add("--image-size", type=int)
    add("--drop-path", type=float)
    add("--workers", type=int, default=8, help="threads that open images")
    for name in ("train", "validation", "test", "warmup"):
        add(
            f"--{name}",
            type=int,
            help="images" if name != "warmup" else "epochs",
        )
    for name in ("learning-rate", "weight-decay", "ema"):
        add(f"--{name}", type=float)
    for name in ("randaugment", "mixup", "cutmix", "erase"):
        add(f"--{name}", type=float, help="0 for none")
    labels.add_argument(parser)
    options = parser.parse_args(arguments)
    labels.check(parser, options.wrong)
    sizes = ("train", "validation", "test", "image_size", "workers")
    longrun.check(
        parser,
        options,
        positive=("learning_rate",),
        below_one=("drop_path", "ema"),
        shares=("erase", "randaugment"),
        **dict.fromkeys(sizes, 1),
        **dict.fromkeys(("warmup", "weight_decay", "mixup", "cutmix"), 0),
    )
    settings = FINE_TUNING if options.preset else SCRATCH
    for name, value in (MINUTES if options.small else settings).items():
        if getattr(options, name, None) is None:
            setattr(options, name, value)
    if options.image_size is None:
        options.image_size = 32 if options.small else 224
    if options.drop_path is None:
        paths = FINE_DROP_PATH if options.preset else DROP_PATH
        options.drop_path = 0.1 if options.small else paths[options.swin]
    arms(options)  # refuses what does not go together
    return options


@functools.cache
def read(small, path):
    return (images.cifar10 if small else images.imagenet)(path)


def split(found, seed, options):
    """Split the images into training, validation and test."""
    sizes = len(found.train[1]), len(found.test[1])
    training = options.train or sizes[0] - options.validation
    parts = training, options.validation
    if min(parts) < 1 or sum(parts) > sizes[0]:
        raise SystemExit(
            f"There are {sizes[0]} images to train on and to set aside. "
            f"Received: --train {training} --validation {options.validation}"
        )
    order = np.random.default_rng(seed).permutation(sizes[0])
    test = np.arange(sizes[1])
    if options.test:  # the same ones for every seed
        test = np.random.default_rng(0).permutation(sizes[1])[: options.test]
    rows = {
        "train": order[:training],
        "validation": order[-options.validation :],
    }
    parts = {name: found.part("train", chosen) for name, chosen in rows.items()}
    if options.wrong:
        for name, (x, y) in parts.items():
            if y.min() < 0:
                raise SystemExit(
                    "--wrong needs labels before images are opened: pass "
                    "--data FOLDER"
                )
            y = labels.spoil(y, found.classes, options.wrong, seed, name)
            parts[name] = x, y
    return {**parts, "test": found.part("test", test)}


def build(options, classes):
    """Build keras_hub's ImageClassifier, whose `fit` accepts no PyDataset."""
    backbone = swin(options)
    inputs = keras.Input(backbone.image_shape)
    mean = keras.layers.GlobalAveragePooling1D(dtype="float32")
    head = keras.layers.Dense(classes, dtype="float32", name="predictions")
    model = keras.Model(inputs, head(mean(backbone(inputs))), name="swin")
    model.backbone = backbone
    return model


def swin(options):
    """Return the backbone of a preset, or one with random weights."""
    make = hub.models().SwinTransformerBackbone
    if not options.preset:
        return make(
            image_shape=(options.image_size, options.image_size, 3),
            drop_path=options.drop_path,
            **(SMALL if options.small else SIZES[options.swin]),
        )
    found = hub.from_preset(
        make.from_preset,
        options.preset,
        "--preset",
        drop_path=options.drop_path,
    )
    if found.image_shape[0] != options.image_size:
        raise SystemExit(
            f"{options.preset} takes images of {found.image_shape[0]} pixels. "
            f"Received: --image-size {options.image_size}"
        )
    return found


def middle_four(model):
    """Return the blocks depth/2 - 2 to depth/2 + 1 of the third stage."""
    half = model.backbone.depths[2] // 2
    return [f"stage_2/blocks_{i}" for i in range(half - 2, half + 2)]


def compile_model(model, options, steps_per_epoch):
    rate = options.learning_rate * options.batch / 512
    optimizer = keras.optimizers.AdamW(
        keras.optimizers.schedules.CosineDecay(
            rate / 1000,
            steps_per_epoch * (options.epochs - options.warmup),
            alpha=options.least_rate,
            warmup_target=rate,
            warmup_steps=steps_per_epoch * options.warmup,
        ),
        weight_decay=options.weight_decay,
        epsilon=1e-8,
        global_clipnorm=5.0,
        use_ema=bool(options.ema),
        ema_momentum=options.ema or 0.99,
    )
    # Biases, norms, and the biases of positions.
    optimizer.exclude_from_weight_decay(
        var_list=[
            v
            for v in model.trainable_variables
            if len(v.shape) < 2 or "relative_position" in v.path
        ]
    )
    metrics = [keras.metrics.CategoricalAccuracy(name="accuracy")]
    if model.output_shape[1] > 10:
        metrics.append(keras.metrics.TopKCategoricalAccuracy(5, name="top_5"))
    model.compile(
        optimizer,
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=SMOOTHING
        ),
        metrics=metrics,
    )


def prepare(seed, options, found):
    """Return batches by the name of their part."""
    parts = split(found, seed, options)
    policy = ("randaugment", "mixup", "cutmix", "erase")
    policy = {name: getattr(options, name) for name in policy}
    augment, plain = (
        images.Prepare(found, options.image_size, how, options.workers)
        for how in (policy, None)
    )
    return {
        name: longrun.Batches(
            *part,
            options.batch,
            seed,
            transform=augment if name == "train" else plain,
            shuffle=name == "train",
        )
        for name, part in parts.items()
    }


def make(arm, seed, options):
    """Return the compiled model of an arm, and its batches."""
    found = read(options.small, options.data)
    data = prepare(seed, options, found)
    keras.utils.set_random_seed(seed)
    model = build(options, found.classes)
    if arm is not None:
        insert(model, middle_four(model), MEmeL(**arm))
    compile_model(model, options, len(data["train"]))
    return model, data


def folder_of(arm, seed, options):
    names = {repr(settings): name for name, settings in arms(options).items()}
    name = names.get(repr(arm), f"{zlib.crc32(repr(arm).encode()):08x}")
    name = "".join(c if c.isalnum() else "_" for c in name)
    return options.out / "imagenet" / f"{name}_seed_{seed}"


def fit(model, data, arm, seed, options):
    # Validation uses the moving average, which the final weights are too.
    callbacks = [keras.callbacks.SwapEMAWeights()] if options.ema else []
    return longrun.fit(
        model,
        data["train"],
        options,
        folder_of(arm, seed, options),
        options.epochs,
        settings={"arm": arm, "seed": seed},
        validation_data=data["validation"],
        callbacks=[*callbacks, Say()],
        verbose=0,
    )


class Say(keras.callbacks.Callback):
    """Print one line per epoch; log.csv has the numbers of each MEmeL."""

    def on_epoch_end(self, epoch, logs=None):
        if longrun.rank_and_ranks()[0] == 0:
            short = {k: v for k, v in logs.items() if "/" not in k}
            text = "  ".join(f"{k} {v:.4f}" for k, v in short.items())
            print(f"epoch {epoch + 1}  {text}", flush=True)


def check(options, seed):
    """Check that data and model can be loaded, before any training."""
    split(read(options.small, options.data), seed, options)
    with longrun.devices(options):
        swin(options)


def run(arm, seed, options):
    """Train one network.

    arm: arguments of `MEmeL`, or `None`. options: what `parse` returns.
    Returns the share of right answers on the images set aside ("validation",
    to choose by) and on the test images ("test"); and "correct", a list of
    booleans, one per test image.
    """
    # One process may train many networks. This call resets devices, so it
    # comes before their choice.
    keras.backend.clear_session()
    with longrun.devices(options):
        scores = {}
        if options.diagnose and arm is None:  # the same for all arms
            scores["share_before"] = _share(*make(None, seed, options))
        model, data = make(arm, seed, options)
        steps = len(data["train"]) * options.epochs
        longrun.check_length(arm, steps, "--epochs or --train")
        fit(model, data, arm, seed, options)
        scores |= score(model, data["validation"], "validation")[0]
        tested, correct = score(model, data["test"], "test")
        scores |= tested
        for memel in inserted(model).values():
            rate = float(keras.ops.convert_to_numpy(memel.inhibited_rate))
            scores["inhibited"] = scores.get("inhibited", 0.0) + rate / 4
        if options.diagnose:
            scores |= diagnose(model, data, arm, seed, steps, options)
    return {**scores, "correct": correct}


def score(model, data, name):
    """Return the accuracy of a part, and which answers are correct."""
    right, top_5 = [], []
    with longrun.refusals(data):
        for i in range(len(data)):
            x, y = data[i]
            answers = np.asarray(model.predict_on_batch(x))
            ranks = np.argsort(-answers, 1) == np.argmax(y, 1)[:, None]
            right += ranks[:, 0].tolist()
            top_5 += ranks[:, :5].any(1).tolist()
    if not np.isfinite(answers).all():
        raise FloatingPointError("training diverged: an answer is not finite")
    scores = {name: float(np.mean(right))}
    if answers.shape[1] > 10:
        scores[f"{name} top 5"] = float(np.mean(top_5))
    return scores, right


def _share(model, data):
    place = functools.partial(probe.placed, model, middle_four(model))
    return probe.share(place, _inputs(data))


def _inputs(data, number=4):
    """Return some full batches of validation images."""
    part = data["validation"]
    full = max(1, min(number, part.size // part.batch))
    return [part[i][0] for i in range(min(full, len(part)))]


def diagnose(model, data, arm, seed, length, options):
    """Measure the monosemantic values after training, see probe.py.

    For the MEmeL arm, MEmeL stays active (Table 7). Only for the original: the
    effect of a step of each arm (Table 4), and the metric of the network
    without these values.
    """
    scores = {}
    if arm == paper.kdd2024:
        for memel in inserted(model).values():
            memel.at_inference = True
        model.make_predict_function(force=True)
        found, _ = score(model, data["test"], "kept_on_test")
        scores |= found
    strip(model)
    scores["share_after"] = _share(model, data)
    if arm is not None:
        return scores
    part = data["validation"]
    number = min(len(part), max(1, -(-PROBED // part.batch)))
    x, y = (
        np.concatenate(arrays)[:PROBED]
        for arrays in zip(*[part[i] for i in range(number)])
    )
    # Use the learning rate in the middle of the training.
    model.optimizer.iterations.assign(length // 2)
    where = middle_four(model)
    test = data["test"]
    batches = [
        test[i] for i in range(-(-PROBED // test.batch)) if i < len(test)
    ]

    def evaluate(model):
        answers = [np.asarray(model.predict_on_batch(x)) for x, _ in batches]
        labels = np.concatenate([y for _, y in batches])
        right = np.concatenate(answers).argmax(1) == labels.argmax(1)
        return right.mean()

    place = functools.partial(probe.placed, model, where)
    scores |= probe.table_4(model, x, y, where, options.steps_of, seed)
    return scores | probe.ablation(place, _inputs(data), evaluate)


def show_plan(options):
    runs = len(options.arms) * options.seeds
    local = options.preset is None or pathlib.Path(options.preset).is_dir()
    if options.data is None or not local:
        source = "keras.datasets" if options.small else "tensorflow-datasets"
        text = {
            "arms": f"{', '.join(options.arms)}; {options.seeds} seed(s)",
            "data": f"images of {options.image_size}², from "
            f"{options.data or source}",
            "model": options.preset or f"Swin, {options.swin}",
        }
        return longrun.outline(options, options.epochs, text, runs)
    with longrun.devices(options):
        arm = next((a for a in arms(options).values() if a), None)
        model, data = make(arm, options.seed, options)
        return longrun.plan(
            model,
            options,
            len(data["train"]),
            options.epochs,
            step=lambda: model.train_on_batch(*data["train"][0]),
            text={
                "arms": f"{', '.join(options.arms)}; {options.seeds} seed(s)",
                "data": ", ".join(f"{d.size:,} {k}" for k, d in data.items())
                + f" images of {options.image_size}²",
                "MEmeL": "after " + ", ".join(inserted(model))
                if arm
                else "none",
            },
            runs=runs,
        )


def main(arguments=None):
    options = parse(arguments)
    if options.check:
        images.check_all(read(options.small, options.data), options.workers)
    if options.dry_run:
        return show_plan(options)
    scores = {}
    for seed in range(options.seed, options.seed + options.seeds):
        for name, arm in arms(options).items():
            scores[name, seed] = found = run(arm, seed, options)
            if longrun.rank_and_ranks()[0] == 0:
                text = ", ".join(
                    f"{name} {100 * value:.2f}"
                    for name, value in found.items()
                    if name != "correct"
                )
                print(f"seed {seed}  {name}: {text}  (%)", flush=True)
    return scores


if __name__ == "__main__":
    longrun.start(main)
