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
    ("[a\nb](./b/c.md#d)", f"[a\nb]({FILES}/b/c.md#d)", "a\nb"),
    ("[a](#limits)", f"[a]({FILES}/README.md#limits)", "a"),
    ("[a](docs/)", f"[a]({ADDRESS}/tree/main/docs/)", "a"),
    ("![a](b.png)", f"![a]({ADDRESS}/raw/main/b.png)", ""),
    ("![a](https://x.y/b.png)",) * 3,
    ("[a](https://x.y/b)",) * 3,
    ("[a](mailto:b@x.y)",) * 3,
    ("`[a](b.md)`",) * 3,
    ("```md\n[a](b.md)\n```\n",) * 3,
]


@pytest.mark.parametrize(("readme", "linked", "unlinked"), LINKS)
def test_each_form_of_a_link(readme, linked, unlinked):
    assert long_description(readme, ADDRESS) == linked
    assert long_description(readme, "") == unlinked


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
