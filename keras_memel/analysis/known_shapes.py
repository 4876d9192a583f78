"""Check before the model runs that arguments fit the layers.

The check needs the output shape of the layer, which is known in the graph of a
functional or sequential model. Other models are checked on the first batch.
"""

from collections.abc import Iterable
from typing import Any

from keras_memel.analysis.directions import Directions
from keras_memel.analysis.labels import Labels
from keras_memel.analysis.layer_stream import Stream
from keras_memel.analysis.monoscore import Embeddings
from keras_memel.core import axes
from keras_memel.insertion import output_specs
from keras_memel.insertion.forward import insertion_of


def check(
    streams: list[Stream],
    instead: dict[str, Directions],
    given: Labels,
    vectors: Embeddings,
    output: Any,
) -> None:
    """Raise if an argument of `analyze` does not fit a layer.

    Args:
        streams: Streams of the layers of a Keras model.
        instead: Directions, by the path of their layer.
        given: Labels.
        vectors: Embeddings.
        output: As in `analyze`.

    Raises:
        ValueError: If the layer does not have an axis, or if directions,
            labels per position or embeddings per position have another size.
    """
    for stream in streams:
        held = insertion_of(stream.site.layer)
        which = held.output if held else output
        shape = output_specs.known_shape(stream.site, which)
        if shape is None or len(shape) < 2:
            continue
        neurons = axes.of_neurons(stream.axis, len(shape))
        own = instead.get(stream.site.path)
        width = _product(shape[a] for a in neurons)
        if own is not None and width is not None:
            own.check_width(width)
        sizes = tuple(shape[a] for a in stream.positions(len(shape)))
        given.check_sizes(stream.site.path, sizes)
        positions = _product(sizes)
        if positions is not None:
            vectors.check_positions(stream.site.path, positions)


def _product(sizes: Iterable[int | None]) -> int | None:
    found = 1
    for size in sizes:
        if size is None:
            return None
        found *= size
    return found
