"""`analyze`: from a model and a stream of inputs to a `Report`.

inputs --attach/taps--> values of layers --stream/--> neurons --> report
"""

import contextlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras

from keras_memel import native
from keras_memel.analysis.layer_stream import Stream
from keras_memel.analysis.sources import Labels
from keras_memel.analysis.sources import Source
from keras_memel.analysis.sources import is_text
from keras_memel.analysis.value_store import MOST_ROWS
from keras_memel.core import axes
from keras_memel.insertion import capture
from keras_memel.insertion.forward import Output
from keras_memel.insertion.paths import Where
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.report import Report
from keras_memel.utils import arguments
from keras_memel.utils import renamed

# Bytes of values that stay in memory, over all layers.
MEMORY = 1 << 27
# Batches whose values wait while the model runs on.
_AHEAD = 2


@renamed.arguments(features="labels", feature_names="label_names")
def analyze(
    model: Any,
    x: Any,
    labels: Any = None,
    layers: Where | None = None,
    *,
    axis: int | tuple[int, ...] | str | None = "auto",
    output: Output = None,
    epsilon: float = 0.0,
    threshold: float = 9.0,
    top: int = 8,
    label_names: Iterable[Any] | None = None,
    batch_size: int = 32,
    sample: int | None = None,
    disk_limit: int = 8 << 30,
    verbose: int | str = "auto",
) -> Report:
    """Runs inputs through a model and reports on its neurons.

    For each neuron of the chosen layers: its moments, how far its values go
    from their mean, in variances (the monosemantic scale `phi`, [Wang et al.
    2024] Eq. 7, with the mean and variance over all of `x`), and on which
    inputs; with labels, for which of them it stands and how surely.

    The model runs once, at inference, and is not changed. Moments, extremes
    and means by label are gathered on the way, while the model runs on. What
    needs values in order (quantiles, ROC, F1, ...) has to wait for the mean of
    the whole stream; the values are kept until then, at 4 bytes each, 128 MB
    of them in memory and what is beyond on disk, and read back neuron by
    neuron. So memory does not grow with the stream, and the numbers are those
    of a computation on all activations at once. To put them in order is most
    of what this costs beside the model: with `sample`, or where values would
    exceed `disk_limit` or 4 million a neuron, those figures are taken from a
    uniform random sample of them (`LayerReport.ranked` is its size, about half
    of the limit or more); the rest stays exact.

    Masks: a position that a Keras mask or a `padding_mask` leaves out counts
    nowhere. A value that is not finite is left out too, and counted.

    Args:
        model: A built model, or a PyTorch module, with or without MEmeL
            layers.
        x: Inputs: arrays as for `predict`, a `tf.data.Dataset`, a PyTorch
            `DataLoader`, a `keras.utils.PyDataset`, or an iterable of batches,
            `inputs` or `(inputs, targets)`. A list of arrays is one of inputs,
            as for `predict`; of batches, pass `iter(batches)`.
        labels: `None`, or integer labels from 0 up: one an input, `(n,)`, or
            one a position, `(n, length)`; or "targets", the targets of `x`.
        layers: Which layers, as in `find`. `None`: those with a MEmeL; if
            there is none, the layers with weights of the model and of models
            within it.
        axis: What tells neurons apart, as in `MEmeL`. "auto": as the MEmeL of
            the layer does; without one, a neuron a channel: -1, or 1 of a layer
            with `data_format="channels_first"`. For a PyTorch module, 1 of a
            convolution, or a batch or group normalization; pass `axis=1` for
            blocks of these.
        output: Which output, if a layer has several: an index or a key.
        epsilon: Share of the layer's mean variance that is added to that of
            each neuron.
        threshold: Counted is the share of values with `phi` of at least this,
            in variances.
        top: Number of values with the highest `phi` to keep of each neuron.
        label_names: A name for each label; their numbers if `None`.
        batch_size: Of arrays; other sources have their own.
        sample: Number of values of a neuron to put in order at most; `None`:
            all, up to 4 million.
        disk_limit: Bytes of temporary files, over all layers.
        verbose: 0 for no progress bar.

    Returns:
        `Report`.

    Raises:
        ValueError: If `layers` names none (the message lists the nearest
            paths); if there are no inputs, as when a generator has been read
            before; if labels are too few, too many, negative, or of the wrong
            shape; if a layer is never called.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden")]
    ... )
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> report = analyze(model, x, labels=x[:, 0] > 1, verbose=0)
    >>> report
    <Report of 100 inputs, neurons {'hidden': 3}>
    >>> report.labels
    ('0', '1')
    """
    epsilon = arguments.number("epsilon", epsilon, "at least 0", 0.0)
    threshold = arguments.number("threshold", threshold, "at least 0", 0.0)
    top = arguments.integer("top", top, "at least 1", 1)
    batch_size = arguments.integer("batch_size", batch_size, "at least 1", 1)
    if sample is not None:
        sample = arguments.integer("sample", sample, "at least 1", 1)
    disk_limit = arguments.integer("disk_limit", disk_limit, "at least 1", 1)
    run: Any = capture
    if native.is_torch(model):
        from keras_memel.native import torch_analysis

        run = torch_analysis
    elif not (isinstance(model, keras.Layer) and model.built):
        raise ValueError(
            "Argument `model` must be a built Keras model: call it on some "
            f"data, or build it, before. Received: model={model!r}"
        )
    source = Source(x, batch_size)
    _check_number(model, source)
    given = Labels(labels, label_names, source)
    found = run.chosen(model, layers)
    if not found:
        raise ValueError(
            "The model has no layer with weights to look at. Name some in "
            f"`layers`. Received: {model!r}"
        )
    streams = [
        Stream(
            site,
            run.axis_of(site) if axis == "auto" else axes.check(axis),
            top,
            disk_limit // len(found),
            MEMORY // len(found),
            min(sample or MOST_ROWS, MOST_ROWS),
        )
        for site in found
    ]
    with contextlib.ExitStack() as files:
        for stream in streams:
            files.callback(stream.close)
        bar = _bar(verbose, source.batches, "batch")
        # Closed in any case: what holds the error, as a notebook does, would
        # else keep the taps in the model.
        seen = files.enter_context(
            contextlib.closing(
                run.outputs(model, found, source.inputs(given), output)
            )
        )
        worker = files.enter_context(ThreadPoolExecutor(1))
        waiting: deque[Any] = deque()

        def take(start: int, targets: Any, batch: Any) -> None:
            for stream, calls in zip(streams, batch):
                for call in calls:
                    stream.add(call, start, targets, given.number)

        for number, batch in enumerate(seen):
            size, targets = given.take()
            waiting.append(
                worker.submit(take, source.seen - size, targets, batch)
            )
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
            bar.update(number + 1)
        while waiting:
            waiting.popleft().result()
        given.finish()
        if not source.seen:
            raise ValueError(
                "Argument `x` must hold at least one input; a generator can "
                f"be read only once. Received: x={x!r}, which yielded nothing"
            )
        if source.batches is None:
            bar.update(number + 1, finalize=True)
        total = sum(stream.close_rows() for stream in streams)
        bar, done = _bar(verbose, total, "neuron"), 0
        reports = {}
        for stream in streams:
            for part in stream.finish(epsilon, threshold, given.number):
                if isinstance(part, LayerReport):
                    reports[part.path] = part
                else:
                    done += part
                    bar.update(done)
    return Report(reports, source.seen, threshold, given.names)


def _bar(verbose: int | str, target: int | None, unit: str) -> Any:
    return keras.utils.Progbar(
        target, verbose=0 if verbose == 0 else 1, unit_name=unit
    )


def _check_number(model: keras.Layer, source: Source) -> None:
    """Raises if a list of arrays holds batches, or targets besides."""
    inputs = getattr(model, "inputs", None)
    if (
        not (inputs and source.is_array and isinstance(source.x, (list, tuple)))
        or hasattr(model, "preprocessor")
        or is_text(source.x)
    ):
        return
    number = len(keras.tree.flatten(source.x))
    if number != len(inputs):
        raise ValueError(
            "Argument `x` must hold one array for each input of the model, "
            f"{len(inputs)} of them. A list of batches is passed as "
            "`iter(batches)`, labels as `labels`. "
            f"Received: {number} arrays"
        )
