"""Find the language neurons of a small transformer, with and without MEmeL.

    python examples/language_neurons.py --data FILE [--out FOLDER]

FILE has one sentence per line, followed by a tab and its language, or preceded
by a number and its language, as the sentences.csv of Tatoeba
(https://tatoeba.org/downloads). A character model learns to predict the next
character without language labels. `analyze` then computes for every neuron of
its feed-forward layers which language it responds to, and how reliably. The
second arm has a MEmeL after these layers.

For each arm, the script writes to FOLDER: the report (.npz), figures, and a
page to browse the neurons, with sentences shaded by character. It uses one
seed: it demonstrates the tools and does not measure the method.
"""

import argparse
import collections
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_memel
from keras_memel import MEmeL
from keras_memel import MonosemanticityMonitor
from keras_memel import plots

LENGTH, CHARACTERS, WIDTH, BLOCKS, SEED = 48, 400, 96, 3, 0
ARMS = {"plain": None, "memel": {"selection": "rate", "axis": -1}}


def read(path, languages, each):
    """Return `each` sentences of the most frequent `languages`, and labels."""
    if path is None or not path.is_file():
        raise SystemExit(
            "Sentences are missing. Pass --data FILE with a sentence, a tab "
            "and its language in each line, or the sentences.csv of Tatoeba "
            f"(https://tatoeba.org/downloads). Received: --data {path}"
        )
    found = collections.defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split("\t")
        if len(fields) == 2:
            text, language = fields
        elif len(fields) == 3:
            _, language, text = fields
        else:
            continue
        if len(text) >= 20:
            found[language].append(text)
    if not found:
        raise SystemExit(
            f"{path} has no line with a language and a sentence of 20 or more "
            "characters"
        )
    names = sorted(found, key=lambda name: -len(found[name]))[:languages]
    random = np.random.default_rng(SEED)
    pairs = [
        (text, label)
        for label, name in enumerate(sorted(names))
        for text in random.permutation(found[name])[:each]
    ]
    random.shuffle(pairs)
    texts, labels = zip(*pairs)
    return list(texts), np.array(labels), sorted(names)


def encode(texts):
    """Return characters as integers, 0 for padding and 1 for rare ones."""
    counts = collections.Counter("".join(texts))
    known = {
        character: number + 2
        for number, (character, _) in enumerate(
            counts.most_common(CHARACTERS - 2)
        )
    }
    tokens = np.zeros((len(texts), LENGTH + 1), "int32")
    for row, text in zip(tokens, texts):
        numbers = [known.get(character, 1) for character in text]
        row[: len(numbers)] = numbers[: LENGTH + 1]
    return tokens


