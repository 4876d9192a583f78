"""Show single texts on the page: all neurons, token by token."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import numpy as np

from keras_memel.reports import tokens
from keras_memel.reports.blob import Blob
from keras_memel.reports.shown_inputs import Shown
from keras_memel.utils.types import Array

if TYPE_CHECKING:
    from keras_memel.reports.report import Report

# Number of neurons to keep per text: those that deviate most.
MOST = 200


def check(report: "Report", prompts: Sequence[Any]) -> None:
    """Raise unless all prompts fit the report, as in `Report.to_html`."""
    if not isinstance(prompts, (list, tuple)):
        raise ValueError(
            "Argument `prompts` must be a list of results of `prompt`. "
            f"Received: {prompts!r:.80}"
        )
    for number, one in enumerate(prompts):
        parts = ("tokens", "generated_from", "activations")
        if not all(hasattr(one, part) for part in parts):
            raise ValueError(
                "Argument `prompts` must contain results of `prompt`. "
                f"Received: prompts[{number}]={one!r:.80}"
            )
        if not one.activations:
            raise ValueError(
                f"prompts[{number}] must have activations: select layers in "
                "`prompt`"
            )
        for path, values in one.activations.items():
            if path not in report.layers:
                raise ValueError(
                    f"prompts[{number}] has activations of layer {path!r}, but "
                    f"the report has the layers {list(report.layers)}"
                )
            expected = (len(one.tokens), len(report.layers[path]))
            if np.shape(values) != expected:
                raise ValueError(
                    f"prompts[{number}] must have activations of shape "
                    f"{expected} (tokens, neurons) for layer {path!r}. "
                    f"Received: shape {np.shape(values)}"
                )


def packed(
    report: "Report", prompts: Sequence[Any], shown: Shown | None, blob: Blob
) -> list[dict[str, Any]]:
    """Convert the texts of the prompt view: the given ones, then the sample."""
    joined = tokens.readable([one.tokens for one in prompts])
    found = [
        {
            **_packed(report, pieces, one.activations, blob),
            "generated": one.generated_from,
        }
        for one, pieces in zip(prompts, joined)
    ]
    if shown is None or shown.kind != "text":
        return found
    refused: list[int] = []
    for number, values in _sampled(report).items():
        pieces = shown.inputs.get(number)
        if not isinstance(pieces, list) or not pieces:
            continue
        own = {
            path: array[start : start + len(pieces)]
            for path, array in values.items()
            if (start := _start(array, len(pieces))) is not None
        }
        if not own and any(
            len(array) >= len(pieces) for array in values.values()
        ):
            refused.append(number)
        if own:
            packed = _packed(report, pieces, own, blob)
            found.append({**packed, "generated": None, "input": number})
    if refused:
        warnings.warn(
            "Argument `inputs` must contain one token per position that is "
            "not padding, for inputs that are padded on the left. The page "
            f"shows no values by token for the inputs {refused}",
            stacklevel=4,
        )
    return found


def _start(values: Array, number: int) -> int | None:
    """Return the position of the first token; `None` if tokens do not fit.

    Args:
        values: Values `(positions, neurons)`, NaN for padding.
        number: Number of tokens.
    """
    known = np.flatnonzero(~np.isnan(values).all(1))
    if not len(known) or not known[0] or len(values) == number:
        return 0 if len(values) >= number else None
    return int(known[0]) if len(known) == number else None


def _sampled(report: "Report") -> dict[int, dict[str, Array]]:
    """Return the values of each input of the sample, by layer.

    Returns:
        Dictionaries from paths to `(positions, neurons)`, by input number.
    """
    found: dict[int, dict[str, Array]] = {}
    for path, layer in report.layers.items():
        kept = layer.examples
        if kept is None or len(layer.sizes) != 1:
            continue
        for place, number in enumerate(kept.sample.tolist()):
            shares = kept.sample_activation[:, place].astype("float32")
            values = np.where(np.isinf(shares), np.nan, shares)
            values = (values * kept.most[:, None]).T
            found.setdefault(number, {})[path] = values
    return found


def _packed(
    report: "Report", pieces: list[str], activations: Any, blob: Blob
) -> dict[str, Any]:
    rows, values, means, deviations, first = [], [], [], [], 0
    for path, layer in report.layers.items():
        if path in activations:
            rows.append(np.arange(first, first + len(layer)))
            values.append(np.asarray(activations[path], "float32").T)
            means.append(layer.mean)
            deviations.append(
                np.where(layer.dead, 0.0, np.sqrt(layer.variance))
            )
        first += len(layer)
    row, every = np.concatenate(rows), np.concatenate(values)
    mean, sd = np.concatenate(means)[:, None], np.concatenate(deviations)
    moved = sd > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        strength = np.abs(every - mean).astype("float64") / sd[:, None]
    strength[~np.isfinite(strength)] = 0.0
    peak = np.where(moved, strength.max(1, initial=0.0), -1.0)
    kept = np.argsort(-peak, kind="stable")[: min(MOST, int(moved.sum()))]
    return {
        "pieces": pieces,
        "neurons": row[kept].tolist(),
        "values": blob.add(every[kept], "f4"),
        "left": int(moved.sum()) - len(kept),
        "dead": int((~moved).sum()),
    }
