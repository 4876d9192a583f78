"""The neuron browser: one page, alone, that says what the report says."""

import base64
import gzip
import json
import os
import re
import shutil

import keras
import numpy as np
import pytest

from keras_memel import analyze

pytestmark = pytest.mark.once

pytest.importorskip("altair")

LABELS = np.random.default_rng(0).integers(0, 3, 90)


@pytest.fixture(scope="module")
def report():
    model = keras.Sequential(
        [keras.Input((4, 4)), keras.layers.Dense(6, name="hidden")]
    )
    x = np.random.default_rng(1).normal(size=(90, 4, 4))
    x += LABELS[:, None, None]
    return analyze(model, x, LABELS, label_names=["<a>", "b", "c"], verbose=0)


def data(path):
    """What is packed into a page."""
    page = path.read_text(encoding="utf-8")
    packed = re.search(r'octet-stream">([^<]+)<', page)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_the_page_holds_the_numbers_of_the_report(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path)
    found = data(path)
    layer, expected = found["layers"][0], report.layers["hidden"]
    assert found["labels"] == ["<a>", "b", "c"]
    np.testing.assert_allclose(layer["labelMs"], expected.label_ms, rtol=1e-2)
    np.testing.assert_array_equal(
        np.reshape(layer["histogram"], expected.histogram.shape),
        expected.histogram,
    )
    rate = found["rates"].index(0.02)
    np.testing.assert_allclose(
        np.array(layer["fkr"])[:, rate],
        report.false_killing_rate(0.02),
        atol=1e-3,
    )
    names = {column["name"]: column for column in found["table"]["columns"]}
    np.testing.assert_allclose(
        names["ROC-AUC"]["values"], report.roc_auc(), rtol=1e-3
    )


def test_the_page_needs_no_network(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path, title="A <b> & {{data}}")
    page = path.read_text(encoding="utf-8")
    assert "<title>A &lt;b&gt; &amp; {{data}}</title>" in page
    vega = page.index("<script>"), page.index("</script>")
    own = page[: vega[0]] + page[vega[1] :]
    assert "vegaEmbed" in page[slice(*vega)]
    assert not re.search(r"https?:|src=[^$]|href=", own)


@pytest.mark.parametrize(
    ("inputs", "kind", "first"),
    [
        (["one two"] * 90, "text", "one two"),
        ([["one", "##s"]] * 90, "text", ["one", "##s"]),
        (np.zeros((90, 8, 8)), "image", None),
        (np.zeros((90, 8, 8, 3)), "image", None),
        (np.ones((90, 5)), "series", [1.0] * 5),
        (np.ones((90, 5, 2)), "series", [[1.0, 1.0]] * 5),
    ],
)
def test_inputs_are_shown_as_what_they_are(
    report, tmp_path, inputs, kind, first
):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=inputs)
    found = data(path)
    assert found["kind"] == kind
    far = report.layers["hidden"].top_input
    assert set(map(int, found["inputs"])) == set(far.ravel().tolist())
    one = next(iter(found["inputs"].values()))
    if kind == "image":
        assert base64.b64decode(one).startswith(b"\x89PNG")
    else:
        assert one == first


def test_texts_can_be_tokenized(report, tmp_path):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=["abcd"] * 90, tokenize=list)
    assert next(iter(data(path)["inputs"].values())) == list("abcd")


def test_bad_arguments(report, tmp_path):
    with pytest.raises(ValueError, match="90 inputs"):
        report.to_html(tmp_path / "n.html", inputs=["too", "few"])
    with pytest.raises(ValueError, match="kind='sound'"):
        report.to_html(tmp_path / "n.html", kind="sound")


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
    # It makes a socket among its temporary files, whose path may have 107
    # characters; within the folders of nox and pytest it can be longer.
    environment = {**os.environ, "TMPDIR": "/tmp"}
    service = webdriver.ChromeService(driver, env=environment)
    browser = webdriver.Chrome(options, service)
    yield browser
    browser.quit()


class Page:
    """A page in the browser, and what a reader sees of it."""

    def __init__(self, browser, path, width=1280):
        from selenium.webdriver.support.wait import WebDriverWait

        self.browser = browser
        self._wait = WebDriverWait(browser, 30)
        browser.set_window_size(width, 800)
        browser.get(path.as_uri())
        self.wait("document.body.dataset.ready")

    def ask(self, expression):
        return self.browser.execute_script(f"return {expression}")

    def wait(self, expression):
        self._wait.until(lambda _: self.ask(expression))

    def text(self, selector):
        return self.ask(f"document.querySelector({selector!r}).textContent")

    def click(self, selector, number=0):
        self.browser.find_elements("css selector", selector)[number].click()

    def sound(self):
        """No error on the page, and nothing asked of a network."""
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


CHART = "document.querySelector('#chart svg')"
BARS = "[...document.querySelectorAll('#chart [aria-roledescription=bar]')]"
# Whether anything reaches beyond the window, which cannot then be seen.
WIDE = "document.documentElement.scrollWidth > innerWidth"


def test_the_page_works_in_chromium(report, tmp_path, chromium):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=["wxyz"] * 90, tokenize=list)
    page = Page(chromium, path)
    page.wait(CHART)
    assert page.text("#found") == "6 of 6 neurons"
    # The surest first; a click on a header sorts, a second turns round.
    best = report.to_dataframe()["roc_auc"].argmax()
    first = "#rows tr:first-child td:nth-child(2)"
    assert page.text(first) == str(best)
    page.click("th", 1)
    assert page.text(first) == "0"
    page.click("th", 1)
    assert page.text(first) == "5"

    page.click("#rows tr:first-child")
    assert page.text("h2") == "hidden, neuron 5"
    page.wait(CHART)
    assert "<a>" in page.text("#chart")  # a name is text, not a tag
    assert page.ask("document.querySelectorAll('#inputs mark').length") >= 1
    chromium.find_element("id", "search").send_keys("nothing")
    assert page.text("#found") == "0 of 6 neurons"
    for width in (500, 1280):
        chromium.set_window_size(width, 800)
        assert not page.ask(WIDE)
    assert page.sound()


def test_ten_thousand_neurons_on_a_narrow_screen(tmp_path, chromium):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(10_000, name="wide")]
    )
    x = np.random.default_rng(0).normal(size=(20, 3))
    report = analyze(model, x, top=2, verbose=0)
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=np.ones((20, 12)))
    page = Page(chromium, path, width=500)
    page.wait(CHART)
    page.wait("document.querySelector('#inputs svg')")  # Its time series
    assert page.text("#found") == "10,000 of 10,000 neurons"
    # A bar of the histogram stands on the axis.
    assert max(page.ask(f"{BARS}.map((bar) => bar.getBBox().height)")) > 100
    # Only the rows that are looked at are laid out.
    rows = "document.querySelectorAll('#rows tr').length"
    assert page.ask(rows) < 500
    page.ask("document.querySelector('#list').scrollTop = 1e9")
    page.wait(f"{rows} > 100")
    page.click("th", 1)
    chromium.find_element("id", "search").send_keys("9999")
    assert page.text("#found") == "1 of 10,000 neurons"
    page.click("#rows tr:first-child")
    assert page.text("h2") == "wide, neuron 9999"
    assert not page.ask(WIDE)
    assert page.sound()
