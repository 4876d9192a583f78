"""Check the built site: python docs/theme/check.py site

Check that every internal link and anchor has a target, that pages load no file
from other sites, that no Markdown remains unconverted, and that no line can end
between a number and its "%".
"""

import pathlib
import re
import sys
from html.parser import HTMLParser
from urllib.parse import unquote
from urllib.parse import urlsplit

# Browsers load these without a click.
LOADED = {("img", "src"), ("link", "href"), ("script", "src")}


class Page(HTMLParser):
    """Collect links, anchors and faults of a page."""

    def __init__(self, file):
        super().__init__()
        self.links, self.anchors, self.faults = [], {"", "__top"}, []
        self.inside = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in ("br", "hr", "img", "input", "link", "meta"):
            self.inside.append(tag)
        self.anchors |= {found.get("id") or "", found.get("name") or ""}
        for key in ("href", "src"):
            target = found.get(key)
            if not target or found.get("rel") == "canonical":
                continue
            if target.startswith(("http:", "https:", "//")):
                if (tag, key) in LOADED:
                    self.faults.append(f"loads {target}")
            elif not target.startswith(("data:", "mailto:", "javascript:")):
                self.links.append(target)
        if tag == "img" and not found.get("alt"):
            self.faults.append(f"no alt text: {found.get('src')}")

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, text):
        if {"code", "pre", "script", "style"} & set(self.inside):
            return
        for mark in ("](", "```", ">>>", "**", "$$", "--8<--", "\\frac"):
            if mark in text:
                self.faults.append(f"unconverted: {text.strip()[:60]!r}")
        if "article" in self.inside and re.search(r"\d %", text):
            self.faults.append(f"may break: {text.strip()[:60]!r}")


def faults(root):
    """Yield the faults of a site, one line each."""
    pages = {file: Page(file) for file in sorted(root.rglob("*.html"))}
    for file, page in pages.items():
        where = file.relative_to(root)
        yield from (f"{where}: {fault}" for fault in page.faults)
        for link in page.links:
            parts = urlsplit(link)
            target = file
            if parts.path.startswith("/"):  # 404.html only
                target = root / unquote(parts.path).lstrip("/")
            elif parts.path:
                target = (file.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.exists():
                yield f"{where}: no such file: {link}"
            elif target in pages and anchor not in pages[target].anchors:
                yield f"{where}: no such anchor: {link}"


if __name__ == "__main__":
    found = list(faults(pathlib.Path(sys.argv[1]).resolve()))
    print("\n".join(found) or "No faults.")
    sys.exit(bool(found))
