"""Comparison: deltas are paired, and verdicts follow the rules."""

import math
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from keras_memel import Comparison
from keras_memel.evaluation import contrasts
from keras_memel.evaluation.paired_tests import paired_test
from keras_memel.evaluation.paired_tests import rounding

pytestmark = [
    pytest.mark.once,
    pytest.mark.quick,
]

SIGNS = 1 - 2 * ((np.arange(2**10)[:, None] >> np.arange(10)) & 1)


def runs_of(scores, metric="score"):
    """Runs from a dictionary of scores by arm."""
    return [
        {"arm": arm, "seed": seed, "scores": {metric: float(score)}}
        for arm, values in scores.items()
        for seed, score in enumerate(values)
    ]


def noisy(effects, seeds=10, sd=1.0):
    """Scores with a noise of the seed, that all arms share, and of the arm."""
    rng = np.random.default_rng(2)
    shared = 20 * rng.normal(size=seeds)
    return {
        arm: 80 + shared + effect + sd * rng.normal(size=seeds)
        for arm, effect in effects.items()
    }


# Deltas for which one of the two tests has p < 0.05.
FLIP_ALONE = [1.4, 0.9, -0.7, 1.5, 1.0, 0.1, 1.2, 1.0, 0.9, 0.6]
BOOTSTRAP_ALONE = [0.9, 3.3, -0.4, -1.0, 1.6, 1.6, 0.1, 0.5, 0.3, 1.1]
EFFECTS = {"plain": 0.0, "good": 4.0, "same": 0.0, "bad": -4.0}


def holm(p):
    """Holm (1979), written out."""
    p = np.asarray(p)
    order = np.argsort(p, kind="stable")
    factors = len(p) - np.arange(len(p))
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * factors)
    return np.minimum(corrected, 1.0)


def test_deltas_are_paired_by_seed():
    scores = noisy(EFFECTS)
    runs = runs_of(scores)
    shuffled = [runs[i] for i in np.random.default_rng(1).permutation(40)]
    for contrast in Comparison(shuffled, list(EFFECTS)).contrasts:
        places = list(contrast.seeds)
        expected = scores[contrast.arm][places] - scores["plain"][places]
        np.testing.assert_array_equal(contrast.deltas, expected)
        assert sorted(places) == list(range(10))
        assert contrast.mean == pytest.approx(expected.mean())


def test_the_numbers_are_those_of_the_paired_tests():
    scores = noisy(EFFECTS)
    for contrast in Comparison(runs_of(scores)).contrasts:
        pair = scores[contrast.arm], scores["plain"]
        test = paired_test(pair[0] - pair[1], rounding(*pair))
        assert (contrast.p_sign_flip, contrast.p_bootstrap) == test[:2]
        assert (contrast.low, contrast.high) == test[2:]
        assert contrast.p == max(test[:2])
        assert contrast.level == 0.05
        assert contrast.low < contrast.mean < contrast.high
        assert (contrast.p < 0.05) == (contrast.low > 0 or contrast.high < 0)


def test_p_is_the_share_of_all_flips_of_signs_and_holm_over_the_arms():
    scores = noisy(EFFECTS)
    found = Comparison(runs_of(scores), contrasts=[("good", "bad")]).contrasts
    assert len(found) == 4
    raw = []
    for contrast in found:
        flipped = np.abs(SIGNS @ contrast.deltas)
        seen = abs(contrast.deltas.sum())
        raw.append(np.mean(flipped >= seen - 1e-9))
        assert contrast.p_sign_flip == pytest.approx(raw[-1])
        scipys = scipy.stats.permutation_test(
            (contrast.deltas,), np.mean, permutation_type="samples",
            n_resamples=np.inf,
        ).pvalue  # fmt: skip
        assert contrast.p_sign_flip == pytest.approx(scipys)
        raw[-1] = max(raw[-1], contrast.p_bootstrap)
        assert contrast.p == raw[-1]
    np.testing.assert_allclose([c.p_holm for c in found], holm(raw))


