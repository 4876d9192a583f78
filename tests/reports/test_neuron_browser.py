"""The neuron browser: a self-contained page with the data of the report."""

import base64
import json
import os
import re
import shutil
import struct
import typing
import zlib

import keras
import numpy as np
import pytest
from page_payload import data

from keras_memel import analyze
from keras_memel.reports.shown_inputs import convert

pytestmark = pytest.mark.once

LABELS = np.random.default_rng(0).integers(0, 3, 90)


@pytest.fixture(scope="module")
def report():
    model = keras.Sequential(
        [keras.Input((4, 4)), keras.layers.Dense(6, name="hidden")]
    )
    x = np.random.default_rng(1).normal(size=(90, 4, 4))
    x += LABELS[:, None, None]
    return analyze(model, x, LABELS, label_names=["<a>", "b", "c"], verbose=0)


def test_the_page_holds_the_numbers_of_the_report(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path)
    found = data(path)
    layer, expected = found["layers"][0], report["hidden"]
    assert found["version"] == 2
    assert found["labels"] == ["<a>", "b", "c"]
    np.testing.assert_array_equal(layer["shown"], expected.histogram_label)
    np.testing.assert_allclose(layer["labelMs"], expected.label_ms, rtol=1e-6)
    np.testing.assert_array_equal(layer["hist"], expected.histogram)
    for place, rate in enumerate(found["rates"]):
        np.testing.assert_allclose(
            layer["fkr"][:, place],
            report.false_killing_rate(rate),
            rtol=1e-6,
        )
    table = report.to_dataframe()
    assert list(found["columns"]) == list(table)
    for name in table.select_dtypes("number"):
        if name != "neuron":
            np.testing.assert_array_equal(found["columns"][name], table[name])
    assert found["columns"]["label"] == table["label"].tolist()


def test_means_there_and_elsewhere(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path)
    layer, own = data(path)["layers"][0], report["hidden"]
    count = own.label_count / own.label_count.sum(1, keepdims=True)
    for row, label in enumerate(own.label):
        others = np.arange(3) != label
        np.testing.assert_allclose(
            layer["there"][row], own.label_mean[row, label]
        )
        np.testing.assert_allclose(
            layer["elsewhere"][row],
            np.average(own.label_mean[row, others], weights=count[row, others]),
            rtol=1e-5,
        )


def test_the_page_needs_no_network(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path, title="A <b> & {{data}}")
    page = path.read_text(encoding="utf-8")
    assert "<title>A &lt;b&gt; &amp; {{data}}</title>" in page
    # A namespace has an address, which browsers do not request.
    code = page.replace('"http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?:|src=[^$]|@import|url\(", code)


@pytest.mark.parametrize(
    ("inputs", "kind", "first"),
    [
        (["one two"] * 90, "text", "one two"),
        ([b"one two"] * 90, "text", "one two"),
        (np.array(["one two"] * 90), "text", "one two"),
        ([["one", "##s"]] * 90, "text", ["one", "s"]),
        (np.zeros((90, 8, 8)), "image", 1),
        (np.zeros((90, 8, 8, 1)), "image", 1),
        (np.zeros((90, 8, 8, 2)), "image", 2),
        (np.zeros((90, 8, 8, 3)), "image", 1),
        (np.zeros((90, 3, 20, 20), "uint8"), "image", 1),
        (np.zeros((90, 8, 8, 5)), "image", 5),
        (np.ones((90, 5)), "series", np.ones((5, 1))),
        (np.ones((90, 5, 2)), "series", np.ones((5, 2))),
    ],
)
def test_inputs_are_shown_as_what_they_are(
    report, tmp_path, inputs, kind, first
):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=inputs)
    found = data(path)
    assert found["kind"] == kind
    one = next(iter(found["inputs"].values()))
    if kind == "image":
        pictures = [one] if isinstance(one, str) else one
        assert len(pictures) == first
        assert all(decoded(png).max() == 0 for png in pictures)
    else:
        np.testing.assert_array_equal(one, first)


