"""Load models of keras_hub, or explain how to install it."""


def models():
    try:
        import keras_hub
    except ImportError as error:
        raise SystemExit(
            "This example needs keras_hub: pip install 'keras-memel[hub]'. "
            f"Importing it failed with: {error}"
        ) from None
    return keras_hub.models


def from_preset(make, name, option, **arguments):
    """Return `make(name)` for the preset of an option, or explain an error."""
    try:
        return make(name, **arguments)
    except Exception as error:
        raise SystemExit(
            f"No model {name!r}. Pass {option} FOLDER, a preset on this "
            f"machine, or {option} NAME, a preset that keras_hub can download "
            f"(https://keras.io/keras_hub/presets). It failed with: {error!r}"
        ) from None
