"""The nowcasting example: what a pixel means, and the scores of a forecast."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from scripts import example

pytest.importorskip("sklearn")

hko7 = example("paper.nowcasting.hko7")
metrics = example("paper.nowcasting.metrics")

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("quick_compilation")]


def test_conversions_are_those_that_are_published():
    assert hko7.pixel_to_dbz([0, 1]) == pytest.approx([-10, 60])
    # 255 * 10 / 70 + 0.5 = 36.9; 255 * 45 / 70 + 0.5 = 164.4.
    assert hko7.dbz_to_byte([-99, 0, 35, 99]).tolist() == [0, 36, 164, 255]
    # Z = 58.53 R^1.56, by hand.
    assert hko7.rate_to_dbz(1) == pytest.approx(17.674, abs=1e-3)
    assert hko7.rate_to_dbz(10) == pytest.approx(17.674 + 15.6, abs=1e-3)
    assert hko7.pixel_to_rate(0) == pytest.approx(0.0168, abs=1e-4)
    assert hko7.rate_to_pixel(0) == 0


def test_conversions_are_inverse_for_every_byte():
    pixels = np.arange(256) / 255
    bytes_ = hko7.dbz_to_byte(hko7.pixel_to_dbz(pixels))
    assert bytes_.tolist() == list(range(256))
    assert hko7.rate_to_pixel(hko7.pixel_to_rate(pixels)) == pytest.approx(
        pixels, abs=1e-12
    )


# B-MSE and B-MAE.

# mm/h, two frames of one window; by hand: weights 1, 2, 5, 30 and 1, 10, -, 2.
TRUTH = np.array(
    [[[[1.0, 2.0], [5.0, 30.0]], [[0.0, 29.9], [np.nan, 4.9]]]], "float32"
)
TOLD = np.array(
    [[[[3.0, 1.0], [5.0, 31.0]], [[1.0, 29.9], [9.0, 6.9]]]], "float32"
)
# 1 * 4 + 2 * 1 + 5 * 0 + 30 * 1 and 1 * 1 + 10 * 0 + 0 + 2 * 4; the same
# without squares: 1 * 2 + 2 * 1 + 30 * 1 and 1 * 1 + 2 * 2.
SQUARES, ABSOLUTES = (36 + 9) / 2, (34 + 5) / 2


@pytest.mark.parametrize("channel", [False, True])
def test_balanced_errors_equal_values_worked_by_hand(channel):
    truth, told = (a[..., None] if channel else a for a in (TRUTH, TOLD))
    for metric, expected in (
        (metrics.BMSE("mm/h"), SQUARES),
        (metrics.BMAE("mm/h"), ABSOLUTES),
        (metrics.BMAE("mm/h", per="pixel"), ABSOLUTES / 4),
    ):
        metric.update_state(truth, told)
        assert float(metric.result()) == pytest.approx(expected, rel=1e-5)
    for loss, expected in (
        (metrics.BalancedMSE("mm/h"), SQUARES),
        (metrics.BalancedMAE("mm/h"), ABSOLUTES),
        (metrics.BalancedMSE("mm/h", per="pixel"), SQUARES / 4),
        (metrics.BalancedLoss("mm/h"), 5e-5 * (SQUARES + ABSOLUTES)),
    ):
        assert float(loss(truth, told)) == pytest.approx(expected, rel=1e-5)


def test_a_sample_weight_of_zero_is_a_mask():
    counts = np.array([[[[0, 1], [1, 1]], [[1, 1], [1, 0]]]], "float32")
    # The remaining weights are 2 + 30 and 1.
    metric = metrics.BMSE("mm/h")
    metric.update_state(TRUTH, TOLD, counts)
    loss = metrics.BalancedMSE("mm/h")(TRUTH, TOLD, counts)
    assert float(metric.result()) == pytest.approx((32 + 1) / 2, rel=1e-5)
    assert float(loss) == pytest.approx((32 + 1) / 2, rel=1e-5)


def test_frames_are_averaged_over_batches_of_any_size():
    metric = metrics.BMSE("mm/h")
    metric.update_state(TRUTH, TOLD)
    zeros = np.zeros((3, 2, 2, 2), "float32")
    metric.update_state(zeros, zeros)
    assert float(metric.result()) == pytest.approx((36 + 9) / 8, rel=1e-5)


def test_errors_of_pixels_have_the_weights_of_their_rates(rng):
    rates = np.exp(rng.normal(1, 2, (2, 3, 4, 5)))
    rates[0, 0, 0] = [2, 5, 10, 30, 0]
    truth = hko7.rate_to_pixel(rates).astype("float32")
    told = rng.random(truth.shape, "float32")
    weights = np.select(
        [rates < 2, rates < 5, rates < 10, rates < 30], [1, 2, 5, 10], 30
    )
    by_frame = (weights * (truth - told) ** 2).sum((2, 3))
    metric = metrics.BMSE()
    metric.update_state(truth, told)
    assert float(metric.result()) == pytest.approx(by_frame.mean(), rel=1e-5)


def test_what_is_not_known_gives_no_gradient():
    truth = ops.convert_to_tensor(TRUTH.reshape(1, 2, 4, 1))
    model = keras.Sequential(
        [keras.Input((2, 4, 1)), keras.layers.Dense(1, use_bias=False)]
    )
    kernel = model.layers[0].kernel
    kernel.assign([[1.0]])
    model.compile(keras.optimizers.SGD(1.0), metrics.BalancedMSE("mm/h"))
    model.train_on_batch(TOLD.reshape(1, 2, 4, 1), truth)
    # 2 w (q - p) q summed over the seven that are known, and two frames.
    step = (2 * 3 - 2 * 1 + 30 * 31 + 1 + 2 * 2 * 6.9) * 2 / 2
    assert ops.convert_to_numpy(kernel) == pytest.approx(1 - step, rel=1e-5)


# CSI and HSS.


@pytest.mark.parametrize("rate", metrics.RATES)
def test_csi_and_hss_are_those_of_scikit_learn(rate, rng):
    from sklearn import metrics as sklearn

    csi, hss = metrics.CSI(rate), metrics.HSS(rate)
    seen, told = [], []
    # Batches that differ: a mean of their ratios would be another number.
    for number, mean in ((3, 2.5), (1, -1.0)):
        rates = np.exp(rng.normal(mean, 1.5, (2, number, 2, 8, 8)))
        truth, forecast = hko7.rate_to_pixel(rates).astype("float32")
        holes = rng.random(truth.shape) < 0.1
        counts = (rng.random(truth.shape) > 0.1).astype("float32")
        keep = ~holes & (counts > 0)
        seen.append((rates[0] >= rate)[keep])
        told.append((rates[1] >= rate)[keep])
        truth[holes] = np.nan
        for metric in (csi, hss):
            metric.update_state(truth, forecast, counts)
    seen, told = np.concatenate(seen), np.concatenate(told)
    (negatives, alarms), (misses, hits) = sklearn.confusion_matrix(seen, told)
    assert [float(n) for n in csi.counts()] == [hits, misses, alarms, negatives]
    assert float(csi.result()) == pytest.approx(
        sklearn.jaccard_score(seen, told), abs=1e-6
    )
    assert float(hss.result()) == pytest.approx(
        sklearn.cohen_kappa_score(seen, told), abs=1e-6
    )


def test_scores_that_are_not_defined_are_nan_until_reset():
    dry = np.zeros((1, 1, 2, 2), "float32")
    csi, hss = metrics.CSI(0.5, "mm/h"), metrics.HSS(0.5, "mm/h")
    for metric in (csi, hss):
        metric.update_state(dry, dry)
        assert math.isnan(float(metric.result()))
        metric.update_state(dry, dry + 1)
        assert float(metric.result()) == 0
        metric.reset_state()
        metric.update_state(dry + 1, dry + 1)
    assert float(csi.result()) == 1


def test_counts_go_beyond_what_float32_can_count():
    metric = metrics.CSI(0.5, "mm/h")
    wet = np.ones((1, 1, 3, 1), "float32")
    metric.high.assign([2000, 0, 0, 0])
    metric.low.assign([metrics.BASE - 2, 0, 0, 0])
    metric.update_state(wet, wet)
    assert int(metric.high[0]) == 2001
    assert int(metric.low[0]) == 1


def test_losses_and_metrics_come_back_from_their_configs():
    loss = metrics.BalancedLoss("mm/h", per="pixel")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert again.get_config() == loss.get_config()
    for metric in metrics.scores("mm/h"):
        again = keras.metrics.deserialize(keras.metrics.serialize(metric))
        assert again.get_config() == metric.get_config()
    names = [metric.name for metric in metrics.scores()]
    assert names[:4] == ["b_mse", "b_mae", "csi_0.5", "csi_2"]
    assert len(set(names)) == 12


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.BMSE("furlongs"),
        lambda: metrics.BalancedMAE(per="fortnight"),
        lambda: metrics.CSI(0.5, unit="furlongs"),
    ],
)
def test_a_wrong_argument_is_named(make):
    with pytest.raises(ValueError, match=r"must be .*Received: "):
        make()
