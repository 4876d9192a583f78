"""MonosemanticityMonitor: what MEmeL layers do, in the logs of `fit`."""

import contextlib
import numbers
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_memel.analysis.sources import Labels
from keras_memel.analysis.sources import Source
from keras_memel.core import selections
from keras_memel.insertion import capture
from keras_memel.insertion import paths
from keras_memel.insertion.insert import inserted
from keras_memel.layers.memel import MEmeL
from keras_memel.monitoring import diagnostics
from keras_memel.monitoring.diagnostics import WeightSnapshot
from keras_memel.utils import arguments

Array = Any

# Inputs that are run through the model at once.
_BATCH = 32
# Of the wall time of training; above it the monitor says so.
_MOST_OVERHEAD = 0.01


class MonosemanticityMonitor(keras.callbacks.Callback):
    """Puts what each MEmeL layer does into the logs of `fit`.

    CSVLogger, TensorBoard, W&B, MLflow and the progress bar read the same
    logs, if they stand *after* the monitor in the list of callbacks. The names
    start with the path of the layer in the model:

        <layer>/inhibited_rate  share of the values inhibited in the last step
        <layer>/target_rate     the share that its selection aims at, if it has
                                one: `rate`, or `k` of the values of a sample
        <layer>/threshold       of `Rate`: its moving threshold, in variances
        <layer>/ms_50, ms_99    quantiles of the monosemantic scale on `x`, by
                                the layer's own statistics, in variances

    It warns, once for each layer and kind, with what to do about it: of
    statistics that never moved, of padding whose mask never came, of an
    inhibited rate far from its target, of a variance that collapsed, of
    statistics that jump, of replicas that differ, and of the monitor itself
    when it takes more than 1 % of the time.

    Args:
        every: "epoch", or a number of steps. On JAX each reading brings all
            weights of the model back from the compiled loop: prefer a large
            number.
        x: Inputs on which the quantiles are measured, a batch or a few hundred
            samples, as in `analyze`, but that can be read again and again;
            run through the model (which is compiled anew for it) at each
            reading. `None`: no quantiles, and next to no cost.
        quantiles: Which, in (0, 1).
        histograms: Directory for histograms of means, variances and, with `x`,
            of the scale, for TensorBoard; needs TensorFlow, as Keras' own
            TensorBoard callback does. `None`: none.

    Raises:
        ValueError: If an argument is none of these; when training starts, if
            the model has no MEmeL.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), MEmeL(name="memel")]
    ... )
    >>> model.compile("sgd", "mse")
    >>> history = model.fit(
    ...     np.ones((64, 4)), np.ones((64, 8)), verbose=0, epochs=2,
    ...     callbacks=[MonosemanticityMonitor()],
    ... )
    >>> sorted(history.history)
    ['loss', 'memel/inhibited_rate', 'memel/target_rate']
    """

    def __init__(
        self,
        every: int | str = "epoch",
        x: Any = None,
        quantiles: tuple[float, ...] = (0.5, 0.99),
        histograms: str | None = None,
    ):
        super().__init__()
        if every != "epoch":
            every = arguments.integer(
                "every", every, '"epoch" or a number of steps', 1
            )
        self.every = every
        if x is not None and (
            hasattr(x, "__next__") or Source(x, _BATCH).size == 0
        ):
            raise ValueError(
                "Argument `x` must hold inputs that can be read at every "
                "reading: arrays, texts, or a dataset. "
                f"Received: x={x!r} ({type(x).__name__})"
            )
        self.x = x
        if isinstance(quantiles, numbers.Real):
            quantiles = (quantiles,)
        self.quantiles = tuple(
            arguments.number("quantiles", q, "between 0 and 1", 0.0, 1.0, False)
            for q in quantiles
        )
        self._unwatch: Callable[[], None] = lambda: None
        self.histograms = histograms
        self._writer: Any = None
        self._warned: set[tuple[str, str]] = set()
        # Keras waits for every step of a model that has a callback for steps:
        # this is one only if it is asked for.
        if every != "epoch":
            self.on_train_batch_end = self._on_step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # Found once: to look through a large model takes a while.
        self._layers = self._find()
        if not self._layers:
            raise ValueError(
                "The model has no MEmeL to monitor. Add one with "
                "`model.add(MEmeL())` or `keras_memel.insert(model, ...)`; one "
                "inside of a TimeDistributed or of a cell is out of reach. "
                f"Received: {self.model!r}"
            )
        self._unwatch()  # of a training that was interrupted
        self._unwatch = diagnostics.watch_masks(self.model, self._layers)
        self._before: dict[str, WeightSnapshot] = {}
        self._last: dict[str, float] = {}
        self._first = {
            path: diagnostics.read(layer)
            for path, layer in self._layers.items()
            if layer.built  # others are at their first step
        }
        self._step, self._seen = 0, -1
        self._own = 0.0
        self._start = time.perf_counter()
        if self.histograms is not None:
            self._writer = _writer(self.histograms)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._unwatch()
        if self._writer is not None:
            self._writer.close()

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        self._seen = -1

    def _on_step(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        # Of a model with `steps_per_execution`, several at once.
        before, every = self._step, int(self.every)
        self._step += batch - self._seen
        self._seen = batch
        if self._step // every > before // every:
            self._read()
        if logs is not None:
            logs.update(self._last)

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        if self.every == "epoch" or not self._last:
            self._read()
        if logs is not None:
            logs.update(self._last)
        self._check_overhead()

    def _find(self) -> dict[str, MEmeL]:
        found = dict(inserted(self.model))
        for site in capture.chosen(self.model, None):
            if isinstance(site.layer, MEmeL):
                found[site.path] = site.layer
        return found | paths.in_scans(self.model)

    def _read(self) -> None:
        start = time.perf_counter()
        model = self.model  # On JAX, to ask for it brings weights up to date
        layers = self._layers
        phis = self._scales(model, layers) if self.x is not None else {}
        for path, layer in layers.items():
            if not layer.built:
                kind, message = diagnostics.NEVER_MOVED
                self._warn(path, kind, f"Layer {path!r}: {message}")
                continue
            reading = diagnostics.read(layer)
            first = self._first.setdefault(path, reading._replace(steps=0.0))
            self._note(path, layer, reading, phis.get(path))
            for kind, message in diagnostics.found(
                layer, first, self._before.get(path), reading
            ):
                self._warn(path, kind, f"Layer {path!r}: {message}")
            self._before[path] = reading
        self._own += time.perf_counter() - start

    def _note(
        self,
        path: str,
        layer: MEmeL,
        reading: WeightSnapshot,
        phi: Array | None,
    ) -> None:
        self._last[f"{path}/inhibited_rate"] = reading.inhibited_rate
        target = diagnostics.target_rate(layer)
        if target is not None:
            self._last[f"{path}/target_rate"] = target
        if isinstance(layer.selection, selections.Rate):
            self._last[f"{path}/threshold"] = reading.threshold
        if phi is not None:
            for q in self.quantiles:
                name = f"{path}/ms_{100 * q:g}"
                self._last[name] = float(np.quantile(phi, q))
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default(step=int(reading.steps)):
                tf.summary.histogram(f"{path}/mean", reading.mean)
                tf.summary.histogram(f"{path}/variance", reading.variance)
                if phi is not None:
                    tf.summary.histogram(f"{path}/ms", phi)

    def _scales(
        self, model: keras.Model, layers: dict[str, MEmeL]
    ) -> dict[str, Array]:
        """The scale of every value on `x`, by the layers' statistics."""
        hidden = paths.in_scans(model)
        wanted = [
            f"/{path}"
            for path, layer in layers.items()
            if layer.built and path not in hidden
        ]
        if not wanted:
            return {}
        found = capture.chosen(model, wanted)
        source = Source(self.x, _BATCH)
        seen = capture.outputs(
            model, found, source.inputs(Labels(None, None, source))
        )
        parts: dict[str, list[Array]] = {site.path: [] for site in found}
        with contextlib.closing(seen):
            for batch in seen:
                for site, calls in zip(found, batch):
                    reading = diagnostics.read(layers[site.path])
                    for call in calls:
                        parts[site.path].append(
                            diagnostics.scales(layers[site.path], reading, call)
                        )
        return {path: np.concatenate(phis) for path, phis in parts.items()}

    def _check_overhead(self) -> None:
        total = time.perf_counter() - self._start
        # The first seconds are those of compilation, of both.
        if total > 10 and self._own > _MOST_OVERHEAD * total:
            self._warn(
                "",
                "overhead",
                f"The monitor itself takes {self._own / total:.1%} of the "
                "training time. Read more rarely (a larger `every`), or pass "
                "fewer inputs `x`.",
            )

    def _warn(self, path: str, kind: str, message: str) -> None:
        if (path, kind) not in self._warned:
            self._warned.add((path, kind))
            warnings.warn(message, stacklevel=2)


def _writer(directory: str) -> Any:
    try:
        import tensorboard  # noqa: F401 - TensorFlow needs it to write
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "Histograms for TensorBoard are written by TensorFlow, as those "
            "of Keras' own callback: pip install tensorflow tensorboard. "
            f"Received: histograms={directory!r}"
        ) from error
    return tf.summary.create_file_writer(str(directory))
