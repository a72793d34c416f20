"""The guides as text: which pages there are, and the blocks of code in them.

A comment before a block says what becomes of it. Python blocks run, unless ``<!-- not run: why -->`` stands before
them. Commands are only read by the parsers that they are for, unless ``<!-- runs -->`` has them run, or
``<!-- not checked: why -->`` takes them as they are.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "RESULTS.md", "datasets/README.md")), *GUIDES]

_BLOCK = re.compile(
    r"^(?:[ \t]*<!-- (?P<mark>runs|not run: .+|not checked: .+) -->\n)?"
    r"^(?P<indent>[ \t]*)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        place: page and line of its first line, for messages.
        mark: what the comment before it says, "" for none.
        text: without the indentation that the block has as a whole.
    """

    place: str
    mark: str
    text: str


def name_of(page: Path) -> str:
    """As messages call it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of a language in a page, in its order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{name_of(page)}:{text[: found.start('text')].count(chr(10)) + 1}",
            found["mark"] or "",
            textwrap.dedent(found["text"]),
        )
        for found in _BLOCK.finditer(text)
        if found["language"] == language
    ]
