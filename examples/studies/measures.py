"""Which measures of monosemanticity agree, and where does phi mislead?

    python examples/studies/measures.py --minilm FOLDER

The script computes four measures of the same neurons with `analyze`: phi (its
99 % quantile, its mean on the label and its ROC-AUC), class selectivity,
MonoScore and FMS@1. It uses planted neurons, and those of trained networks:
digits, the 14 languages of examples/data/declarations*.tsv, and MiniLM on film
sentences. It also computes the ROC-AUC of random labels.

Fixed before the run: all sizes below; 10 seeds of planted neurons, noise and
digits, 3 of the others; Spearman's correlation over neurons; the tenth of the
neurons that is highest by a measure. Each run is one line of
results/measures.jsonl; stored runs are not repeated. The script writes
docs/studies/measures.md. FOLDER contains all-MiniLM-L6-v2 of
sentence-transformers.
"""

import argparse
import collections
import importlib.metadata
import itertools
import json
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
import scipy.stats

from examples.studies.common import dry_run
from examples.studies.common import pages
from examples.studies.common import training
from keras_memel import analyze

FILE = training.RESULTS / "measures.jsonl"
SEEDS = {"planted": 10, "noise": 10, "digits": 10, "languages": 3, "MiniLM": 3}
# Columns of the table of a report, and their names on the page.
MEASURES = {
    "ms_99": "phi, 99 % quantile",
    "ms_on_label": "phi on the label",
    "roc_auc": "ROC-AUC of phi",
    "class_selectivity": "class selectivity",
    "monoscore": "MonoScore",
    "fms": "FMS@1",
}
# Planted: share of each of ten labels, and inputs.
SHARES = np.array([0.02] * 4 + [0.3, 0.02] + [0.15] * 4)
INPUTS, BLUR, MANY = 4000, 0.3, 16
DIMENSIONS = 20
# Noise: inputs and neurons, for each number of labels.
LABELS, NOISE_INPUTS, NOISE_NEURONS = (10, 100, 200), 4000, 64
TOLERANCE = 0.03
# Languages: a character model, smaller than the one in the notebook.
LENGTH, WIDTH, BLOCKS, EPOCHS, PIECES = 48, 64, 2, 10, 600
# MiniLM: sentences, tokens per sentence, and the blocks used of six.
SENTENCES, TOKENS, LAYERS = 800, 32, (1, 4)


def planted(labels, rng):
    """Create neurons of known kinds, after a ReLU.

    Returns:
        Values `(inputs, neurons)`, and the kind of each neuron.
    """

    def on(*own):
        return 3.0 * np.isin(labels, own)

    n = len(labels)
    columns = [("one rare label", on(0))]
    columns += [("one rare label, four alike", on(1))] * 4
    columns += [("two rare labels", on(2, 3))]
    columns += [("one frequent label (30 %)", on(4))]
    columns += [("silent on one rare label", 3.0 - on(5))]
    blurred = [(kind, z + BLUR * rng.normal(size=n)) for kind, z in columns]
    for _ in range(MANY):
        blurred.append(("heavy tails, no label", rng.standard_t(2, n)))
        outlier = rng.normal(size=n)
        outlier[rng.integers(n)] = 100
        blurred.append(("one far input", outlier))
        means = rng.normal(size=len(SHARES))[labels]
        blurred.append(("a little of all labels", means + rng.normal(size=n)))
        blurred.append(("Gaussian noise", rng.normal(size=n)))
    kinds, values = zip(*blurred)
    return np.maximum(np.stack(values, 1), 0).astype("float32"), list(kinds)


def identity(columns):
    return keras.Sequential(
        [keras.Input((columns,)), keras.layers.ReLU(name="z")]
    )