@pytest.mark.parametrize(
    ("seeds", "p"), [(1, math.nan), (2, 1 / 2), (3, 1 / 4)]
)
def test_two_deltas_are_the_fewest_that_have_a_p(seeds, p):
    scores = {"plain": np.zeros(seeds), "arm": np.ones(seeds)}
    contrast = Comparison(runs_of(scores)).contrasts[0]
    assert contrast.p_sign_flip == pytest.approx(p, nan_ok=True)
    assert contrast.why == "a verdict needs 10 seeds"


def test_up_to_16_seeds_every_flip_is_counted():
    assert paired_test(np.ones(16)).p_sign_flip == 2 / 2**16
    # The p of counted flips goes in steps, and the first is above 0.05 / 2000.
    assert math.isinf(contrasts.detectable_effect(16, 2000))
    assert contrasts.detectable_effect(17, 2000) < math.inf


def test_at_20_seeds_p_is_close_to_that_of_student():
    scores = noisy({"plain": 0.0, "arm": 0.6}, seeds=20)
    contrast = Comparison(runs_of(scores)).contrasts[0]
    deltas = scores["arm"] - scores["plain"]
    student = scipy.stats.ttest_1samp(deltas, 0.0).pvalue
    assert contrast.p_sign_flip == pytest.approx(student, rel=0.25)
    assert contrast.p_bootstrap == pytest.approx(student, rel=0.5)


@pytest.mark.parametrize("higher", [True, False])
def test_verdicts_follow_the_deltas_and_the_direction(higher):
    found = Comparison(runs_of(noisy(EFFECTS)), higher_is_better=higher)
    verdicts = {c.arm: c.verdict for c in found.contrasts}
    good, bad = ("better", "worse") if higher else ("worse", "better")
    assert verdicts == {"good": good, "same": "not shown", "bad": bad}


def test_directions_may_differ_by_metric():
    runs = [
        {"arm": arm, "seed": seed, "scores": {"up": x, "down": x, "rest": x}}
        for arm, values in noisy(EFFECTS).items()
        for seed, x in enumerate(values)
    ]
    found = Comparison(runs, higher_is_better={"down": False})
    assert found.metrics == ("up", "down", "rest")
    verdicts = {c.metric: c.verdict for c in found.contrasts if c.arm == "good"}
    assert verdicts == {"up": "better", "down": "worse", "rest": "better"}


def test_directions_are_those_of_metrics_that_there_are():
    runs = runs_of(noisy({"a": 0.0, "b": 4.0}), "loss")
    wrong = {"loss": False, "Loss": False}
    with pytest.raises(
        ValueError, match=r"metrics of \('loss',\)\. Received: \['Loss'\]"
    ):
        Comparison(runs, higher_is_better=wrong)
    failed = [
        {"arm": run["arm"], "seed": run["seed"], "error": "Ow"} for run in runs
    ]
    for nothing in ([], failed):
        Comparison(nothing, ["a", "b"], higher_is_better=wrong)


def test_both_tests_must_agree():
    # The interval is above 0, and Holm's correction over 40 arms raises p.
    rng = np.random.default_rng(5)
    scores = {"plain": np.zeros(10), "arm": 0.8 + rng.normal(size=10)}
    alone = Comparison(runs_of(scores)).contrasts[0]
    assert alone.verdict == "better"
    for number in range(39):
        scores[f"noise {number}"] = rng.normal(size=10)
    crowd = Comparison(runs_of(scores)).contrasts[0]
    assert crowd.low == alone.low > 0
    assert crowd.p_holm > 0.05
    assert crowd.verdict == "not shown"