def decoded(png):
    """The pixels of a picture, `(height, width, channels)`."""
    raw = base64.b64decode(png)
    assert raw.startswith(b"\x89PNG\r\n\x1a\n")
    width, height, depth, color = struct.unpack(">IIBB", raw[16:26])
    assert depth == 8
    (size,) = struct.unpack(">I", raw[33:37])
    assert zlib.crc32(raw[37 : 41 + size]) == int.from_bytes(
        raw[41 + size : 45 + size]
    )
    rows = np.frombuffer(zlib.decompress(raw[41 : 41 + size]), "uint8")
    rows = rows.reshape(height, -1)
    assert (rows[:, 0] == 0).all()  # No filter
    return rows[:, 1:].reshape(height, width, {0: 1, 2: 3}[color])


@pytest.mark.parametrize(
    ("low", "high", "dtype", "expected"),
    [
        (100, 110, "uint8", (0, 255)),
        (0.4, 0.6, "float32", (0, 1)),
        (-0.2, 0.6, "float32", (-1, 1)),
        (0, 16, "int64", (0, 16)),
        (0, 1, "bool", (0, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_all_images_have_one_scale(low, high, dtype, expected, channels):
    rng = np.random.default_rng(0)
    images = rng.uniform(low, high, (4, 6, 7, channels)).astype(dtype)
    images[0], images[1] = low, high
    found = convert(images, range(4), "image", None)
    assert found.limits == expected
    for number in range(4):
        png = found.inputs[number]
        parts = [decoded(one) for one in ([png] if type(png) is str else png)]
        share = images[number].astype("float64") - expected[0]
        np.testing.assert_allclose(
            np.concatenate(parts, axis=2),
            255 * share / (expected[1] - expected[0]),
            atol=0.51,
        )


def test_texts_can_be_tokenized(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=["abcd"] * 90, tokenize=list)
    assert next(iter(data(path)["inputs"].values())) == list("abcd")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"inputs": ["too", "few"]}, "90 inputs"),
        ({"inputs": []}, "90 inputs"),
        ({"inputs": (i for i in range(90))}, r"list\(inputs\)"),
        ({"kind": "sound"}, "kind='sound'"),
        ({"inputs": np.zeros((90, 4, 4, 9, 3))}, "must contain texts, lists"),
        ({"inputs": np.zeros((90, 20, 20, 20))}, "height, width"),
        ({"inputs": [None] * 90}, "must contain texts, lists"),
        ({"inputs": [1] * 90, "kind": "text"}, "texts or lists of tokens"),
        ({"inputs": ["a"] * 90, "kind": "image"}, "must contain numbers"),
        ({"inputs": ["a"] * 90, "tokenize": len}, "list of strings"),
        (
            {"inputs": np.zeros((90, 4)), "tokenize": list, "kind": "series"},
            "texts",
        ),
        ({"other": "another.npz"}, "must be a Report"),
        ({"prompts": ["a text"]}, "results of `prompt`"),
    ],
)
def test_bad_arguments_raise_before_anything_is_written(
    report, tmp_path, arguments, said
):
    path = tmp_path / "n.html"
    path.write_text("before")
    with pytest.raises(ValueError, match=said):
        report.to_html(path, **arguments)
    assert path.read_text() == "before"


