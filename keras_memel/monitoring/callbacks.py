"""Log the readings of MEmeL layers in other trainers."""

from typing import Any

from keras_memel.monitoring.readings import readings
from keras_memel.utils import arguments


def trainer_callback(every: int | None = None) -> Any:
    """Create a callback of the Hugging Face `Trainer` that logs `readings`.

    Args:
        every: Number of optimizer steps between two readings. `None` reads
            whenever the trainer itself logs.

    Returns:
        A `transformers.TrainerCallback`. The logs use the names of
        `keras_memel.readings`.

    Raises:
        ImportError: If transformers is not installed.
        ValueError: If `every` is not a positive integer; when training starts,
            if the model contains no MEmeL.

    Example:

    >>> import transformers
    >>> callback = trainer_callback(every=50)  # Trainer(callbacks=[callback])
    >>> callback.__class__.__mro__[1].__name__
    'TrainerCallback'
    """
    from transformers import TrainerCallback

    if every is not None:
        every = arguments.integer("every", every, "at least 1, or None", 1)

    class Readings(TrainerCallback):
        def on_train_begin(
            self, args: Any, state: Any, control: Any, **kwargs: Any
        ) -> None:
            readings(kwargs["model"])

        def on_step_end(
            self, args: Any, state: Any, control: Any, **kwargs: Any
        ) -> Any:
            if every is not None and state.global_step % every == 0:
                control.should_log = True
            return control

        def on_log(
            self, args: Any, state: Any, control: Any, **kwargs: Any
        ) -> None:
            found = readings(kwargs["model"])
            logs = kwargs.get("logs")
            if logs is not None:
                logs.update(found)
            if state.log_history:
                state.log_history[-1].update(found)

    return Readings()


def lightning_callback() -> Any:
    """Create a callback of Lightning that logs `readings` after a batch.

    Returns:
        A `lightning.pytorch.Callback`, which logs every `log_every_n_steps`
        steps of the trainer.

    Raises:
        ImportError: If lightning is not installed.
        ValueError: If the model contains no MEmeL; raised after the first
            batch.

    Example:

    >>> import lightning
    >>> callback = lightning_callback()  # Trainer(callbacks=[callback])
    >>> callback.__class__.__mro__[1].__name__
    'Callback'
    """
    from lightning.pytorch import Callback

    class Readings(Callback):
        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, *args: Any
        ) -> None:
            if trainer.global_step % trainer.log_every_n_steps == 0:
                pl_module.log_dict(readings(pl_module))

    return Readings()
