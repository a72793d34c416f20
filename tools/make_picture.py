"""Draw the stages of the method on an image: image, correlation of one patch, clusters, segmentation.

    python tools/make_picture.py --output docs/pictures/emoji_scene.jpg -- INPUT.MIN_SIZE_TEST 224

draws the README's picture, in one pass over 224 pixels. For a photograph, add --config-file
configs/cliptrase/vit_b16_whole.yaml, --image, --classes and --point.
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
from cliptrase_d2.visualization.legend import add_caption
from cliptrase_d2.visualization.overlay import labels_at_size
from cliptrase_d2.visualization.panels import draw_clusters, draw_heat_map, mark_patch, place_side_by_side
from cliptrase_d2.visualization.picture import draw_labels

SCENE, POINT = "datasets/emoji_scenes/images/seen_010.webp", (60, 60)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default="configs/emoji_scenes_whole.yaml", help="model and protocol")
    parser.add_argument("--image", default=SCENE, help=f"default: {SCENE}")
    parser.add_argument("--classes", nargs="+", default=CLASSES, help="default: those of the emoji scenes")
    parser.add_argument("--point", type=_parse_point, default=POINT, help="X,Y in pixels: selects the patch to explain")
    parser.add_argument("--height", type=int, default=320, help="height of the panels in pixels")
    parser.add_argument("--output", type=Path, required=True, help="file; its suffix selects the format")
    parser.add_argument("opts", nargs="*", default=[], metavar="KEY VALUE", help="after --: changes of the config")
    return parser.parse_args()


def draw(segmenter: Segmenter, image: str, classes: Sequence[str], point: tuple[int, int], height: int) -> np.ndarray:
    """Draw four panels with captions.

    Args:
        segmenter: a model that `explain` accepts.
        image: path.
        classes: names to segment.
        point: (x, y) in pixels of the image.
        height: of the panels in pixels.
    Returns:
        [H,W,3] uint8 RGB.
    Raises:
        InputError: an unusable image or model, or a point outside the model's input.
    """
    result, explanation = segmenter(image, classes), explain(segmenter, image, point)
    clusters, patch = explanation.clusters, explanation.patch
    width = round(height * result.image.shape[1] / result.image.shape[0])
    picture = cv2.resize(result.image, (width, height), interpolation=cv2.INTER_CUBIC)
    correlation = draw_heat_map(picture, explanation.recovered[explanation.block])
    # Renumber the classes: the palette's first colours differ most.
    present, labels = np.unique(labels_at_size(result.label_map, (height, width)), return_inverse=True)
    names = [result.classes[index] for index in present]
    panels = {
        "image with a marked patch": mark_patch(picture, clusters.shape, patch),
        "correlation of the patch": mark_patch(correlation, clusters.shape, patch),
        f"{int(clusters.max()) + 1} clusters of patches": draw_clusters(picture, clusters),
        "segmentation": draw_labels(picture, labels.reshape(height, width), names),
    }
    return place_side_by_side([add_caption(panel, caption) for caption, panel in panels.items()])


def _parse_point(text: str) -> tuple[int, int]:
    x, y = map(int, text.split(","))
    return x, y


def main() -> None:
    """Draw and write the picture."""
    args = parse_arguments()
    try:
        segmenter = Segmenter.from_config(args.config_file, args.opts)
        picture = draw(segmenter, args.image, args.classes, args.point, args.height)
    except InputError as error:
        raise SystemExit(f"error: {error}") from error
    args.output.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(args.output, quality=90)
    print(f"{args.output}: {picture.shape[1]}x{picture.shape[0]} pixels, {args.output.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
