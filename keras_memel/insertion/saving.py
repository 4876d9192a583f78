"""Save and load models with insertions.

Keras saves the class and the config of a model, and no config contains
insertions. A file therefore describes a `ModelWithInsertions` instead, which
holds the config of the plain model and the insertions. Every function that
writes a whole model gets this config from one function of Keras, which is
wrapped here. This covers `model.save`, `keras.saving.save_model`, pickle,
`copy.deepcopy`, and the callbacks `ModelCheckpoint` and `OrbaxCheckpoint`, for
a model with insertions and for any model around it. Models without insertions
pass through unchanged.
"""

from typing import Any

import keras

from keras_memel import native
from keras_memel.insertion import paths
from keras_memel.insertion.attach import attach
from keras_memel.insertion.attach import insertions
from keras_memel.insertion.attach import insertions_are_carried
from keras_memel.insertion.attach import refuse_legacy_file
from keras_memel.insertion.attach import variables_of
from keras_memel.insertion.forward import insertion_of
from keras_memel.utils import keras_internals


def save(model: Any, filepath: Any, **kwargs: Any) -> None:
    """Save a model with all MEmeLs that were inserted into it.

    For a Keras model this equals `model.save`. It also works for a model that
    contains the model you passed to `insert`.

    Args:
        model: A Keras model, or a PyTorch module.
        filepath: Path that ends in ".keras". For a PyTorch module, any path:
            the file holds its `state_dict` and insertions, for `restore`.
        **kwargs: As in `keras.Model.save`.

    Raises:
        ValueError: If the path ends in ".h5" or ".hdf5"; if the model is a
            Flax NNX module, or a PyTorch module while Keras runs on another
            backend.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> model = insert(model, "dense*", MEmeL())
    >>> path = tempfile.mkdtemp() + "/model.keras"
    >>> save(model, path)
    >>> len(inserted(keras.saving.load_model(path)))
    1
    """
    if native.is_torch(model):
        from keras_memel.native import torch_saving

        torch_saving.save(model, filepath)
        return
    if native.is_nnx(model):
        raise ValueError(
            "Argument `model` must be a Keras model or a PyTorch module. The "
            "state of a Flax NNX module contains the statistics: save "
            "`nnx.state(model)` with Orbax. "
            f"Received: model={model!r}"
        )
    refuse_legacy_file(filepath)
    model.save(filepath, **kwargs)


def restore(model: Any, source: Any) -> Any:
    """Restore saved insertions and their statistics in a PyTorch module.

    Keras models do not need this function: `keras.saving.load_model` restores
    their insertions.

    Args:
        model: A PyTorch module of the class that was saved, without
            insertions, or with the same ones.
        source: A file that `save` wrote, whose weights are loaded too; or a
            folder that `save_pretrained` wrote, whose weights
            `from_pretrained` has loaded.

    Returns:
        The model.

    Raises:
        ValueError: If the model is not a PyTorch module, lacks a module that
            a MEmeL follows in the source, or cannot be used because Keras
            runs on another backend; or if the source is neither of these or
            lacks the statistics.

    Example:

    >>> import pathlib, tempfile, torch
    >>> model = insert(torch.nn.Sequential(torch.nn.Linear(4, 8)), "0", MEmeL())
    >>> _ = model(torch.ones(2, 4))
    >>> path = pathlib.Path(tempfile.mkdtemp(), "model.pt")
    >>> save(model, path)
    >>> again = restore(torch.nn.Sequential(torch.nn.Linear(4, 8)), path)
    >>> int(inserted(again)["0"].steps)
    1
    """
    if not native.is_torch(model):
        raise ValueError(
            "Argument `model` must be a PyTorch module. Load Keras models with "
            f"`keras.saving.load_model`. Received: model={model!r}"
        )
    from keras_memel.native import torch_saving

    return torch_saving.restore(model, source)


def _stand_in(model: Any) -> Any:
    """Return the object whose config Keras stores for a model."""
    if isinstance(model, keras.Layer) and any(
        map(insertion_of, model._flatten_layers())
    ):
        return ModelWithInsertions(model)
    return model


keras_internals.wrap_model_serialization(_stand_in)


@keras.saving.register_keras_serializable("keras_memel")
class ModelWithInsertions(keras_internals.KerasSaveable):
    """Represent a model with insertions in a file, which loads as the model."""

    def __init__(self, model: keras.Layer):
        self._model = model

    def get_build_config(self) -> Any:
        """Return the build config of the model."""
        return self._model.get_build_config()

    def get_compile_config(self) -> Any:
        """Return the compile config of the model.

        If Keras compiles the loaded model, it compiles the result of
        `from_config`.
        """
        if isinstance(self._model, keras.Model):
            return self._model.get_compile_config()
        return None

    def get_config(self) -> dict[str, Any]:
        """Return the config of the plain model, and the insertions."""
        with insertions_are_carried():
            plain = keras.saving.serialize_keras_object(self._model)
        plain.pop("compile_config", None)
        return {
            "model": plain,
            "insertions": [
                {
                    "address": paths.address(site),
                    "output": held.output,
                    "layer": keras.saving.serialize_keras_object(held.memel),
                }
                for site, held in insertions(self._model)
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Rebuild the model with its MEmeLs."""
        model = keras.saving.deserialize_keras_object(config["model"])
        for insertion in config["insertions"]:
            site = paths.resolve(model, insertion["address"])
            with variables_of(model):
                memel = keras.saving.deserialize_keras_object(
                    insertion["layer"]
                )
            attach(site, memel, insertion["output"])
        return model


@keras.saving.register_keras_serializable("keras_memel", name="Inserted")
class _Inserted(ModelWithInsertions):
    """Load files of development versions before 0.1.0, which use this name."""
