"""The neuron browser: one page, alone, that says what the report says."""

import base64
import gzip
import json
import os
import re

import keras
import numpy as np
import pytest

from keras_memel import analyze

pytest.importorskip("altair")

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 90)


@pytest.fixture(scope="module")
def report():
    model = keras.Sequential(
        [keras.Input((4, 4)), keras.layers.Dense(6, name="hidden")]
    )
    x = RNG.normal(size=(90, 4, 4)) + LABELS[:, None, None]
    return analyze(model, x, LABELS, feature_names=["<a>", "b", "c"], verbose=0)


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
    assert found["features"] == ["<a>", "b", "c"]
    np.testing.assert_allclose(
        layer["featureMs"], expected.feature_ms, rtol=1e-2
    )
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
    report.to_html(path, title="A <b> & c")
    page = path.read_text(encoding="utf-8")
    assert "<title>A &lt;b&gt; &amp; c</title>" in page
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
def chromium():
    """Headless Chromium: Playwright's own, or that at $CHROMIUM."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as context:
        try:
            browser = context.chromium.launch(
                executable_path=os.environ.get("CHROMIUM"),
                args=["--no-sandbox", "--no-zygote", "--single-process"],
            )
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {error}")
        yield browser
        browser.close()


def test_the_page_works_in_chromium(report, tmp_path, chromium):
    path = tmp_path / "neurons.html"
    report.to_html(path, inputs=["wxyz"] * 90, tokenize=list)
    page = chromium.new_page()
    wrong, asked = [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_selector("#chart svg")

    assert page.inner_text("#found") == "6 of 6 neurons"
    # The surest first; a click on a header sorts, a second turns round.
    best = report.to_dataframe()["roc_auc"].argmax()
    first = "#rows tr:first-child td:nth-child(2)"
    assert page.inner_text(first) == str(best)
    page.click("th:has-text('neuron')")
    assert page.inner_text(first) == "0"
    page.click("th:has-text('neuron')")
    assert page.inner_text(first) == "5"

    page.click("#rows tr:first-child")
    page.wait_for_selector("h2:has-text('hidden, neuron 5')")
    page.wait_for_selector("#chart svg")
    assert "<a>" in page.text_content("#chart")  # a name is text, not a tag
    assert page.locator("#inputs mark").count() >= 1
    page.fill("#search", "nothing")
    assert page.inner_text("#found") == "0 of 6 neurons"
    assert wrong == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked)
