"""Measure the effect of the arms on monosemantic values of a trained network.

A family passes `place`, a function of arguments of `MEmeL`. It returns a
context with the network, which has such layers at the places of the paper, and
the layers:

    with place({"selection": "top_k"}) as (model, memels):
        ...

    share      share of the values that are three deviations from their mean
    table_4    whether one step of each arm moves them to their mean
    ablation   the metric of the network without the values of highest phi
"""

import contextlib

import keras
import numpy as np

from examples.paper.common import arms
from keras_memel import MEmeL
from keras_memel import RandomK
from keras_memel import Threshold
from keras_memel import TopK
from keras_memel import decrease_ratio
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip

# A value is monosemantic if phi reaches 9 variances; 0.27 % of a Gaussian's do.
THRESHOLD = 9.0
# Values per sample that are ablated: one, as in the paper, and more.
ABLATED = (1, 10, 100)


@contextlib.contextmanager
def placed(model, where, settings):
    """Insert layers, for `place`, and strip them afterwards."""
    insert(model, where, MEmeL(**settings))
    try:
        yield model, list(inserted(model).values())
    finally:
        strip(model)


def share(place, inputs):
    """Return the share of values with a phi of at least `THRESHOLD`.

    inputs: batches of equal size. A first pass over all of them, in training
    mode, computes the statistics; a second pass computes phi. The result is a
    mean over the layers.
    """
    watch = {"selection": Threshold(THRESHOLD), "inhibition": "observe"}
    found = []
    with place({**watch, "forget_steps": None, "late_start": 0}) as both:
        model, memels = both
        for x in inputs:
            model(x, training=True)
        for x in inputs:
            model(x, training=True)
            found.append([_number(memel.inhibited_rate) for memel in memels])
    return float(np.mean(found))


def ablation(place, inputs, evaluate):
    """Return the metric without some values of each sample, as a dict.

    inputs: batches, for the statistics. evaluate: the metric of a model.

    "ablated_0" is the metric of the whole network. In "ablated_top_k", the
    mean of the neuron replaces the k values of each sample with the highest
    phi, after each layer; in "ablated_random_k", k random values.
    """
    scores = {}
    ways = {"0": None}
    for k in ABLATED:
        ways |= {f"top_{k}": TopK(k), f"random_{k}": RandomK(k, seed=0)}
    for name, selection in ways.items():
        settings = {
            "selection": selection or TopK(1),
            "inhibition": "naive_a" if selection else "observe",
            "forget_steps": None,
            # Inhibition starts after the statistics are computed.
            "late_start": len(inputs),
            "at_inference": True,
        }
        with place(settings) as (model, _):
            for x in inputs:
                model(x, training=True)
            scores[f"ablated_{name}"] = float(evaluate(model))
    return scores


def _number(weight):
    return float(keras.ops.convert_to_numpy(weight))


def table_4(model, x, y, where, tuned, seed):
    """Return the Decrease Ratio of a step of each arm, as scores of a run.

    x, y: 20 batches, of which 10 are for the statistics. tuned: as for
    `arms.steps`.
    """
    table = decrease_ratio(
        *(model, x, y, where),
        arms=arms.steps(tuned),
        batch_size=max(1, len(y) // 20),
        seed=seed,
    )
    return {
        f"decrease_ratio {arm}": float(value)
        for arm, value in table["decrease_ratio"].items()
    }