@keras.saving.register_keras_serializable("language_neurons")
class Positions(keras.layers.Layer):
    """Add a learned vector for each position."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, inputs):
        return inputs + self.table


def transformer():
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = keras.layers.Embedding(CHARACTERS, WIDTH, mask_zero=True)(inputs)
    hidden = Positions()(hidden)
    for block in range(BLOCKS):
        normal = keras.layers.LayerNormalization()(hidden)
        attention = keras.layers.MultiHeadAttention(4, WIDTH // 4)
        attended = attention(normal, normal, use_causal_mask=True)
        hidden = keras.layers.Add()([hidden, attended])
        normal = keras.layers.LayerNormalization()(hidden)
        wide = keras.layers.Dense(
            3 * WIDTH, activation="relu", name=f"neurons_{block}"
        )(normal)
        back = keras.layers.Dense(WIDTH)(wide)
        hidden = keras.layers.Add()([hidden, back])
    normal = keras.layers.LayerNormalization()(hidden)
    model = keras.Model(inputs, keras.layers.Dense(CHARACTERS)(normal))
    model.compile(
        keras.optimizers.Adam(2e-3),
        keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=0
        ),
    )
    return model


def train(arm, tokens, epochs):
    keras.utils.set_random_seed(SEED)
    model = transformer()
    callbacks = []
    if ARMS[arm] is not None:
        keras_memel.insert(model, "neurons_*", MEmeL(**ARMS[arm]))
        callbacks = [MonosemanticityMonitor(x=tokens[:128, :-1])]
    history = model.fit(
        tokens[:, :-1],
        tokens[:, 1:],
        batch_size=64,
        epochs=epochs,
        callbacks=callbacks,
        verbose=2,
    )
    return model, history.history


def look(arm, model, history, sentences, names, out):
    """Analyze all neurons on held-out sentences.

    Write the report, its page and figures; return one line of results.

    Args:
        arm: Name of the arm.
        model: The trained model.
        history: Its training history.
        sentences: Texts, their tokens and labels.
        names: Names of the languages.
        out: Folder to write to.
    """
    texts, tokens, labels = sentences
    report = keras_memel.analyze(
        model,
        tokens[:, :-1],
        labels,
        "neurons_*",
        axis=-1,
        label_names=names,
        verbose=0,
    )
    report.save(out / f"{arm}.npz")
    report.to_html(
        out / f"{arm}.html",
        inputs=[text[:LENGTH] for text in texts],
        tokenize=list,
        title=f"Language neurons: {arm}",
    )
    draw(report, history, out, arm)
    print(f"\n{arm}")
    report.summary(top=3)
    loss = model.evaluate(tokens[:, :-1], tokens[:, 1:], verbose=0)
    frame = report.to_dataframe()
    return (
        f"{arm:6s} held-out loss {loss:.3f}, neurons with ROC-AUC above 0.8: "
        f"{(frame['roc_auc'] > 0.8).mean():.1%}, median False Killing Rate at "
        f"2 %: {frame['false_killing_rate'].median():.2f}"
    )


def draw(report, history, out, arm):
    import matplotlib.pyplot as plt

    frame = report.to_dataframe()
    best = frame.loc[frame["roc_auc"].idxmax()]
    figures = {
        "distribution": report.plot(),
        "best_neuron": plots.activation_by_label(
            report, best["layer"], int(best["neuron"])
        ),
        "labels": plots.label_map(report, best["layer"]),
        "false_killing_rate": plots.false_killing_rate(report),
    }
    if any(name.endswith("/ms_99") for name in history):
        figures["training"] = plots.ms_over_training(history)
    for name, ax in figures.items():
        ax.figure.savefig(out / f"{arm}_{name}.png", dpi=110)
        plt.close(ax.figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument(
        "--out", type=pathlib.Path, default=pathlib.Path("language_neurons")
    )
    parser.add_argument("--languages", type=int, default=14)
    parser.add_argument("--each", type=int, default=800, help="sentences")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--look", type=int, default=2000, help="sentences")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan, and stop"
    )
    options = parser.parse_args()
    for name in ("languages", "each", "epochs", "look"):
        value = getattr(options, name)
        if value < 1:
            parser.error(f"--{name} must be at least 1. Received: {value}")
    if options.dry_run:
        print(f"arms      {', '.join(ARMS)}, seed {SEED}")
        print(
            f"data      {options.data or '--data FILE'}: {options.each} "
            f"sentences of each of {options.languages} languages, of which "
            f"{options.look} are held out"
        )
        print(
            f"sizes     {BLOCKS} blocks of width {WIDTH}, {LENGTH} characters, "
            f"{options.epochs} epochs"
        )
        print(
            f"files     a report, figures and a page per arm in {options.out}"
        )
        return
    texts, labels, names = read(options.data, options.languages, options.each)
    number = options.look
    if number >= len(texts):
        raise SystemExit(
            f"--look must be less than the number of sentences, {len(texts)}, "
            f"so that some remain for training. Received: --look {number}"
        )
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out must be a folder to write to. {error}")
    tokens = encode(texts)
    held_out = texts[:number], tokens[:number], labels[:number]
    lines = []
    for arm in ARMS:
        model, history = train(arm, tokens[number:], options.epochs)
        lines.append(look(arm, model, history, held_out, names, options.out))
    print("\n" + "\n".join(lines) + f"\nSee {options.out}.")


if __name__ == "__main__":
    main()
