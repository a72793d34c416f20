"""List the methods, with their published numbers, or describe one.

    cliptrase methods
    cliptrase methods sclip

The numbers are mIoU in percent as published, with ViT-B/16. They were measured by the authors or by later works, not by
this package, and their protocols differ.
"""

from __future__ import annotations

import argparse
import inspect
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing PyTorch would delay --help
    from cliptrase_d2.methods import Method

_COLUMNS = {
    "voc21": "VOC21", "pc60": "PC60", "coco_object": "Object", "voc20": "VOC20", "pc59": "PC59",
    "coco_stuff171": "Stuff", "ade150": "ADE", "cityscapes19": "City",
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase methods``."""
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="describe this method")


def run(arguments: argparse.Namespace) -> int:
    """Print the table or the description, and return 0."""
    from cliptrase_d2.methods import get_method

    print(describe_method(arguments.name, get_method(arguments.name)) if arguments.name else format_methods())
    return 0


def format_methods() -> str:
    """Return the table of all methods."""
    from tabulate import tabulate

    from cliptrase_d2.methods import METHOD_CLASSES
    from cliptrase_d2.methods.published import read_published_methods

    published = read_published_methods()
    rows = []
    for name, method in METHOD_CLASSES.items():
        facts = published.get(name)
        numbers = [f"{facts.mean_iou[key]:.1f}" if facts and key in facts.mean_iou else "" for key in _COLUMNS]
        rows.append([name, facts.venue if facts else "", facts.licence if facts else "", *numbers, method.title])
    headers = ["method", "venue", "licence", *_COLUMNS.values(), "title"]
    return tabulate(rows, headers, disable_numparse=True, colalign=("left",) * 3 + ("right",) * 8 + ("left",))


def describe_method(name: str, method: Method) -> str:
    """Return everything that is known about a method: its docstring, its options, and the published facts.

    Args:
        name: of the method.
        method: an instance.
    """
    from cliptrase_d2.methods.published import read_published_methods

    kind = type(method)
    lines = [f"{name}: {kind.title}", kind.source, "", inspect.getdoc(kind) or ""]
    options = inspect.signature(kind).parameters
    lines += ["", "Options: " + (", ".join(map(str, options.values())) or "none")]
    if facts := read_published_methods().get(name):
        numbers = ", ".join(f"{_COLUMNS[key]} {value}" for key, value in facts.mean_iou.items())
        commit = f", commit {facts.commit}" if facts.commit else ""
        lines += [
            "",
            f"Published: {facts.venue}, github.com/{facts.code}{commit}, licence: {facts.licence}",
            *textwrap.wrap(f"mIoU with ViT-B/16: {numbers}", 120),
            *textwrap.wrap(f"Settings: {facts.settings}", 120),
            *textwrap.wrap(f"Source of the numbers: {facts.source}", 120),
        ]
    return "\n".join(lines)
