"""The ImageNet example on a few images, and its errors on broken ones."""

import pickle
import sys
import types

import keras
import numpy as np
import pytest
from scripts import example

from keras_memel import find
from keras_memel import inserted
from keras_memel import paper

images, longrun = (
    example("paper.imagenet.images"),
    example("paper.common.longrun"),
)

pytestmark = [
    pytest.mark.once,
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quick_compilation"),
]


@pytest.fixture(scope="module")
def imagenet():
    pytest.importorskip("keras_hub")
    return example("paper.imagenet.train")


@pytest.fixture(scope="module")
def arrays():
    """Ten classes of images, each with a different color."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (10, 1, 1, 3))

    def some(number):
        y = np.arange(number) % 10
        noise = rng.integers(-20, 21, (number, 32, 32, 3))
        return np.clip(colors[y] + noise, 0, 255).astype("uint8"), y

    (x_train, y_train), (x_test, y_test) = some(90), some(20)
    return {
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "y_test": y_test,
    }


@pytest.fixture(scope="module")
def data(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "cifar10.npz"
    np.savez(path, **arrays)
    return path


FEW = ["--small", "--train=64", "--validation=20", "--test=20", "--batch=16"]


def values(model):
    return [longrun.read(variable) for variable in model.trainable_variables]


def test_it_trains_inhibits_and_scores(imagenet, data, tmp_path, capsys):
    command = [*FEW, f"--data={data}", f"--out={tmp_path}", "--epochs=4"]
    command += ["--learning-rate=0.1", "--ema=0.5"]
    found = imagenet.main([*command, "--arms", "MEmeL"])

    scores = found["MEmeL", 0]
    assert scores["test"] > 0.2  # The classes differ in color; chance is 0.1.
    # The one value of each image, of 4 x 4 positions of 96 channels.
    assert scores["inhibited"] == pytest.approx(1 / (16 * 96), rel=1e-4)
    assert "seed 0  MEmeL: validation" in capsys.readouterr().out
    folder = tmp_path / "imagenet" / "MEmeL_seed_0"
    assert {f.name for f in folder.iterdir()} == {
        "checkpoint.npz",
        "log.csv",
        "tensorboard",
    }
    # A finished run is read from its file, with the same scores.
    assert imagenet.main([*command, "--arms", "MEmeL"]) == found


def test_arms_of_a_seed_share_weights_and_images(imagenet, data):
    options = imagenet.parse([*FEW, f"--data={data}"])
    plain, batches = imagenet.make(None, 3, options)
    ours, same = imagenet.make(paper.kdd2024, 3, options)
    _, other = imagenet.make(None, 4, options)

    assert list(inserted(ours)) == find(ours, "middle:4")
    assert not inserted(plain)
    for one, two in zip(values(plain), values(ours)):
        np.testing.assert_array_equal(one, two)
    for split in batches:
        for one, two in zip(batches[split][1], same[split][1]):
            np.testing.assert_array_equal(one, two)
    assert not np.array_equal(batches["train"][1][0], other["train"][1][0])
    # Validation images are not trained on, and differ from the test images.
    kept = {x.tobytes() for x in batches["validation"].x}
    assert len(kept) == 20
    assert kept.isdisjoint(x.tobytes() for x in batches["train"].x)


@pytest.mark.parametrize(
    ("depth", "first"), [(6, 1), (18, 7)], ids=["tiny", "small and base"]
)
def test_the_middle_four_blocks_of_the_third_stage(imagenet, depth, first):
    backbone = types.SimpleNamespace(depths=(2, 2, depth, 2))
    found = imagenet.middle_four(types.SimpleNamespace(backbone=backbone))
    assert found == [f"stage_2/blocks_{first + i}" for i in range(4)]


def test_kernels_decay_and_the_rate_follows_a_cosine(imagenet, data):
    options = imagenet.parse(
        [*FEW, f"--data={data}", "--learning-rate=320", "--epochs=5"]
    )
    model, _ = imagenet.make(None, 0, options)
    schedule = model.optimizer._learning_rate
    rates = [float(schedule(step)) for step in (0, 4, 12, 20)]
    # 320 for batches of 512, here of 16; 4 steps to it, and half of it between.
    np.testing.assert_allclose(rates, [0.01, 10.0, 5.05, 0.1], rtol=1e-5)

    before = values(model)
    model.optimizer.apply(
        [keras.ops.zeros(v.shape) for v in model.trainable_variables],
        model.trainable_variables,
    )
    for variable, old in zip(model.trainable_variables, before):
        decays = variable.name == "kernel"
        assert np.array_equal(longrun.read(variable), old) != decays


def test_a_preset_is_fine_tuned(imagenet, tmp_path):
    from keras_hub import models

    def tiny(**arguments):
        return models.SwinTransformerBackbone(
            image_shape=(32, 32, 3),
            embed_dim=4,
            depths=(1, 1, 4),
            num_heads=(1, 1, 1),
            window_size=4,
            patch_size=2,
            **arguments,
        )

    saved = tiny(drop_path=0.0)
    saved.save_to_preset(tmp_path / "swin")
    command = [f"--preset={tmp_path / 'swin'}", "--image-size=32"]
    options = imagenet.parse(command)
    assert (options.epochs, options.weight_decay) == (30, 1e-8)
    model = imagenet.build(options, 7)
    assert model.backbone.drop_path == options.drop_path == 0.1
    assert model.output_shape == (None, 7)
    for one, two in zip(values(model.backbone), values(saved)):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(SystemExit, match=r"32 pixels. Received.* 224"):
        imagenet.build(imagenet.parse(command[:1]), 7)
    with pytest.raises(SystemExit, match=r"--preset FOLDER.*--preset NAME"):
        imagenet.build(imagenet.parse([f"--preset={tmp_path / 'none'}"]), 7)


def test_meml_tune_needs_its_settings(imagenet):
    options = imagenet.parse(["--arms", "MEmeL-Tune", "--k=5", "--delta=10"])
    (arm,) = imagenet.arms(options).values()
    assert (arm["selection"].k, arm["inhibition"].delta) == (5, 10)
    for arguments in (["--arms", "MEmeL-Tune"], ["--k=5", "--delta=1"]):
        with pytest.raises(SystemExit, match="needs --k and --delta"):
            imagenet.parse(arguments)


def test_too_few_images_are_refused(imagenet, data):
    with pytest.raises(SystemExit, match=r"90 images.*--train 3200"):
        imagenet.main(["--small", f"--data={data}", "--validation=20"])
    with pytest.raises(SystemExit, match=r"90 images.*--validation 90"):
        imagenet.main([*FEW, f"--data={data}", "--validation=90"])
    with pytest.raises(SystemExit, match=r"first 10 steps.* 8 steps"):
        imagenet.main([*FEW, f"--data={data}", "--epochs=2", "--arms", "MEmeL"])


def test_the_plan_trains_nothing_to_keep(imagenet, data, tmp_path, capsys):
    plan = imagenet.main(
        [*FEW, f"--data={data}", "--dry-run", "--epochs=7", f"--out={tmp_path}"]
        + ["--arms", "original"]
    )
    assert plan["steps"] == 4 * 7
    printed = capsys.readouterr().out
    assert "64 train, 20 validation, 20 test images of 32" in printed
    assert not list(tmp_path.iterdir())


# Augmentation and normalization of the images.


def augmented(found, **policy):
    none = dict.fromkeys(("randaugment", "mixup", "cutmix", "erase"), 0.0)
    return images.Prepare(found, 32, {**none, **policy})


def test_images_are_normalized_as_the_presets_expect(data):
    found = images.cifar10(data)
    x, y = images.Prepare(found, 32)(*found.test, np.random.default_rng(0))
    pixels = found.test[0].astype("float64") / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(np.argmax(y, 1), found.test[1])


@pytest.mark.parametrize("policy", ["randaugment", "mixup", "cutmix", "erase"])
def test_augmentation_depends_on_the_generator_alone(data, policy):
    found = images.cifar10(data)
    size = {"randaugment": 0.1, "mixup": 0.8, "cutmix": 1.0, "erase": 1.0}
    rows = (found.test[0][:4], found.test[1][:4])

    def run(seed, **policy):
        return augmented(found, **policy)(*rows, np.random.default_rng(seed))

    policy = {policy: size[policy]}
    (x, y), (same, labels) = run(0, **policy), run(0, **policy)
    np.testing.assert_array_equal(x, same)
    np.testing.assert_array_equal(y, labels)
    assert not np.array_equal(x, run(1, **policy)[0])
    assert not np.array_equal(x, run(0)[0])  # it does something
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)
    mixed = bool(np.any((y > 0) & (y < 1)))
    assert mixed == ("mixup" in policy or "cutmix" in policy)


# Tests of the files that are read.


def test_the_python_batches_are_those_of_the_file(arrays, data, tmp_path):
    folder = python_batches(arrays, tmp_path)
    found, expected = images.cifar10(folder), images.cifar10(data)
    for split in ("train", "test"):
        for one, two in zip(getattr(found, split), getattr(expected, split)):
            np.testing.assert_array_equal(one, two)


def python_batches(arrays, folder):
    def save(name, x, y):
        rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        content = {b"data": rows, b"labels": list(map(int, y))}
        (folder / name).write_bytes(pickle.dumps(content))

    for i in range(5):
        part = slice(18 * i, 18 * (i + 1))
        x, y = arrays["x_train"][part], arrays["y_train"][part]
        save(f"data_batch_{i + 1}", x, y)
    save("test_batch", arrays["x_test"], arrays["y_test"])
    return folder


def test_broken_python_batches_are_named(arrays, tmp_path):
    folder = python_batches(arrays, tmp_path)
    file = folder / "data_batch_3"
    content = file.read_bytes()
    for broken in (content[:-300], content.replace(b"data", b"dada")):
        file.write_bytes(broken)
        with pytest.raises(SystemExit, match=r"Cannot read .*data_batch_3"):
            images.cifar10(folder)
    file.unlink()
    with pytest.raises(SystemExit, match=r"Missing: .*data_batch_3"):
        images.cifar10(folder)


def test_a_python_batch_that_would_call_something_is_refused(arrays, tmp_path):
    folder = python_batches(arrays, tmp_path)

    class Harmful:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    content = {b"data": arrays["x_train"][:1], b"labels": Harmful()}
    (folder / "data_batch_2").write_bytes(pickle.dumps(content))
    with pytest.raises(SystemExit, match=r"data_batch_2: .*builtins.exec"):
        images.cifar10(folder)
    assert not (tmp_path / "ran").exists()


def test_a_broken_file_is_named(arrays, tmp_path):
    path = tmp_path / "cifar10.npz"
    bad = {
        r"10 in row 3 of .*cifar10.npz": {"y_train": np.full(90, 10)},
        "90 images, but 89 labels": {"y_train": np.zeros(89, int)},
        r"float64 of shape \(20, 8\)": {"x_test": np.zeros((20, 8))},
    }
    bad[r"10 in row 3 of .*cifar10.npz"]["y_train"][:3] = 0
    for message, changed in bad.items():
        np.savez(path, **{**arrays, **changed})
        with pytest.raises(SystemExit, match=message):
            images.cifar10(path)
    np.savez(path, x_train=arrays["x_train"])
    with pytest.raises(SystemExit, match=r"Cannot read .*y_train"):
        images.cifar10(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SystemExit, match=r"Cannot read .*cifar10.npz"):
        images.cifar10(path)


def test_a_missing_source_is_named_with_both_ways(tmp_path, monkeypatch):
    def offline():
        raise OSError("no network")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", offline)
    with pytest.raises(SystemExit, match=r"--data PATH.*keras.datasets"):
        images.cifar10(None)
    with pytest.raises(SystemExit, match=r"nothing at --data .*nowhere"):
        images.cifar10(tmp_path / "nowhere")
    # The same as where it is not installed.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(SystemExit, match=r"--data FOLDER.*tfds build"):
        images.imagenet(None)


@pytest.fixture
def folder(tmp_path, arrays):
    """Two classes, of a wide and a high image each."""
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            place = tmp_path / split / name
            place.mkdir(parents=True)
            for i, crop in enumerate((slice(20), slice(32))):
                pixels = arrays["x_train"][i, :, crop]
                image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path


def test_a_folder_of_classes_is_read(folder):
    found = images.imagenet(folder)
    assert found.classes == 2
    np.testing.assert_array_equal(found.train[1], [0, 0, 1, 1])
    images.check_all(found)
    # 32 pixels of any image, each time another part in training.
    data = longrun.Batches(*found.train, 4, transform=augmented(found))
    (x, y), data.epoch = data[0], 1
    assert x.shape == (4, 32, 32, 3)
    assert y.shape == (4, 2)
    assert not np.array_equal(x, data[0][0])
    x, _ = images.Prepare(found, 16)(*found.test, np.random.default_rng(0))
    assert x.shape == (4, 16, 16, 3)


def test_a_corrupt_image_is_named(folder):
    file = folder / "train" / "bee" / "1.png"
    file.write_bytes(file.read_bytes()[:-200])
    found = images.imagenet(folder)
    with pytest.raises(SystemExit, match=r"the image .*bee.1\.png"):
        images.check_all(found)
    data = longrun.Batches(*found.train, 4, transform=augmented(found))
    with (
        pytest.raises(SystemExit, match=r"the image .*bee.1\.png"),
        longrun.refusals(data),
    ):
        data[0]


def test_half_a_dataset_is_named(folder):
    (folder / "train" / "bee" / "notes.txt").write_text("on bees")
    with pytest.raises(SystemExit, match=r"Received: .*notes\.txt"):
        images.imagenet(folder)
    (folder / "train" / "bee" / "notes.txt").unlink()
    for file in (folder / "val" / "ant").iterdir():
        file.unlink()
    with pytest.raises(SystemExit, match=r"no image in .*val.ant"):
        images.imagenet(folder)
    (folder / "val" / "ant").rename(folder / "val" / "asp")
    with pytest.raises(SystemExit, match=r"In one only: \['ant', 'asp'\]"):
        images.imagenet(folder)
    (folder / "val").rename(folder / "test")
    with pytest.raises(SystemExit, match=r"Missing: .*val"):
        images.imagenet(folder)
