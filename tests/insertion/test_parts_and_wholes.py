"""Models that contain one another or share layers: one insertion for all."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from models import X
from models import Y
from models import numbers
from models import same
from models import statistics
from models import steps

from keras_memel import MEmeL
from keras_memel import find
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip
from keras_memel.insertion.models_around import models_around


def backbone_and_model():
    backbone = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, name="a"),
            keras.layers.Dense(8, name="b"),
        ],
        name="backbone",
    )
    model = keras.Sequential([backbone, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return backbone, model


def heads():
    """Two compiled models that share a layer."""
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8, "relu", name="shared")(inputs)
    first = keras.Model(inputs, keras.layers.Dense(2, name="one")(hidden))
    second = keras.Model(inputs, keras.layers.Dense(2, name="two")(hidden))
    for model in (first, second):
        model.compile("sgd", "mse")
        model.fit(X, Y, batch_size=8, verbose=0)
    return first, second


def fit(model):
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)


def loads_without_keras_memel(path):
    code = (
        "import sys; sys.modules['keras_memel'] = None; import keras;"
        f"keras.saving.load_model({str(path)!r})"
    )
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_models_around_are_all_found_and_no_others():
    backbone, model = backbone_and_model()
    outer = keras.Sequential([keras.Input((8,)), model])
    backbone_and_model()
    host = backbone.get_layer("a")

    around = models_around([host])

    assert {id(one) for one in around} == {
        id(one) for one in (backbone, model, outer)
    }


@pytest.mark.parametrize("whole", [True, False])
def test_strip_of_a_part_strips_the_whole(whole, tmp_path):
    backbone, model = backbone_and_model()
    fit(model)
    before = model.predict(X, verbose=0)
    if whole:
        insert(model, "backbone/a", MEmeL(late_start=0))
    else:
        insert(backbone, "a", MEmeL(late_start=0))
    assert same(model.predict(X, verbose=0), before)
    memel = inserted(model)["backbone/a"]
    fit(model)
    assert float(memel.steps) == 2

    strip(backbone)
    fit(model)

    assert float(memel.steps) == 2
    assert inserted(model) == {}
    for layer in model._flatten_layers():
        assert not any("memel" in name for name in vars(layer))
    model.get_config()


@pytest.mark.once
def test_the_file_of_a_model_whose_part_was_stripped_is_plain(tmp_path):
    backbone, model = backbone_and_model()
    insert(model, "backbone/a", MEmeL())
    strip(backbone)
    model.save(tmp_path / "plain.keras")
    assert loads_without_keras_memel(tmp_path / "plain.keras")


def test_strip_of_a_part_leaves_other_insertions_of_the_whole(tmp_path):
    backbone, model = backbone_and_model()
    insert(model, ["backbone/a", model.layers[-1]], MEmeL(late_start=0))

    strip(backbone)
    fit(model)

    assert list(inserted(model)) == [model.layers[-1].name]
    assert steps(model) == [2.0]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert same(statistics(loaded), statistics(model))


def test_strip_of_a_new_model_of_the_same_layers_strips_the_old_one():
    backbone, model = backbone_and_model()
    insert(model, "backbone/b", MEmeL(late_start=0))
    fit(model)
    memel = inserted(model)["backbone/b"]

    strip(keras.Model(backbone.inputs, backbone.get_layer("b").output))
    fit(model)

    assert float(memel.steps) == 2
    assert inserted(model) == inserted(backbone) == {}
    model.get_config()


def test_strip_of_a_single_layer_strips_the_models_around():
    backbone, model = backbone_and_model()
    insert(model, "backbone/b", MEmeL(late_start=0))
    fit(model)
    memel = inserted(model)["backbone/b"]

    strip(backbone.get_layer("b"))
    fit(model)

    assert float(memel.steps) == 2
    model.get_config()


def test_models_that_share_layers_share_insertion_and_strip():
    first, second = heads()
    insert(first, "shared", MEmeL(late_start=0))

    fit(second)  # was compiled before

    (memel,) = inserted(second).values()
    assert float(memel.steps) == 2
    fit(first)
    assert float(memel.steps) == 4
    strip(second)
    fit(first)
    assert float(memel.steps) == 4
    first.get_config()
    second.get_config()


def test_each_model_around_saves_the_insertion(tmp_path):
    backbone, model = backbone_and_model()
    insert(backbone, "a", MEmeL(late_start=0))
    fit(model)
    for number, one in enumerate((backbone, model)):
        one.save(tmp_path / f"{number}.keras")
        loaded = keras.saving.load_model(tmp_path / f"{number}.keras")
        assert same(statistics(loaded), statistics(model))


def test_weights_of_a_model_around_are_current_after_strip():
    """On PyTorch every layer lists the variables of all its parts."""
    backbone, model = backbone_and_model()
    plain = [weight.path for weight in model.weights]
    insert(backbone, "a", MEmeL())
    strip(backbone)
    assert [weight.path for weight in model.weights] == plain
    if keras.config.backend() == "torch":
        assert len(list(model.parameters())) == len(plain)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_sequential_is_a_host_like_any_layer(depth, tmp_path):
    block = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(8, "relu", name="last")],
        name="block",
    )
    for _ in range(depth - 1):
        block = keras.Sequential([keras.Input((8,)), block], name="block")
    model = keras.Sequential([block, keras.layers.Dense(2)])
    model.build((None, 8))
    model.compile("sgd", "mse")
    before = model.predict(X, verbose=0)
    layer = MEmeL("threshold", inhibition="penalty", late_start=0)
    insert(model, ["block", "**/last"], layer)
    assert same(model.predict(X, verbose=0), before)

    fit(model)

    assert steps(model) == [2.0, 2.0]
    assert find(model, "**/*last") == [
        path for path in find(model) if path.endswith("last")
    ]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert same(statistics(loaded), statistics(model))
    assert list(inserted(loaded)) == list(inserted(model))
    strip(model)
    for part in model._flatten_layers():
        assert not any("memel" in name for name in vars(part))
    assert not any("memel" in weight.path for weight in model.weights)


def test_two_sequentials_cannot_share_the_layer_that_tracks():
    last = keras.layers.Dense(8)
    blocks = [
        keras.Sequential([keras.Input((8,)), keras.layers.Dense(8), last])
        for _ in range(2)
    ]
    model = keras.Sequential([keras.Input((8,)), *blocks])
    with pytest.raises(ValueError, match="Insert after the layer itself"):
        insert(model, blocks, MEmeL())
    assert inserted(model) == {}
    insert(model, last, MEmeL())


def table(model, *nested, **kwargs):
    lines = []
    model.summary(140, None, lines.append, *nested, **kwargs)
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in "\n".join(lines).splitlines()
        if "│" in line
    ]
    return {row[0]: row[2] for row in rows if row[0]}


def test_the_summary_lists_each_memel_under_its_host(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    _, model = backbone_and_model()
    plain, nested = table(model), table(model, expand_nested=True)
    insert(model, ["backbone/b", model.layers[-1]], MEmeL())
    head = model.layers[-1].name
    layers = [vars(layer).get("_layers") for layer in model._flatten_layers()]

    shown, expanded = table(model), table(model, expand_nested=True)
    assert table(model, True) == expanded != shown

    assert list(shown) == [
        "backbone (Sequential)",
        "memel_b (MEmeL)",
        f"{head} (Dense)",
        f"memel_{head} (MEmeL)",
    ]
    number = sum(
        int(np.prod(weight.shape)) for weight in inserted(model)[head].weights
    )
    assert shown.pop(f"memel_{head} (MEmeL)") == str(number)
    shown.pop("memel_b (MEmeL)")
    assert shown == plain
    rows = list(expanded)
    assert rows[rows.index("└ b (Dense)") + 1] == "└ memel_b (MEmeL)"
    assert {row: expanded[row] for row in nested if "backbone" not in row} == {
        row: nested[row] for row in nested if "backbone" not in row
    }
    for layer, before in zip(model._flatten_layers(), layers):
        assert vars(layer).get("_layers") is before
        assert "count_params" not in vars(layer)


def test_the_summary_of_a_graph_lists_the_memels(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    first, _ = heads()
    plain = table(first)
    insert(first, "shared", MEmeL())
    shown = table(first)
    assert list(shown)[1:3] == ["shared (Dense)", "memel_shared (MEmeL)"]
    assert {**shown, **plain} == shown


def test_the_summary_of_a_graph_with_operations_lists_the_memels(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    inputs = keras.Input((8,))
    x = keras.layers.Dense(8, name="dense")(inputs)
    model = keras.Model(inputs, keras.ops.tanh(x) + 1.0)
    before = list(table(model))
    insert(model, "dense", MEmeL())
    assert (
        list(table(model))
        == [*before[:2], "memel_dense (MEmeL)"] + (before[2:])
    )


def test_the_summary_lists_the_memel_of_a_nested_model_once(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    _, model = backbone_and_model()
    hosts = ["backbone", "backbone/b"]
    insert(model, hosts, MEmeL())
    for shown in (table(model), table(model, expand_nested=True)):
        assert len([row for row in shown if "memel_backbone (" in row]) == 1
        assert len([row for row in shown if "memel_b (" in row]) == 1
    strip(model)
    insert(model, ["backbone/b"], MEmeL())
    shown = table(model, expand_nested=True)
    assert len([row for row in shown if "(MEmeL)" in row]) == 1


@pytest.mark.once
def test_names_that_other_layers_have_are_left_to_them():
    names = ["dense", "memel_dense", "memel_dense_1"]
    model = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(4, name=n) for n in names)]
    )
    insert(model, "dense", MEmeL())
    assert [one.name for one in inserted(model).values()] == ["memel_dense_2"]


def test_names_depend_on_the_host_alone():
    for _ in range(3):
        MEmeL()
    _, model = backbone_and_model()
    for where in ("backbone/a", "backbone/b"):
        insert(model, where, MEmeL())
    names = [memel.name for memel in inserted(model).values()]
    assert names == ["memel_a", "memel_b"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_names_of_hosts_of_one_name_do_not_depend_on_the_order(order):
    blocks = [
        keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(4, name="dense")], name=name
        )
        for name in ("x", "y")
    ]
    model = keras.Sequential([keras.Input((4,)), *blocks])
    for i in order:
        insert(model, blocks[i].layers[-1], MEmeL())
    names = [memel.name for memel in inserted(model).values()]
    assert names == ["memel_dense", "memel_dense_1"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("block[0]", "block0"),
        ("a*b", "aXb"),
        ("a?", "ab"),
        ("middle:2", "other"),
        ("**", "x"),
    ],
)
def test_a_path_that_find_returned_names_its_layer(first, second):
    model = keras.Sequential(
        [keras.Input((6,))]
        + [keras.layers.Dense(6, name=name) for name in (second, first)]
    )
    (path,) = find(model, model.layers[1])

    assert find(model, path) == [path]
    insert(model, path, MEmeL())

    assert list(inserted(model)) == [path]
    # TensorFlow takes no such name scope, and Keras would go on with it.
    later = keras.layers.Dense(2, name="later")
    later.build((None, 2))
    assert later.kernel.path == "later/kernel"


@pytest.mark.once
def test_a_whole_path_is_not_the_end_of_another():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="dense")], name="inner"
    )
    model = keras.Sequential(
        [keras.Input((4,)), inner, keras.layers.Dense(4, name="dense")]
    )
    assert find(model, "dense") == ["dense"]
    assert find(model, "**/dense") == ["inner/dense", "dense"]


@pytest.mark.once
def test_a_name_that_is_not_there_is_answered_with_the_five_nearest():
    layers = [keras.layers.Dense(2, name=f"block_{i}") for i in range(7)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    with pytest.raises(ValueError, match="'blok_3'") as error:
        find(model, "blok_3")
    named = re.findall(r"'(block_\d)'", str(error.value))
    assert named[0] == "block_3"
    assert len(set(named)) == len(named) == 5


@pytest.mark.once
@pytest.mark.parametrize("blocks", [1, 2])
def test_two_blocks_are_the_fewest_that_have_a_pattern(blocks):
    layers = [
        keras.layers.Dense(size, name=f"block_{i}_{name}")
        for i in range(blocks)
        for size, name in ((4, "wide"), (2, "narrow"))
    ]
    model = keras.Sequential([keras.Input((2,)), *layers])
    with pytest.raises(ValueError, match="middle of the longest run") as error:
        find(model, "middle:2")
    if blocks == 1:
        assert "block_0_wide). Received: " in str(error.value)
    else:
        assert "where='block_*_narrow'" in str(error.value)


@pytest.mark.once
def test_names_without_numbers_suggest_nothing():
    layers = [keras.layers.Dense(2, name=name) for name in ("one", "other")]
    model = keras.Sequential([keras.Input((3,)), *layers])
    with pytest.raises(ValueError, match=r"\(one to one\)\. Received: "):
        find(model, "middle:2")


@pytest.mark.once
def test_a_suggested_pattern_fits_in_parents_of_any_names():
    """The names of the parents may contain any number of digits."""

    def stage(name, i):
        wide = keras.layers.Dense(4, name=f"block_{i}_wide")
        narrow = keras.layers.Dense(2, name=f"block_{i}_narrow")
        return keras.Sequential([keras.Input((2,)), wide, narrow], name=name)

    stages = [stage("stem", 0), stage("stage_1", 1), stage("stage_1_2", 2)]
    kinds = [keras.layers.Dense(3), keras.layers.Dense(2)]
    model = keras.Sequential(
        [keras.Input((2,)), stages[0], *kinds, stages[1], stages[2]]
    )
    with pytest.raises(ValueError, match="middle of the longest run") as error:
        find(model, "middle:9")
    pattern = str(error.value).split("where='")[1].split("'")[0]
    assert find(model, pattern) == [
        f"{part.name}/block_{i}_narrow" for i, part in enumerate(stages)
    ]


@pytest.mark.once
def test_middle_of_a_flat_model_suggests_a_pattern_that_works():
    x = inputs = keras.Input((8,))
    for i in range(3):
        y = keras.layers.Dense(16, name=f"net_block_{i}_wide")(x)
        y = keras.layers.Dense(8, name=f"net_block_{i}_narrow")(y)
        # A layer without weights does not end a block.
        x = keras.layers.Add(name=f"net_block_{i}_sum")([x, y])
    model = keras.Model(inputs, x)
    with pytest.raises(ValueError, match="middle of the longest run") as error:
        find(model, "middle:2")
    pattern = str(error.value).split("where='")[1].split("'")[0]
    assert find(model, pattern) == [f"net_block_{i}_narrow" for i in range(3)]
    assert "net_block_0_narrow to net_block_2_narrow" in str(error.value)
    assert numbers(model.weights)
