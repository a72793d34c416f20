"""Rewriting of relative links in included files, so that they work from the folder of the including page."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

_RELATIVE_LINK = re.compile(r"(\]\()(?!\w+:|#)([^)\s]+)(?=\))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("include-read", _rewrite)
    return {"parallel_read_safe": True}


def _rewrite(app: Sphinx, included: Path, page: str, content: list[str]) -> None:
    content[0] = relink(content[0], (app.srcdir / included).resolve().parent, Path(app.srcdir).resolve())


def relink(text: str, folder: Path, page_folder: Path) -> str:
    """Change the relative links of Markdown from one folder to another."""
    return _RELATIVE_LINK.sub(
        lambda link: link[1] + Path(os.path.relpath(folder / link[2], page_folder)).as_posix(), text
    )
