"""Read and augment images for training.

`cifar10` and `imagenet` return `Images` from a file or folder, from Keras or
from tensorflow-datasets. `Prepare` converts them to inputs of a network. Errors
name missing and broken files.
"""

import io
import pathlib
import typing
from concurrent import futures

import keras
import numpy as np

from examples.paper.common.unpickling import Arrays

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".webp"}
# Statistics of ImageNet, in the units of its pixels.
MEAN = np.array([123.675, 116.28, 103.53], "float32")
DEVIATION = np.array([58.395, 57.12, 57.375], "float32")


class Images(typing.NamedTuple):
    """Images to open and their classes, for training and for the final test."""

    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int
    # Function from an element of the first array to a pair (image, class or
    # None). An image is a uint8 array of shape (height, width, 3).
    open: typing.Callable

    def part(self, split, rows):
        x, y = getattr(self, split)
        return x[rows], y[rows]


def cifar10(path):
    """Load CIFAR-10 from Keras, an .npz file, or the folder of its batches."""
    if path is None:
        try:
            train, test = keras.datasets.cifar10.load_data()
        except Exception as error:
            raise SystemExit(
                "No CIFAR-10. Either pass --data PATH, a file cifar10.npz "
                "with x_train, y_train, x_test and y_test or the folder "
                "cifar-10-batches-py, or let keras.datasets download it. It "
                f"failed with: {error!r}"
            ) from None
        parts = {"training": train, "test": test}
    elif path.is_dir():
        names = [f"data_batch_{i}" for i in range(1, 6)]
        batches = [_python_batch(path / name) for name in names]
        train = tuple(np.concatenate(arrays) for arrays in zip(*batches))
        parts = {"training": train, "test": _python_batch(path / "test_batch")}
    elif path.is_file():
        parts = _npz(path)
    else:
        raise SystemExit(f"There is nothing at --data {path}")
    checked = [_check(*part, path or name) for name, part in parts.items()]
    return Images(*checked, 10, lambda image: image)


def _python_batch(path):
    if not path.is_file():
        raise SystemExit(
            "The folder of CIFAR-10 has data_batch_1 to data_batch_5 and "
            f"test_batch. Missing: {path}"
        )
    try:
        file = io.BytesIO(path.read_bytes())
        content = Arrays(file, encoding="bytes").load()
        x, y = np.asarray(content[b"data"]), np.asarray(content[b"labels"])
        x = x.reshape(len(x), 3, 32, 32).transpose(0, 2, 3, 1)
    except Exception as error:
        raise SystemExit(f"Cannot read {path}: {error!r}") from None
    _check(x, y, path)
    return x, y


def _npz(path):
    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                split: (file[f"x_{key}"], file[f"y_{key}"])
                for split, key in (("training", "train"), ("test", "test"))
            }
    except Exception as e:
        raise SystemExit(
            f"Cannot read {path}, which must be an .npz file with x_train, "
            f"y_train, x_test and y_test: {e!r}"
        ) from None


def _check(x, y, where):
    y = y.reshape(-1)
    if x.ndim != 4 or x.shape[-1] != 3 or x.dtype != "uint8":
        raise SystemExit(
            "Images must be uint8, of shape (images, height, width, 3). "
            f"Received: {x.dtype} of shape {x.shape} in {where}"
        )
    if len(x) != len(y):
        raise SystemExit(f"{len(x)} images, but {len(y)} labels in {where}")
    wrong = np.flatnonzero(~np.isin(y, range(10)))
    if len(wrong):
        raise SystemExit(
            f"Labels must be 0 to 9. Received: {y[wrong[0]]} in row {wrong[0]} "
            f"of {where}"
        )
    return x, y.astype("int64")


def imagenet(path, name="imagenet2012"):
    """Load a folder with train/ and val/, or from tensorflow-datasets."""
    if path is not None:
        classes = _classes(path / "train")
        if _classes(path / "val") != classes:
            differ = set(classes) ^ set(_classes(path / "val"))
            raise SystemExit(
                f"{path / 'train'} and {path / 'val'} must have the same "
                f"folders of classes. In one only: {sorted(differ)[:5]}"
            )
        parts = [_files(path / split, classes) for split in ("train", "val")]
        return Images(*parts, len(classes), _open_file)
    try:
        import tensorflow_datasets as tfds

        sources = [
            tfds.data_source(
                name,
                split=split,
                decoders={"image": tfds.decode.SkipDecoding()},
            )
            for split in ("train", "validation")
        ]
        features = sources[0].dataset_info.features
    except Exception as error:
        raise SystemExit(
            "No images. Either pass --data FOLDER, with a folder of each class "
            f"in train/ and in val/, or prepare {name} by tensorflow-datasets, "
            "in its random access format: pip install tensorflow-datasets "
            f"array_record; tfds build {name} --file_format=array_record. It "
            f"failed with: {error!r}"
        ) from None
    # Each element holds the number of a source and a row of it. The classes
    # come with the images.
    parts = [
        (np.stack([np.full(n, i), np.arange(n)], 1), np.full(n, -1))
        for i, n in enumerate(map(len, sources))
    ]

    def open_row(place):
        row = sources[place[0]][int(place[1])]
        where = f"row {place[1]} of {name}"
        return _decode(row["image"], where), int(row["label"])

    return Images(*parts, features["label"].num_classes, open_row)