def of_planted(seed, options=None):
    """Return the mean of each measure, by kind."""
    rng = np.random.default_rng([1, seed])
    labels = rng.choice(len(SHARES), INPUTS, p=SHARES / SHARES.sum())
    values, kinds = planted(labels, rng)
    # The embedding is a direction per label, plus noise.
    vectors = np.eye(DIMENSIONS)[labels]
    vectors = vectors + 0.1 * rng.normal(size=vectors.shape)
    model = identity(values.shape[1])
    table = analyze(
        model, values, labels, "z", embeddings=vectors, fms=1, verbose=0
    ).to_dataframe()
    found = table.assign(kind=kinds).groupby("kind", sort=False)
    return {
        kind: {name: number(part[name].mean()) for name in MEASURES}
        for kind, part in found
    }


def of_noise(seed, options=None):
    """Return the mean ROC-AUC of random labels, by their number."""
    found = {}
    for number_of in LABELS:
        rng = np.random.default_rng([2, seed, number_of])
        z = rng.normal(size=(NOISE_INPUTS, NOISE_NEURONS)) + 3
        labels = rng.integers(0, number_of, NOISE_INPUTS)
        report = analyze(
            identity(NOISE_NEURONS), z.astype("float32"), labels, "z", verbose=0
        )
        found[str(number_of)] = number(report.roc_auc().mean())
    return found


def of_digits(seed, options=None):
    """Train an MLP on 400 digits, and analyze it on the test images."""
    digits = training.Digits(seed)
    model = training.build(list, seed)
    training.fit(model, digits)
    images = digits.images[digits.test]
    report = analyze(
        model,
        images,
        digits.labels[digits.test],
        "re_lu*",
        embeddings=images - digits.images.mean(0),
        fms=1,
        verbose=0,
    )
    return relations(report.to_dataframe())


def paragraphs():
    found = collections.defaultdict(list)
    for name in ("declarations.tsv", "declarations_more.tsv"):
        file = training.EXAMPLES / "data" / name
        for line in file.read_text("utf-8").splitlines():
            text, language = line.split("\t")
            found[language].append(text)
    return found


def pieces(first, last, step=LENGTH):
    """Return pieces of LENGTH + 1 characters, and their language."""
    texts, labels = [], []
    for label, (_, all_of_it) in enumerate(sorted(paragraphs().items())):
        part = slice(*(int(len(all_of_it) * x) for x in (first, last)))
        text = " ".join(all_of_it[part])
        starts = range(0, len(text) - LENGTH, step)
        texts += [text[start : start + LENGTH + 1] for start in starts]
        labels += [label] * len(starts)
    return texts, np.array(labels)


class Positions(keras.layers.Layer):
    """Add a learned vector for each position."""

    def build(self, shape):
        self.table = self.add_weight(shape=shape[1:], name="table")

    def call(self, inputs):
        return inputs + self.table


