"""What a user may write, in full: mypy checks it as strictly as it can (setup.cfg), and a test runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from cliptrase_d2 import SegmentationResult, Segmenter, __version__, register_dataset
from cliptrase_d2.utils.errors import InputError

WORDS = ["soccer ball", "red book;book", "water"]


def frames(file: Path, count: int) -> Iterator[np.ndarray]:
    """An image again and again, turned by a quarter each time."""
    pixels = np.array(Image.open(file).convert("RGB"))
    for quarter in range(count):
        yield np.rot90(pixels, quarter)


def largest(result: SegmentationResult) -> tuple[str, float]:
    """The class with the most pixels, and its share."""
    shares: dict[str, float] = result.shares()
    return next(iter(shares.items()))


def main(scenes: Path, output: Path) -> dict[str, float]:
    """Segment some scenes in every way that there is; the largest class of each, with its share."""
    segmenter: Segmenter = Segmenter.from_config("configs/emoji_scenes.yaml", ["MODEL.DEVICE", "cpu"])
    files = sorted(scenes.glob("seen_01*.webp"))[:2]
    result: SegmentationResult = segmenter(files[0], WORDS)
    height, width = result.label_map.shape
    result.save(output / f"{height}x{width}.png")
    result.to_pil().save(output / "labels.png")
    (output / "coco.json").write_text(json.dumps(result.to_coco(image_id=7)))
    areas: list[int] = [segment["area"] for segment in result.to_coco()]
    scores: list[float] = result.to_instances().scores.tolist()
    assert sum(areas) == height * width
    assert all(0 <= score <= 1 for score in scores)
    found = dict(largest(result) for result in segmenter.batch(files, WORDS, background=["grass"]))
    with closing(segmenter.stream(frames(files[0], 3), WORDS, batch_size=2)) as results:
        found |= dict(map(largest, results))
    try:
        register_dataset("user_script_scenes", images=output, classes=["sky", "sky"])
    except InputError as error:
        print(f"cliptrase_d2 {__version__}: {error.where} cannot be used. {error.fix}")
    return found
