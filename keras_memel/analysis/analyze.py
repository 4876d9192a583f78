"""`analyze`: from a model and a stream of inputs to a `Report`.

inputs --capture--> values of layers --layer_stream--> neurons --> report
"""

import contextlib
import warnings
from collections import deque
from collections.abc import Iterable
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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
    """Run inputs through a model and report on its neurons.

    For each neuron of the chosen layers, the report holds its moments, how far
    its values go from their mean, in variances (the monosemantic scale `phi`,
    [Wang et al. 2024] Eq. 7, with the mean and variance over all of `x`), and
    on which inputs; with labels, also which label it responds to and how well
    it detects that label.

    Labels are chosen and scored on different inputs. One half of the inputs
    chooses: the label of a neuron is that with the highest mean `phi`, and the
    rule for F1 is the best threshold on the activation, both on that half. The
    other half scores both. So a label that is unrelated to the activations has
    a ROC-AUC of 0.5 on average, however many labels there are to choose from.
    A hash of the number of an input decides its half
    (`LayerReport.roc_auc_null` and `Report.held_out` say more). Moments,
    quantiles and extremes need no label, and are those of all inputs.

    The model runs once, at inference, and is not changed. Moments, extremes
    and means by label are gathered on the way, while the model runs on. What
    needs values in order (quantiles, ROC, F1, ...) has to wait for the mean of
    the whole stream; the values are kept until then, at 4 bytes each, 128 MB
    of them in memory and what is beyond on disk, and read back neuron by
    neuron. So memory does not grow with the stream, and the numbers are those
    of a computation on all activations at once. Apart from the model, sorting
    dominates the cost: with `sample`, or where values would exceed
    `disk_limit` or 4 million per neuron, those figures are taken from a
    uniform random sample of them (`LayerReport.ranked` is its size, about half
    of the limit or more); the rest stays exact.

    Masks: a position that a Keras mask or a `padding_mask` leaves out counts
    nowhere. A value that is not finite is left out too, and counted. A value
    without a label counts for moments and quantiles, and for no figure of a
    label.

    Args:
        model: A built model, or a PyTorch module, with or without MEmeL
            layers.
        x: Inputs: arrays as for `predict`, a `tf.data.Dataset`, a PyTorch
            `DataLoader`, a `keras.utils.PyDataset`, or an iterable of batches,
            `inputs` or `(inputs, targets)`. A list of arrays is one of inputs,
            as for `predict`; of batches, pass `iter(batches)`.
        labels: `None`, or labels: whole numbers from 0 up, booleans or
            strings, one per input, `(n,)`, or one per position, `(n, length)`;
            or "targets", the targets of `x`. -1, -100, NaN and `None` mean
            "unlabelled". Pandas objects are taken by position. Labels of words
            are aligned with tokens by `align_labels`. Memory grows with the
            number of labels that occur, times neurons.
        layers: Which layers, as in `find`. `None`: those with a MEmeL; if
            there is none, the layers with weights of the model and of models
            within it.
        axis: Axis or axes that index the neurons, as in `MEmeL`. "auto": as
            the MEmeL of the layer; without one, each channel is a neuron: -1,
            or 1 of a layer with `data_format="channels_first"`. For a
            PyTorch module, 1 of a convolution, or a batch or group
            normalization; pass `axis=1` for blocks of these.
        output: Which output, if a layer has several: an index or a key.
        epsilon: Share of the layer's mean variance that is added to that of
            each neuron.
        threshold: The report counts the share of values with `phi` of at
            least this, in variances.
        top: Number of values with the highest `phi` to keep per neuron.
        label_names: Names of the labels: a list whose item `i` names label
            `i`, or a dict from label to name. `None`: the labels themselves.
            The report holds the labels that occur, sorted.
        multi_label: Whether `labels` has a column of 0 and 1 per label, and an
            input any number of them: `(n, labels)` or `(n, length, labels)`.
            A row of -1 or -100 is unlabelled.
        directions: From the path of a layer to directions that take the place
            of its neurons, such as the weights of a probe: a matrix
            `(directions, neurons)`, whose row `d` has the value `sum_k d_k
            z_k` where the neurons have the values `z`; neurons by position
            are flattened. Or a function from values `(rows, neurons)`,
            float32, to `(rows, directions)`, such as the encoder of a sparse
            autoencoder. With `layers=None` only these layers are analyzed. A
            direction has no value where a mask leaves out one of the neurons.
        embeddings: A vector of each input, `(n, dimensions)`, or of each of
            its positions, `(n, length, dimensions)`; or a function from a
            batch of inputs to these. With it, each neuron gets a MonoScore
            (`LayerReport.monoscore`), in the same pass; memory grows with
            neurons times dimensions. Take the vectors from another model than
            `model`: else similar vectors are those with similar activations.
        fms: Number of neurons to remove, `p` of the feature monosemanticity
            score FMS@p (`LayerReport.label_fms`); the paper has 1 and 5.
            `None`: do not compute it. It fits decision trees for each label,
            to at most 64 MB of values. Needs labels, and scikit-learn: `pip
            install 'keras-memel[measures]'`.
        keep: What to store of single inputs: "activations", all values of each
            neuron on the `top / 2` inputs with its highest value, as many with
            its lowest, a sample of 8 (`LayerReport.examples`), and receptive
            fields (`LayerReport.field`); "inputs", also the inputs (`Report.
            kept`), so that a stream can be browsed; or `None`.
        pool: Number of values per neuron to keep for `Report.merge`, or `None`.
        batch_size: Of arrays; other sources have their own.
        sample: Number of values per neuron to sort at most; `None`: all, up
            to 4 million.
        disk_limit: Bytes of temporary files, over all layers.
        verbose: 0 for no progress bar.

    Returns:
        `Report`.

    Raises:
        ImportError: If `fms` needs scikit-learn, and it is missing.
        ValueError: If `layers` names none (the message lists the nearest
            paths); if directions do not fit the layer, or embeddings do not
            fit the inputs; if there are no inputs, as when a generator has
            been read before; if labels are too few, too many, negative,
            without a name, or of the wrong shape; if a layer is never called.

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

    Directions in a layer in place of its neurons:

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
                "Argument `fms` needs labels: pass `labels` too. "
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
            "Argument `model` must be a built Keras model: call it on some "
            f"data, or build it, before. Received: model={model!r}"
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
        seen = run.outputs(model, found, batches, output)
        _read(seen, source, given, vectors, inputs, search, streams, verbose)
        sets = given.finish()
        vectors.finish()
        if not source.seen:
            raise empty(x)
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
    """Give each stream what its layer computed, while the model runs on."""

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
    # `seen` is closed in any case: what holds the error, as a notebook does,
    # would else keep the taps in the model.
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
    """The report of each layer, neuron by neuron."""
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
