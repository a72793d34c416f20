"""Write the image tower to a file that runs without this package, and check the file's numbers.

    cliptrase export --output tower.onnx
    cliptrase export --output tower.onnx --any-size --classes "sky, tree, person;man;woman"
    cliptrase export --output tower.pt2 --model emoji --attention v

A .onnx is ONNX, for onnxruntime and others; a .pt2 is an exported program of PyTorch (torch.export.load reads pickles:
load none that you do not trust). Either takes images [B,3,H,W], RGB in 0 to 255, and words [R,D], the text features,
and gives float32: patches [B,N,D] and class_token [B,D] in the joint space, correlation [B,N,N], which is what
CLIPtrase clusters, and logits [B,N,R], the patches against the words. Clustering stays outside. With --classes the text
features are written beside it, as <name>_words.npz.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cliptrase_d2.cli.class_arguments import add_class_arguments, parse_classes
from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from, model_title
from cliptrase_d2.utils.errors import InputError

if TYPE_CHECKING:  # what loads PyTorch waits until the command runs, so that help comes at once
    from cliptrase_d2.clip.tokens import TextFeatures
    from cliptrase_d2.export import Report

_TOLERANCE = 1e-3
_TYPES = ("uint8", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cliptrase export``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="ends with .onnx or .pt2")
    parser.add_argument("--size", metavar="HxW", help="of the images (default: a square of the model's short side)")
    parser.add_argument("--any-size", action="store_true", help="take images of any size in whole patches")
    parser.add_argument("--image-type", choices=_TYPES, default=_TYPES[0], help="of the numbers 0 to 255 (uint8)")
    help_tolerance = f"largest difference from PyTorch, in parts of the largest value ({_TOLERANCE:g})"
    parser.add_argument("--tolerance", type=float, default=_TOLERANCE, metavar="PART", help=help_tolerance)
    add_class_arguments(parser, required=False)
    parser.add_argument("--attention", help="of CLIP's last block: qq_kk_vv (default), qq_kk, v, qk, clearclip, ...")
    add_model_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Export; 0 if the file gives PyTorch's numbers."""
    import torch

    from cliptrase_d2.export import export_tower, get_format
    from cliptrase_d2.vocabulary import Vocabulary

    get_format(arguments.output)  # before the model is loaded, which takes its time
    size = _size(arguments.size) if arguments.size is not None else None
    is_named = arguments.classes is not None or arguments.classes_file is not None
    if arguments.background and not is_named:
        raise InputError("--background", "words without classes", "Name the classes, too.", allowed="with --classes")
    vocabulary = Vocabulary.parse(*parse_classes(arguments)) if is_named else None
    attention = ["MODEL.CLIPTRASE.ATTENTION", arguments.attention] if arguments.attention else []
    segmenter = build_segmenter_from(arguments, attention)
    report = export_tower(
        segmenter.model,
        arguments.output,
        size=size or (segmenter.protocol.short_side, segmenter.protocol.short_side),
        any_size=arguments.any_size,
        dtype=getattr(torch, arguments.image_type),
        tolerance=arguments.tolerance,
        notes={"model": model_title(arguments)},
    )
    _print_report(report, arguments)
    if vocabulary is not None:
        path = arguments.output.with_name(f"{arguments.output.stem}_words.npz")
        _write_words(path, segmenter.model.text_features({"vocabulary": vocabulary}))
        print(f"{path}: the text features of {len(vocabulary.classes)} classes, in {len(vocabulary.prompts)} words")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise InputError("--size", repr(text), "Give 224x224 or the like.", allowed="height x width in pixels")
    return int(found[1]), int(found[2])


def _print_report(report: Report, arguments: argparse.Namespace) -> None:
    from tabulate import tabulate

    for file in report.files:
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(f"The largest differences from PyTorch, in parts of the largest value (allowed: {arguments.tolerance:g}):")
    rows = [[f"[{','.join(map(str, shape))}]", *found.values()] for shape, found in report.differences.items()]
    outputs = next(iter(report.differences.values()))
    print(tabulate(rows, ["images", *outputs], floatfmt=".1e"))


def _write_words(path: Path, text: TextFeatures) -> None:
    import numpy as np

    from cliptrase_d2.utils.atomic_files import atomic_write

    words, class_index = text.features.cpu().numpy(), text.class_index.cpu().numpy()
    atomic_write(
        path, lambda file: np.savez(file, words=words, class_index=class_index, classes=np.array(text.classes))
    )
