"""Draw the pictures of the guides, except the diagram, into docs/pictures: `make picture`.

The model is the embedded one. Enlarged pictures show results of enlarged images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cliptrase_d2.data.emoji_scenes.names import CLASSES
from cliptrase_d2.data.images import read_image
from cliptrase_d2.data.label_files import read_label
from cliptrase_d2.segmenter.explanation import explain
from cliptrase_d2.segmenter.segmenter import Segmenter
from cliptrase_d2.visualization.explanation import Grouping, draw_clustering, draw_correlation
from cliptrase_d2.visualization.legend import add_caption
from cliptrase_d2.visualization.overlay import labels_at_size
from cliptrase_d2.visualization.panels import arrange_rows, place_side_by_side
from cliptrase_d2.visualization.picture import class_colours, draw_evaluation, draw_labels

ROOT = Path(__file__).resolve().parents[1]
SCENES = ROOT / "datasets" / "emoji_scenes"
PICTURES = ROOT / "docs" / "pictures"
WINDOWS, WHOLE = ROOT / "configs" / "emoji_scenes.yaml", ROOT / "configs" / "emoji_scenes_whole.yaml"
SCENE, POINT = "seen_033", (133, 100)
WORDS = ["bee", "blue circle;blue ball", "night sky", "gravel", "grass"]
GRID, GRID_SIDE = (2, 6), 150
METHOD_SCENES = ("seen_033", "unseen_combination_012", "held_out_008")  # one of each split
METHOD_SIDE = 240
METHODS = {"clip": "plain CLIP", "maskclip": "MaskCLIP", "cliptrase": "CLIPtrase"}


def enlarge(side: int, name: str = SCENE) -> np.ndarray:
    """Return a scene at another size, [H,W,3] uint8 RGB."""
    scene = Image.fromarray(read_image(SCENES / "images" / f"{name}.webp"))
    return np.array(scene.resize((side, side), Image.Resampling.BICUBIC))


def draw_background(segmenter: Segmenter) -> np.ndarray:
    """Draw a result with two classes, without and with a background."""
    scene, things, rest = enlarge(320), WORDS[:2], WORDS[2:]
    results = {"two classes": segmenter(scene, things), "with a background": segmenter(scene, things, rest)}
    return place_side_by_side([add_caption(result.overlay(), caption) for caption, result in results.items()])


def draw_truth_and_prediction(segmenter: Segmenter) -> np.ndarray:
    """Draw a scene as an evaluation does."""
    truth = read_label(SCENES / "annotations" / f"{SCENE}.png")
    result = segmenter(SCENES / "images" / f"{SCENE}.webp", CLASSES)
    return draw_evaluation(result.image, result.label_map, truth, CLASSES, ignore_label=255)


def draw_methods() -> np.ndarray:
    """Draw scenes with their ground truth and the predictions of several methods, as `make eval` computes them."""
    no_masks = {"MODEL.CLIPTRASE.CLUSTERING": "none"}
    segmenters = {
        title: Segmenter.from_config(WINDOWS, {} if name == "cliptrase" else no_masks, method=name)
        for name, title in METHODS.items()
    }
    rows = []
    for scene in METHOD_SCENES:
        image, file = enlarge(METHOD_SIDE, scene), SCENES / "images" / f"{scene}.webp"
        maps = {"ground truth": read_label(SCENES / "annotations" / f"{scene}.png")}
        maps |= {title: segmenter(file, CLASSES).label_map for title, segmenter in segmenters.items()}
        maps = {title: labels_at_size(labels, image.shape[:2]) for title, labels in maps.items()}
        colours = class_colours(CLASSES, np.stack(list(maps.values())))  # all panels of a scene share them
        panels = {"image": image}
        panels |= {title: draw_labels(image, labels, CLASSES, colours, legend=False) for title, labels in maps.items()}
        rows.append([add_caption(panel, caption) for caption, panel in panels.items()])
    return arrange_rows(rows)


def draw_explanations(segmenter: Segmenter) -> dict[str, np.ndarray]:
    """Draw the explanation of a patch on the body of a bee, as ``cliptrase explain`` does."""
    result = explain(segmenter, SCENES / "images" / f"{SCENE}.webp", POINT)
    correlation = draw_correlation(
        result.image, result.patch, result.attention, result.recovered, result.global_patches, clustered=result.block
    )
    before, after = Grouping(result.clusters_before, result.masks_before), Grouping(result.clusters, result.masks)
    clusters = draw_clustering(result.image, result.global_patches[result.block], before, after)
    return {"correlation.jpg": correlation, "clusters.jpg": clusters}


def draw_scenes() -> np.ndarray:
    """Draw some scenes in rows."""
    files = sorted((SCENES / "images").glob("*.webp"))
    rows, columns = GRID
    chosen = files[:: len(files) // (rows * columns)][: rows * columns]
    small = [np.array(Image.open(file).convert("RGB").resize((GRID_SIDE, GRID_SIDE))) for file in chosen]
    gap = np.full((12, columns * (GRID_SIDE + 12) - 12, 3), 255, np.uint8)
    bands = [place_side_by_side(small[first : first + columns]) for first in range(0, len(small), columns)]
    return np.concatenate([part for band in bands for part in (gap, band)][1:])


def main() -> None:
    """Draw and write all pictures."""
    segmenter = Segmenter.from_config(WINDOWS)
    pictures = {
        "methods.jpg": draw_methods(),
        "five_classes.jpg": segmenter(enlarge(448), WORDS).overlay(),
        "background.jpg": draw_background(segmenter),
        "truth_and_prediction.jpg": draw_truth_and_prediction(segmenter),
        "emoji_scenes.jpg": draw_scenes(),
        **draw_explanations(Segmenter.from_config(WHOLE)),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(PICTURES / name, quality=88)
        print(f"docs/pictures/{name}: {picture.shape[1]}x{picture.shape[0]} pixels")


if __name__ == "__main__":
    main()
