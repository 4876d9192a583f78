"""Measure the share of a training step that the MEmeL layers take."""

import contextlib
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_memel.layers.memel import MEmeL
from keras_memel.utils.types import Tensor

# Number of steps of each kind. Their median is stable to a few percent.
_STEPS = 7


def overhead(model: keras.Model, layers: Iterable[MEmeL], inputs: Any) -> float:
    """Measure the time of a training step with and without MEmeLs.

    A step is a forward and a backward pass in training mode, compiled like the
    model. Its objective is the mean square of the outputs plus the losses of
    the layers. Steps of both kinds alternate. All variables of the model keep
    their values.

    Args:
        model: A compiled model.
        layers: MEmeLs of the model.
        inputs: A batch of inputs.

    Returns:
        Share of the step that the MEmeLs take, `1 - median(without) /
        median(with)`. It is at most 1; noise can make it negative.
    """
    layers = list(layers)
    inputs = keras.tree.map_structure(ops.convert_to_tensor, inputs)
    with _unchanged(model):
        active = _step(model, inputs)
        passive = _step(model, inputs)

        def without() -> None:
            with _switched_off(layers):
                passive()

        times: dict[Callable[[], None], list[float]] = {active: [], without: []}
        for number in range(_STEPS + 1):
            for step, measured in times.items():
                start = time.perf_counter()
                step()
                if number:  # The first step of each kind compiles.
                    measured.append(time.perf_counter() - start)
    median = {step: np.median(measured) for step, measured in times.items()}
    return float(1.0 - median[without] / median[active])


@contextlib.contextmanager
def _unchanged(model: keras.Model) -> Iterator[None]:
    # A step updates statistics, seeds and the averages of normalization.
    variables = model.non_trainable_variables
    before = [ops.copy(ops.convert_to_tensor(one)) for one in variables]
    state: Any = contextlib.nullcontext()
    if keras.backend.backend() == "torch":
        import torch

        # On PyTorch the Dropout of Keras draws from the global generator.
        state = torch.random.fork_rng()
    try:
        with state:
            yield
    finally:
        for variable, value in zip(variables, before):
            variable.assign(value)


@contextlib.contextmanager
def _switched_off(layers: list[MEmeL]) -> Iterator[None]:
    before = [(one, one.trainable, one.at_inference) for one in layers]
    try:
        for layer in layers:
            layer.trainable, layer.at_inference = False, False
        yield
    finally:
        for layer, trainable, at_inference in before:
            layer.trainable, layer.at_inference = trainable, at_inference


def _objective(outputs: Any, losses: list[Any]) -> Tensor:
    terms = [
        ops.mean(ops.square(ops.cast(one, "float32")))
        for one in keras.tree.flatten(outputs)
        if keras.backend.is_float_dtype(
            keras.backend.standardize_dtype(one.dtype)
        )
    ]
    return sum(terms) + sum(ops.cast(one, "float32") for one in losses)


def _step(model: keras.Model, inputs: Any) -> Callable[[], None]:
    """Create a function that runs one training step and waits for its end."""
    makers = {
        "jax": _jax_step,
        "tensorflow": _tensorflow_step,
        "torch": _torch_step,
    }
    return makers[keras.backend.backend()](model, inputs)


def _jax_step(model: keras.Model, inputs: Any) -> Callable[[], None]:
    import jax

    def loss(trainable: Any, others: Any) -> Any:
        outputs, others, losses = model.stateless_call(
            trainable, others, inputs, training=True, return_losses=True
        )
        return _objective(outputs, losses), others

    function = jax.value_and_grad(loss, has_aux=True)
    if not model.run_eagerly:
        function = jax.jit(function)
    arguments = (
        [one.value for one in model.trainable_variables],
        [one.value for one in model.non_trainable_variables],
    )
    return lambda: jax.block_until_ready(function(*arguments))


def _tensorflow_step(model: keras.Model, inputs: Any) -> Callable[[], None]:
    import tensorflow as tf

    def function() -> Any:
        with tf.GradientTape() as tape:
            outputs = model(inputs, training=True)
            loss = _objective(outputs, model.losses)
        variables = [one.value for one in model.trainable_variables]
        gradients = tape.gradient(loss, variables)
        return [one for one in gradients if one is not None]

    if not model.run_eagerly:
        function = tf.function(function, jit_compile=bool(model.jit_compile))

    def step() -> None:
        for gradient in function()[-1:]:
            tf.convert_to_tensor(gradient).numpy()

    return step


def _torch_step(model: keras.Model, inputs: Any) -> Callable[[], None]:
    import torch

    def step() -> None:
        outputs = model(inputs, training=True)
        loss = _objective(outputs, model.losses)
        variables = [one.value for one in model.trainable_variables]
        torch.autograd.grad(loss, variables, allow_unused=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return step
