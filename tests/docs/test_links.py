"""Links between pages, and from pages to files of the repository, are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, get_name

_CODE = re.compile(r"```.*?```|``.*?``|`[^`\n]*`", re.DOTALL)
_LINK = re.compile(r"\]\((?!\w+:)([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


def find_anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, in the form of GitHub and Sphinx."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    included = re.search(r"^```\{include\} (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    inside = find_anchors(page.parent / included[1]) if included else set()
    return inside | {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in _HEADING.findall(text)
    }


@pytest.mark.parametrize("page", PAGES, ids=get_name)
def test_relative_links_are_valid(page: Path) -> None:
    links = _LINK.findall(_CODE.sub("", page.read_text(encoding="utf-8")))
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in find_anchors(target)):
            broken.append(link)
    assert not broken


def test_anchors_are_read_from_headings() -> None:
    readme = next(page for page in PAGES if page.parts[-2:] == ("datasets", "README.md"))
    assert "names-and-background-rules" in find_anchors(readme)
    assert "no-such-heading" not in find_anchors(readme)
