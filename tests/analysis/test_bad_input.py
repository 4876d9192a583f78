"""Bad input is refused before the model runs, with what was expected."""

import keras
import numpy as np
import pytest

from keras_memel import MEmeL
from keras_memel import Report
from keras_memel import analyze
from keras_memel import insert
from keras_memel import plots
from keras_memel import prompt

pytestmark = pytest.mark.quick

N, T = 40, 4
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 6)).astype("float32")
SERIES = RNG.normal(size=(N, T, 6)).astype("float32")
Y = np.arange(N) % 3
TWO = np.eye(3)[Y]
VECTORS = RNG.normal(size=(N, 5))
HOLE = np.where(np.arange(N)[:, None] == 37, np.nan, VECTORS)
NOTHING = np.where(np.arange(N)[:, None] == 37, 0.0, VECTORS)


class Ran(Exception):
    """The model ran."""


class Guard(keras.layers.Layer):
    """Raises as soon as it is called with more than a symbol."""

    armed = False

    def call(self, inputs):
        if self.armed:
            raise Ran
        return inputs * 1.0


def guarded(shape):
    guard = Guard(name="guard")
    inputs = keras.Input(shape)
    hidden = keras.layers.Dense(5, "relu", name="hidden")(guard(inputs))
    pooled = keras.layers.Flatten(name="flat")(hidden)
    outputs = keras.layers.Dense(2, name="out")(pooled)
    made = keras.Model(inputs, outputs)
    guard.armed = True
    return made


@pytest.fixture(scope="module")
def model():
    return guarded((6,))


@pytest.fixture(scope="module")
def series_model():
    return guarded((T, 6))


