"""The long description of the package, and files that contain its address."""

import email
import json
import os
import re
import shutil
from html.parser import HTMLParser

import hatchling.build
import markdown
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripts import ROOT
from scripts import load

from package_metadata import long_description
from package_metadata import project_urls

pytestmark = pytest.mark.once

ADDRESS = "https://github.com/owner/name"
FILES = f"{ADDRESS}/blob/main"


class Page(HTMLParser):
    """Collect the links, the pictures and the visible text of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.pictures, self.shown = [], [], ""
        extensions = ["fenced_code", "tables"]
        self.feed(markdown.markdown(text, extensions=extensions))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag == "a":
            self.links.append(found["href"])
        if tag == "img":
            self.pictures.append(found["src"])

    def handle_data(self, text):
        self.shown += "".join(text.split())


def is_absolute(target):
    return target.startswith("https:")


def absolute(target, kind="blob"):
    """Return the address of a target, independently of `urljoin`."""
    if is_absolute(target):
        return target
    if target.startswith("#"):
        return f"{FILES}/README.md{target}"
    if target.split("#")[0].endswith("/"):
        kind = "tree"
    return f"{ADDRESS}/{kind}/main/{target.removeprefix('./')}"


LINKS = [
    # readme, with an address, without one
    ("[a](b.md)", f"[a]({FILES}/b.md)", "a"),
    ("[a](./b/c.md#d)", f"[a]({FILES}/b/c.md#d)", "a"),
    ("[a](/b.md)", f"[a]({FILES}/b.md)", "a"),
    ("[a](#limits)", f"[a]({FILES}/README.md#limits)", "a"),
    ("[a](docs/)", f"[a]({ADDRESS}/tree/main/docs/)", "a"),
    ('[a](b.md "t (u)")', f'[a]({FILES}/b.md "t (u)")', "a"),
    ("[a](<b c.md>)", f"[a]({FILES}/b%20c.md)", "a"),
    ("[a](b_(c).md).", f"[a]({FILES}/b_(c).md).", "a."),
    ("[`x[0]`](b.md)", f"[`x[0]`]({FILES}/b.md)", "`x[0]`"),
    ("[a [b] c](d.md)", f"[a [b] c]({FILES}/d.md)", "a [b] c"),
    ("[a\nb](c.md)", f"[a\nb]({FILES}/c.md)", "a\nb"),
    ("![a](b.png)", f"![a]({ADDRESS}/raw/main/b.png)", ""),
    ("![a](https://x.y/b.png)",) * 3,
    ("[a](https://x.y/b)",) * 3,
    ('[a](https://x.y/b "t")',) * 3,
    ("[a](mailto:b@x.y)",) * 3,
    (
        "[![a](b.png)](c.md)",
        f"[![a]({ADDRESS}/raw/main/b.png)]({FILES}/c.md)",
        "a",
    ),
    (
        "[![a](b.png)](https://x.y)",
        f"[![a]({ADDRESS}/raw/main/b.png)](https://x.y)",
        "[a](https://x.y)",
    ),
    (
        "[![a](https://x.y)](b.md)",
        f"[![a](https://x.y)]({FILES}/b.md)",
        "![a](https://x.y)",
    ),
    ("[a][B]\n\n[b]: c.md\n", f"[a]({FILES}/c.md)\n\n", "a\n\n"),
    ("[a][]\n\n[a]: c.md 't'\n", f"[a]({FILES}/c.md)\n\n", "a\n\n"),
    ("[a]\n\n[a]: <c.md>", f"[a]({FILES}/c.md)\n\n", "a\n\n"),
    ("![a][b]\n\n[b]: c.png", f"![a]({ADDRESS}/raw/main/c.png)\n\n", "\n\n"),
    ("[a][b]\n\n[b]: https://x.y\n",) * 3,
    ("[a] and [ ] and [^1]\n\n[^1]: note\n",) * 3,
    ("`[a](b.md)` ``[a](`b.md)``",) * 3,
    ("```md\n[a](b.md)\n[a]: b.md\n```\n",) * 3,
    ("> ~~~\n> [a](b.md)\n> ~~~\n",) * 3,
    ("<!-- [a](b.md) -->",) * 3,
    (r"\[a](b.md) and \`",) * 3,
    ("`` ` `` [a](b.md)", f"`` ` `` [a]({FILES}/b.md)", "`` ` `` a"),
    ("a ` b [a](b.md)", f"a ` b [a]({FILES}/b.md)", "a ` b a"),
]


@pytest.mark.parametrize(("readme", "linked", "unlinked"), LINKS)
def test_each_form_of_a_link(readme, linked, unlinked):
    assert long_description(readme, ADDRESS) == linked
    assert long_description(readme, "") == unlinked


targets = st.sampled_from(
    ["b.md", "./b/c.md#d", "#e", "docs/", "docs/#f", "https://x.y/z", "LICENSE"]
)
sources = st.sampled_from(["b.png", "./c/d.png", "https://x.y/e.png"])
words = st.sampled_from(["one", "`[two](three.md)`", "*four*", "`five`"])
pictures = st.builds("![six]({})".format, sources)
links = st.builds("[{}]({})".format, words | pictures, targets)
blocks = st.just("\n\n```md\n[seven](eight.md)\n```\n\n")
readmes = st.lists(words | pictures | links | blocks).map(" ".join)


@given(readmes)
def test_a_page_of_any_links_shows_the_same_and_links_outside(readme):
    """Python-Markdown renders both texts; the oracle changes its output."""
    before = Page(readme)
    linked = Page(long_description(readme, ADDRESS))
    assert linked.shown == before.shown
    assert linked.links == [absolute(link) for link in before.links]
    assert linked.pictures == [absolute(p, "raw") for p in before.pictures]
    unlinked = Page(long_description(readme, ""))
    assert unlinked.links == [
        link for link in before.links if is_absolute(link)
    ]
    kept = [picture for picture in before.pictures if is_absolute(picture)]
    assert unlinked.pictures == kept
    # The text of a picture in a link takes its place.
    assert unlinked.shown.replace("six", "") == before.shown


@pytest.mark.parametrize("repository", ["", ADDRESS])
def test_the_metadata_have_no_relative_link(repository, tmp_path, monkeypatch):
    """hatchling calls the hook as `pip` and `build` do."""
    for name in ("LICENSE", "README.md", "package_metadata.py"):
        shutil.copy(ROOT / name, tmp_path)
    version = tmp_path / "keras_memel/utils/version.py"
    version.parent.mkdir(parents=True)
    shutil.copy(ROOT / "keras_memel/utils/version.py", version)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    line = f'repository = "{repository}"'
    text, changes = re.subn(r'^repository = ".*"$', line, text, flags=re.M)
    assert changes == 1
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    folder = hatchling.build.prepare_metadata_for_build_wheel(
        os.fspath(tmp_path)
    )
    text = (tmp_path / folder / "METADATA").read_text(encoding="utf-8")
    message = email.message_from_string(text)
    assert message["Description-Content-Type"] == "text/markdown"
    urls = dict(url.split(", ") for url in message.get_all("Project-URL"))
    assert {"Paper", "Preprint"} <= set(urls)
    assert urls.get("Repository", "") == repository
    readme = Page((ROOT / "README.md").read_text(encoding="utf-8"))
    page = Page(message.get_payload())
    assert page.shown == readme.shown
    assert all(map(is_absolute, page.links + page.pictures))
    assert len(page.links) < len(readme.links) or repository
    if repository:
        assert page.links == [absolute(link) for link in readme.links]
        assert all(url.startswith("https://") for url in urls.values())


@pytest.mark.parametrize(
    "wrong",
    ["owner/name", f"{ADDRESS}/", "https://x.y/owner/name", f"{ADDRESS}.git/a"],
)
def test_an_address_of_another_form_raises(wrong):
    with pytest.raises(ValueError, match=r"OWNER/NAME`. Received: '"):
        project_urls(wrong)


def test_stored_files_contain_the_address_of_pyproject():
    script = load(ROOT / "docs" / "generate" / "repository.py")
    for path, text in script.made(
        script.address(), script.is_released()
    ).items():
        stored = path.read_text(encoding="utf-8")
        assert text == stored, "run: python docs/generate/repository.py"


@pytest.mark.parametrize("released", [False, True])
def test_a_notebook_gets_its_link_and_loses_it(released):
    script = load(ROOT / "docs" / "generate" / "repository.py")
    plain = script.made("", released)
    for path, text in script.made(ADDRESS, released).items():
        if path.suffix == ".ipynb":
            notebook = json.loads(text)
            opening, install = notebook["cells"][:2]
            colab = f"https://colab.research.google.com/github/owner/name/blob/main/examples/notebooks/{path.name}"
            assert opening["source"][2] == f"[Open in Colab]({colab})\n"
            assert (
                len(opening["source"]) <= 12
            )  # It must be on the first screen.
            origin = "" if released else f" @ git+{ADDRESS}"
            assert f',examples]{origin}"' in install["source"][-1]
            again = (ADDRESS, released), ("", released)
            texts = [
                script.notebook(json.loads(text), path.name, *a) for a in again
            ]
        elif path.suffix == ".cff":
            assert f'\nrepository-code: "{ADDRESS}"\n' in text
            texts = [script.citation(text, a, released) for a in (ADDRESS, "")]
        else:
            assert "Open in Colab" in text
            texts = [script.page(text, a, released) for a in (ADDRESS, "")]
        assert texts == [text, plain[path]]
