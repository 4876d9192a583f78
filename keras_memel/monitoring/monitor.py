"""Log readings of MEmeL layers in `fit`: `MonosemanticityMonitor`."""

import contextlib
import math
import numbers
import time
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_memel.analysis.labels import Labels
from keras_memel.analysis.sources import Source
from keras_memel.insertion import capture
from keras_memel.insertion import paths
from keras_memel.layers.memel import MEmeL
from keras_memel.monitoring import diagnostics
from keras_memel.monitoring import surroundings
from keras_memel.monitoring.diagnostics import WeightSnapshot
from keras_memel.monitoring.overhead import overhead
from keras_memel.monitoring.readings import memels
from keras_memel.monitoring.readings import numbers as numbers_of
from keras_memel.utils import arguments
from keras_memel.utils.types import Array

# Number of inputs per forward pass.
_BATCH = 32
# The monitor warns when it takes more than this fraction of the training time.
_MOST_OVERHEAD = 0.01


class MonosemanticityMonitor(keras.callbacks.Callback):
    """Log the state of each MEmeL layer in `fit`, and warn of faults.

    CSVLogger, TensorBoard, W&B, MLflow and the progress bar read the same
    logs if they follow the monitor in the list of callbacks. Each name
    starts with the path of the layer in the model:

        <layer>/inhibited_rate  share of the values inhibited in the last step
        <layer>/target_rate     target share of its selection, if it has a
                                target: `rate`, or `k` divided by the number
                                of values per sample
        <layer>/threshold       moving threshold of `Rate`, in variances
        <layer>/ms_50, ms_99    quantiles of the monosemantic scale on `x`,
                                with the layer's own statistics, in variances

    The monitor warns once per layer and kind of fault, and suggests a remedy:

    - statistics that never change
    - values that are not finite
    - padding whose mask does not reach the layer
    - an inhibited rate far from its target
    - a variance that collapses
    - statistics that jump
    - replicas that differ
    - layers that take more than `max_overhead` of a step
    - a monitor that takes more than 1 % of the training time, measured
      after its first reading
    - a logger that is called before the monitor

    An undefined number is NaN: `inhibited_rate` of a layer that has not
    counted any value, and the quantiles if all values are non-finite.

    Args:
        every: "epoch", or a number of steps between two readings. On JAX each
            reading copies all weights of the model from the compiled loop:
            use a large number.
        x: Inputs on which the quantiles are measured, as in `analyze`: a batch
            or a few hundred samples, in a form that can be read several times.
            Each reading runs them through the model, which is compiled again
            for this. With `None`, no quantiles are measured, and the monitor
            costs almost no time.
        quantiles: Quantiles to log, in (0, 1).
        histograms: TensorBoard directory for histograms of means, variances
            and, with `x`, the scale. They need TensorFlow, as Keras' own
            TensorBoard callback does. `None` writes no histograms.
        measure_overhead: Whether to measure the share of a training step
            (forward and backward pass of the first batch of `x`) that the
            MEmeLs take, once per `fit` after the first reading. It is logged
            as `memel_overhead`. The measurement compiles two more steps; the
            weights, statistics and seeds of the model do not change.
        max_overhead: Share of a step above which the monitor warns.
        progress_bar: Whether the progress bar of `fit` shows the numbers.
            Other callbacks always receive them.

    Raises:
        ValueError: If an argument is invalid, or `measure_overhead` is `True`
            without `x`; when training starts, if the model contains no
            MEmeL.

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
        measure_overhead: bool = False,
        max_overhead: float = 0.1,
        progress_bar: bool = True,
    ):
        super().__init__()
        if every != "epoch":
            every = arguments.integer(
                "every", every, '"epoch" or a number of steps', 1
            )
        self.every = every
        if hasattr(x, "__next__"):
            raise ValueError(
                "Argument `x` must contain inputs that can be read several "
                "times: arrays, texts, or a dataset. "
                f"Received: x={x!r} ({type(x).__name__})"
            )
        if x is not None:
            Source(x, _BATCH)  # This raises if there are no inputs.
        self.x = x
        if isinstance(quantiles, numbers.Real):
            quantiles = (quantiles,)
        self.quantiles = tuple(
            arguments.number("quantiles", q, "between 0 and 1", 0.0, 1.0, False)
            for q in quantiles
        )
        self.measure_overhead = arguments.boolean(
            "measure_overhead", measure_overhead
        )
        if self.measure_overhead and x is None:
            raise ValueError(
                "Argument `measure_overhead` needs inputs to measure on: also "
                "pass `x`. Received: measure_overhead=True, x=None"
            )
        self.max_overhead = arguments.number(
            "max_overhead", max_overhead, "at least 0", 0.0
        )
        self.progress_bar = arguments.boolean("progress_bar", progress_bar)
        self._unwatch: Callable[[], None] = lambda: None
        self.histograms = histograms
        self._writer: Any = None
        self._warned: set[tuple[str, str]] = set()
        # Keras waits for every step if a callback has a method for steps, so
        # the method is only added if `every` needs it.
        if every != "epoch":
            self.on_train_batch_end = self._on_step

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        # The layers are found once: the search is slow for a large model.
        self._layers = memels(self.model)
        self._last: dict[str, float] = {}
        self._unwatch()  # An interrupted training may still be watched.
        with contextlib.ExitStack() as undo:
            undo.callback(diagnostics.watch_masks(self.model, self._layers))
            self._join(surroundings.others(self), undo)
            self._unwatch = undo.pop_all().close
        self._before: dict[str, WeightSnapshot] = {}
        self._first = {
            path: diagnostics.read(layer)
            for path, layer in self._layers.items()
            if layer.built  # Other layers are built in their first step.
        }
        self._step, self._seen = 0, -1
        # The first reading compiles, as the first epoch does, and is not
        # counted.
        self._own, self._start = 0.0, math.inf
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
        # With `steps_per_execution` a call covers several steps.
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

    def _join(self, callbacks: list[Any], undo: contextlib.ExitStack) -> None:
        """Check and adapt the other callbacks of this training."""
        if not self.progress_bar:
            surroundings.keep_off(callbacks, self._last, undo)
        early = surroundings.before(self, callbacks, list(self._layers))
        if early:
            self._warn(
                "",
                "order",
                "Callbacks that are called before the monitor do not receive "
                f"its numbers: {', '.join(early)}. Place the monitor first in "
                "the list `callbacks`.",
            )

    def _read(self) -> None:
        start = time.perf_counter()
        model = self.model  # On JAX this access updates the weights.
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
        if self._start == math.inf:
            if self.measure_overhead:
                self._measure()
            self._start = time.perf_counter()
        else:
            self._own += time.perf_counter() - start

    def _measure(self) -> None:
        strategy = getattr(self.model, "distribute_strategy", None)
        if strategy is not None and strategy.num_replicas_in_sync > 1:
            self._warn(
                "",
                "measure",
                "The overhead of the layers is measured on one replica only: "
                "`measure_overhead` is ignored under a distribution strategy.",
            )
            return
        source = Source(self.x, _BATCH)
        inputs = next(iter(source.inputs(Labels(None, None, source))))
        preprocessor = getattr(self.model, "preprocessor", None)
        if preprocessor is not None:  # Models of keras_hub apply it in `fit`.
            inputs, *_ = keras.utils.unpack_x_y_sample_weight(
                preprocessor(inputs)
            )
        layers = [layer for layer in self._layers.values() if layer.built]
        share = overhead(self.model, layers, inputs)
        self._last["memel_overhead"] = share
        if share > self.max_overhead:
            self._warn(
                "",
                "layers",
                f"The MEmeL layers take {share:.1%} of a training step, more "
                f"than max_overhead={self.max_overhead:g}. Select with "
                '`"rate"`, which does not sort, insert after fewer layers, or '
                "pass `axis=-1`.",
            )

    def _note(
        self,
        path: str,
        layer: MEmeL,
        reading: WeightSnapshot,
        phi: Array | None,
    ) -> None:
        for name, value in numbers_of(layer, reading).items():
            self._last[f"{path}/{name}"] = value
        if phi is not None:
            for q in self.quantiles:
                name = f"{path}/ms_{100 * q:g}"
                self._last[name] = float(np.quantile(phi, q))
        if self._writer is not None:
            import tensorflow as tf

            with self._writer.as_default(step=int(reading.steps)):
                tf.summary.histogram(f"{path}/mean", reading.mean)
                tf.summary.histogram(f"{path}/variance", reading.variance)
                if phi is not None and np.isfinite(phi).all():
                    tf.summary.histogram(f"{path}/ms", phi)

    def _scales(
        self, model: keras.Model, layers: dict[str, MEmeL]
    ) -> dict[str, Array]:
        """Compute the scales of all values on `x`, by path of the layer."""
        hidden = paths.in_scans(model)
        wanted = [
            path
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
        if total > 10 and self._own > _MOST_OVERHEAD * total:
            self._warn(
                "",
                "overhead",
                f"The monitor itself takes {self._own / total:.1%} of the "
                "training time. Read less often (a larger `every`), or pass "
                "fewer inputs `x`.",
            )

    def _warn(self, path: str, kind: str, message: str) -> None:
        if (path, kind) not in self._warned:
            self._warned.add((path, kind))
            warnings.warn(message, stacklevel=2)


def _writer(directory: str) -> Any:
    try:
        import tensorboard  # noqa: F401 - TensorFlow writes with it
        import tensorflow as tf
    except ImportError as error:
        raise ImportError(
            "Argument `histograms` needs TensorFlow and TensorBoard, as Keras' "
            "own callback does: pip install tensorflow tensorboard. "
            f"Received: histograms={directory!r}"
        ) from error
    return tf.summary.create_file_writer(str(directory))