BAD = {
    "layers, unknown": ({"layers": "hiden"}, "`layers`.*'hidden'.*'hiden'"),
    "layers, type": ({"layers": 3}, r"`layers`.*layers=3 \(int\)"),
    "axis": ({"axis": "last"}, r"`axis`.*'last'"),
    "axis of rank": ({"axis": 2}, r"`axis`.*1 to 1.*axis=2"),
    "output": ({"output": 1}, r"`output`.*'hidden'.*output=1"),
    "epsilon": ({"epsilon": -1}, "`epsilon`.*at least 0.*-1"),
    "threshold": ({"threshold": np.nan}, "`threshold`.*nan"),
    "top": ({"top": 0}, "`top`.*at least 1.*top=0"),
    "batch_size": ({"batch_size": 0.5}, r"`batch_size`.*0.5 \(float\)"),
    "sample": ({"sample": 0}, "`sample`.*at least 1.*0"),
    "pool": ({"pool": -3}, "`pool`.*at least 1, or None.*-3"),
    "keep": ({"keep": "all"}, "`keep`.*'activations'.*'all'"),
    "disk_limit": ({"disk_limit": 0}, "`disk_limit`.*disk_limit=0"),
    "verbose": ({"verbose": "loud"}, "`verbose`.*'auto'.*'loud'"),
    "multi_label": ({"multi_label": 1}, r"`multi_label`.*1 \(int\)"),
    "fms": ({"labels": Y, "fms": 0}, "`fms`.*at least 1.*0"),
    "fms alone": ({"fms": 1}, "`fms` needs labels.*labels=None"),
    "labels, few": ({"labels": Y[:9]}, "`labels`.*40 inputs.*9 labels"),
    "labels, many": ({"labels": np.tile(Y, 2)}, "`labels`.*40.*80"),
    "labels, kind": ({"labels": Y / 2}, "`labels`.*integers.*float64"),
    "labels, negative": ({"labels": Y - 2}, "`labels`.*minimum -2"),
    "labels, none": ({"labels": 0 * Y - 1}, "`labels`.*at least one"),
    "labels, word": ({"labels": "target"}, "`labels`.*'targets'.*'target'"),
    "labels, ragged": ({"labels": [[1]] * 39 + [[1, 2]]}, "`labels`.*-100"),
    "labels, set": ({"labels": {0, 1}}, "`labels`.*a list or an.*set"),
    "labels, generator": (
        {"labels": iter(Y)},
        "`labels`.*in the order of the inputs.*iterator",
    ),
    "labels, dict": ({"labels": {0: 1}}, "`labels`.*a list or an.*dict"),
    "labels, positions": (
        {"labels": np.zeros((N, 2), int)},
        r"`labels`.*per position.*\(40, 2\) for layer 'hidden'",
    ),
    "labels, columns": (
        {"labels": TWO + 0.5, "multi_label": True},
        "`labels` must be 0 and 1.*float64",
    ),
    "labels, half known": (
        {"labels": TWO - 1, "multi_label": True},
        "`labels` must have complete rows",
    ),
    "names, few": ({"labels": Y, "label_names": "ab"}, "`label_names`.*2 na"),
    "names, dict": (
        {"labels": Y, "label_names": {0: "a"}},
        "`label_names`.*without the key 1",
    ),
    "names, kind": ({"labels": Y, "label_names": 3}, r"`label_names`.*3 \("),
    "names alone": ({"label_names": ["a"]}, "`label_names`.*labels=None"),
    "directions, kind": ({"directions": TWO}, "`directions`.*a dict"),
    "directions, none": ({"directions": {}}, r"`directions`.*\{\}"),
    "directions, layer": (
        {"directions": {"hiden": np.eye(5)}},
        "`directions`.*'hidden'.*'hiden'",
    ),
    "directions, layers": (
        {"directions": {"*": np.eye(5)}},
        "`directions` must select one layer.*'hidden'",
    ),
    "directions, width": (
        {"directions": {"hidden": np.eye(4)}},
        r"`directions`.*\(directions, 5\).*'hidden'.*\(4, 4\)",
    ),
    "directions, rank": (
        {"directions": {"hidden": np.ones(5)}},
        r"`directions`.*a matrix.*\(5,\)",
    ),
    "directions, finite": (
        {"directions": {"hidden": [[1, 2, 3, 4, np.inf]]}},
        r"`directions`.*finite numbers.*\(1, 5\)",
    ),
    "directions, words": (
        {"directions": {"hidden": [list("abcde")]}},
        "`directions`.*finite numbers.*<U1",
    ),
    "directions, ragged": (
        {"directions": {"hidden": [[1, 2], [1]]}},
        "`directions`.*finite numbers.*object",
    ),
    "embeddings, few": ({"embeddings": VECTORS[:9]}, "`embeddings`.*40.*9"),
    "embeddings, many": (
        {"embeddings": np.tile(VECTORS, (2, 1))},
        "`embeddings`.*40 inputs.*80",
    ),
    "embeddings, rank": (
        {"embeddings": VECTORS[:, 0]},
        r"`embeddings`.*\(n, dimensions\).*\(40,\)",
    ),
    "embeddings, late NaN": ({"embeddings": HOLE}, "`embeddings`.*nan"),
    "embeddings, late 0": ({"embeddings": NOTHING}, "`embeddings`.*0.0"),
    "embeddings, words": (
        {"embeddings": VECTORS.astype(str)},
        "`embeddings`.*dtype <U",
    ),
    "embeddings, text": ({"embeddings": "no"}, "`embeddings`.*dtype <U"),
    "embeddings, ragged": (
        {"embeddings": [[1.0]] * 39 + [[1.0, 2.0]]},
        "`embeddings`.*dtype object",
    ),
    "embeddings, positions": (
        {"embeddings": RNG.normal(size=(N, 3, 2))},
        "`embeddings`.*3 positions, for layer 'hidden' with 1",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_analyze_refuses_it_before_the_model_runs(model, arguments, message):
    arguments = {"layers": "hidden", "verbose": 0} | arguments
    if "directions" in arguments:
        arguments["layers"] = None
    with pytest.raises(ValueError, match=message):
        analyze(model, X, **arguments)


def test_the_guard_raises_as_soon_as_the_model_runs(model, series_model):
    for one, x in ((model, X), (series_model, SERIES)):
        with pytest.raises(Ran):
            analyze(one, x, layers="hidden", verbose=0)


INPUTS = {
    "none": (X[:0], "`x` must contain at least one"),
    "lengths": ([X, X[:3]], r"`x`.*same length.*\[3, 40\]"),
    "arrays": ([X, X], "`x`.*1 in total.*2 arrays"),
    "number": (7, r"`x`.*7 \(int\)"),
}


@pytest.mark.parametrize("more", [{}, {"labels": Y}, {"embeddings": VECTORS}])
def test_a_stream_that_is_empty_says_so(model, more):
    with pytest.raises(ValueError, match=r"`x`.*at least one.*read only once"):
        analyze(model, iter([]), layers="hidden", verbose=0, **more)


@pytest.mark.parametrize(("x", "message"), INPUTS.values(), ids=INPUTS)
def test_inputs_are_refused_before_the_model_runs(model, x, message):
    with pytest.raises(ValueError, match=message):
        analyze(model, x, layers="hidden", verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"labels": np.zeros((N, T + 1), int)},
            r"`labels`.*\(40, 5\) for layer 'hidden'.*\(None, 4\)",
        ),
        (
            {"embeddings": RNG.normal(size=(N, T + 1, 2))},
            "`embeddings`.*5 positions, for layer 'hidden' with 4",
        ),
        (
            {"directions": {"hidden": np.eye(5)}, "axis": None},
            r"`directions`.*\(directions, 20\).*\(5, 5\)",
        ),
    ],
)
def test_positions_are_known_before_the_model_runs(
    series_model, arguments, message
):
    arguments = {"layers": "hidden", "verbose": 0} | arguments
    if "directions" in arguments:
        arguments["layers"] = None
    with pytest.raises(ValueError, match=message):
        analyze(series_model, SERIES, **arguments)


