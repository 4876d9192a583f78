"""Analyze a model on a stream of inputs: `analyze` creates a `Report`.

inputs --capture--> values of layers --layer_stream--> neurons --> report
"""

import contextlib
import warnings
from collections import deque
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_memel import native
from keras_memel.analysis import directions as given_directions
from keras_memel.analysis import fms as feature_monosemanticity
from keras_memel.analysis import known_shapes
from keras_memel.analysis.examples import Inputs
from keras_memel.analysis.examples import check_keep
from keras_memel.analysis.labels import Labels
from keras_memel.analysis.labels import LabelSets
from keras_memel.analysis.layer_stream import Stream
from keras_memel.analysis.monoscore import Embeddings
from keras_memel.analysis.receptive_field import Search
from keras_memel.analysis.sources import Source
from keras_memel.analysis.sources import check_number
from keras_memel.analysis.sources import empty
from keras_memel.analysis.value_store import MOST_ROWS
from keras_memel.core import axes
from keras_memel.insertion import capture
from keras_memel.insertion.forward import Output
from keras_memel.insertion.paths import Where
from keras_memel.reports.corrected import corrected
from keras_memel.reports.layer_report import LayerReport
from keras_memel.reports.report import Report
from keras_memel.utils import arguments
from keras_memel.utils import renamed

