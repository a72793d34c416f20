"""The pages of the documentation, and the blocks of code in them.

A comment before a block says how to test it. Python blocks run, except after ``<!-- not run: why -->``. Commands are
parsed but not run. After ``<!-- runs -->`` they are run, and after ``<!-- not checked: why -->`` they are skipped.
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
    r"^(?:[ \t]*<!-- (?P<mark>runs|not run: [^\n]+|not checked: [^\n]+) -->\n)?"
    r"^(?P<indent>[ \t]*)```(?P<language>\w+)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A block of code.

    Attributes:
        place: page and line number, for test names.
        mark: the comment before it; "" for none.
        text: the code, dedented.
    """

    place: str
    mark: str
    text: str


def get_name(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def find_blocks(page: Path, language: str) -> list[Block]:
    """Return the blocks of a language in a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            f"{get_name(page)}:{text[: match.start('text')].count(chr(10)) + 1}",
            match["mark"] or "",
            textwrap.dedent(match["text"]),
        )
        for match in _BLOCK.finditer(text)
        if match["language"] == language
    ]


def read_table(text: str, header: str, *, keep_header: bool = False) -> list[list[str]]:
    """Return the cells of the first Markdown table whose header begins with a text."""
    head, _, *rows = (header + text.split(header)[1]).partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in ([head] if keep_header else []) + rows]