def test_a_model_that_is_not_built_or_none_is_refused():
    for given in (keras.Sequential([keras.layers.Dense(2)]), "model", None):
        for function in (analyze, prompt):
            with pytest.raises(ValueError, match="`model` must be a built"):
                function(given, X)


ONE = SERIES[:1]
PROMPTS = {
    "text": ((3,), {}, "`text_or_inputs`"),
    "words": ((["a", "b"],), {}, "`text_or_inputs`"),
    "batch": ((SERIES[:2],), {}, r"`text_or_inputs`.*batch.*\(2, 4, 6"),
    "no tokenizer": (("abc",), {}, "`tokenizer`.*'abc'"),
    "tokenizer": (("abc",), {"tokenizer": 3}, r"`tokenizer`.*3 \(int\)"),
    "generate": ((ONE,), {"generate": 1.5}, r"`generate`.*1.5 \(float\)"),
    "generates": ((ONE,), {"generate": 1}, "`generate`.*causal.*Functional"),
    "layers": ((ONE,), {"layers": "hiden"}, "`layers`.*'hidden'.*'hiden'"),
    "per token": (
        (ONE,),
        {"layers": "flat"},
        r"`layers`.*one value per token.*'flat'.*\(None, 20\)",
    ),
    "report": ((ONE,), {"report": "r"}, "`report`.*str"),
}


@pytest.mark.parametrize(
    ("given", "arguments", "message"), PROMPTS.values(), ids=PROMPTS
)
def test_prompt_refuses_it_before_the_model_runs(
    series_model, given, arguments, message
):
    arguments = {"layers": "hidden"} | arguments
    with pytest.raises(ValueError, match=message):
        prompt(series_model, *given, **arguments)


@pytest.fixture(scope="module")
def reports():
    """Return reports of other models that do not fit the tested ones."""

    def of(x, **arguments):
        model = keras.Sequential(
            [keras.Input(x.shape[1:]), keras.layers.ReLU(name="hidden")]
        )
        return analyze(model, x, layers="hidden", verbose=0, **arguments)

    return {
        "narrow": of(SERIES),
        "positions": of(SERIES, axis=None),
        "other": of(X, labels=Y, pool=5, label_names=["a", "b", "c"]),
        "directions": analyze(
            keras.Sequential(
                [keras.Input((6,)), keras.layers.ReLU(name="hidden")]
            ),
            X,
            directions={"hidden": np.eye(6)},
            verbose=0,
        ),
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("narrow", r"`report`.*axis=-1.*\(6,\).*5\)"),
        ("positions", r"`report`.*axis=-1.*\(4, 6\)"),
        ("directions", "`report` must contain neurons.*'hidden'"),
    ],
)
def test_prompt_refuses_a_report_before_the_model_runs(
    series_model, reports, name, message
):
    with pytest.raises(ValueError, match=message):
        prompt(series_model, ONE, "hidden", report=reports[name])


