"""Formulas as MathML, which browsers render without scripts, fonts or pictures."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util.logging import getLogger
from sphinx.writers.html5 import HTML5Translator

logger = getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_html_math_renderer("mathml", (_render_inline, None), (_render_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _render_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(_convert(node, as_block=False))
    raise nodes.SkipNode


def _render_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    opening = translator.starttag(node, "div", CLASS="math-block")
    translator.body.append(f"{opening}{_convert(node, as_block=True)}</div>\n")
    raise nodes.SkipNode


def _convert(node: nodes.math | nodes.math_block, *, as_block: bool) -> str:
    try:
        return str(tex2mathml(node.astext(), as_block=as_block))
    except MathError as error:
        logger.warning("formula cannot be converted: %s", error, location=node)
        return ""
