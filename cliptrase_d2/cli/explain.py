"""Draw why an image is segmented as it is: what one of its patches looks at, layer by layer, and its clusters.

    cliptrase explain photo.jpg --point 320,200
    cliptrase explain photo.jpg --point 320,200 --layers 1,6-12 --output explained
    cliptrase explain datasets/emoji_scenes/images/seen_008.webp --point 215,60 --model emoji

Writes two pictures. <name>_correlation.png has of every layer the patch's ordinary attention, with the global patches
that swallow it, and below the correlation that CLIPtrase recovers from it. <name>_clusters.png has clusters, noise and
masks before and after what is global is taken away. No words are needed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from, load_config_from, model_title
from cliptrase_d2.utils.errors import InputError

if TYPE_CHECKING:  # what loads PyTorch waits until the command runs, so that help comes at once
    import numpy as np

    from cliptrase_d2.segmenter.explanation import Explanation

_MOST_LAYERS = 12  # that are shown where none are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``cliptrase explain``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image")
    parser.add_argument("--point", metavar="X,Y", help="pixel whose patch is explained (default: middle)")
    parser.add_argument("--layers", metavar="N,N-N", help="those to show, from 1 on (default: all, or the last 12)")
    parser.add_argument("--output", type=Path, default=Path("output/explain"), help="folder (default output/explain)")
    add_model_arguments(parser, protocols=("whole", "center_crop"))


def run(arguments: argparse.Namespace) -> int:
    """Explain the image; 0 if it could be."""
    from cliptrase_d2.data.images import read_image
    from cliptrase_d2.segmenter.explanation import explain
    from cliptrase_d2.segmenter.result import write_picture
    from cliptrase_d2.utils.atomic_files import require_writable

    numbers = _numbers(arguments.layers) if arguments.layers is not None else None
    point = _point(arguments.point) if arguments.point is not None else None
    cfg = load_config_from(arguments)
    pixels = read_image(arguments.image, cfg.INPUT.MAX_PIXELS)
    require_writable(arguments.output, "--output")
    if point is None:
        point = pixels.shape[1] // 2, pixels.shape[0] // 2
        print(f"No --point: the middle of the image, {point[0]},{point[1]}.")
    found = explain(build_segmenter_from(arguments), pixels, point)
    layers, title = _layers(numbers, len(found.attention)), model_title(arguments)
    place = f"row {found.patch[0] + 1}, column {found.patch[1] + 1}"
    for name, picture, about in (
        ("correlation", _correlation(found, layers, title), f"patch in {place}, {len(layers)} layers"),
        ("clusters", _clustering(found, title), "clusters and masks before and after denoising"),
    ):
        path = arguments.output / f"{arguments.image.stem}_{name}.png"
        write_picture(picture, path)
        print(f"{path}: {about}")
    return 0


def _correlation(found: Explanation, layers: Sequence[int], title: str) -> np.ndarray:
    from cliptrase_d2.visualization.explanation import correlation_picture

    return correlation_picture(
        found.image,
        found.patch,
        found.attention,
        found.recovered,
        found.global_patches,
        layers=layers,
        clustered=found.block,
        note=title,
    )


def _clustering(found: Explanation, title: str) -> np.ndarray:
    from cliptrase_d2.visualization.explanation import Grouping, clustering_picture

    before, after = Grouping(found.clusters_before, found.masks_before), Grouping(found.clusters, found.masks)
    return clustering_picture(found.image, found.global_patches[found.block], before, after, note=title)


def _point(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+),(\d+)", text)
    if found is None:
        raise InputError(
            "--point", repr(text), "Give 320,200 or the like.", allowed="two whole numbers with a comma between them"
        )
    return int(found[1]), int(found[2])


def _numbers(text: str) -> list[int]:
    """Every number that "1,6-8" names, once: 1, 6, 7, 8."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        allowed = "numbers and ranges of numbers with commas between them"
        raise InputError("--layers", repr(text), "Give 1,6-8 or the like.", allowed=allowed)
    ends = [list(map(int, part.split("-"))) for part in text.split(",")]
    return list(dict.fromkeys(number for part in ends for number in range(part[0], part[-1] + 1)))


def _layers(numbers: Sequence[int] | None, count: int) -> Sequence[int]:
    """Indices of the layers with these numbers, from 1 on; of the last ones for None."""
    if numbers is None:
        return range(max(0, count - _MOST_LAYERS), count)
    if not numbers or not 1 <= min(numbers) <= max(numbers) <= count:
        got = ", ".join(map(str, numbers)) or "a range without a number"
        raise InputError(
            "--layers", got, "Choose among these.", allowed=f"1 to {count}, for the model has {count} layers"
        )
    return [number - 1 for number in numbers]
