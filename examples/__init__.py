"""Programs that use keras_memel; README.md lists them."""