def test_a_folder_that_does_not_exist(report, tmp_path):
    with pytest.raises(ValueError, match="an existing folder"):
        report.to_html(tmp_path / "none" / "n.html")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Headless Chromium, driven by the chromedriver beside it."""
    webdriver = pytest.importorskip("selenium.webdriver")
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if not (found and driver):
        pytest.skip("no Chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--no-first-run",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    # Chromium makes a socket in its temporary folder. Its path may have at most
    # 107 characters; paths in the folders of nox and pytest can be longer.
    environment = {**os.environ, "TMPDIR": "/tmp"}
    service = webdriver.ChromeService(driver, env=environment)
    browser = webdriver.Chrome(options, service)
    yield browser
    browser.quit()


class Page:
    """A page in the browser, and the text that a reader sees."""

    def __init__(self, browser, path, width=1400, fragment=""):
        from selenium.webdriver.support.wait import WebDriverWait

        self.browser = browser
        self._wait = WebDriverWait(browser, 30)
        # A window has a minimum width. The emulated screen can be narrower.
        browser.set_window_size(1400, 800)
        self.resize(width)
        browser.get("about:blank")
        browser.get(path.as_uri() + fragment)
        self.wait("document.body.dataset.ready")

    def resize(self, width):
        screen = {"width": width, "height": 800, "deviceScaleFactor": 1}
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**screen, "mobile": False}
        )
        # The page is drawn again before its second frame.
        self.browser.execute_async_script(
            "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        )

    def ask(self, expression):
        return self.browser.execute_script(f"return {expression}")

    def wait(self, expression):
        self._wait.until(lambda _: self.ask(expression))

    def text(self, selector):
        return self.ask(f"document.querySelector({selector!r}).textContent")

    def number(self, selector):
        return self.ask(f"document.querySelectorAll({selector!r}).length")

    def click(self, selector, number=0):
        self.browser.find_elements("css selector", selector)[number].click()

    def type(self, text):
        """Search for a text."""
        self.ask(
            "void (document.querySelector('#search').value = "
            f"{json.dumps(text)})"
        )
        self.ask("void document.querySelector('#search').oninput()")

    def sound(self):
        """Return whether the page has no error and requests nothing."""
        wrong = [
            entry
            for entry in self.browser.get_log("browser")
            if entry["level"] == "SEVERE"
        ]
        asked = self.ask(
            "performance.getEntriesByType('resource').map((e) => e.name)"
        )
        local = ("file:", "data:", "blob:")
        return not wrong and all(url.startswith(local) for url in asked)


# True if any part of the page is wider than the window.
WIDE = "document.documentElement.scrollWidth > innerWidth"
# True if a chart of a neuron is wider than its pane or covers another chart.
COVERED = """(() => {
  const pane = document.querySelector("#pane");
  const boxes = [...pane.querySelectorAll("svg")]
    .map((svg) => svg.getBoundingClientRect()).filter((box) => box.width);
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
    && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  return pane.scrollWidth > pane.clientWidth || boxes.some((box, place) =>
    boxes.slice(place + 1).some((other) => meet(box, other)));
})()"""
FIRST = "#rows tr:first-child td:nth-child(2)"


def test_the_page_works_in_chromium(report, tmp_path, chromium):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=["w\nyz"] * 90, tokenize=list)
    page = Page(chromium, path)
    assert page.text("#found") == "6 of 6 neurons"
    # The highest ROC-AUC is first. A click on a header sorts by its column, and
    # a second click reverses the order.
    best = report.to_dataframe()["roc_auc"].argmax()
    assert page.text(FIRST) == str(best)
    page.click("th > button:first-child", 1)
    assert page.text(FIRST) == "0"
    page.click("th > button:first-child", 1)
    assert page.text(FIRST) == "5"
    page.click("#rows tr:first-child")
    assert page.text("h2") == "hidden:5"
    assert page.ask("location.hash") == "#hidden/5"
    assert "<a>" in page.text("#density")  # a name is text, not a tag
    assert page.text(".tokens") == "w↵\nyz"
    assert page.ask("document.querySelectorAll('.tokens .peak').length") >= 1
    assert not page.ask(WIDE)
    page.click(".help", 3)
    assert "0.5 is chance" in page.text("#help")
    assert page.sound()


@pytest.mark.parametrize("kind", ["text", "image", "series", "compare"])
def test_nothing_is_covered_at_any_width(report, tmp_path, chromium, kind):
    path = tmp_path / "neurons.html"
    shown = {
        "text": [list("wxyz")] * 90,
        "image": np.random.default_rng(0).random((90, 12, 12)),
        "series": np.random.default_rng(0).random((90, 4, 2)),
        "compare": [list("wxyz")] * 90,
    }
    more = {"other": report} if kind == "compare" else {}
    report.to_html(path, inputs=shown[kind], **more)
    start = "#compare=hidden/2" if more else "#hidden/2"
    page = Page(chromium, path, fragment=start)
    assert page.number("#pane svg") >= 2
    for width in (320, 420, 760, 761, 1180, 1181, 1280, 1366, 1400, 1440, 1920):
        page.resize(width)
        assert not page.ask(WIDE), width
        assert not page.ask(COVERED), width


def test_texts_without_tokens_say_why_they_are_not_shaded(
    report, tmp_path, chromium
):
    said = "The texts are not shaded"
    path = tmp_path / "n.html"
    for more, missing in (({}, True), ({"tokenize": list}, False)):
        report.to_html(path, inputs=["wxyz"] * 90, **more)
        assert (said in Page(chromium, path).text("#examples")) is missing


def test_a_long_path_goes_on_after_a_sign(tmp_path, chromium):
    name = "the_feedforward_intermediate_dense_of_a_transformer_layer_number_0"
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name=name)]
    )
    x = np.random.default_rng(0).normal(size=(60, 3))
    path = tmp_path / "n.html"
    analyze(model, x, np.arange(60) % 2, verbose=0).to_html(path)
    page = Page(chromium, path)
    assert page.text("#rows td.path") == f"{name}:{page.text(FIRST)}"
    assert page.text("h2").startswith(f"{name}:")
    # The end of each line of the first cell, as it is drawn.
    ends = page.ask(
        """(() => {
          const parts = [...document.querySelector("#rows td.path").childNodes]
            .filter((node) => node.nodeType === 3);
          const box = (node) => {
            const range = document.createRange();
            range.selectNodeContents(node);
            return range.getBoundingClientRect();
          };
          const lines = parts.map((node) => Math.round(box(node).top));
          return [new Set(lines).size, parts.map((node) =>
            box(node).height).every((height) => height < 25)];
        })()"""
    )
    assert ends[0] > 1  # There are several lines,
    assert ends[1]  # and no part of the name is on two of them.


def test_search_filters_and_csv(report, tmp_path, chromium):
    path = tmp_path / "neurons.html"
    report.to_html(path)
    page = Page(chromium, path)
    table = report.to_dataframe()
    chance = float(table["roc_auc"].median())
    above = table[table["roc_auc"] > chance]
    for text, rows in {
        "layer:3": table[table["neuron"] == 3],
        "hid:4": table[table["neuron"] == 4],
        'label:"<a>"': table[table["label"] == "<a>"],
        'label:"b"': table[table["label"] == "b"],
        f"roc_auc > {chance}": above,
        f"roc_auc>{100 * chance}%": above,
        f"roc_auc > {chance} -:4": above[above["neuron"] != 4],
        "nonsense": table.iloc[:0],
    }.items():
        page.type(text)
        assert page.text("#found") == f"{len(rows)} of 6 neurons", text
    page.type("nothing > 1")
    assert "no column “nothing”" in page.text(".chip.bad")
    assert page.text("#found") == "6 of 6 neurons"
    page.type(f"roc_auc > {chance}")
    page.click("th > button:first-child", 1)
    page.ask(
        "void (navigator.clipboard.writeText = (t) => { window.csv = t; })"
    )
    page.click("#csv")
    page.wait("window.csv")
    lines = page.ask("window.csv").split("\n")
    assert lines[0].split(",") == list(table)
    rows = above.sort_values(
        "neuron", ascending=page.text(FIRST) == str(above["neuron"].min())
    )
    for line, (_, row) in zip(lines[1:], rows.iterrows(), strict=True):
        cells = dict(zip(lines[0].split(","), line.split(",")))
        assert cells["neuron"] == str(row["neuron"])
        assert float(cells["roc_auc"]) == row["roc_auc"]
        assert cells["label"] == row["label"]
        assert float(cells["direction"]) == row["direction"]
        assert cells["dead"] == str(row["dead"])
    assert page.sound()


def test_dead_and_broken_neurons_say_so(tmp_path, chromium):
    """A text or a name that looks like code is shown as text."""
    name = "<script>window.hit = 1</script>"
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Activation("linear", name="z")]
    )
    x = np.random.default_rng(0).normal(size=(60, 3))
    x[:, 1], x[::7, 2] = 4, np.nan
    report = analyze(
        model, x, np.arange(60) % 2, "z", label_names=[name, "b"], verbose=0
    )
    path = tmp_path / "n.html"
    report.to_html(path, inputs=[name] * 60, title=name)
    page = Page(chromium, path, fragment="#z/1")
    assert page.text("h2") == "z:1"
    pane = page.text("#pane")
    assert "Dead: all 60 values are 4" in pane
    assert "Examples" not in pane
    row = page.text("#rows tr[aria-selected=true]")
    assert "always 4" in row
    assert "dead" in row
    page.type("nonfinite > 0")
    page.click("#rows tr:first-child")
    assert "9 values NaN or infinite" in page.text("#pane")
    assert name in page.text("#pane .tokens")
    assert page.text("h1") == name
    assert page.ask("window.hit") is None
    page.ask("void (location.hash = '#z/99')")
    page.wait("document.querySelector('[role=alert]')")
    assert "no neuron z/99" in page.text("[role=alert]")
    assert page.sound()


def test_ten_thousand_neurons_on_a_narrow_screen(tmp_path, chromium):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(10_000, name="wide")]
    )
    x = np.random.default_rng(0).normal(size=(20, 3))
    report = analyze(model, x, top=2, verbose=0)
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=np.ones((20, 12)))
    page = Page(chromium, path, width=420)
    assert page.text("#found") == "10,000 of 10,000 neurons"
    assert page.ask("document.querySelectorAll('#pane .ex svg').length") >= 1
    # Only the visible rows are in the document.
    rows = "document.querySelectorAll('#rows tr').length"
    assert page.ask(rows) < 500
    page.ask("void (document.querySelector('#scroll').scrollTop = 1e9)")
    page.wait(f"{rows} > 100")
    page.type(":9999")
    assert page.text("#found") == "1 of 10,000 neurons"
    page.click("#rows tr:first-child")
    assert page.text("h2") == "wide:9999"
    assert not page.ask(WIDE)
    # One color scheme or the other, chosen on the page.
    dark = "getComputedStyle(document.body).backgroundColor"
    seen = set()
    for theme in ("light", "dark"):
        page.ask(f"void (document.querySelector('#theme').value = '{theme}')")
        page.ask(
            "void document.querySelector('#theme').dispatchEvent("
            "new Event('change'))"
        )
        seen.add(page.ask(dark))
    assert len(seen) == 2
    assert page.sound()


class Prompt:
    """The three attributes of the result of `prompt`."""

    tokens: typing.ClassVar = ["\u0120one", "\u0120two", "<b>", "\u0120four"]
    generated_from = 2

    def __init__(self, activations):
        self.activations = activations


def test_prompts_and_two_reports(report, tmp_path, chromium):
    z = np.random.default_rng(2).normal(size=(4, 6)).astype("float32")
    z[3, 4], z[0, 2] = 60, np.nan
    model = keras.Sequential(
        [keras.Input((4, 4)), keras.layers.Dense(5, name="hidden")]
    )
    x = np.random.default_rng(1).normal(size=(90, 4, 4))
    other = analyze(model, x, LABELS, label_names=["<a>", "b", "c"], verbose=0)
    path = tmp_path / "n.html"
    texts = [list("wxyz")] * 90
    report.to_html(
        path,
        texts,
        title="one",
        other=other,
        other_title="<i>two</i>",
        prompts=[Prompt({"hidden": z})],
    )
    page = Page(chromium, path, fragment="#prompt=0")
    assert page.text("#promptsel option:first-child") == "0:  one two<b> four"
    assert (
        page.ask("document.querySelectorAll('.matrix thead .made').length") == 2
    )
    # The neuron that deviates most comes first.
    first = ".matrix tbody tr:first-child"
    assert page.text(f"{first} a") == "hidden:4"
    mean, sd = report["hidden"].mean[4], report["hidden"].variance[4] ** 0.5
    said = page.ask(
        f"document.querySelector('{first} td:last-child').ariaLabel"
    )
    assert float(re.search(r"([-+.\d]+) \u03c3", said)[1]) == pytest.approx(
        (60 - mean) / sd, rel=0.05
    )
    assert (
        page.ask(
            "[...document.querySelectorAll('.matrix td')].filter("
            "(cell) => cell.textContent === '\u00d7').length"
        )
        == 1
    )
    # The texts of the sample follow, and a click on a neuron opens its page.
    assert (
        page.ask("document.querySelectorAll('#promptsel option').length") == 9
    )
    page.click(f"{first} a")
    page.wait("location.hash === '#hidden/4'")
    assert page.text("h2") == "hidden:4"
    page.ask("void (location.hash = '#compare=hidden/4')")
    page.wait("document.querySelectorAll('.two h3').length === 2")
    assert "<i>two</i>" in page.text(".two")
    shown = page.ask(
        "[...document.querySelectorAll('.two .says')].map((e) => e.textContent)"
    )
    assert len(shown) == 2
    # The same inputs on both sides, in one order.
    inputs = page.ask(
        "[...document.querySelectorAll('.two .meta')].map("
        "(e) => e.textContent.match(/input (\\d+)/)[1])"
    )
    assert len(inputs) >= 4
    assert inputs[: len(inputs) // 2] == inputs[len(inputs) // 2 :]
    page.ask("void (location.hash = '#compare=hidden/5')")
    page.wait("document.querySelector('.two .note')")
    assert "Not in this report" in page.text(".two")
    assert not page.ask(WIDE)
    assert page.sound()


@pytest.mark.parametrize(
    ("activations", "said"),
    [
        ({}, "must have activations: select"),
        ({"other": np.zeros((4, 6))}, "layer 'other'"),
        ({"hidden": np.zeros((4, 5))}, r"shape \(4, 6\)"),
    ],
)
def test_prompts_that_do_not_fit(report, tmp_path, activations, said):
    with pytest.raises(ValueError, match=said):
        report.to_html(tmp_path / "n.html", prompts=[Prompt(activations)])


def test_whole_inputs_are_shaded_by_what_the_neuron_computes(
    tmp_path, chromium
):
    model = keras.Sequential(
        [keras.Input((4, 1)), keras.layers.Activation("linear", name="z")]
    )
    z = np.random.default_rng(3).normal(size=(40, 4, 1)).astype("float32")
    z[7, 2] = np.nan
    z[7, 1] = 9
    report = analyze(model, z, layers="z", verbose=0)
    path = tmp_path / "n.html"
    report.to_html(path, inputs=[["\u2581a", "b", "\u2581c", "<0x41>"]] * 40)
    page = Page(chromium, path)
    first = "document.querySelector('#pane .tokens')"
    assert page.ask(f"{first}.textContent") == "ab cA"
    spans = page.ask(
        f"[...{first}.children].map((e) => [e.className, e.lines.join()])"
    )
    assert "peak" in spans[1][0]
    assert "nan" in spans[2][0]
    for place in (0, 1, 3):
        value = float(
            re.search(r"value ([-+\u2212.\d]+)", spans[place][1])[1].replace(
                "\u2212", "-"
            )
        )
        assert value == pytest.approx(z[7, place, 0], abs=0.09)
        sign = "pos" if z[7, place, 0] > 0 else "neg"
        assert sign in spans[place][0]
    assert page.sound()


@pytest.mark.parametrize(
    "tokens",
    [
        ["\u0120un", "believ", "able", "\u0120na", "\u00c3\u00af", "ve"],
        ["\u2581un", "believ", "able", "\u2581na", "\u00ef", "ve"],
        ["un", "##believ", "##able", "na", "##\u00ef", "##ve"],
    ],
    ids=["byte pairs", "sentence pieces", "word pieces"],
)
def test_tokens_are_read_as_text_in_chromium(tmp_path, chromium, tokens):
    model = keras.Sequential([keras.Input((6, 1)), keras.layers.ReLU(name="z")])
    x = np.random.default_rng(0).normal(size=(9, 6, 1))
    path = tmp_path / "n.html"
    analyze(model, x, verbose=0, layers="z").to_html(path, inputs=[tokens] * 9)
    page = Page(chromium, path)
    assert page.text("#pane .tokens").strip() == "unbelievable na\u00efve"
    assert page.sound()


def test_histograms_are_without_zeros(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.ReLU(name="z")])
    x = np.random.default_rng(4).normal(size=(90, 2)).astype("float32")
    report = analyze(model, x, LABELS, "z", verbose=0)
    report.to_html(tmp_path / "n.html")
    (layer,) = data(tmp_path / "n.html")["layers"]
    for j, z in enumerate(np.maximum(x, 0).T):
        edges = layer["width"][j] * np.arange(layer["bins"] + 1)
        assert layer["start"][j] == 0
        assert edges[layer["used"][j] - 1] <= z.max() < edges[layer["used"][j]]
        expected = np.histogram(z[z > 0], edges)[0]
        np.testing.assert_array_equal(layer["all"][j], expected)
        assert layer["zeros"][j] == (z == 0).sum()
        np.testing.assert_array_equal(layer["hist"][j].sum(0), expected)
