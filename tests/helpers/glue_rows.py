"""Files of GLUE with a row or two, and a BERT that knows their words."""

import pytest
from scripts import example

TASKS = example("paper.glue.tasks").TASKS
WORDS = ["a", "and", "dull", "film", "fine", "long", "the", "was"]

# Two rows of each file as GLUE has it: header, rows, and what they say.
PARSES = "\t".join(["( a film )"] * 4)
FILES = {
    "CoLA": {
        "train": (
            None,
            ['gj04\t1\t\tThe "film was fine', "gj04\t0\t*\tThe was fine"],
            [('The "film was fine',), ("The was fine",)],
            [1, 0],
        ),
        "test": (
            "index\tsentence",
            ["0\tThe film", "1\tThe was"],
            [("The film",), ("The was",)],
            None,
        ),
    },
    "SST-2": {
        "train": (
            "sentence\tlabel",
            ["a fine film \t1", "dull \t0"],
            [("a fine film ",), ("dull ",)],
            [1, 0],
        ),
    },
    "MRPC": {
        "train": (
            "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
            ['1\t10\t11\t"Fine , "\tFine', "0\t12\t13\tlong\tdull"],
            [('"Fine , "', "Fine"), ("long", "dull")],
            [1, 0],
        ),
        "test": (
            "index\t#1 ID\t#2 ID\t#1 String\t#2 String",
            ["0\t10\t11\tfine\tlong"],
            [("fine", "long")],
            None,
        ),
    },
    "STS-B": {
        "dev": (
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\t"
            "sentence1\tsentence2\tscore",
            [
                "0\tmain\tMSRvid\t2012\t1\tnone\tnone\ta film\tfilms\t4.750",
                "1\tmain\tMSRvid\t2012\t2\tnone\tnone\tdull\tfine\t0.000",
            ],
            [("a film", "films"), ("dull", "fine")],
            [4.75, 0.0],
        ),
    },
    "QQP": {
        "train": (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
            ["7\t1\t2\tWas it fine ?\tWas it ?\t1", "8\t3\t4\t\tWas it ?\t0"],
            [("Was it fine ?", "Was it ?"), ("", "Was it ?")],
            [1, 0],
        ),
        "test": (
            "id\tquestion1\tquestion2",
            ["0\tWas it ?\tIt was ?"],
            [("Was it ?", "It was ?")],
            None,
        ),
    },
    "MNLI": {
        "train": (
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
            "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
            "sentence1\tsentence2\tlabel1\tgold_label",
            [
                f"0\t1\t1n\tfiction\t{PARSES}\ta film\tfine\tneutral\tneutral",
                f"1\t2\t2e\tfiction\t{PARSES}\tdull\tlong\tneutral\t"
                "contradiction",
            ],
            [("a film", "fine"), ("dull", "long")],
            [1, 2],
        ),
        "dev_mismatched": (
            "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\t"
            "sentence2_binary_parse\tsentence1_parse\tsentence2_parse\t"
            "sentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\t"
            "gold_label",
            [
                f"0\t1\t1n\tletters\t{PARSES}\ta film\tfine\tneutral\t"
                "neutral\tneutral\tneutral\tneutral\tentailment"
            ],
            [("a film", "fine")],
            [0],
        ),
    },
    "QNLI": {
        "train": (
            "index\tquestion\tsentence\tlabel",
            ["0\tWas it ?\tIt was .\tentailment"]
            + ["1\tWas it ?\tA film .\tnot_entailment"],
            [("Was it ?", "It was ."), ("Was it ?", "A film .")],
            [0, 1],
        ),
    },
    "RTE": {
        "train": (
            "index\tsentence1\tsentence2\tlabel",
            ["0\ta film\tfine\tnot_entailment", "1\tdull\tlong\tentailment"],
            [("a film", "fine"), ("dull", "long")],
            [1, 0],
        ),
    },
}


def write(folder, stem, header, rows, end="\n"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [*([header] if header else []), *rows]
    path = folder / f"{stem}.tsv"
    path.write_bytes((end.join(lines) + end).encode())
    return path


def write_task(folder, name, stems=("train", "dev"), rows=48):
    """A task that can be learned: what is fine is true."""
    header, examples, *_ = FILES[name].get(stems[0]) or FILES[name]["dev"]
    columns = header.split("\t")
    task = TASKS[name]
    for stem in stems:
        lines = []
        for i in range(rows):
            row = dict(zip(columns, examples[0].split("\t")))
            row[task.texts[0]] = f"the film was {['fine', 'dull'][i % 2]}"
            row[task.texts[1]] = f"{WORDS[i % 8]} film"
            labels = task.classes or ("5.0", "0.5")
            row[task.label] = labels[i % 2]
            if stem.startswith("test"):
                del row[task.label]
            lines.append("\t".join(row.values()))
        write(folder / name, stem, "\t".join(row), lines)
    return folder


def make_preset(folder, blocks, width=8):
    hub = pytest.importorskip("keras_hub").models
    tokenizer = hub.BertTokenizer(
        vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    )
    model = hub.BertTextClassifier(
        backbone=hub.BertBackbone(
            vocabulary_size=5 + len(WORDS),
            num_layers=blocks,
            num_heads=2,
            hidden_dim=width,
            intermediate_dim=16,
            max_sequence_length=8,
        ),
        num_classes=2,
        preprocessor=hub.BertTextClassifierPreprocessor(
            tokenizer, sequence_length=8
        ),
    )
    model.save_to_preset(folder)
    return folder


class Killed(BaseException):
    """Stop a run like a signal, which no handler of errors catches."""
