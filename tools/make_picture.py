"""Draw the method at work on one image: the image, what one of its patches is alike to, the clusters, the result.

    python tools/make_picture.py --output docs/pictures/emoji_scene.jpg

draws the README's picture. For a photograph name also --config-file configs/cliptrase/vit_b16_whole.yaml, --image,
--classes and --point.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.segmenter.explanation import explain
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.utils.errors import InputError
from cliptrase_d2.visualization.legend import with_caption
from cliptrase_d2.visualization.overlay import labels_at_size
from cliptrase_d2.visualization.picture import labelled_picture
from cliptrase_d2.visualization.stages import cluster_picture, heat_map, mark_patch, side_by_side

SCENE, POINT = "datasets/emoji_scenes/images/seen_010.webp", (60, 60)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes.yaml", help="model and protocol")
    parser.add_argument("--image", default=SCENE, help=f"default: {SCENE}")
    parser.add_argument("--classes", nargs="+", default=CLASSES, help="default: those of the emoji scenes")
    parser.add_argument("--point", type=_point, default=POINT, help="X,Y in pixels of the image: the patch to explain")
    parser.add_argument("--height", type=int, default=320, help="of the panels in pixels")
    parser.add_argument("--output", type=Path, required=True, help="file; its suffix decides the format")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    return parser.parse_args()


def stages(segmenter: Segmenter, image: str, classes: Sequence[str], point: tuple[int, int], height: int) -> np.ndarray:
    """The four panels, each with a caption.

    Args:
        segmenter: of the kind that `explain` takes.
        image: path.
        classes: names to look for.
        point: (x, y) in pixels of the image.
        height: of the panels in pixels.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        InputError: an image or a model that cannot be used, or a point outside of what the model sees.
    """
    result, found = segmenter(image, classes), explain(segmenter, image, point)
    grid = (found.clusters.shape[0], found.clusters.shape[1])
    width = round(height * result.image.shape[1] / result.image.shape[0])
    picture = cv2.resize(result.image, (width, height), interpolation=cv2.INTER_CUBIC)
    # Numbered anew, for the palette's first colours are the most different.
    present, labels = np.unique(labels_at_size(result.label_map, (height, width)), return_inverse=True)
    names = [result.classes[index] for index in present]
    panels = {
        "image, with one patch": mark_patch(picture, grid, found.patch),
        "what the patch is alike to": mark_patch(heat_map(picture, found.recovered[found.block]), grid, found.patch),
        f"{int(found.clusters.max()) + 1} clusters of patches": cluster_picture(picture, found.clusters),
        "clusters, named by CLIP's words": labelled_picture(picture, labels.reshape(height, width), names),
    }
    return side_by_side([with_caption(panel, caption) for caption, panel in panels.items()])


def _point(text: str) -> tuple[int, int]:
    x, y = map(int, text.split(","))
    return x, y


def main() -> None:
    """Draw the picture and write it."""
    args = parse_arguments()
    try:
        segmenter = Segmenter.from_config(args.config_file, args.opts)
        picture = stages(segmenter, args.image, args.classes, args.point, args.height)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(args.output, quality=90)
    print(f"{args.output}: {picture.shape[1]}x{picture.shape[0]} pixels, {args.output.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
