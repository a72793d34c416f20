"""The reference of all configuration keys, generated from the comments in `cliptrase_d2/config.py`, and links to it.

The directive ``configuration-keys`` lists the keys that one function of that file defines. On every page, ``SOME.KEY``
in fixed width becomes a link to its entry.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

from cliptrase_d2 import config


class KeyGroup(NamedTuple):
    """Keys that share a comment.

    Attributes:
        names: full names, such as MODEL.CLIP.NAME.
        comment: description of the keys.
    """

    names: tuple[str, ...]
    comment: str


def read_keys(function: str) -> Iterator[KeyGroup]:
    """Yield the keys that a function of `config.py` defines, in order, with the comments above them."""
    lines = inspect.getsource(config).splitlines()
    tree = ast.parse("\n".join(lines))
    body = next(node.body for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    sections = {"cfg": ""}
    names: list[str] = []
    comment = ""
    for statement in body:
        if not isinstance(statement, ast.Assign):
            continue
        *aliases, key = statement.targets
        if aliases and isinstance(statement.value, ast.Call):  # san = cfg.MODEL.SAN = CfgNode()
            sections |= {ast.unparse(alias): ast.unparse(key).removeprefix("cfg.") + "." for alias in aliases}
            continue
        new_comment = _read_comment_above(lines, statement.lineno)
        if new_comment and names:
            yield KeyGroup(tuple(names), comment)
            names = []
        comment = new_comment or comment
        owner, name = ast.unparse(key).split(".", 1)
        names.append(sections[owner] + name)
    yield KeyGroup(tuple(names), comment)


def _read_comment_above(lines: Sequence[str], number: int) -> str:
    """Return the comment directly above a line, whose number counts from 1; "" if there is none."""
    comment: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        comment.insert(0, line.strip().removeprefix("#").strip())
    return " ".join(comment)


def list_functions() -> list[str]:
    """Return the names of the functions of `config.py` that define keys."""
    return [name for name in vars(config) if name.startswith("_add_")]


class ConfigurationKeys(SphinxDirective):
    """``.. configuration-keys:: _add_clip``, in reStructuredText."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return an entry for every key. Keys that share a comment share an entry."""
        defaults = config.load_config()
        text: list[str] = []
        for group in read_keys(self.arguments[0]):
            values = [_get_value(defaults, name) for name in group.names]
            shown = ", ".join(f"``{value!r}``" for value in values)
            text += [f".. confval:: {group.names[0]}", *(f"              {name}" for name in group.names[1:])]
            text += [
                f"   :type: ``{type(values[0]).__name__}``",
                f"   :default: {shown}",
                "",
                f"   {_escape(group.comment)}",
                "",
            ]
        return self.parse_text_to_nodes(StringList(text, self.env.docname), allow_section_headings=False)


def _escape(text: str) -> str:
    """Escape the special characters of reStructuredText."""
    return re.sub(r"([\\*`|_])", r"\\\1", text)


def _get_value(defaults: object, name: str) -> object:
    for part in name.split("."):
        defaults = getattr(defaults, part)
    return dict(defaults) if isinstance(defaults, dict) else defaults


class LinkKeys(SphinxTransform):
    """Links every key in fixed width to its entry."""

    default_priority = 5

    def apply(self) -> None:
        """Transform one page."""
        keys = {name for function in list_functions() for group in read_keys(function) for name in group.names}
        for literal in list(self.document.findall(nodes.literal)):
            name = literal.astext().split(" ")[0]
            if name in keys and not isinstance(literal.parent, nodes.reference | addnodes.pending_xref):
                link = addnodes.pending_xref(
                    "", refdomain="std", reftype="confval", reftarget=name, refdoc=self.env.docname, refwarn=True
                )
                literal.replace_self(link)
                link += literal


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.add_directive("configuration-keys", ConfigurationKeys)
    app.add_transform(LinkKeys)
    return {"parallel_read_safe": True}
