"""Export the image encoder to a file that runs without this package, and check its outputs.

    cliptrase export --output encoder.onnx
    cliptrase export --output encoder.onnx --any-size --classes "sky, tree, person;man;woman"
    cliptrase export --output encoder.pt2 --model emoji --method maskclip

A .onnx file is ONNX, for onnxruntime and others. A .pt2 file is a PyTorch exported program; torch.export.load reads
pickles, so load only files you trust. Inputs are images [B,3,H,W], RGB in 0 to 255, and words [R,D], the text features.
Outputs are float32: patches [B,N,D] and class_token [B,D] in the joint space, correlation [B,N,N], which CLIPtrase
clusters, and logits [B,N,R] of patches and words. Clustering is not exported. With --classes, the text features are
also written, to <name>_words.npz.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cliptrase_d2.cli.class_arguments import add_class_arguments, parse_pair, read_classes
from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from, model_title
from cliptrase_d2.cli.outputs import add_overwrite_argument, require_absent
from cliptrase_d2.utils.errors import InputError

if TYPE_CHECKING:  # importing PyTorch would delay --help
    from cliptrase_d2.clip.tokens import TextFeatures
    from cliptrase_d2.export import Report

_TOLERANCE = 1e-3
_TYPES = ("uint8", "float32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase export``."""
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="file to write, .onnx or .pt2")
    parser.add_argument("--size", metavar="HxW", help="image size (default: a square of the model's short side)")
    parser.add_argument("--any-size", action="store_true", help="accept any image size that is a multiple of the patch")
    parser.add_argument("--image-type", choices=_TYPES, default=_TYPES[0], help="data type of the images (uint8)")
    help_tolerance = f"largest difference from PyTorch, relative to the largest value ({_TOLERANCE:g})"
    parser.add_argument("--tolerance", type=float, default=_TOLERANCE, metavar="PART", help=help_tolerance)
    add_overwrite_argument(parser)
    add_class_arguments(parser, required=False)
    add_model_arguments(parser, method=True)


def run(arguments: argparse.Namespace) -> int:
    """Write and check the file, and return 0."""
    import torch

    from cliptrase_d2.export import export_tower, get_format
    from cliptrase_d2.vocabulary import Vocabulary

    get_format(arguments.output)  # rejects a wrong suffix before the model is loaded
    size = parse_pair(arguments.size, "x", "--size") if arguments.size is not None else None
    has_classes = arguments.classes is not None or arguments.classes_file is not None
    if arguments.background and not has_classes:
        raise InputError("--background", "given without classes", "Add --classes or --classes-file.")
    vocabulary = Vocabulary.parse(*read_classes(arguments)) if has_classes else None
    words = arguments.output.with_name(f"{arguments.output.stem}_words.npz")
    if not arguments.overwrite:
        require_absent([arguments.output, *([words] if has_classes else [])])
    segmenter = build_segmenter_from(arguments)
    report = export_tower(
        segmenter.model,
        arguments.output,
        size=size or (segmenter.protocol.short_side, segmenter.protocol.short_side),
        any_size=arguments.any_size,
        dtype=getattr(torch, arguments.image_type),
        tolerance=arguments.tolerance,
        notes={"model": model_title(arguments)},
    )
    _print_report(report, arguments.tolerance)
    if vocabulary is not None:
        _write_text_features(words, segmenter.model.text_features(vocabulary))
        print(f"{words}: text features of {len(vocabulary.classes)} classes ({len(vocabulary.prompts)} words)")
    return 0


def _print_report(report: Report, tolerance: float) -> None:
    from tabulate import tabulate

    for file in report.files:
        print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")
    print(f"Largest differences from PyTorch, relative to the largest value (allowed: {tolerance:g}):")
    rows = [[f"[{','.join(map(str, shape))}]", *values.values()] for shape, values in report.differences.items()]
    outputs = next(iter(report.differences.values()))
    print(tabulate(rows, ["images", *outputs], floatfmt=".1e"))


def _write_text_features(path: Path, text: TextFeatures) -> None:
    import numpy as np

    from cliptrase_d2.utils.atomic_files import atomic_write

    words, class_index = text.features.cpu().numpy(), text.class_index.cpu().numpy()
    classes = np.array(text.classes)
    atomic_write(path, lambda file: np.savez(file, words=words, class_index=class_index, classes=classes))