# Maximum size of the values in memory in bytes, over all layers.
MEMORY = 1 << 27
# Maximum number of batches that wait while the model continues.
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
    multi_label: bool = False,
    directions: Mapping[str, Any] | None = None,
    embeddings: Any = None,
    fms: int | None = None,
    keep: str | None = "activations",
    pool: int | None = None,
    batch_size: int = 32,
    sample: int | None = None,
    disk_limit: int = 8 << 30,
    verbose: int | str = "auto",
) -> Report:
    """Measure every neuron of the selected layers on a stream of inputs.

    For each neuron the report contains its moments, the distribution of its
    monosemantic scale `phi` ([Wang et al. 2024] Eq. 7, with the mean and the
    variance over all of `x`) and the inputs with the highest scale. With
    labels it also contains the label that the neuron responds to most, and
    scores that measure how well the neuron detects that label.

    Labels are chosen and scored on different inputs. On one half of the inputs,
    the label with the highest mean `phi` becomes the label of the neuron, and
    the best threshold on the activation becomes the rule for F1. Both are
    scored on the other half. An unrelated label therefore has a ROC-AUC of 0.5
    on average, for any number of labels. A hash of an input's index determines
    its half; see `LayerReport.roc_auc_null` and `Report.held_out`. Moments,
    quantiles and extremes do not depend on labels and cover all inputs.

    The model runs once, at inference, and is not changed. Moments, extremes
    and means per label are computed during this pass. Quantiles, ROC, F1 and
    similar measures need the mean over the whole stream, so all values are
    kept until its end, at 4 bytes each: 128 MB in memory, the rest on disk.
    They are then read neuron by neuron. Memory therefore does not grow with
    the stream, and the results equal those computed from all activations at
    once. Apart from the forward pass, sorting dominates the cost.

    These measures come from a uniform random sample if you pass `sample`, or
    if the values exceed `disk_limit` or 4 million per neuron.
    `LayerReport.ranked` is the sample size, at least about half of the limit.
    All other results stay exact.

    Masks: positions that a Keras mask or a `padding_mask` excludes are not
    counted. Non-finite values are excluded too, and their number is reported.
    Values without a label count for moments and quantiles, but not for the
    scores of labels.

    Args:
        model: A built model, or a PyTorch module, with or without MEmeL
            layers.
        x: Inputs: arrays as for `predict`, a `tf.data.Dataset`, a PyTorch
            `DataLoader`, a `keras.utils.PyDataset`, or an iterable of batches
            `inputs` or `(inputs, targets)`. A list of arrays means several
            inputs, as in `predict`; pass a list of batches as
            `iter(batches)`.
        labels: `None`; integers from 0, booleans or strings, one per input,
            `(n,)`, or one per position, `(n, length)`; or "targets", the
            targets in `x`. -1, -100, NaN and `None` mean "unlabelled". Pandas
            objects are read by position. Use `align_labels` to align labels
            of words with tokens. Memory grows with the number of labels that
            occur times the number of neurons.
        layers: Layers to select, as in `find`. `None` selects the layers with
            a MEmeL or, if there are none, the layers with weights in the
            model and in the models within it.
        axis: Axis or axes that index the neurons, as in `MEmeL`. "auto" uses
            the axis of the layer's MEmeL or, without one, one neuron per
            channel: -1, or 1 if `data_format="channels_first"`. For PyTorch
            it is 1 for convolutions and for batch and group normalization;
            pass `axis=1` for blocks of these.
        output: Index or key of the output, if a layer has several.
        epsilon: Fraction of the layer's mean variance that is added to each
            variance in `phi`.
        threshold: Value of `phi`, in variances. The report counts the
            fraction of values that reach it.
        top: Number of values with the highest `phi` to keep per neuron.
        label_names: Names of the labels: a list whose item `i` names label
            `i`, or a dict from label to name. `None` uses the labels as
            names. The report contains the labels that occur, sorted.
        multi_label: Whether `labels` has one column of 0 and 1 per label, so
            that an input may have any number of labels: `(n, labels)` or
            `(n, length, labels)`. A row of -1 or -100 is unlabelled.
        directions: Directions, such as the weights of a probe, that replace the
            neurons of a layer, by the path of the layer. In a matrix
            `(directions, neurons)`, row `d` has the value `sum_k d_k z_k`,
            with `z` the values of the neurons; neurons by position are
            flattened. A function maps values `(rows, neurons)`, float32, to
            `(rows, directions)`, such as the encoder of a sparse autoencoder.
            With `layers=None` only these layers are analyzed. The value of a
            direction is missing if a mask excludes one of the neurons.
        embeddings: One vector per input, `(n, dimensions)`, or per position,
            `(n, length, dimensions)`; or a function from a batch of inputs to
            these. With embeddings the same pass computes a MonoScore per
            neuron (`LayerReport.monoscore`). Memory grows with neurons times
            dimensions. Use vectors of a different model; otherwise
            similar vectors only mean similar activations.
        fms: Number of neurons to remove, `p` of the feature monosemanticity
            score FMS@p (`LayerReport.label_fms`); the paper uses 1 and 5.
            `None` does not compute it. Computing it fits decision trees for
            each label to at most 64 MB of values. It needs labels and
            scikit-learn: `pip install 'keras-memel[measures]'`.
        keep: Data of single inputs to store. "activations" stores all values
            of each neuron on the `top / 2` inputs with its highest values, on
            as many with its lowest, and on a sample of 8
            (`LayerReport.examples`), and receptive fields
            (`LayerReport.field`). "inputs" also stores the inputs
            (`Report.kept`), so that a stream can be browsed. `None` stores
            neither.
        pool: Number of values per neuron to keep for `Report.merge`, or `None`.
        batch_size: Batch size for arrays. Other sources define their own.
        sample: Maximum number of values per neuron to sort. `None` sorts up
            to 4 million.
        disk_limit: Maximum size of the temporary files in bytes, over all
            layers.
        verbose: 0 hides the progress bar.

    Returns:
        A `Report`.

    Raises:
        ImportError: If `fms` needs scikit-learn and it is missing.
        ValueError: If an argument is invalid or the model is not built; if
            `layers` selects none (the message lists the nearest paths); if
            directions do not fit the layer, or embeddings do not fit the
            inputs; if `x` yields no inputs, as an exhausted generator does; if
            there are too few or too many labels, or they are negative, without
            a name, or of the wrong shape; or if the model never calls a
            selected layer.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3, name="hidden")]
    ... )
    >>> x = np.random.default_rng(0).normal(size=(100, 4))
    >>> report = analyze(model, x, labels=x[:, 0] > 1, verbose=0)
    >>> report
    <Report of 100 inputs, neurons {'hidden': 3}>
    >>> report.labels
    ('False', 'True')

    Analyze directions instead of the neurons of a layer:

    >>> probe = np.array([[1.0, 0.0, -1.0], [0.5, 0.5, 0.0]])
    >>> analyze(model, x, directions={"hidden": probe}, verbose=0)
    <Report of 100 inputs, neurons {'hidden': 2}>
    """
    epsilon = arguments.number("epsilon", epsilon, "at least 0", 0.0)
    threshold = arguments.number("threshold", threshold, "at least 0", 0.0)
    top = arguments.integer("top", top, "at least 1", 1)
    batch_size = arguments.integer("batch_size", batch_size, "at least 1", 1)
    if sample is not None:
        sample = arguments.integer("sample", sample, "at least 1", 1)
    multi_label = arguments.boolean("multi_label", multi_label)
    check_keep(keep)
    if pool is not None:
        pool = arguments.integer("pool", pool, "at least 1, or None", 1)
    disk_limit = arguments.integer("disk_limit", disk_limit, "at least 1", 1)
    if fms is not None:
        fms = arguments.integer("fms", fms, "at least 1, or None", 1)
        if labels is None:
            raise ValueError(
                "Argument `fms` needs labels: also pass `labels`. "
                f"Received: labels=None, fms={fms}"
            )
        feature_monosemanticity.check()
    run: Any = capture
    if native.is_torch(model):
        from keras_memel.native import torch_analysis

        run = torch_analysis
    elif native.is_nnx(model):
        from keras_memel.native import nnx_analysis

        run = nnx_analysis
    elif not (isinstance(model, keras.Layer) and model.built):
        raise ValueError(
            "Argument `model` must be a built Keras model: build it, or call "
            f"it on some data, first. Received: model={model!r}"
        )
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(
            "Argument `verbose` must be 'auto', 0, 1 or 2. "
            f"Received: verbose={verbose!r}"
        )
    source = Source(x, batch_size)
    check_number(model, source)
    given = Labels(labels, label_names, source, multi_label)
    vectors = Embeddings(embeddings, source)
    found, instead = given_directions.select(
        run.chosen, model, layers, directions
    )
    if not found:
        raise ValueError(
            "Argument `model` must contain a layer with weights. Select other "
            f"layers with `layers`. Received: {model!r}"
        )
    streams = [
        Stream(
            site,
            run.axis_of(site) if axis == "auto" else axes.check(axis),
            top,
            disk_limit // len(found),
            MEMORY // len(found),
            min(sample or MOST_ROWS, MOST_ROWS),
            instead.get(site.path),
            keep is not None,
            pool,
        )
        for site in found
    ]
    if run is capture:
        known_shapes.check(streams, instead, given, vectors, output)
    with contextlib.ExitStack() as files:
        for stream in streams:
            files.callback(stream.close)
        inputs = Inputs(keep == "inputs")
        search = Search(streams, keep is not None)
        batches = inputs.along(vectors.along(source.inputs(given)))
        batches = search.along(batches)
        outputs: Any = run.outputs
        if native.is_torch(model):  # Masks and merged axes depend on the axis.
            outputs = partial(outputs, neurons=[s.axis for s in streams])
        seen = outputs(model, found, batches, output)
        _read(seen, source, given, vectors, inputs, search, streams, verbose)
        if not source.seen:
            raise empty(x)
        sets = given.finish()
        vectors.finish()
        search.finish()
        reports = _finish(streams, epsilon, threshold, sets, fms, verbose)
    names = () if sets is None else sets.names
    if names:
        reports = corrected(reports)
        _warn_if_nothing_scores(reports)
    kept = inputs.finish([one.gatherer for one in streams if one.gatherer])
    return Report(reports, source.seen, threshold, names, kept=kept)


