"""Links of files that a page includes, written for the folder of the file, made to work in that of the page."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

_RELATIVE_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s]+)(?=\))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx asks for this."""
    app.connect("include-read", _rewrite)
    return {"parallel_read_safe": True}


def _rewrite(app: Sphinx, included: Path, page: str, content: list[str]) -> None:
    content[0] = relinked(content[0], (app.srcdir / included).resolve().parent, Path(app.srcdir).resolve())


def relinked(text: str, folder: Path, page_folder: Path) -> str:
    """Markdown that stood in one folder, its relative links made those of another."""
    return _RELATIVE_LINK.sub(
        lambda link: link[1] + Path(os.path.relpath(folder / link[2], page_folder)).as_posix(), text
    )
