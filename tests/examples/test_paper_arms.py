"""The arms of tables.py on each family, in small: scores and diagnoses."""

import keras
import numpy as np
import pytest
import tiny_families
from scripts import example
from small_networks import FLAT

from keras_memel import MEmeL
from keras_memel import paper

arms, labels, probe = (
    example(f"paper.common.{name}") for name in ("arms", "labels", "probe")
)

pytestmark = [
    pytest.mark.once,
    # keras_hub and what it stands on warn of many things that are not ours.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.usefixtures("quick_compilation"),
]


@pytest.fixture(scope="module", params=["nowcasting", "glue", "imagenet"])
def family(request, tmp_path_factory):
    """Its name, its module, and a function from an arm to its scores."""
    name = request.param
    if name != "nowcasting":
        pytest.importorskip("keras_hub")
    folder = tmp_path_factory.mktemp(name)
    patch = pytest.MonkeyPatch()
    networks = example("paper.nowcasting.model")
    patch.setitem(networks.NETWORKS, "flat", FLAT)
    patch.setattr(probe, "ABLATED", (1, 10))
    words = getattr(tiny_families, name)(folder)
    module = example(f"paper.{name}.train")
    if name != "nowcasting":  # 10 rows for the statistics, and 2 steps
        patch.setattr(module, "PROBED", 12)
    ran = {}

    def run(arm, *further, seed=0):
        key = repr(arm), further, seed
        if key not in ran:
            out = f"--out={folder / str(len(ran))}"
            steps = "--diagnose", "--steps-of", "dropout=rate 0.1"
            options = module.parse([*words, *further, *steps, out])
            ran[key] = module.run(arm, seed, options)
        return ran[key]

    yield name, module, run
    patch.undo()


def test_the_original_is_diagnosed(family):
    name, _, run = family
    scores = run(None)
    for when in ("before", "after"):
        assert 0 < scores[f"share_{when}"] < 0.2
    steps = [x for x in arms.STEPS if x not in ("MEmeL-Tune", "placebo-Tune")]
    for arm in steps:
        assert -10 < scores[f"decrease_ratio {arm}"] < 1
    whole = scores["ablated_0"]
    for k in probe.ABLATED:
        assert np.isfinite(scores[f"ablated_top_{k}"])
        assert np.isfinite(scores[f"ablated_random_{k}"])
    if name == "nowcasting":
        # The probe uses all windows, so it equals the metric.
        assert whole == pytest.approx(scores["b_mse"])
        assert scores["ablated_top_10"] != pytest.approx(whole)
        assert scores["b_mae"] > 0


def test_memel_is_kept_on_without_another_training(family):
    name, _, run = family
    ours, plain = run(paper.kdd2024), run(None)
    key = {"nowcasting": "kept_on_b_mse"}.get(name, "kept_on_test")
    assert np.isfinite(ours[key])
    assert "share_after" in ours
    assert "share_before" not in ours
    assert key not in plain
    if name == "nowcasting":
        assert ours[key] != ours["pretrained_b_mse"]


def test_every_arm_trains_and_says_which_answers_are_right(family):
    name, _, run = family
    every = arms.placebo(1), paper.l2e, arms.dropout(0.2)
    for arm in every[: 1 if name == "imagenet" else 3]:  # it is slow
        scores = dict(run(arm))
        correct = scores.pop("correct", None)
        assert np.isfinite(list(scores.values())).sum() > 2
        if name == "nowcasting":
            assert correct is None
        else:
            assert np.mean(correct) == pytest.approx(scores["test"])
            assert {type(right) for right in correct} == {bool}


def test_wrong_labels_are_those_of_the_seed_and_not_of_the_test(family):
    name, module, _ = family
    if name == "nowcasting":
        return
    words = {"glue": ["--task=sentences"], "imagenet": []}[name]
    with pytest.raises(SystemExit):
        module.parse(["--small", "--wrong=1", *words])
    labelled = np.arange(1000) % 7
    spoiled = labels.spoil(labelled, 7, 0.2, 3, "train")
    assert (spoiled != labelled).sum() == 200
    assert set(spoiled) == set(range(7))
    same = labels.spoil(labelled, 7, 0.2, 3, "train")
    np.testing.assert_array_equal(spoiled, same)
    for other in (
        labels.spoil(labelled, 7, 0.2, 4, "train"),
        labels.spoil(labelled, 7, 0.2, 3, "test"),
    ):
        assert (spoiled != other).any()


def test_dropout_drops_its_rate_and_keeps_the_mean(rng):
    layer = MEmeL(**arms.dropout(0.25))
    x = rng.normal(5.0, 0.1, (64, 50)).astype("float32")
    first = keras.ops.convert_to_numpy(layer(x, training=True))
    np.testing.assert_array_equal(first, x)  # no history yet
    y = keras.ops.convert_to_numpy(layer(x, training=True))
    dropped = y == 0
    assert dropped.mean() == pytest.approx(0.25, abs=0.03)
    scale = 1 / (1 - dropped.mean())
    np.testing.assert_allclose(y[~dropped], scale * x[~dropped], rtol=1e-5)
    np.testing.assert_array_equal(layer(x), x)


def network(rng):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(50, name="wide")]
    )
    x = [rng.normal(size=(64, 6)).astype("float32") for _ in range(4)]
    return model, x


def test_the_share_of_a_gaussian_is_that_of_three_deviations(rng):
    model, x = network(rng)
    model.layers[0].kernel.assign(rng.normal(size=(6, 50)))

    def place(settings):
        return probe.placed(model, "wide", settings)

    found = probe.share(place, x)
    values = np.concatenate([model.predict(part, verbose=0) for part in x])
    variance = values.var(axis=0, ddof=1)
    phi = (values - values.mean(axis=0)) ** 2
    phi /= variance + 0.01 * variance.mean()
    assert found == pytest.approx((phi >= 9).mean(), abs=1e-3)
    assert 0 < found < 0.01


def test_an_ablation_holds_the_highest_values_at_their_mean(rng, monkeypatch):
    monkeypatch.setattr(probe, "ABLATED", (1, 100))
    model, x = network(rng)
    seen = []

    def evaluate(model):
        seen.append(model.predict(x[0], verbose=0))
        return 0.0

    def place(settings):
        return probe.placed(model, "wide", settings)

    # There are no 100 values in a sample of 50.
    with pytest.raises(ValueError, match="at most the number of values"):
        probe.ablation(place, x, evaluate)
    whole, top, random = seen[0], seen[1], seen[2]
    np.testing.assert_array_equal(whole, model.predict(x[0], verbose=0))
    every = np.concatenate([model.predict(part, verbose=0) for part in x])
    mean, variance = every.mean(axis=0), every.var(axis=0, ddof=1)
    phi = (whole - mean) ** 2 / (variance + 0.01 * variance.mean())
    expected = np.where(phi == phi.max(axis=1, keepdims=True), mean, whole)
    np.testing.assert_allclose(top, expected, rtol=1e-4, atol=1e-5)
    assert ((random != whole).sum(axis=1) == 1).all()
    assert (top != random).any()