def _classes(folder):
    if not folder.is_dir():
        raise SystemExit(
            "--data must have the folders train and val, with a folder of "
            f"images for each class. Missing: {folder}"
        )
    found = sorted(f.name for f in folder.iterdir() if f.is_dir())
    if len(found) < 2:
        raise SystemExit(
            f"{folder} must have a folder for each of at least two classes. "
            f"Received: {found}"
        )
    return found


def _files(folder, classes):
    paths, labels = [], []
    for label, name in enumerate(classes):
        files = sorted(
            file
            for file in (folder / name).iterdir()
            if not file.name.startswith(".")
        )
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                raise SystemExit(
                    f"Only images ({', '.join(sorted(SUFFIXES))}) may be in "
                    f"the folder of a class. Received: {file}"
                )
        if not files:
            raise SystemExit(f"There is no image in {folder / name}")
        paths += map(str, files)
        labels += [label] * len(files)
    return np.array(paths), np.array(labels)


def _open_file(path):
    return _decode(pathlib.Path(path), path), None


def _decode(source, where):
    from PIL import Image

    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise SystemExit(f"Cannot read the image {where}: {error!r}") from None


def check_all(images, workers=8):
    """Open every image once, before a long training."""
    with futures.ThreadPoolExecutor(workers) as pool:
        for split in ("train", "test"):
            for _ in pool.map(images.open, getattr(images, split)[0]):
                pass


class Prepare:
    """Open, augment and normalize images: `transform` of `longrun.Batches`.

    images: an `Images`. size: of the squares. For training:
    policy: `randaugment`, `mixup`, `cutmix`, `erase`, each 0 for none; their
        sizes are those of the layers of Keras.

    `RandomCrop` of Keras takes one place for all images of a batch, and
    `RandAugment` two operations, so that crops are made here and RandAugment
    sees 16 images at a time.
    """

    def __init__(self, images, size, policy=None, workers=8):
        self.images, self.size, self.policy = images, size, policy
        self.pool = futures.ThreadPoolExecutor(workers)
        if policy is None:
            return
        every = {"dtype": "float32", "data_format": "channels_last"}
        layers, pixels = keras.layers, {"value_range": (0, 255)}
        self.flip = layers.RandomFlip("horizontal", **every)
        self.rand = layers.RandAugment(
            factor=(0.0, policy["randaugment"]), **pixels, **every
        )
        self.mixes = []
        if policy["mixup"]:
            self.mixes.append(layers.MixUp(policy["mixup"], **every))
        if policy["cutmix"]:
            self.mixes.append(layers.CutMix((policy["cutmix"],) * 2, **every))
        self.erase = layers.RandomErasing(
            policy["erase"], scale=(0.02, 0.33), **pixels, **every
        )

    def __call__(self, x, y, rng):
        crop = self._random_crop if self.policy else self._center_crop
        seeds = rng.integers(2**63, size=len(x))
        opened = self.pool.map(self._open, x, y, seeds, [crop] * len(x))
        images, y = zip(*opened)
        images = np.stack(images).astype("float32")
        labels = np.eye(self.images.classes, dtype="float32")[list(y)]
        if self.policy:
            images, labels = self._augment(images, labels, rng)
        return (images - MEAN) / DEVIATION, labels

    def _open(self, x, y, seed, crop):
        found = self.images.open(x)
        if isinstance(found, tuple):
            found, label = found
            y = y if label is None else label
        return crop(found, np.random.default_rng(seed)), int(y)

    def _random_crop(self, image, rng):
        height, width = image.shape[:2]
        if height == width == self.size:  # small ones, as CIFAR's
            wide = np.pad(image, ((4, 4), (4, 4), (0, 0)))
            top, left = rng.integers(9, size=2)
            return wide[top : top + self.size, left : left + self.size]
        # Crop 8 % to 100 % of the image, with an aspect ratio from 3:4 to 4:3.
        for _ in range(10):
            area = height * width * rng.uniform(0.08, 1.0)
            ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
            if 0 < h <= height and 0 < w <= width:
                top = rng.integers(height - h + 1)
                left = rng.integers(width - w + 1)
                return _resize(image, (left, top, left + w, top + h), self.size)
        return self._center_crop(image, rng)

    def _center_crop(self, image, rng):
        height, width = image.shape[:2]
        if height == width == self.size:
            return image
        # The middle 7/8 of the shorter side: 224 of 256.
        side = min(height, width) * 7 / 8
        left, top = (width - side) / 2, (height - side) / 2
        return _resize(image, (left, top, left + side, top + side), self.size)

    def _augment(self, images, labels, rng):
        images = self._run(self.flip, images, rng)
        if self.policy["randaugment"]:
            parts = np.array_split(images, -(-len(images) // 16))
            parts = [self._run(self.rand, part, rng) for part in parts]
            images = np.concatenate(parts)
        if self.policy["erase"]:
            images = self._run(self.erase, images, rng)
        if self.mixes:
            mix = self.mixes[rng.integers(len(self.mixes))]
            both = self._run(mix, {"images": images, "labels": labels}, rng)
            images, labels = both["images"], both["labels"]
        return images, labels

    def _run(self, layer, inputs, rng):
        layer.generator.state.assign(rng.integers(2**31, size=2))
        return keras.tree.map_structure(
            keras.ops.convert_to_numpy, layer(inputs, training=True)
        )


def _resize(image, box, size):
    from PIL import Image

    return np.asarray(
        Image.fromarray(image).resize((size, size), Image.BICUBIC, box=box)
    )
