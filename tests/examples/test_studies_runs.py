"""The parts of a run of a study: its split, its loss and its network."""

import keras
import measures_oracle
import numpy as np
import pandas
import pytest


def tiny(common, seed, **settings):
    rng = np.random.default_rng(0)
    examples = rng.normal(size=(300, 4)).astype("float32")
    labels = rng.integers(0, 3, 300)
    return common.Split(
        examples, labels, seed, epochs=2, train=200, validation=50, **settings
    )


def test_a_split_has_the_share_of_wrong_labels_that_it_says(study):
    split = tiny(study("common.training"), 1, wrong_share=0.3)
    wrong = split.given != split.labels
    assert wrong[split.train].mean() == 0.3
    assert wrong[split.validation].mean() == 0.3
    assert not wrong[split.test].any()
    assert sorted(split.wrong) == sorted(split.train[wrong[split.train]])
    parts = np.concatenate([split.train, split.validation, split.test])
    assert sorted(parts) == list(range(300))
    assert sorted(split.order) == sorted([*split.train, *split.train])


def test_no_person_is_in_two_parts_of_a_split(study):
    groups = np.arange(300) % 10
    split = tiny(study("common.training"), 0, groups=groups)
    parts = (split.train, split.validation, split.test)
    people = [set(groups[part]) for part in parts]
    assert [len(some) for some in people] == [5, 2, 3]
    assert len(set.union(*people)) == 10


