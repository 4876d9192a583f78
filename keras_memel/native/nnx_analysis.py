"""Record the outputs of modules while a Flax NNX model predicts.

This is the counterpart of `torch_analysis.py`. It runs a copy of the model, so
that the model itself never changes.
"""

from collections.abc import Generator
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from keras_memel.native import nnx_insert
from keras_memel.native import nnx_paths
from keras_memel.native import outputs as model_outputs
from keras_memel.native.site import Site
from keras_memel.utils import arguments
from keras_memel.utils.types import Array


def chosen(
    model: nnx.Module, layers: Any, argument: str = "layers"
) -> list[Site]:
    """Select the modules to analyze.

    Args:
        model: Any module.
        layers: As `where` in `find`. `None` selects the modules with an
            inserted MEmeL or, if none has one, the modules that own
            parameters.
        argument: Name of the argument in messages.

    Raises:
        ValueError: If `layers` selects no module.
    """
    if layers is not None:
        return nnx_paths.select(model, layers, argument)
    found = nnx_paths.walk(model)
    hosts = [site for site in found if nnx_paths.is_host(site.layer)]
    return hosts or [
        site
        for site in found
        if any(isinstance(v, nnx.Param) for v in vars(site.layer).values())
    ]


def axis_of(site: Site) -> Any:
    """Return the neuron axis of an inserted MEmeL, or else of the channels."""
    if nnx_paths.is_host(site.layer):
        return site.layer.memel.axis
    return -1


def outputs(
    model: nnx.Module,
    found: list[Site],
    batches: Iterable[Any],
    output: Any = None,
) -> Generator[list[list[dict[str, Array]]], None, None]:
    """Yield the values at the sites, batch by batch, in evaluation mode.

    Args:
        model: Any module.
        found: Sites in the model.
        batches: Batches of inputs: mappings of arguments, tuples, or arrays.
        output: Index or key of the output, if a module has several.

    Yields:
        For each site and each call of its module: `values`, float32
        `(batch, ...)`.

    Raises:
        ValueError: If a module is never called, or its output is not
            floating-point.
    """
    copy = nnx.clone(model)
    copy.eval()
    recorders = []
    for site in found:
        host = nnx_paths.at(copy, site.path)
        memel = None
        if nnx_paths.is_host(host):
            memel = host.memel
            arguments.same_output(site.path, memel.output, output)
            nnx_insert.detach(host)
        chosen_output = output if memel is None else memel.output
        recorder = nnx_insert.Recorder(chosen_output, memel)
        nnx_insert.attach(host, recorder)
        recorders.append(recorder)
    for batch in batches:
        for recorder in recorders:
            recorder.seen.clear()
        model_outputs.call(copy, jax.tree.map(jnp.asarray, batch))
        yield [
            _checked(site, recorder.seen)
            for site, recorder in zip(found, recorders)
        ]


def _checked(site: Site, calls: list[Any]) -> list[dict[str, Array]]:
    if not calls:
        raise ValueError(
            "Argument `layers` must select modules that the model calls. "
            f"Received: module {site.path!r}, which is never called"
        )
    for values in calls:
        if not jnp.issubdtype(values.dtype, jnp.floating):
            raise ValueError(
                "Argument `layers` must select modules with a floating-point "
                f"output. Received: module {site.path!r}, whose output is of "
                f"dtype {values.dtype}"
            )
    return [{"values": np.asarray(v, "float32")} for v in calls]
