"""Draw why an image is segmented the way it is: the attention of one patch in every layer, and the clusters.

    cliptrase explain photo.jpg --point 320,200
    cliptrase explain photo.jpg --point 320,200 --layers 1,6-12 --output explained
    cliptrase explain datasets/emoji_scenes/images/seen_008.webp --point 215,60 --model emoji

Two pictures are written. <name>_correlation.png shows, for every layer, the patch's ordinary attention with the global
patches that dominate it and, below, the correlation that CLIPtrase recovers. <name>_clusters.png shows clusters, noise
and masks before and after denoising. No class names are needed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from cliptrase_d2.cli.class_arguments import parse_pair
from cliptrase_d2.cli.model_arguments import add_model_arguments, build_segmenter_from, load_config_from, model_title
from cliptrase_d2.cli.outputs import add_overwrite_argument, require_absent
from cliptrase_d2.utils.errors import InputError, name_arguments

_MAX_LAYERS = 12  # shown without --layers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``cliptrase explain``."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument("--point", metavar="X,Y", help="pixel whose patch is explained (default: image centre)")
    parser.add_argument("--layers", metavar="N,N-N", help="layers to show, from 1 (default: the last 12)")
    parser.add_argument("--output", type=Path, default=Path("output/explain"), help="folder (default output/explain)")
    add_overwrite_argument(parser)
    add_model_arguments(parser, protocols=("whole", "center_crop"), rendering=True)


def run(arguments: argparse.Namespace) -> int:
    """Write both pictures and return 0."""
    from cliptrase_d2.config import ARGUMENT_KEYS
    from cliptrase_d2.data.images import read_image
    from cliptrase_d2.data.rendering import Rendering
    from cliptrase_d2.segmenter.explanation import explain
    from cliptrase_d2.segmenter.result import write_picture
    from cliptrase_d2.utils.atomic_files import require_writable
    from cliptrase_d2.visualization.explanation import Grouping, draw_clustering, draw_correlation

    numbers = parse_layers(arguments.layers) if arguments.layers is not None else None
    point = parse_pair(arguments.point, ",", "--point") if arguments.point is not None else None
    cfg = load_config_from(arguments)
    with name_arguments(ARGUMENT_KEYS):
        rendering = Rendering(cfg.INPUT.BANDS, cfg.INPUT.STRETCH)
    pixels = read_image(arguments.image, cfg.INPUT.MAX_PIXELS, rendering=rendering)
    require_writable(arguments.output, "--output")
    paths = {name: arguments.output / f"{arguments.image.stem}_{name}.png" for name in ("correlation", "clusters")}
    if not arguments.overwrite:
        require_absent(paths.values())
    if point is None:
        point = pixels.shape[1] // 2, pixels.shape[0] // 2
        print(f"No --point given: using the image centre, {point[0]},{point[1]}.")
    result = explain(build_segmenter_from(arguments), pixels, point)
    layers, title = select_layers(numbers, len(result.attention)), model_title(arguments)
    correlation = draw_correlation(
        result.image, result.patch, result.attention, result.recovered, result.global_patches,
        layers=layers, clustered=result.block, note=title,
    )  # fmt: skip
    before, after = Grouping(result.clusters_before, result.masks_before), Grouping(result.clusters, result.masks)
    clusters = draw_clustering(result.image, result.global_patches[result.block], before, after, note=title)
    row, column = result.patch
    for name, picture, content in (
        ("correlation", correlation, f"patch in row {row + 1}, column {column + 1}, {len(layers)} layers"),
        ("clusters", clusters, "clusters and masks before and after denoising"),
    ):
        write_picture(picture, paths[name])
        print(f"{paths[name]}: {content}")
    return 0


def parse_layers(text: str) -> list[int]:
    """Parse "1,6-8" into 1, 6, 7, 8, without duplicates."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        raise InputError("--layers", repr(text), "Give numbers or ranges, such as 1,6-8.")
    bounds = [[int(number) for number in part.split("-")] for part in text.split(",")]
    return list(dict.fromkeys(number for part in bounds for number in range(part[0], part[-1] + 1)))


def select_layers(numbers: Sequence[int] | None, count: int) -> Sequence[int]:
    """Return the layer indices, from 0, of layer numbers, from 1; by default, those of the last layers."""
    if numbers is None:
        return range(max(0, count - _MAX_LAYERS), count)
    if not numbers or not 1 <= min(numbers) <= max(numbers) <= count:
        got = ", ".join(map(str, numbers)) or "an empty range"
        raise InputError("--layers", got, "Choose layers of this model.", allowed=f"1 to {count}")
    return [number - 1 for number in numbers]