IMAGES = RNG.random((N, 8, 8, 3))
PAGES = {
    "path": ({"path": 5}, "`path`.*path=5"),
    "folder": ({"path": "nowhere/n.html"}, "`path`.*nowhere"),
    "kind": ({"kind": "video"}, "`kind`.*'auto'.*'video'"),
    "title": ({"title": 5}, r"`title`.*5 \(int\)"),
    "other_title": ({"other_title": None}, "`other_title`.*None"),
    "tokenize": ({"tokenize": "words"}, "`tokenize`.*'words'"),
    "tokenize images": (
        {"tokenize": list, "kind": "image"},
        "`tokenize`.*kind='image'",
    ),
    "tokens": (
        {"inputs": ["a b"] * N, "tokenize": len},
        "`tokenize`.*list of strings.*3",
    ),
    "other": ({"other": "report.npz"}, "`other`.*Report.*'report.npz'"),
    "prompts": ({"prompts": "text"}, "`prompts`.*'text'"),
    "a prompt": ({"prompts": ["text"]}, r"`prompts`.*\[0\]='text'"),
    "few": ({"inputs": IMAGES[:9]}, "`inputs`.*40 inputs.*9 inputs"),
    "a generator": ({"inputs": iter(IMAGES)}, r"`inputs`.*list\(inputs\)"),
    "files": (
        {"inputs": ["cat.png"] * N, "kind": "image"},
        "`inputs`.*Read image files.*'cat.png'",
    ),
    "objects": (
        {"inputs": [object()] * N, "kind": "image"},
        "`inputs`.*numbers.*input 0",
    ),
    "kind of objects": ({"inputs": [{"a": 1}] * N}, "`inputs`.*dict"),
    "video": (
        {"inputs": RNG.random((N, 2, 8, 8, 3)), "kind": "image"},
        r"[Ii]mages.*single frames.*\(2, 8, 8, 3\)",
    ),
    "complex": (
        {"inputs": IMAGES * 1j, "kind": "image"},
        "`inputs`.*numbers.*input 0",
    ),
    "no pixels": (
        {"inputs": IMAGES[:, :0], "kind": "image"},
        r"`inputs`.*pixel.*\(0, 8, 3\)",
    ),
    "no finite pixel": (
        {"inputs": IMAGES * np.nan, "kind": "image"},
        r"`inputs`.*finite.*\(8, 8, 3\)",
    ),
    "channels": (
        {"inputs": [IMAGES[0], IMAGES[0, :, :, :2]] * (N // 2)},
        r"same number of channels.*\[2, 3\]",
    ),
    "series": (
        {"inputs": IMAGES, "kind": "series"},
        r"[Ss]eries.*\(8, 8, 3\)",
    ),
    "texts": ({"inputs": IMAGES, "kind": "text"}, "`inputs`.*texts"),
}


@pytest.mark.once
@pytest.mark.parametrize(("arguments", "message"), PAGES.values(), ids=PAGES)
def test_a_page_is_refused_before_it_is_written(
    reports, tmp_path, arguments, message
):
    arguments = {"path": tmp_path / "n.html"} | arguments
    with pytest.raises(ValueError, match=message):
        reports["other"].to_html(**arguments)
    assert not list(tmp_path.iterdir())


PLOTS = {
    "ms_distribution": (("r",), {}, "`report`.*str"),
    "axes": (("other",), {"ax": 3}, r"`ax`.*3 \(int\)"),
    "activation_by_label": (("r", "hidden", 0), {}, "`report`.*str"),
    "layer": (("other", "hiden", 0), {}, "`layer`.*'hidden'.*'hiden'"),
    "neuron": (("other", "hidden", 6), {}, "`neuron`.*0 to 5.*neuron=6"),
    "most": (("other", "hidden", 0), {"most": 0}, "`most`.*at least 1.*0"),
    "label_map": (("r", "hidden"), {}, "`report`.*str"),
    "label_map layer": (("other", "hiden"), {}, "`layer`.*'hiden'"),
    "label_map labels": (("narrow", "hidden"), {}, "needs labels"),
    "label_map most": (("other", "hidden"), {"most": "x"}, "`most`.*'x'"),
    "false_killing_rate": (("r",), {}, "`report`.*str"),
    "fkr labels": (("narrow",), {}, "needs labels"),
    "rates": (("other",), {"rates": [0.5, 0.1]}, "`rates`.*increasing"),
    "rates above 1": (("other",), {"rates": [0.5, 2]}, r"`rates`.*2\.?"),
    "rates none": (("other",), {"rates": []}, "`rates`.*increasing"),
    "ms_over_training": ((3,), {}, r"`logs`.*3 \(int\)"),
    "quantile": (({"a/ms_99": [1]},), {"quantile": 99}, "`quantile`.*99"),
    "no such log": (({"loss": [1]},), {}, "ms_99.*'loss'"),
    "decrease_ratios": (({},), {}, "`found`.*dict"),
}
DRAWN = {
    "axes": "ms_distribution",
    "layer": "activation_by_label",
    "neuron": "activation_by_label",
    "most": "activation_by_label",
    "fkr labels": "false_killing_rate",
    "quantile": "ms_over_training",
    "no such log": "ms_over_training",
}


@pytest.mark.once
@pytest.mark.parametrize("case", PLOTS)
def test_a_plot_is_refused(reports, case):
    pytest.importorskip("matplotlib")
    given, arguments, message = PLOTS[case]
    name = DRAWN.get(case, case.split()[0])
    if name == "rates":
        name = "false_killing_rate"
    first = given[0]
    if isinstance(first, str):
        first = reports.get(first, first)
    with pytest.raises(ValueError, match=message):
        getattr(plots, name)(first, *given[1:], **arguments)


@pytest.mark.once
def test_what_cannot_be_merged_is_refused(reports):
    whole = reports["other"]
    for other, message in (
        ("r.npz", "`other`.*'r.npz'"),
        (None, "`other`.*None"),
        (reports["narrow"], "same layers|same labels|pass `pool`"),
    ):
        with pytest.raises(ValueError, match=message):
            whole.merge(other)


@pytest.mark.once
@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("false_killing_rate", {"rate": 0}, "`rate`.*0"),
        (
            "false_killing_rate",
            {"rate": None},
            "one of the arguments",
        ),
        ("false_killing_rate", {"rate": None, "threshold": -1}, "`threshold`"),
        ("to_dataframe", {"rate": 2}, "`rate`.*at most 1.*2"),
        ("precision_recall", {"layer": "h", "neuron": 0}, "`layer`.*'h'"),
        ("precision_recall", {"layer": "hidden", "neuron": 9}, "`neuron`.*9"),
        ("summary", {"top": 0}, "`top`.*at least 1.*0"),
        ("save", {"path": "report.txt"}, "`path`.*'.npz'.*'report.txt'"),
    ],
)
def test_a_question_to_a_report_is_refused(reports, method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(reports["other"], method)(**arguments)


@pytest.mark.once
def test_questions_to_a_layer_and_a_file_are_refused(reports, tmp_path):
    layer = reports["other"]["hidden"]
    for call, message in (
        (lambda: layer.ms_quantile(2), "`q`.*between 0 and 1.*2"),
        (lambda: layer.dormant(-1), "`tau`.*-1"),
        (lambda: layer.dormant(reference="mode"), "`reference`.*'mode'"),
        (lambda: Report.load("report.txt"), "`path`.*'report.txt'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(ValueError, match="a report of version"):
        Report.load(tmp_path / "other.npz")
    # NumPy would advise to unpickle them.
    for number, content in enumerate((b"", b"a text", RNG.bytes(99))):
        path = tmp_path / f"{number}.npz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"`Report.save` wrote.*\.npz"):
            Report.load(path)
    with pytest.raises(FileNotFoundError, match="none"):
        Report.load(tmp_path / "none.npz")


@pytest.mark.once
@pytest.mark.parametrize("method", ["save", "to_html"])
def test_a_file_that_cannot_be_written_is_refused(reports, tmp_path, method):
    folder = tmp_path / "folder.npz"
    folder.mkdir()
    for path, message in (
        (tmp_path / "none" / "a.npz", "`path`.*an existing folder.*none"),
        (folder, "`path`.*a file path, not a folder"),
        (3, "`path`.*a file path.*path=3"),
    ):
        with pytest.raises(ValueError, match=message):
            getattr(reports["other"], method)(path)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.once
@pytest.mark.parametrize("module", ["pandas", "matplotlib.pyplot"])
def test_a_missing_extra_says_how_to_get_it(monkeypatch, reports, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    extra = "report" if module == "pandas" else "plot"
    report = reports["other"]
    calls = [report.to_dataframe, report.roc_auc, report["hidden"].to_dataframe]
    if extra == "plot":
        calls = [report.plot, lambda: plots.label_map(report, "hidden")]
    for call in calls:
        with pytest.raises(ImportError, match=rf"keras-memel\[{extra}\]"):
            call()


def test_another_output_than_that_of_the_memel_is_refused(rng):
    inputs = keras.Input((7, 3))
    lstm = keras.layers.LSTM(4, return_state=True, name="lstm")
    model = keras.Model(inputs, lstm(inputs))
    x = rng.normal(size=(20, 7, 3)).astype("float32")
    insert(model, "lstm", MEmeL(axis=-1), output=2)
    report = analyze(model, x, layers="lstm", verbose=0)
    state = np.array(model.predict(x, verbose=0)[2])
    np.testing.assert_allclose(report["lstm"].mean, state.mean(0), atol=1e-6)
    analyze(model, x, layers="lstm", output=2, verbose=0)
    for output in (0, 1, "state"):
        with pytest.raises(ValueError, match="must be None, or the output"):
            analyze(model, x, layers="lstm", output=output, verbose=0)
