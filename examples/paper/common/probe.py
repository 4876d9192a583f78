"""What the arms do to monosemantic values, measured on a trained network.

A family passes `place`, a function of arguments of `MEmeL` that gives a
context with the network that has such layers where the paper puts them, and
the layers:

    with place({"selection": "top_k"}) as (model, memels):
        ...

    share      of the values that lie three deviations from their mean
    ablation   what the network loses without the values of highest phi
"""

import contextlib

import keras
import numpy as np

from keras_memel import MEmeL
from keras_memel import RandomK
from keras_memel import Threshold
from keras_memel import TopK
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip

# A value is monosemantic if phi reaches 9 variances; 0.27 % of a Gaussian's do.
THRESHOLD = 9.0
# Values per sample that are ablated: one, as in the paper, and more.
ABLATED = (1, 10, 100)


@contextlib.contextmanager
def placed(model, where, settings):
    """`place` of a model that takes inserted layers."""
    insert(model, where, MEmeL(**settings))
    try:
        yield model, list(inserted(model).values())
    finally:
        strip(model)


def share(place, inputs):
    """Share of the values whose phi reaches `THRESHOLD`, over the layers.

    inputs: batches of equal size. The statistics come from a first pass over
    all of them, in training mode, as a MEmeL sees the values; phi from a
    second one.
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
    """The metric without values of each sample: a dict of figures.

    inputs: batches, for the statistics. evaluate: the metric of a model.

    "ablated_0" is the metric of the whole network. In "ablated_top_k" the k
    values of each sample with the highest phi are held at the mean of their
    neuron, after each layer; in "ablated_random_k" as many, chosen at random.
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
            # Not while the statistics are gathered.
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


def table_4(table):
    """The figures of `decrease_ratio`, as scores of a run."""
    return {
        f"decrease_ratio {arm}": float(value)
        for arm, value in table["decrease_ratio"].items()
    }
