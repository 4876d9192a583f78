"""The tasks of GLUE: their files, their labels and their metrics.

`read` loads one part of a task, from a folder of the official tsv files or with
tensorflow-datasets; `score` computes its metrics. An incomplete file raises an
error with its name and row.

References:
    Wang et al. (2019), GLUE (arXiv 1804.07461).
"""

import dataclasses
import math
import pathlib

import numpy as np
import scipy.stats
import sklearn.metrics


@dataclasses.dataclass(frozen=True)
class Task:
    """Describe a task, by the names in its files and in tensorflow-datasets."""

    name: str  # name of its folder
    config: str  # name in tensorflow-datasets
    texts: tuple[str, ...]  # columns
    label: str  # column
    classes: tuple[str, ...]  # labels, in the order of their numbers; or none
    metrics: tuple[str, ...]  # the first decides
    validation: tuple[str, ...] = ("",)
    # Names of the columns in tensorflow-datasets, by default `texts`.
    features: tuple[str, ...] = ()
    # Columns of a file that has no header.
    columns: tuple[str, ...] = ()

    @property
    def outputs(self):
        """Return the number of outputs of the network; 1 for a regression."""
        return len(self.classes) or 1


_NO_YES = ("0", "1")
_ENTAILED = ("entailment", "not_entailment")
_PAIR = ("sentence1", "sentence2")

TASKS = {
    task.name: task
    for task in (
        Task(
            "CoLA",
            "cola",
            ("sentence",),
            "label",
            _NO_YES,
            ("matthews",),
            # Only the training and validation files of CoLA lack a header.
            columns=("source", "label", "mark", "sentence"),
        ),
        Task("SST-2", "sst2", ("sentence",), "label", _NO_YES, ("accuracy",)),
        Task(
            "MRPC",
            "mrpc",
            ("#1 String", "#2 String"),
            "Quality",
            _NO_YES,
            ("f1", "accuracy"),
            features=_PAIR,
        ),
        Task("STS-B", "stsb", _PAIR, "score", (), ("spearman", "pearson")),
        Task(
            "QQP",
            "qqp",
            ("question1", "question2"),
            "is_duplicate",
            _NO_YES,
            ("f1", "accuracy"),
        ),
        Task(
            "MNLI",
            "mnli",
            _PAIR,
            "gold_label",
            ("entailment", "neutral", "contradiction"),
            ("accuracy",),
            validation=("matched", "mismatched"),
            features=("premise", "hypothesis"),
        ),
        Task(
            "QNLI",
            "qnli",
            ("question", "sentence"),
            "label",
            _ENTAILED,
            ("accuracy",),
        ),
        Task("RTE", "rte", _PAIR, "label", _ENTAILED, ("accuracy",)),
    )
}

# Not a task of GLUE: sentences of a single file, which are split at random.
SENTENCES = Task(
    "sentences", "", ("sentence",), "label", _NO_YES, ("accuracy",)
)


