"""Replace the neurons of a layer by directions, such as weights of a probe.

The value of direction `d` is `sum_k d_k z_k`, with `z` the values of the
neurons of the layer. The rest of the analysis treats a direction as a neuron.
"""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_memel.utils.types import Array


class Directions:
    """Directions of one layer.

    Args:
        path: Path of the layer.
        given: A matrix, `(directions, neurons)`, or a function from values
            `(rows, neurons)` to values `(rows, directions)`.
    """

    def __init__(self, path: str, given: Any):
        self._path = path
        self._function: Callable[[Array], Any] | None = None
        self._matrix: Array = None
        if callable(given):
            self._function = given
            return
        if hasattr(given, "to_numpy"):
            given = given.to_numpy()
        elif not isinstance(given, (np.ndarray, list, tuple)):
            given = keras.ops.convert_to_numpy(given)
        try:
            matrix = np.asarray(given)
        except ValueError:  # The rows have different lengths.
            matrix = np.asarray(given, dtype=object)
        if (
            matrix.ndim != 2
            or matrix.dtype.kind not in "fiu"
            or not matrix.size
            or not np.isfinite(matrix).all()
        ):
            raise ValueError(
                "Argument `directions` must contain a matrix of finite "
                "numbers, (directions, neurons), or a function per layer. "
                f"Received: an array of shape {matrix.shape}, dtype "
                f"{matrix.dtype}, for layer {path!r}"
            )
        self._matrix = matrix.astype("float32").T

    def project(
        self, rows: Array, missing: Array | None
    ) -> tuple[Array, Array | None]:
        """Compute the values of the directions, and which are missing.

        Args:
            rows: Values of the neurons, float32, `(rows, neurons)`.
            missing: Whether a mask excludes each value, same shape, or `None`.

        Returns:
            Values and missing values, with one column per direction. The value
            of a direction is missing if the value of any neuron is missing.
        """
        if self._function is not None:
            found = self._of_function(rows)
        else:
            self.check_width(rows.shape[1])
            # A non-finite value makes its direction non-finite, which is
            # counted later.
            with np.errstate(invalid="ignore", over="ignore"):
                found = rows @ self._matrix
        if missing is not None:
            missing = np.broadcast_to(
                missing.any(1, keepdims=True), found.shape
            )
        return found, missing

    def check_width(self, neurons: int) -> None:
        """Raise if a matrix has another number of neurons."""
        if self._function is None and len(self._matrix) != neurons:
            raise ValueError(
                "Argument `directions` must have one column per neuron, "
                f"(directions, {neurons}), for layer {self._path!r}. "
                f"Received: a matrix of shape {self._matrix.T.shape}"
            )

    def _of_function(self, rows: Array) -> Array:
        assert self._function is not None
        found = self._function(rows)
        if not isinstance(found, np.ndarray):
            found = keras.ops.convert_to_numpy(found)
        if (
            found.ndim != 2
            or len(found) != len(rows)
            or found.dtype.kind not in "biuf"
        ):
            raise ValueError(
                "A function in argument `directions` must return one row per "
                f"row that it receives, ({len(rows)}, directions), of numbers. "
                f"Received: an array of shape {found.shape}, dtype "
                f"{found.dtype}, for layer {self._path!r}"
            )
        return found.astype("float32", copy=False)


def select(
    chosen: Callable[..., list[Any]],
    model: Any,
    layers: Any,
    directions: Mapping[str, Any] | None,
) -> tuple[list[Any], dict[str, Directions]]:
    """Select the layers to analyze, and the directions in some of them.

    Args:
        chosen: Function from a model, `layers`, and the name of the argument
            in messages to sites.
        model: As in `analyze`.
        layers: As in `analyze`.
        directions: As in `analyze`.

    Returns:
        Sites, and directions by the path of their layer.

    Raises:
        ValueError: If a key does not select exactly one layer.
    """
    if directions is None:
        return chosen(model, layers), {}
    if not isinstance(directions, Mapping) or not directions:
        raise ValueError(
            "Argument `directions` must be a dict from the path of a layer to "
            "a matrix, (directions, neurons). "
            f"Received: directions={directions!r} "
            f"({type(directions).__name__})"
        )
    sites: dict[str, Any] = {}
    made = {}
    for where, given in directions.items():
        named = chosen(model, [where], "directions")
        if len(named) != 1:
            raise ValueError(
                "A key of argument `directions` must select one layer. "
                f"Received: {where!r}, which selects "
                f"{[site.path for site in named]}"
            )
        (site,) = named
        sites[site.path] = site
        made[site.path] = Directions(site.path, given)
    others = chosen(model, layers) if layers is not None else []
    for site in others:
        sites.setdefault(site.path, site)
    return list(sites.values()), made