@pytest.mark.parametrize("scale", [1.0, 0.01, -1.0, -0.01])
@pytest.mark.parametrize(
    ("deltas", "smaller", "larger"),
    [
        (FLIP_ALONE, "p_sign_flip", "p_bootstrap"),
        (BOOTSTRAP_ALONE, "p_bootstrap", "p_sign_flip"),
    ],
)
def test_one_test_alone_is_not_enough(deltas, smaller, larger, scale):
    arm = scale * np.array(deltas)
    runs = runs_of({"plain": np.zeros(10), "arm": arm})
    contrast = Comparison(runs).contrasts[0]
    assert getattr(contrast, smaller) < 0.05 <= getattr(contrast, larger)
    assert contrast.p_holm == getattr(contrast, larger)
    assert contrast.low < 0 < contrast.high
    assert contrast.why == ""
    assert contrast.verdict == "not shown"


def test_a_verdict_takes_a_corrected_p_below_the_level_not_at_it():
    scores = noisy({"plain": 0.0, "arm": 4.0})
    pairs = [("arm", "plain")]
    by_seed = {arm: dict(enumerate(one)) for arm, one in scores.items()}
    (found,) = contrasts.contrast_all("x", pairs, by_seed, range(10), True)
    for level, verdict in (
        (found.p_holm, "not shown"),
        (np.nextafter(found.p_holm, 1.0), "better"),
    ):
        (one,) = contrasts.contrast_all(
            "x", pairs, by_seed, range(10), True, level
        )
        assert one.verdict == verdict


@pytest.mark.parametrize("sign", [1, -1])
def test_an_interval_that_ends_at_0_shows_nothing(sign):
    # 26 of 1024 subsets, the empty one among them, have no sum above 0.
    deltas = sign * np.array([1, 0, 1, 4, 4, -1, 2, -1, 2, 3])
    runs = runs_of({"plain": np.zeros(10), "arm": deltas})
    contrast = Comparison(runs).contrasts[0]
    assert 0 in np.round((contrast.low, contrast.high), 9)
    assert contrast.p == 52 / 1024
    assert contrast.verdict == "not shown"


def test_nine_seeds_are_too_few_for_any_effect():
    found = Comparison(runs_of(noisy({"plain": 0.0, "arm": 50.0}, seeds=9)))
    contrast = found.contrasts[0]
    assert contrast.p == 2 / 2**9
    assert contrast.verdict == "not shown"
    assert contrast.why == "a verdict needs 10 seeds"
    assert math.isnan(contrast.low)
    assert math.isinf(contrast.detectable)
    assert "a verdict needs 10 seeds: any pair" in found.summary()


