"""The GLUE example: the metrics of GLUE."""

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from glue_rows import TASKS
from scripts import example

glue_tasks = example("paper.glue.tasks")

pytestmark = pytest.mark.once


# 2 hits, 1 miss, 1 false alarm, 4 rightly not.
ANSWERS = np.eye(2)[[1, 1, 0, 1, 0, 0, 0, 0]]
LABELS = np.array([1, 1, 1, 0, 0, 0, 0, 0])


def test_metrics_are_those_worked_out_by_hand():
    def score(name, answers=ANSWERS, labels=LABELS):
        return glue_tasks.score(TASKS[name], answers, labels)

    matthews = (2 * 4 - 1 * 1) / math.sqrt(3 * 3 * 5 * 5)
    assert score("CoLA") == {"matthews": pytest.approx(matthews)}
    assert list(score("MRPC")) == ["f1", "accuracy"]  # the first decides
    for name in ("MRPC", "QQP"):
        assert score(name) == {"f1": pytest.approx(2 / 3), "accuracy": 0.75}
    for name in ("SST-2", "QNLI", "RTE"):
        assert score(name) == {"accuracy": 0.75}
    assert score("MNLI", np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 0])) == {
        "accuracy": 0.75
    }
    # Deviations -1.5 -.5 .5 1.5 and -3 -2 5 0; ranks 1 2 3 4 and 1 2 4 3.
    found = score("STS-B", np.array([[1], [2], [9], [4]]), np.arange(1.0, 5))
    pearson, spearman = 8 / math.sqrt(5 * 38), 1 - 6 * 2 / (4 * 15)
    assert list(found) == ["spearman", "pearson"]
    assert found["pearson"] == pytest.approx(pearson)
    assert found["spearman"] == pytest.approx(spearman)


def test_metrics_are_those_of_scikit_learn_and_scipy(rng):
    labels = rng.integers(0, 2, 200)
    outputs = rng.normal(size=(200, 2)) + np.eye(2)[labels]
    answers = np.argmax(outputs, -1)
    for name, metric, function in (
        ("CoLA", "matthews", sklearn.metrics.matthews_corrcoef),
        ("QQP", "f1", sklearn.metrics.f1_score),
        ("QQP", "accuracy", sklearn.metrics.accuracy_score),
    ):
        found = glue_tasks.score(TASKS[name], outputs, labels)[metric]
        assert found == pytest.approx(function(labels, answers))
    # Steps of 0.2, so that there are ties.
    scores = np.round(5 * rng.uniform(size=200)) / 5
    guesses = scores + rng.normal(size=200)
    found = glue_tasks.score(TASKS["STS-B"], guesses[:, None], scores)
    assert found["spearman"] == pytest.approx(
        scipy.stats.spearmanr(scores, guesses)[0]
    )
    assert found["pearson"] == pytest.approx(np.corrcoef(scores, guesses)[0, 1])


def test_an_answer_that_is_always_the_same_is_worth_nothing():
    never = np.eye(2)[[0] * 8]
    assert glue_tasks.score(TASKS["CoLA"], never, LABELS) == {"matthews": 0.0}
    assert glue_tasks.score(TASKS["QQP"], never, LABELS)["f1"] == 0.0
    same = glue_tasks.score(TASKS["STS-B"], np.ones((8, 1)), np.arange(8.0))
    assert same == {"spearman": 0.0, "pearson": 0.0}
    with pytest.raises(FloatingPointError, match="diverged"):
        glue_tasks.score(TASKS["CoLA"], np.nan * never, LABELS)
