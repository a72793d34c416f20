"""A script that uses the whole Python API. mypy checks it strictly (setup.cfg), and a test runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from cliptrase_d2 import SegmentationResult, Segmenter, __version__, register_dataset
from cliptrase_d2.utils.errors import InputError

CLASSES = ["soccer ball", "red book;book", "water"]


def rotate(file: Path, count: int) -> Iterator[np.ndarray]:
    """Yield an image several times, rotated by a further quarter turn each time."""
    pixels = np.array(Image.open(file).convert("RGB"))
    for quarter in range(count):
        yield np.rot90(pixels, quarter)


def get_largest(result: SegmentationResult) -> tuple[str, float]:
    """Return the largest class and its share of the pixels."""
    shares: dict[str, float] = result.shares()
    return next(iter(shares.items()))


def main(scenes: Path, output: Path) -> dict[str, float]:
    """Segment scenes in all ways. Return the largest classes with their shares."""
    segmenter: Segmenter = Segmenter.from_config("configs/emoji_scenes.yaml", ["MODEL.DEVICE", "cpu"])
    files = sorted(scenes.glob("seen_01*.webp"))[:2]
    result: SegmentationResult = segmenter(files[0], CLASSES)
    height, width = result.label_map.shape
    result.save(output / f"{height}x{width}.png")
    result.to_pil().save(output / "labels.png")
    (output / "coco.json").write_text(json.dumps(result.to_coco(image_id=7)))
    areas: list[int] = [segment["area"] for segment in result.to_coco()]
    scores: list[float] = result.to_instances().scores.tolist()
    assert sum(areas) == height * width
    assert all(0 <= score <= 1 for score in scores)
    largest = dict(get_largest(result) for result in segmenter.batch(files, CLASSES, background=["grass"]))
    with closing(segmenter.stream(rotate(files[0], 3), CLASSES, batch_size=2)) as results:
        largest |= dict(map(get_largest, results))
    try:
        register_dataset("user_script_scenes", images=output, classes=["sky", "sky"])
    except InputError as error:
        print(f"cliptrase_d2 {__version__}: {error.where} cannot be used. {error.fix}")
    return largest
