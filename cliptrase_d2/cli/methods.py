"""List the methods, with their published numbers, or describe one or a composition.

    cliptrase methods
    cliptrase methods sclip
    cliptrase methods sclip+sam+mean@slide

A composition METHOD[+MASKS][+RULE][+REFINEMENT][@PROTOCOL] is described by its parts and configuration keys, or an
error says why it is impossible.

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
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="describe this method or composition")


def run(arguments: argparse.Namespace) -> int:
    """Print the table or the description, and return 0."""
    from cliptrase_d2.methods import METHOD_CLASSES, get_method

    name = arguments.name
    if not name:
        print(format_methods())
    else:
        print(describe_method(name, get_method(name)) if name in METHOD_CLASSES else describe_composition(name))
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
            *([f"Needs besides CLIP: {facts.extra_models}"] if facts.extra_models else []),
            *textwrap.wrap(f"mIoU with ViT-B/16: {numbers}", 120),
            *textwrap.wrap(f"Settings: {facts.settings}", 120),
            *textwrap.wrap(f"Source of the numbers: {facts.source}", 120),
        ]
    return "\n".join(lines)


def describe_composition(text: str) -> str:
    """Return the parts of a composition, the keys that it sets, and the command that evaluates it.

    Raises:
        InputError: the composition cannot be read, or is impossible with the configuration of ``cliptrase eval``.
    """
    from cliptrase_d2.cli.evaluate import DEFAULT_CONFIG
    from cliptrase_d2.config import load_config
    from cliptrase_d2.evaluation.compositions import find_impossible, read_composition, require_possible

    cfg = load_config(DEFAULT_CONFIG, ["TEST.METHODS", str([text])])
    require_possible(cfg, find_impossible(cfg))
    composition = read_composition(text)
    keys = composition.keys | {
        f"MODEL.CLIPTRASE.METHOD_OPTIONS.{name}": value for name, value in composition.method.options.items()
    }
    lines = [f"{composition.name}: {composition.title}", composition.method.source, "", "Configuration:"]
    lines += [f"  {key} {value}" for key, value in keys.items()]
    return "\n".join([*lines, "", f"Evaluation: cliptrase eval DATA --method {composition.name}"])
