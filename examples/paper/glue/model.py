"""The network of train.py: a BERT of keras_hub, and its optimizer."""

import keras

from examples.paper.common import hub
from keras_memel import MEmeL
from keras_memel import insert


def preprocessor(name, length):
    """Return the preprocessor of a preset, which tokenizes texts."""
    make = hub.models().TextClassifierPreprocessor.from_preset
    return hub.from_preset(make, name, "--model", sequence_length=length)


def build(arm, options, outputs):
    """Return the network of an arm, not compiled, with tokens as inputs."""
    classifier = hub.from_preset(
        hub.models().TextClassifier.from_preset,
        options.model,
        "--model",
        num_classes=outputs,
        dtype=keras.config.dtype_policy(),
        preprocessor=preprocessor(options.model, options.length),
    )
    if arm is not None:
        # The preprocessor provides the number of positions. Each channel of a
        # position is a neuron; padding is masked.
        insert(classifier, options.where, MEmeL(**arm))
    # The classifier's `fit` expects texts, so this model accepts tokens.
    inputs = {
        name: keras.Input((options.length,), dtype="int32", name=name)
        for name in classifier.input
    }
    model = keras.Model(inputs, classifier(inputs))
    model.preprocessor = Tokenized(options.length)
    return model


class Tokenized:
    """Provide the number of positions to `insert`, and return the tokens."""

    def __init__(self, sequence_length):
        self.sequence_length = sequence_length

    def __call__(self, inputs):
        return inputs


@keras.saving.register_keras_serializable("keras_memel_examples")
class WarmUpThenDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Schedule of BERT: linear warm-up for a tenth of the steps, then to 0."""

    def __init__(self, peak, steps, share=0.1):
        super().__init__()
        self.peak, self.steps, self.share = peak, steps, share

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        up = max(1.0, self.share * self.steps)
        rising = (step + 1) / up
        falling = (self.steps - step) / max(1.0, self.steps - up)
        return self.peak * keras.ops.clip(
            keras.ops.minimum(rising, falling), 0.0, 1.0
        )

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps, "share": self.share}


def compile_model(model, rate, steps):
    """Compile as in the training of BERT (arXiv 1810.04805, appendix A.2)."""
    optimizer = keras.optimizers.AdamW(
        WarmUpThenDecay(rate, steps),
        weight_decay=0.01,
        epsilon=1e-6,
        global_clipnorm=1.0,
    )
    # Weight decay excludes biases and the scales of normalization.
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = (
        keras.losses.MeanSquaredError()
        if model.output_shape[-1] == 1
        else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.compile(optimizer=optimizer, loss=loss, metrics=[])
