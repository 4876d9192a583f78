"""What a run of a study rests on: its split, and a network of its own seed."""

import numpy as np
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