@pytest.mark.parametrize("method", ["placebo", "dropout"])
def test_a_recycled_network_learns_what_a_new_one_does(
    study, quick_compilation, method
):
    """Whatever was trained before, a run is that of its arm and seed."""
    common = study("common.training")
    common._COMPILED.clear()
    layers = common.layers_of(method, 0.2)

    def trained(seed, key):
        split = tiny(common, seed)
        model = common.trained(split, layers, seed, key, width=8)
        return model, [np.array(v) for v in model.get_weights()]

    first, _ = trained(0, "one")
    again, recycled = trained(1, "one")
    assert again is first
    other, new = trained(1, "another")
    assert other is not first
    for ours, theirs in zip(recycled, new, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def prices(rng, days=300):
    """Daily S&P 500 and NASDAQ, simulated, as arch has them."""
    index = pandas.bdate_range("2001-01-01", periods=days, name="Date")
    frames = []
    for _ in range(2):
        close = 1000 * np.exp(0.01 * rng.normal(size=days).cumsum())
        frame = pandas.DataFrame({"Close": close}, index)
        frame["High"] = close * (1 + rng.uniform(0.001, 0.02, days))
        frame["Low"] = close * (1 - rng.uniform(0.001, 0.02, days))
        frame["Volume"] = rng.integers(10**9, 10**10, days)
        frames.append(frame)
    return frames


@pytest.mark.once
def test_a_day_is_what_was_known_at_its_close(study, rng):
    sets = study("common.sets")
    frames = prices(rng)
    examples, labels = sets.of_days(*frames)
    assert examples.shape == (300 - sets.YEAR, 6 * sets.DAYS)
    for day in (sets.YEAR - 1, 270, 298):
        year = slice(day + 1 - sets.YEAR, day + 1)
        series = []
        for frame in frames:
            series.append(np.log(frame["High"] / frame["Low"] - 1))
            series.append(np.log(frame["Close"]).diff().fillna(0))
            series.append(np.log(frame["Volume"]))
        expected = []
        for own in series:
            own = own.to_numpy()
            last = own[day + 1 - sets.DAYS : day + 1]
            expected += [*(last - own[year].mean()) / own[year].std()]
        own = series[0].to_numpy()
        third = np.sum(own[day + 1] > np.quantile(own[year], [1 / 3, 2 / 3]))
        row = day - (sets.YEAR - 1)
        np.testing.assert_allclose(examples[row], expected, rtol=1e-5)
        assert labels[row] == third


@pytest.mark.once
@pytest.mark.parametrize("today", [249, 262, 290])
def test_no_day_knows_a_later_one(study, rng, today):
    """The future is shifted by a day and scaled: what was known is equal."""
    sets = study("common.sets")
    frames = prices(rng)
    examples, labels = sets.of_days(*frames)
    others = [frame.astype("float64") for frame in frames]
    for frame in others:
        later = frame.to_numpy()[today + 1 :]
        frame.iloc[today + 1 :] = 1.5 * np.roll(later, 1, axis=0)
        # This also changes the range of the later days.
        frame.loc[frame.index[today + 1] :, "High"] *= 1.1
    shifted, relabelled = sets.of_days(*others)
    known = today - (sets.YEAR - 1)  # the row of today
    np.testing.assert_array_equal(examples[: known + 1], shifted[: known + 1])
    np.testing.assert_array_equal(labels[:known], relabelled[:known])
    # The first day that knows of it is the next one; so is what today asks.
    assert (examples[known + 1] != shifted[known + 1]).any()
    assert relabelled[known] == 2


@pytest.mark.once
def test_prices_are_read_on_the_days_that_both_markets_have(
    study, rng, tmp_path, monkeypatch
):
    sets = study("common.sets")
    frames = prices(rng)
    expected = sets.of_days(*(f.drop(f.index[[3, 30, 280]]) for f in frames))
    frames[1].iloc[30, frames[1].columns.get_loc("Volume")] = 0
    frames = [f.drop(f.index[k]) for f, k in zip(frames, ([3], [280]))]
    for name, frame in zip(sets.MARKETS, frames, strict=True):
        (tmp_path / name).mkdir()
        frame.to_csv(tmp_path / name / f"{name}.csv.gz")
    examples, labels, groups = sets.market(tmp_path)
    np.testing.assert_allclose(examples, expected[0], rtol=1e-5)
    np.testing.assert_array_equal(labels, expected[1])
    assert groups is None
    monkeypatch.setattr(sets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install arch, or pass --data"):
        sets.market()


@pytest.mark.once
def test_a_walk_tests_each_day_once_and_after_its_training(study):
    sets = study("common.sets")
    sizes = sets.SETS["market"].sizes
    tested = []
    for seed in range(10):
        train, validation, test = sets.walk(4779, seed, **sizes)
        assert [len(part) for part in (train, validation, test)] == [
            *sizes.values()
        ]
        assert train[-1] < validation[0] < validation[-1] < test[0]
        tested += [*test]
    assert len(set(tested)) == len(tested) == 10 * sizes["test"]
    assert max(tested) < 4779
    assert sets.walk(4779, 10, **sizes)[2][0] == tested[0]
    with pytest.raises(ValueError, match=r"at least 1280 .*: 1279"):
        sets.walk(1279, 0, **sizes)


@pytest.mark.once
def test_the_references_see_the_given_labels_of_training_alone(study):
    common, domains = study("common.training"), study("domains")
    split = tiny(
        common, 0, wrong_share=0.5, parts=np.split(np.arange(300), [200, 250])
    )
    train, test = split.train, split.test
    often = np.bincount(split.given[train]).argmax()
    found = domains.forecast("majority class", split)
    np.testing.assert_array_equal(found, np.full(len(test), often))
    found = domains.forecast("class of today", split)
    np.testing.assert_array_equal(found, split.labels[249:299])
    split.given[train] = (split.images[train, 0] > 0).astype(int)
    found = domains.forecast("logistic regression", split)
    assert np.mean(found == (split.images[test, 0] > 0)) > 0.9
    assert domains.arms_of("watch") == domains.ARMS
    more = {*domains.arms_of("market")} - {*domains.ARMS}
    assert more == {*domains.REFERENCES}


def test_monoloss_is_the_formula_over_all_pairs(study, rng):
    encourage = study("encourage")
    values = rng.normal(size=(12, 5))
    values[:, 3] = np.maximum(values[:, 3], 0)  # ties at the minimum
    embeddings = rng.normal(1.0, 1.0, size=(12, 4))
    expected = measures_oracle.monoscore(values, embeddings)

    def scored():
        both = (x.astype("float32") for x in (values, embeddings))
        tensors = (keras.ops.convert_to_tensor(x) for x in both)
        return keras.ops.convert_to_numpy(encourage.monoscores(*tensors))

    np.testing.assert_allclose(scored(), expected, rtol=1e-5)
    values[:, 1] = 2.0  # nothing to score
    assert scored()[1] == 0


def test_a_step_with_monoloss_follows_its_gradient(
    study, rng, quick_compilation
):
    """One step of descent, against finite differences in float64."""
    encourage, weight = study("encourage"), 0.3
    x = rng.normal(0.5, 1.0, size=(10, 4)).astype("float32")
    plain = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.ReLU()]
        + [keras.layers.Dense(2, kernel_initializer="zeros")]
    )
    plain.compile(keras.optimizers.SGD(1.0), "mse")
    model = encourage.with_monoloss(plain, weight)
    before = [np.array(w, "float64") for w in plain.get_weights()]

    def loss(kernel):
        z = x.astype("float64") @ kernel
        return weight * (1 - measures_oracle.monoscore(z, x).mean())

    step = 1e-5
    expected = np.zeros((4, 3))
    for place in np.ndindex(expected.shape):
        moved = np.zeros_like(expected)
        moved[place] = step
        ends = loss(before[0] + moved), loss(before[0] - moved)
        expected[place] = (ends[0] - ends[1]) / (2 * step)
    # Its last layer is 0 and so are the targets: all gradient is MonoLoss's.
    found = model.train_on_batch(x, np.zeros((10, 2)))
    assert found == pytest.approx(loss(before[0]), rel=1e-4)
    after = plain.get_weights()[0]
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(before[0] - after, expected, atol=1e-5)
    # When tested it is the plain network.
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), plain.predict(x, verbose=0)
    )
