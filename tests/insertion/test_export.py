"""Exported files are those of the plain model."""

import pickle

import keras
import numpy as np
import pytest
from models import BACKEND
from models import X
from models import Y
from models import functional
from models import steps
from models import trained

from keras_memel import MEmeL
from keras_memel import insert
from keras_memel import inserted
from keras_memel import strip

# JAX lacks OpenVINO, which does not support the operation XlaCallModule that
# Keras exports for every model.
FORMATS = {
    "jax": ["tf_saved_model", "onnx"],
    "tensorflow": ["tf_saved_model", "onnx", "openvino", "litert"],
    "torch": ["torch", "onnx", "openvino", "litert"],
}
ENDINGS = {
    "tf_saved_model": "",
    "onnx": ".onnx",
    "openvino": ".xml",
    "litert": ".tflite",
    "torch": ".pt2",
}


def files(path):
    if path.is_dir():
        return [p for p in path.rglob("*") if p.is_file()]
    return [p for p in path.parent.iterdir() if p.stem == path.stem]


def skip_if_missing(error, kind):
    """Skips if a package is why Keras cannot export; else raises `error`."""
    missing = error if isinstance(error, ImportError) else error.__cause__
    if not isinstance(missing, ImportError):
        raise error
    pytest.skip(f"Keras cannot export to {kind} here: {missing!r:.200}")


def run_exported(path, kind):
    if kind == "tf_saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        return loaded.serve(X).numpy()
    if kind == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
        (name,) = [node.name for node in session.get_inputs()]
        return session.run(None, {name: X})[0]
    if kind == "openvino":
        import openvino

        # By default, OpenVINO computes in bfloat16 if the processor supports
        # it.
        compiled = openvino.compile_model(
            str(path), config={"INFERENCE_PRECISION_HINT": "f32"}
        )
        return compiled(X)[compiled.output(0)]
    if kind == "litert":
        if BACKEND == "torch":
            from ai_edge_litert.interpreter import Interpreter
        else:
            import tensorflow as tf

            Interpreter = tf.lite.Interpreter

        interpreter = Interpreter(str(path))
        signature = interpreter.get_signature_runner()
        (name,) = signature.get_input_details()
        return next(iter(signature(**{name: X}).values()))
    import torch

    exported = torch.export.load(str(path)).module()
    return exported(torch.as_tensor(X)).detach().numpy()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FORMATS[BACKEND])
def test_exported_files_are_those_of_the_plain_model(kind, tmp_path):
    model = trained("functional")
    expected = model.predict(X, verbose=0)
    inputs = [keras.InputSpec(shape=(16, 8), dtype="float32")]
    kwargs = {"input_signature": inputs} if kind in ("torch", "litert") else {}
    path = tmp_path / ("with" + ENDINGS[kind])
    plain = tmp_path / ("plain" + ENDINGS[kind])
    untouched = functional()
    untouched(X)
    model(X)
    try:
        untouched.export(str(plain), format=kind, verbose=False, **kwargs)
    except Exception as error:
        skip_if_missing(error, kind)

    model.export(str(path), format=kind, verbose=False, **kwargs)

    np.testing.assert_allclose(run_exported(path, kind), expected, atol=1e-5)
    for file in files(path):
        text = file.read_bytes()
        # Names of layers; the path of our code may stand in debug notes.
        assert b"memel_" not in text.replace(b"keras_memel", b""), file
        assert b"inserted_memel" not in text, file
        assert b"moving_mean" not in text, file
    assert len(inserted(model)) == 2
    model.fit(X, Y, verbose=0)
    assert steps(model) == [3.0, 3.0]


@pytest.mark.filterwarnings("ignore")
def test_a_memel_that_works_at_inference_is_exported(tmp_path):
    model = insert(
        functional(),
        "first",
        MEmeL(late_start=0, at_inference=True, forget_steps=None),
    )
    model.fit(X, Y, verbose=0)
    expected = model.predict(X, verbose=0)
    model(X)
    plain = strip(pickle.loads(pickle.dumps(model))).predict(X, verbose=0)
    assert np.abs(expected - plain).max() > 1e-4
    kind = "torch" if BACKEND == "torch" else "tf_saved_model"
    path = tmp_path / ("m" + ENDINGS[kind])
    inputs = [keras.InputSpec(shape=(16, 8), dtype="float32")]
    try:
        model.export(
            str(path), format=kind, verbose=False, input_signature=inputs
        )
    except Exception as error:
        skip_if_missing(error, kind)
    np.testing.assert_allclose(run_exported(path, kind), expected, atol=1e-5)
