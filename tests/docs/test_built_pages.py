"""The guides of the last build load nothing from other hosts, and their links are valid."""

from __future__ import annotations

import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import ROOT

BUILT = ROOT / "docs" / "_build" / "html"
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "link": "href",
    "object": "data",
}


class Page(HTMLParser):
    """The files that a page loads, its links, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.tags: dict[str, int] = defaultdict(int)
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        values = {name: value or "" for name, value in attrs}
        self.tags[tag] += 1
        self.anchors |= {values["id"]} if "id" in values else set()
        if tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    files = sorted(BUILT.rglob("*.html"))
    if not files:
        pytest.skip("the guides are not built: make docs")
    return {file: Page(file.read_text(encoding="utf-8")) for file in files}


def test_pages_load_nothing_from_other_hosts(pages: dict[Path, Page]) -> None:
    outside = {str(file): load for file, page in pages.items() for load in page.loads if re.match(r"(\w+:)?//", load)}
    assert sum(len(page.loads) for page in pages.values()) > len(pages)
    assert not outside


def test_styles_load_nothing_from_other_hosts(pages: dict[Path, Page]) -> None:
    styles = {file: file.read_text(encoding="utf-8") for file in BUILT.rglob("*.css")}
    loads = re.compile(r"(?:@import\s+|url\()\s*['\"]?((?:https?:)?//[^'\")]+)")
    assert styles
    assert not {file.name: loads.findall(text) for file, text in styles.items() if loads.search(text)}


def test_formulas_need_no_script(pages: dict[Path, Page]) -> None:
    assert pages[BUILT / "method.html"].tags["math"] > 5
    assert not [load for page in pages.values() for load in page.loads if "mathjax" in load.lower()]


def test_links_between_built_pages_are_valid(pages: dict[Path, Page]) -> None:
    broken = []
    for file, page in pages.items():
        for link in page.links:
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"\w+:", link):
                continue
            target = (file.parent / path).resolve() if path else file
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                broken.append(f"{file.name}: {link}")
    assert not broken


def test_the_notebook_was_executed(pages: dict[Path, Page]) -> None:
    assert pages[BUILT / "tour.html"].tags["img"] >= 5