def transformer(characters):
    inputs = keras.Input((LENGTH,), dtype="int32")
    hidden = Positions()(keras.layers.Embedding(characters, WIDTH)(inputs))
    for block in range(BLOCKS):
        normal = keras.layers.LayerNormalization()(hidden)
        attend = keras.layers.MultiHeadAttention(4, WIDTH // 4)
        hidden = hidden + attend(normal, normal, use_causal_mask=True)
        normal = keras.layers.LayerNormalization()(hidden)
        wide = keras.layers.Dense(4 * WIDTH, "relu", name=f"neurons_{block}")
        hidden = hidden + keras.layers.Dense(WIDTH)(wide(normal))
    normal = keras.layers.LayerNormalization()(hidden)
    return keras.Model(inputs, keras.layers.Dense(characters)(normal))


def bigrams(texts):
    """Count pairs of letters per text, hashed into 256 sums of pairs.

    This embedding is independent of any network.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    made = HashingVectorizer(
        analyzer="char", ngram_range=(2, 2), n_features=256, norm=None
    )
    return made.transform(texts).toarray()


def of_languages(seed, options=None):
    """Train a character model without language labels, and analyze it."""
    texts, _ = pieces(0, 2 / 3)
    characters = sorted(set("".join(texts)))
    numbers = {character: i + 1 for i, character in enumerate(characters)}

    def encoded(some):
        return np.array([[numbers.get(c, 0) for c in text] for text in some])

    keras.utils.set_random_seed(seed)
    model = transformer(len(characters) + 1)
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    tokens = encoded(texts)
    model.fit(
        tokens[:, :-1],
        tokens[:, 1:],
        batch_size=64,
        epochs=EPOCHS,
        verbose=0,
    )
    held, labels = pieces(2 / 3, 1)
    chosen = np.random.default_rng(seed).permutation(len(held))[:PIECES]
    held = [held[i] for i in chosen]
    report = analyze(
        model,
        encoded(held)[:, :-1],
        labels[chosen],
        "neurons_*",
        embeddings=bigrams(held),
        fms=1,
        verbose=0,
    )
    return relations(report.to_dataframe())


def of_minilm(seed, options):
    """Analyze a pretrained BERT, on different sentences for each seed."""
    import transformers
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    file = training.EXAMPLES / "data" / "movie_sentences.tsv"
    rows = [line.split("\t") for line in file.read_text("utf-8").splitlines()]
    order = np.random.default_rng(0).permutation(len(rows))
    chosen = order[seed * SENTENCES : (seed + 1) * SENTENCES]
    texts = [rows[i][0] for i in chosen]
    labels = np.array([float(rows[i][1]) > 0 for i in chosen])
    tokenizer = transformers.AutoTokenizer.from_pretrained(options.minilm)
    model = transformers.AutoModel.from_pretrained(options.minilm)
    x = tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=TOKENS,
        return_tensors="np",
    )
    words = TfidfVectorizer(min_df=2, stop_words="english").fit_transform(texts)
    reduced = TruncatedSVD(64, random_state=0).fit_transform(words)
    # A constant gives a direction to a text without any of the words.
    reduced = np.column_stack([reduced, np.full(len(texts), 0.01)])
    report = analyze(
        model,
        dict(x),
        labels,
        [f"encoder.layer.{i}.intermediate" for i in LAYERS],
        embeddings=reduced,
        fms=1,
        label_names=["negative", "positive"],
        verbose=0,
    )
    return relations(report.to_dataframe())


RUNS = {
    "planted": of_planted,
    "noise": of_noise,
    "digits": of_digits,
    "languages": of_languages,
    "MiniLM": of_minilm,
}
TRAINED = ("digits", "languages", "MiniLM")


def number(value):
    """Round a number for the store; return `None` if it is not defined."""
    return round(float(value), 5) if np.isfinite(value) else None


def relations(table):
    """Return how the measures of the neurons of a network agree."""
    alive = table[~table["dead"]]
    names = [name for name in MEASURES if alive[name].notna().sum() > 9]
    spearman = {}
    for one, other in itertools.combinations(names, 2):
        both = alive[[one, other]].dropna()
        if len(both) > 4:
            spearman[f"{one} {other}"] = number(
                scipy.stats.spearmanr(both[one], both[other]).statistic
            )
    few = max(1, len(alive) // 10)
    top = {
        name: set(alive[name].nlargest(few).index)
        for name in names
        if name != "fms"
    }
    chance = alive["p_corrected"] >= 0.05
    return {
        "neurons": len(alive),
        "spearman": spearman,
        "shared": {
            name: number(len(top["ms_99"] & own) / few)
            for name, own in top.items()
        },
        # Share of neurons whose label may be due to chance.
        "chance": number(chance.mean()),
        "chance_top": {
            name: number(chance[list(own)].mean()) for name, own in top.items()
        },
    }


def stored():
    text = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def mean(runs, *path):
    """Return the mean over runs of the number at a path of keys, or NaN."""
    found = []
    for run in runs:
        value = run["found"]
        for key in path:
            value = value.get(key) if value is not None else None
        if value is not None:
            found.append(value)
    return np.mean(found) if found else np.nan


def cell(value, places=2):
    return "" if np.isnan(value) else f"{value:.{places}f}"


def by_set(runs):
    found = collections.defaultdict(list)
    for run in runs:
        found[run["set"]].append(run)
    return found


ANSWER = (
    "In trained networks, class selectivity ranks neurons similarly to the "
    "monosemantic scale (phi). But a high phi alone does not distinguish a "
    "neuron with a label from noise: filter by `p_corrected`."
)


def page(runs):
    """Return the page in Markdown."""
    sets = by_set(runs)
    check(sets)
    kinds = list(sets["planted"][0]["found"])
    lines = [
        "# Which measures agree with phi, and where does phi mislead?",
        "",
        "<!-- Written by examples/studies/measures.py. -->",
        "",
        "`analyze` computes four measures of the same neurons: phi, class "
        "selectivity, MonoScore and FMS@1 "
        "([definitions](../monitor.md#two-other-measures-of-monosemanticity)). "
        "Sizes and seeds were fixed before the runs.",
        "",
        *SEEN,
        "",
        "![Left: the rank of each kind of planted neuron by five measures. "
        "Right: the ROC-AUC of phi for random labels](measures.png)",
        "",
        "## Planted neurons",
        "",
        f"There are {INPUTS:,} inputs with one of {len(SHARES)} labels. The "
        "values of a planted neuron are 3 on its labels and 0 elsewhere, plus "
        f"noise with a standard deviation of {BLUR}, after a ReLU. In addition "
        f"there are {MANY} neurons of each kind without a label. The embedding "
        "of an input is a direction per label, plus noise. The table shows "
        f"means over {len(sets['planted'])} seeds. FMS exists only for the "
        "neuron that detects a label best.",
        "",
        *pages.table(
            [
                ["kind", *MEASURES.values()],
                *(
                    [
                        kind,
                        *(
                            cell(mean(sets["planted"], kind, name))
                            for name in MEASURES
                        ),
                    ]
                    for kind in kinds
                ),
            ]
        ),
        "",
        "## Trained networks",
        "",
        f"Digits: both hidden layers of an MLP (2 x {training.WIDTH}, ReLU), "
        f"trained on {training.TRAIN} images and analyzed on the test "
        "images; the embedding is the image minus the mean image. Languages: "
        f"{BLOCKS * 4 * WIDTH} feed-forward neurons (ReLU) of a character "
        f"model, on {PIECES} pieces of text in {len(paragraphs())} languages "
        "that it was not trained on; the embedding counts pairs of letters. "
        f"MiniLM: the feed-forward neurons (GELU) of blocks {LAYERS[0]} and "
        f"{LAYERS[1]}, counted from 0, on {SENTENCES} film sentences, positive "
        "or negative; the embedding is latent semantic analysis of the words. "
        "Class selectivity is not defined for GELU.",
        "",
        "Spearman's correlation over the neurons, mean over the seeds:",
        "",
    ]
    pairs = [
        f"{one} {other}" for one, other in itertools.combinations(MEASURES, 2)
    ]
    rows = [["measures", *(f"{s} ({len(sets[s])} seeds)" for s in TRAINED)]]
    for pair in pairs:
        one, other = pair.split()
        cells = [cell(mean(sets[s], "spearman", pair)) for s in TRAINED]
        rows.append([f"{MEASURES[one]} and {MEASURES[other]}", *cells])
    lines += [
        *pages.table(rows),
        "",
        "The next table describes the tenth of the neurons that is highest by "
        "a measure: which share of them is also in the highest tenth by phi "
        "(10 % by chance), and for which share the label may be due to chance "
        "(`p_corrected` of 0.05 or more), in %:",
        "",
    ]
    rows = [
        ["highest by"]
        + [f"{s}, {what}" for s in TRAINED for what in ("shared", "chance")]
    ]
    for name in MEASURES:
        if name != "fms":
            cells = []
            for s in TRAINED:
                for key in ("shared", "chance_top"):
                    cells.append(cell(100 * mean(sets[s], key, name), 0))
            rows.append([MEASURES[name], *cells])
    chances = [cell(100 * mean(sets[s], "chance"), 0) for s in TRAINED]
    rows.append(["all neurons", *(c for x in chances for c in ("", x))])
    lines += [
        *pages.table(rows),
        "",
        "## Random labels",
        "",
        f"For {NOISE_NEURONS} Gaussian neurons, {NOISE_INPUTS:,} inputs and "
        "random labels, the table shows the mean ROC-AUC of phi. One half of "
        "the inputs chooses the label, the other half scores it:",
        "",
        *pages.table(
            [
                ["labels", "mean", "lowest seed", "highest seed"],
                *(
                    [str(count), *(cell(x, 3) for x in spread(sets, count))]
                    for count in LABELS
                ),
            ]
        ),
        "",
        "## Limits",
        "",
        "The networks are small, and a neuron may respond to something for "
        "which no label exists. MonoScore depends on the embedding. FMS has "
        "one neuron per label, so its correlations are based on few neurons. "
        "Unlike in the scripts of its authors, it is fitted on one half of the "
        "inputs and scored on the other.",
        "",
        "Run file: examples/studies/results/measures.jsonl; "
        + "; ".join(sorted({run["versions"] for run in runs}))
        + ".",
    ]
    lines = pages.answer_first(ANSWER, lines)
    return pages.tidy(lines)


def spread(sets, count):
    found = [run["found"][str(count)] for run in sets["noise"]]
    return np.mean(found), min(found), max(found)


# The findings of the page; `check` raises if the runs contradict them.
SEEN = [
    "Finding: on planted neurons:",
    "",
    "- phi alone does not show whether a neuron has a label. Its 99 % quantile "
    "is about as high for Gaussian noise after a ReLU as for heavy tails, and "
    "three times as high as for a neuron that fires for one frequent label "
    "only. The mean of phi on the label and its ROC-AUC on held-out inputs "
    "distinguish these: check `p_corrected` before you trust a label.",
    "- phi shows neither how many labels a neuron has, nor whether other "
    "neurons detect them too. Class selectivity falls with a second label. "
    "FMS falls if other neurons detect the label as well, and ignores a "
    "second label.",
    "- Class selectivity misses a neuron that is silent on one label, which "
    "phi and FMS detect.",
    "- MonoScore misses rare labels: the many small values on all other "
    "inputs outweigh the few large ones, and the score is as low as for noise.",
    "",
    "On trained networks, phi and class selectivity rank neurons similarly. "
    "MonoScore correlates weakly with phi on digits and not at all on "
    "languages. On all three sets, the highest tenth by phi and the highest "
    "tenth by MonoScore are mostly different neurons; on languages, so is the "
    "highest tenth by ROC-AUC.",
]


def check(sets):
    """Raise unless the runs support the findings of the page."""

    def of(kind, name):
        return mean(sets["planted"], kind, name)

    rare, alike = "one rare label", "one rare label, four alike"
    frequent, two = "one frequent label (30 %)", "two rare labels"
    silent = "silent on one rare label"
    noises = ("heavy tails, no label", "Gaussian noise")
    said = {
        "noise has a phi": all(
            2.5 * of(frequent, "ms_99") < of(noise, "ms_99") < of(two, "ms_99")
            for noise in noises
        ),
        "the ROC-AUC distinguishes": all(
            of(noise, "roc_auc") < 0.55 < 0.95 < of(frequent, "roc_auc")
            for noise in noises
        ),
        "phi on the label distinguishes": all(
            of(noise, "ms_on_label") < 0.6 * of(frequent, "ms_on_label")
            for noise in noises
        ),
        "selectivity falls": of(two, "class_selectivity")
        < of(rare, "class_selectivity") - 0.1,
        "FMS falls": of(alike, "fms") < of(rare, "fms") - 0.1,
        "FMS sees no second": of(two, "fms") > of(rare, "fms") - 0.1,
        "silent": of(silent, "class_selectivity") < 0.1
        and of(silent, "ms_on_label") > 20
        and of(silent, "fms") > 0.6,
        "MonoScore misses": of(rare, "monoscore")
        < of("Gaussian noise", "monoscore") + 0.03,
        "alike": all(
            mean(sets[s], "spearman", "ms_99 class_selectivity") > 0.5
            for s in ("digits", "languages")
        ),
        "weakly": 0.1
        < mean(sets["digits"], "spearman", "ms_99 monoscore")
        < 0.5
        and mean(sets["languages"], "spearman", "ms_99 monoscore") < 0.1,
        "different neurons": mean(sets["languages"], "shared", "monoscore")
        < 0.5
        and mean(sets["languages"], "shared", "roc_auc") < 0.5,
    }
    wrong = [claim for claim, holds in said.items() if not holds]
    if wrong:
        raise AssertionError(f"The runs do not support: {wrong}")


def figure(runs):
    sets = by_set(runs)
    kinds = list(sets["planted"][0]["found"])
    ranks = []
    for name in list(MEASURES)[:-1]:
        values = [mean(sets["planted"], kind, name) for kind in kinds]
        ranks.append(scipy.stats.rankdata(values))
    plot, (left, right) = plt.subplots(
        1,
        2,
        figsize=(9.5, 3.8),
        layout="constrained",
        gridspec_kw={"width_ratios": [2.2, 1]},
    )
    left.imshow(np.array(ranks).T, cmap="viridis", aspect="auto")
    left.set_yticks(range(len(kinds)), kinds, fontsize=8)
    names = list(MEASURES.values())[:-1]
    left.set_xticks(range(len(names)), names, fontsize=8, rotation=20)
    left.set_title("rank of the kind, 1 is lowest", loc="left", fontsize=10)
    for (row, column), rank in np.ndenumerate(np.array(ranks).T):
        shade = "k" if rank > 0.6 * len(kinds) else "w"
        left.text(
            column, row, f"{rank:g}", ha="center", va="center", color=shade
        )
    for place, count in enumerate(LABELS):
        found = [run["found"][str(count)] for run in sets["noise"]]
        right.plot([place] * len(found), found, "o", color="C0", alpha=0.5)
    right.axhspan(0.5 - TOLERANCE, 0.5 + TOLERANCE, color="0.9", zorder=0)
    right.axhline(0.5, color="0.5", lw=1)
    right.set_xticks(range(len(LABELS)), LABELS)
    right.set_xlim(-0.5, len(LABELS) - 0.5)
    right.set_ylim(0.4, 0.6)
    right.set_xlabel("number of random labels")
    right.set_title("mean ROC-AUC of phi", loc="left", fontsize=10)
    pages.bare(right)
    return plot


def write():
    """Write the page and its figure from the stored runs."""
    runs = stored()
    pages.write("measures", page(runs), figure(runs))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minilm", type=pathlib.Path)
    parser.add_argument("--only", choices=RUNS)
    training.add_dry_run(parser)
    options = parser.parse_args()
    names = [name for name in RUNS if options.only in (None, name)]
    if options.minilm is not None and not options.minilm.is_dir():
        parser.error(
            f"--minilm must be a folder. Received: --minilm {options.minilm}"
        )
    if options.dry_run:
        done = {(run["set"], run["seed"]) for run in stored()}
        for name in names:
            todo = {(name, seed) for seed in range(SEEDS[name])} - done
            dry_run.lines(
                set=f"{name}: {SEEDS[name]} seeds, {len(todo)} not stored"
            )
        dry_run.lines(
            sizes=f"planted: {INPUTS} inputs; noise: {NOISE_INPUTS} inputs; "
            f"languages: {EPOCHS} epochs; MiniLM: {SENTENCES} sentences",
            file=FILE.relative_to(dry_run.ROOT),
            writes="docs/studies/measures.md",
        )
        return
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("keras", "numpy", "scikit-learn", keras.backend.backend())
    )
    done = {(run["set"], run["seed"]) for run in stored()}
    for name, run in RUNS.items():
        if options.only not in (None, name):
            continue
        if name == "MiniLM" and options.minilm is None:
            print("No --minilm FOLDER: the stored runs of MiniLM are kept.")
            continue
        for seed in range(SEEDS[name]):
            if (name, seed) in done:
                continue
            line = {"set": name, "seed": seed, "versions": versions}
            line["found"] = run(seed, options)
            with FILE.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(name, seed, flush=True)
    write()


if __name__ == "__main__":
    main()