@dataclasses.dataclass(frozen=True)
class Part:
    """Store texts, one tuple per row, and labels: classes or scores.

    For a test set with secret labels, `labels` is None.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray | None

    def __len__(self):
        return len(self.texts)


def score(task, answers, labels):
    """Return the metrics of a task, the main one first.

    Args:
        task: A `Task`.
        answers: Outputs of the network: `(rows, classes)`, the largest of which
            is its answer, or `(rows, 1)` of a regression.
        labels: `(rows,)`, as in `Part`, or `(rows, 1)`.
    """
    answers = np.asarray(answers, "float64").reshape(len(labels), -1)
    labels = np.asarray(labels).reshape(-1)
    if not np.all(np.isfinite(answers)):
        raise FloatingPointError(
            "The outputs of the network are not finite: its training has "
            "diverged. Try a smaller learning rate"
        )
    answers = np.argmax(answers, -1) if task.classes else answers[:, 0]
    return {name: _METRICS[name](labels, answers) for name in task.metrics}


def _correlation(measure):
    def correlation(labels, answers):
        # For constant answers, SciPy warns and returns NaN.
        if np.ptp(answers) == 0 or np.ptp(labels) == 0:
            return 0.0
        return float(measure(labels, answers).statistic)

    return correlation


def _f1(labels, answers):
    return float(sklearn.metrics.f1_score(labels, answers, zero_division=0.0))


def _accuracy(labels, answers):
    return float(sklearn.metrics.accuracy_score(labels, answers))


def _matthews(labels, answers):
    return float(sklearn.metrics.matthews_corrcoef(labels, answers))


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _correlation(scipy.stats.pearsonr),
    "spearman": _correlation(scipy.stats.spearmanr),
}


def read(task, folder, part, which="", broken=None):
    """Read one part of a task.

    Args:
        task: A `Task`.
        folder: Path to the official files, or to the folder that contains the
            folders of all tasks; None: tensorflow-datasets loads it.
        part: "train", "validation" or "test".
        which: One of `task.validation`.
        broken: None raises on the first broken row. If it is a list, broken
            rows are left out, and their errors are appended.

    Raises:
        SystemExit: Names the file and the row, if it cannot be read.
    """
    if folder is None:
        return _from_tfds(task, part, which)
    folder = pathlib.Path(folder)
    if (folder / task.name).is_dir():
        folder = folder / task.name
    if not folder.is_dir():
        raise SystemExit(f"There is no folder at {folder}. {_both_ways(task)}")
    stem = "dev" if part == "validation" else part
    path = folder / f"{stem}{which and '_' + which}.tsv"
    original = folder / "msr_paraphrase_train.txt"
    if task.name == "MRPC" and not path.is_file() and original.is_file():
        return _from_msr(task, folder, part, broken)
    columns = () if part == "test" else task.columns
    rows = _rows(path, task, columns, part != "test", broken)
    return _part(rows, task)


def read_sentences(path, broken=None):
    """Read a file with a sentence, a tab and a label, or a score, per line.

    The sign of a score is its label; rows with a score of 0 are left out.
    A first line "sentence<tab>label", as in SST-2, is a header.

    Raises:
        SystemExit: Names the file and the row, if it cannot be read.
    """
    lines = _lines(pathlib.Path(path), SENTENCES)
    first, line = next(lines, (1, ""))
    rows = [] if line.split("\t") == ["sentence", "label"] else [(first, line)]
    found = []
    for number, line in (*rows, *lines):
        row = line.split("\t")
        value = _number(row[-1])
        if len(row) != 2 or not row[0].strip() or value is None:
            what = (
                f"{path}, row {number}: expected a sentence, a tab, and a "
                f"label (0 or 1) or a score. Received: {line[:80]!r}"
            )
            _refuse(what, broken)
            continue
        found.append((row[0], value))
    if {value for _, value in found} <= {0.0, 1.0}:
        labels = {0.0: 0, 1.0: 1}
        kept = [(text, labels[value]) for text, value in found]
    else:
        kept = [(text, int(value > 0)) for text, value in found if value]
    if not kept:
        raise SystemExit(f"{path} has no rows. {_both_ways(SENTENCES)}")
    texts = [(text,) for text, _ in kept]
    return Part(texts, np.array([label for _, label in kept]))


def _both_ways(task):
    if task is SENTENCES:
        return (
            "Pass --data FILE, with a sentence, a tab and its label (0 or 1) "
            "or a score in each line"
        )
    stems = ["train.tsv"]
    stems += [f"dev{w and '_' + w}.tsv" for w in task.validation]
    also = ""
    if task.name == "MRPC":
        also = (
            " (or msr_paraphrase_train.txt, msr_paraphrase_test.txt and "
            "dev_ids.tsv)"
        )
    return (
        f"Either pass --data FOLDER with the official {' and '.join(stems)} "
        f"of {task.name}{also}, or leave --data out and let "
        "tensorflow-datasets load it: pip install tensorflow-datasets"
    )


def _lines(path, task):
    """Yield the numbers, from 1, and the texts of the lines of a file.

    Only "\\n" ends a line, because sentences contain other characters that
    Python treats as line ends. Quotes have no special meaning.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SystemExit(
            f"{path} cannot be read ({error.strerror}). {_both_ways(task)}"
        ) from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        del lines[-1]
    for number, line in enumerate(lines, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SystemExit(
                f"{path}, row {number}: byte {error.start + 1}, "
                f"{line[error.start]:#04x}, is not UTF-8. Is the file whole?"
            ) from None
        yield number, text.removesuffix("\r")


def _rows(path, task, columns=(), labelled=True, broken=None):
    """Return the numbers and rows of a file, by the names of columns."""
    lines = _lines(path, task)
    if not columns:
        _, header = next(lines, (1, ""))
        columns = header.split("\t")
        needed = {*task.texts, task.label} if labelled else set(task.texts)
        if missing := sorted(needed - set(columns)):
            raise SystemExit(
                f"{path}, row 1: the header must name {missing}. "
                f"Received: {header[:200]!r}"
            )
    found = []
    for number, line in lines:
        fields = line.split("\t")
        if len(fields) != len(columns):
            what = (
                f"{path}, row {number}: expected {len(columns)} columns, "
                f"{', '.join(columns)}. Received {len(fields)}: {line[:80]!r}"
            )
            _refuse(what, broken)
            continue
        row = dict(zip(columns, fields))
        # One question of a pair in QQP may be empty.
        if not any(row[text].strip() for text in task.texts):
            _refuse(f"{path}, row {number}: there is no text", broken)
            continue
        if task.label in row and _label(task, row[task.label]) is None:
            known = ", ".join(task.classes) or "a number from 0 to 5"
            what = (
                f"{path}, row {number}: the label must be {known}. "
                f"Received: {row[task.label]!r}"
            )
            _refuse(what, broken)
            continue
        found.append((number, row))
    if not found:
        raise SystemExit(f"{path} has no rows. {_both_ways(task)}")
    return found


def _refuse(what, broken):
    if broken is None:
        raise SystemExit(
            f"{what}\nNothing was trained. Get the file anew, or pass "
            "--skip-broken to leave such rows out."
        )
    broken.append(what)


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _label(task, text):
    if task.classes:
        return task.classes.index(text) if text in task.classes else None
    value = _number(text)
    return value if value is not None and 0 <= value <= 5 else None


def _part(rows, task):
    texts = [tuple(row[text] for text in task.texts) for _, row in rows]
    if task.label not in rows[0][1]:
        return Part(texts, None)
    labels = [_label(task, row[task.label]) for _, row in rows]
    kind = "int32" if task.classes else "float32"
    return Part(texts, np.array(labels, kind))


def _from_msr(task, folder, part, broken):
    """Read the two files that Microsoft publishes.

    GLUE's validation set is part of the first one: the pairs in dev_ids.tsv,
    by the numbers of their sentences.
    """
    if part == "test":
        path = folder / "msr_paraphrase_test.txt"
        return _part(_rows(path, task, broken=broken), task)
    rows = _rows(folder / "msr_paraphrase_train.txt", task, broken=broken)
    held_out = {}
    path = folder / "dev_ids.tsv"
    for number, line in _lines(path, task):
        pair = tuple(line.split("\t"))
        if len(pair) != 2:
            raise SystemExit(
                f"{path}, row {number}: expected the numbers of two "
                f"sentences. Received: {line[:80]!r}"
            )
        held_out[pair] = number
    found = [(row["#1 ID"], row["#2 ID"]) for _, row in rows]
    if lost := sorted(
        set(held_out.values()) - {held_out.get(p) for p in found}
    ):
        raise SystemExit(
            f"{path}, row {lost[0]}: msr_paraphrase_train.txt beside it has "
            "no such pair. Is it whole?"
        )
    held = part == "validation"
    kept = [row for row, pair in zip(rows, found) if (pair in held_out) == held]
    return _part(kept, task)


def _from_tfds(task, part, which):
    split = f"{part}_{which}" if which else part
    try:
        import tensorflow_datasets as tfds

        # This works without TensorFlow, on every backend.
        rows = tfds.data_source(f"glue/{task.config}", split=split)
        rows = [rows[i] for i in range(len(rows))]
    except Exception as error:
        raise SystemExit(
            f"No {split} set of {task.name}. {_both_ways(task)}. It failed "
            f"with: {error!r}"
        ) from None
    names = task.features or task.texts
    texts = [tuple(_text(row[name]) for name in names) for row in rows]
    labels = np.array([row["label"] for row in rows])
    if part == "test":
        return Part(texts, None)  # its labels are all -1
    known = range(len(task.classes))
    for number, label in enumerate(labels):
        wrong = label not in known if task.classes else not 0 <= label <= 5
        if wrong or not any(text.strip() for text in texts[number]):
            raise SystemExit(
                f"glue/{task.config} of tensorflow-datasets, {split}, row "
                f"{number}: no text, or a wrong label. "
                f"Received: {texts[number]}, {label}"
            )
    return Part(texts, labels.astype("int32" if task.classes else "float32"))


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)