@pytest.mark.parametrize(
    "lost",
    [{"error": "Traceback ...\nValueError: diverged"},
     {"scores": {"score": math.nan}}, {"scores": {"score": math.inf}},
     {"scores": {"other": 1.0}}, None],
)  # fmt: skip
def test_a_seed_without_a_pair_takes_the_verdict_away(lost):
    runs = runs_of(noisy({"plain": 0.0, "arm": 50.0, "other": 50.0}, seeds=11))
    gone = {"arm": "arm", "seed": 4}
    runs = [r for r in runs if (r["arm"], r["seed"]) != ("arm", 4)]
    runs += [{**gone, **lost}] if lost else []
    found = Comparison(runs, ["plain", "arm", "other"])
    contrast = next(c for c in found.contrasts if c.arm == "arm")
    assert sorted(contrast.seeds) == [0, 1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert contrast.verdict == "not shown"
    assert contrast.why == (
        "1 of 11 seeds have no finite score for at least one arm"
    )
    assert "1 of 11 seeds have no" in found.summary()
    rest = next(c for c in found.contrasts if c.arm == "other")
    assert rest.verdict == "better"
    if lost and "error" in lost:
        assert "arm, seed 4, failed: ValueError: diverged" in found.summary()


@pytest.mark.parametrize("noise", [0.0, 1e-16])
def test_equal_deltas_show_nothing_but_a_forgotten_seed(noise):
    rng = np.random.default_rng(0)
    plain = rng.uniform(0.5, 0.9, size=10)
    arm = plain + 0.1 + noise * rng.normal(size=10)
    contrast = Comparison(runs_of({"plain": plain, "arm": arm})).contrasts[0]
    assert contrast.p_sign_flip < 0.05
    assert contrast.p == 1.0
    assert contrast.verdict == "not shown"
    assert contrast.why == "the deltas of all seeds are equal"
    assert math.isnan(contrast.low)


def test_scores_that_are_all_0_are_equal():
    zeros = np.zeros(10)
    contrast = Comparison(runs_of({"plain": zeros, "arm": zeros})).contrasts[0]
    assert contrast.p == 1.0
    assert contrast.why == "the deltas of all seeds are equal"


def test_deltas_that_are_equal_but_for_one_have_an_interval():
    arm = np.array([0.0] * 9 + [1.0])
    contrast = Comparison(
        runs_of({"plain": np.zeros(10), "arm": arm})
    ).contrasts[0]
    assert contrast.low <= 0 < contrast.high
    assert contrast.p == 1.0


def test_a_score_that_diverged_hides_neither_its_pair_nor_others():
    arm = np.array([0.1, 0.2, -0.1, 0.3, 0.1, -0.2, 0.4, 0.1, 0.2, 1e15])
    scores = noisy({"plain": 0.0, "good": 4.0})
    pair = {"plain": scores["plain"], "arm": scores["plain"] + arm}
    far = Comparison(runs_of(pair | {"good": scores["good"]})).contrasts
    alone = Comparison(runs_of({"plain": np.zeros(10), "arm": arm})).contrasts
    assert far[0].why == ""
    assert far[0].p_sign_flip == alone[0].p_sign_flip
    assert far[1].verdict == "better"


@pytest.mark.parametrize("arms", [1, 5, 9])
def test_detectable_is_what_80_percent_of_studies_would_find(arms):
    names = ["plain", *map(str, range(arms))]
    contrast = Comparison(runs_of(noisy(dict.fromkeys(names, 0.0)))).contrasts[
        0
    ]
    n, sd = 10, np.std(contrast.deltas, ddof=1)
    # The highest p of 2^n sign flips that Holm's first step lets through.
    level = max(p for p in np.arange(1, 512) / 512 if arms * p < 0.05)
    # Power of the two-sided paired t-test, from the noncentral t law.
    critical = scipy.stats.t.isf(level / 2, n - 1)
    shift = contrast.detectable / sd * math.sqrt(n)
    power = scipy.stats.nct.sf(critical, n - 1, shift)
    power += scipy.stats.nct.cdf(-critical, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-4)


def test_more_arms_make_less_detectable():
    scores = noisy({"a": 0.0, "b": 0.0})
    alone = Comparison(runs_of(scores)).contrasts[0].detectable
    crowd = runs_of(scores | {f"{i}": np.zeros(10) for i in range(4)})
    assert Comparison(crowd).contrasts[0].detectable > 1.2 * alone
    # 2 / 1024, times 40, is above 0.05: no effect could ever be shown.
    crowd = runs_of(scores | {f"{i}": np.zeros(10) for i in range(39)})
    assert math.isinf(Comparison(crowd).contrasts[0].detectable)


def test_the_data_frame_has_a_row_a_contrast():
    found = Comparison(runs_of(noisy(EFFECTS)))
    frame = found.to_dataframe()
    assert list(frame["arm"]) == ["good", "same", "bad"]
    assert set(frame["other"]) == {"plain"}
    for row, contrast in zip(frame.itertuples(), found.contrasts, strict=True):
        assert row.low == contrast.low
        assert row.verdict == contrast.verdict
        np.testing.assert_array_equal(row.deltas, contrast.deltas)


def test_the_scores_stand_in_a_table_of_seeds_and_arms():
    scores = noisy(EFFECTS)
    frame = Comparison(runs_of(scores)).scores()
    expected = pd.DataFrame(scores).rename_axis("seed")
    pd.testing.assert_frame_equal(frame, expected)


def test_the_table_says_what_the_contrasts_say():
    found = Comparison(runs_of(noisy(EFFECTS)))
    header, rule, *rows = found.to_markdown(scale=10).splitlines()
    assert header.startswith("| score | mean |")
    assert header.count("|") == rule.count("|")
    for row, c in zip(rows, found.contrasts, strict=True):
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells == [
            f"{c.arm} vs. plain",
            f"{10 * c.mean:+.0f}",
            f"{10 * c.deltas.min():+.0f} to {10 * c.deltas.max():+.0f}",
            f"{10 * c.low:+.0f} to {10 * c.high:+.0f}",
            f"{c.p_holm:.3f}",
            f"{10 * c.detectable:.0f}",
            c.verdict,
        ]


@pytest.mark.parametrize(
    ("sd", "digits"), [(0.0005, 5), (0.05, 3), (0.5, 2), (5, 1), (5000, 0)]
)
def test_tables_give_the_deviation_two_digits(sd, digits):
    table = Comparison(
        runs_of(noisy({"a": 0.0, "b": 0.0}, sd=sd))
    ).to_markdown()
    mean = table.splitlines()[2].split("|")[2].strip()
    assert len(mean.partition(".")[2]) == digits


def test_the_summary_shows_every_metric():
    runs = [
        {"arm": arm, "seed": seed, "scores": {"accuracy": 1.0 * seed * len(arm),
                                              "loss": 2.0 * seed + len(arm)}}
        for arm in ("a", "bb") for seed in range(10)
    ]  # fmt: skip
    text = str(Comparison(runs, higher_is_better={"loss": False}))
    assert "10 paired seeds; higher is better." in text
    assert "10 paired seeds; lower is better." in text
    assert text.index("accuracy") < text.index("loss")


def test_runs_of_different_environments_are_pointed_out():
    runs = runs_of(noisy(EFFECTS))
    for number, run in enumerate(runs):
        version = "1.0" if number % 2 else "1.1"
        run["environment"] = {"device": "cpu", "versions": {"jax": version}}
    assert "2 different environments" in Comparison(runs).summary()
    for run in runs:
        run["environment"]["versions"] = {"jax": "1.0"}
    assert "environments" not in Comparison(runs).summary()


def test_no_runs_make_no_contrasts():
    found = Comparison([], ["a", "b"])
    assert found.contrasts == ()
    assert found.summary() == ""
    failed = [
        {"arm": arm, "seed": 0, "error": "ValueError: no"} for arm in "ab"
    ]
    lost = Comparison(failed)
    for nothing, received in [
        (found, "Received: 0 runs, of which 0 failed"),
        (lost, "Received: 2 runs, of which 2 failed"),
    ]:
        for ask in (nothing.to_markdown, nothing.plot, nothing.scores):
            with pytest.raises(ValueError, match=received):
                ask()
            with pytest.raises(ValueError, match="one run with scores"):
                ask("loss")
    assert lost.notes() == [
        f"{arm}, seed 0, failed: ValueError: no" for arm in "ab"
    ]


def test_the_plot_shows_every_delta_and_interval():
    found = Comparison(runs_of(noisy(EFFECTS)))
    axes = found.plot(scale=2)
    drawn = {tuple(line.get_xdata()) for line in axes.get_lines()}
    for contrast in found.contrasts:
        assert tuple(2 * contrast.deltas) in drawn
        assert (2 * contrast.low, 2 * contrast.high) in drawn
    labels = [text.get_text() for text in axes.get_yticklabels()]
    assert labels == [f"{c.arm} vs. plain" for c in found.contrasts]
    assert found.plot(ax=axes) is axes


LABELS = {"good": "MEmeL, $k$ | 5_%", "plain": "*plain*"}


def test_other_names_of_arms_are_shown_everywhere():
    found = Comparison(runs_of(noisy(EFFECTS)))
    shown = "MEmeL, $k$ | 5_% vs. *plain*"
    assert shown in found.summary(labels=LABELS)
    axes = found.plot(labels=LABELS)
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names[0] == shown.replace("$", r"\$")  # not a formula
    assert names[1] == "same vs. *plain*"
    for wrong in ({"x": "y"}, ["good"], "good"):
        for show in (found.summary, found.to_markdown, found.plot):
            with pytest.raises(ValueError, match=r"`labels`.*names to show"):
                show(labels=wrong)


def test_markdown_shows_names_as_they_are():
    found = Comparison(runs_of(noisy(EFFECTS)))
    row = found.to_markdown(labels=LABELS).splitlines()[2]
    assert row.startswith(r"| MEmeL, $k$ \| 5\_% vs. \*plain\* | ")
    scores = noisy({"a": 0.0, "b\n<i>`x`": 1.0})
    name = runs_of(scores)
    for run in name:
        run["scores"] = {"f1_[macro]": run["scores"]["score"]}
    header, _, row = Comparison(name).to_markdown().splitlines()
    assert header.startswith(r"| f1\_\[macro] | mean | ")
    assert row.startswith(r"| b \<i>\`x\` vs. a | ")
    assert len(re.findall(r"(?<!\\)\|", row)) == header.count("|")


def test_a_pdf_has_the_fonts_that_were_chosen(tmp_path):
    import matplotlib.pyplot as plt

    found = Comparison(runs_of(noisy(EFFECTS)))
    fonts = {"pdf.fonttype": 42, "font.family": "STIXGeneral"}
    with plt.rc_context({**fonts, "pdf.compression": 0}):
        found.plot().figure.savefig(tmp_path / "figure.pdf")
    written = (tmp_path / "figure.pdf").read_bytes()
    assert b"/Subtype /CIDFontType2" in written  # TrueType, as journals ask
    named = set(re.findall(rb"/FontName /(?:[A-Z]+\+)?([\w-]+)", written))
    assert named == {b"STIXGeneral-Regular"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"baseline": "x"}, "Argument `baseline`.*Received: 'x'"),
        ({"contrasts": [("a", "x")]}, "Argument `contrasts`.*Received: 'x'"),
        ({"contrasts": ["ba"]}, r"pairs `\(arm, other\)`.*'ba' \(str\)"),
        ({"contrasts": "ba"}, r"pairs `\(arm, other\)`.*'ba' \(str\)"),
        ({"contrasts": ("b", "a")}, r"pairs `\(arm, other\)`.*'b' \(str\)"),
        ({"contrasts": [("b", "a", "a")]}, r"pairs `\(arm, other\)`"),
        ({"contrasts": [("b", "a")]}, "each once"),
        ({"contrasts": [("a", "b")]}, "each once in either order"),
        ({"higher_is_better": "loss"}, "a boolean.*'loss'"),
        ({"higher_is_better": None}, "a boolean.*None"),
        ({"higher_is_better": ["score"]}, "a boolean"),
        ({"higher_is_better": {"score": "yes"}}, "booleans by metric.*'yes'"),
        ({"contrasts": [("b", "b")]}, "different arms"),
        ({"arms": ["a"]}, "two arms"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    runs = runs_of({"a": [1.0], "b": [2.0]})
    with pytest.raises(ValueError, match=message):
        Comparison(runs, **arguments)


def test_a_failed_run_that_was_repeated_is_left_out():
    runs = runs_of({"a": range(10), "b": np.arange(10) * 1.5 + 1.0})
    failed = {"arm": "b", "seed": 3, "error": "MemoryError()"}
    found = Comparison([runs[0], failed, *runs[1:], failed])
    assert len(found.runs) == 20
    assert found.contrasts[0].mean == 3.25
    assert found.contrasts[0].verdict == "better"
    assert not found.notes()


def test_two_runs_of_a_seed_are_no_pair():
    runs = runs_of({"a": [1.0], "b": [2.0]})
    with pytest.raises(ValueError, match=r"several runs of \('b', 0\)"):
        Comparison([*runs, runs[-1]])