def _read(
    seen: Any,
    source: Source,
    given: Labels,
    vectors: Embeddings,
    inputs: Inputs,
    search: Search,
    streams: list[Stream],
    verbose: int | str,
) -> None:
    """Pass the values of each layer to its stream while the model continues."""

    def take(
        start: int,
        targets: tuple[Any, Any, Any],
        units: Any,
        given_inputs: Any,
        batch: Any,
    ) -> None:
        entered = []
        for stream, calls in zip(streams, batch):
            for number, call in enumerate(calls):
                found = stream.add(call, start, *targets, units, not number)
                if found is not None:
                    entered.append(found)
        if inputs.wanted and entered:
            gatherers = [one.gatherer for one in streams if one.gatherer]
            some = np.logical_or.reduce(entered)
            inputs.add(given_inputs, start, some, gatherers)

    bar, number = _bar(verbose, source.batches, "batch"), 0
    waiting: deque[Any] = deque()
    # Always close `seen`. Otherwise a reference to an exception, as a notebook
    # keeps it, would leave the taps in the model.
    with contextlib.closing(seen), ThreadPoolExecutor(1) as worker:
        for batch in seen:
            if search.active:
                search.take(batch)
                continue
            size, codes = given.take()
            known = given.number if given.given else None
            targets = codes, known, given.sets
            waiting.append(
                worker.submit(
                    take,
                    source.seen - size,
                    targets,
                    vectors.take(),
                    inputs.take(),
                    batch,
                )
            )
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
            number += 1
            bar.update(number)
        while waiting:
            waiting.popleft().result()
    if source.batches is None and number:
        bar.update(number, finalize=True)


def _finish(
    streams: list[Stream],
    epsilon: float,
    threshold: float,
    sets: LabelSets | None,
    removed: int | None,
    verbose: int | str,
) -> dict[str, LayerReport]:
    """Compute the report of each layer, neuron by neuron."""
    # PyTorch may leave out modules that were not asked for by name.
    streams = [stream for stream in streams if stream.rows is not None]
    total = sum(stream.close_rows() for stream in streams)
    bar, done = _bar(verbose, total, "neuron"), 0
    reports = {}
    for stream in streams:
        for part in stream.finish(epsilon, threshold, sets, removed):
            if isinstance(part, LayerReport):
                reports[part.path] = part
            else:
                done += part
                bar.update(done)
    return reports


def _bar(verbose: int | str, target: int | None, unit: str) -> Any:
    return keras.utils.Progbar(
        target, verbose=0 if verbose == 0 else 1, unit_name=unit
    )


def _warn_if_nothing_scores(reports: dict[str, LayerReport]) -> None:
    for layer in reports.values():
        moved = layer.minimum < layer.maximum
        if moved.any() and layer.label is not None and (layer.label < 0).all():
            warnings.warn(
                f"No neuron of layer {layer.path!r} has a label: a label needs "
                "values in both halves of the inputs, one that chooses it and "
                "one that scores it. Pass more inputs of each label.",
                stacklevel=4,
            )
