"""List the methods, with their published and measured numbers, or describe one or a composition.

    cliptrase methods
    cliptrase methods sclip
    cliptrase methods sclip+sam+mean@slide

A composition METHOD[+MASKS][+RULE][+REFINEMENT][@PROTOCOL] is described by its parts and configuration keys, or an
error says why it is impossible.

The published numbers are mIoU in percent with ViT-B/16. They were measured by the authors or by later works, not by
this package, and their protocols differ. The measured numbers are those of Emoji CLIP, a small model, on drawn scenes,
and the cost with ViT-B/16.
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
_MEASURED = {  # column: its heading and its format
    "emoji_pacc": ("pAcc", ".1f"), "emoji_miou": ("mIoU", ".1f"), "emoji_seed2_slide_miou": ("windows", ".1f"),
    "cpu_ratio": ("cost", ".2f"), "gpu_ms": ("GPU ms", ".2f"),
}  # fmt: skip
_CAPTION = """\
Measured here: pAcc and mIoU in percent of Emoji CLIP on the packaged scenes; mIoU in windows on scenes of seed 2; time
of a segmentation relative to encode_image, with ViT-B/16 on one CPU core; milliseconds per image on a GPU"""


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
    from cliptrase_d2.methods.published import read_measured_methods, read_published_methods

    published = [
        [name, row.venue, row.licence, *(_format(row.mean_iou.get(key), ".1f") for key in _COLUMNS)]
        for name, row in read_published_methods().items()
    ]
    rows = read_measured_methods()
    measured = [
        [name, *(_format(getattr(rows.get(name), key, None), how) for key, (_, how) in _MEASURED.items()), method.title]
        for name, method in METHOD_CLASSES.items()
    ]
    tables = (
        (published, ["method", "venue", "licence", *_COLUMNS.values()], ("left",) * 3 + ("right",) * len(_COLUMNS)),
        (
            measured,
            ["method", *(heading for heading, _ in _MEASURED.values()), "title"],
            ("left", *("right",) * len(_MEASURED), "left"),
        ),
    )
    texts = [tabulate(body, headers, disable_numparse=True, colalign=align) for body, headers, align in tables]
    return f"Published: mIoU in percent with ViT-B/16\n\n{texts[0]}\n\n{_CAPTION}\n\n{texts[1]}"


def describe_method(name: str, method: Method) -> str:
    """Return everything that is known about a method: its docstring, its options, and the published facts.

    Args:
        name: of the method.
        method: an instance.
    """
    from cliptrase_d2.methods.published import read_measured_methods, read_published_methods

    kind = type(method)
    lines = [f"{name}: {kind.title}", kind.source, "", inspect.getdoc(kind) or ""]
    options = inspect.signature(kind, eval_str=True).parameters
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
    if measured := read_measured_methods().get(name):
        if measured.emoji_pacc is not None:
            lines += [
                "",
                f"Emoji CLIP on the packaged emoji scenes: pAcc {measured.emoji_pacc}, mIoU {measured.emoji_miou}",
                f"Emoji CLIP on the emoji scenes of seed 2, in windows: mIoU {measured.emoji_seed2_slide_miou}",
            ]
        lines += [
            "",
            f"Time with ViT-B/16 on one CPU core: {measured.cpu_ratio} times encode_image, {measured.cpu_ms:.0f} ms",
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


def _format(number: float | None, how: str) -> str:
    return "" if number is None else format(number, how)
