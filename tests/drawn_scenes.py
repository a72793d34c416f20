"""Small labelled scenes, not square, for tests that need a data set of files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image, ImageDraw

HEIGHT, WIDTH = 240, 320
CLASSES = ("sky", "grass", "brick wall", "circle", "square", "triangle", "star")
# Number of corners, and relative radius of every second corner.
SHAPES = {"circle": (64, 1.0), "square": (4, 1.0), "triangle": (3, 1.0), "star": (10, 0.45)}


def draw_scene(index: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw sky above grass or bricks, and two to five shapes of any colour on top.

    Args:
        index: number of the scene. The scene depends only on the index and the seed.
        seed: number of the series.
    Returns:
        The image [H,W,3] and the label map [H,W] of indices into ``CLASSES``, both uint8.
    """
    rng = np.random.default_rng((seed, index))
    ground = str(rng.choice(["grass", "brick wall"]))
    image, label = _draw_texture(ground, rng), np.full((HEIGHT, WIDTH), CLASSES.index(ground), np.uint8)
    horizon = int(rng.integers(HEIGHT // 3, 2 * HEIGHT // 3))
    image[:horizon], label[:horizon] = _draw_texture("sky", rng)[:horizon], CLASSES.index("sky")
    for _ in range(rng.integers(2, 6)):
        name = str(rng.choice(list(SHAPES)))
        inside = _draw_shape(name, rng)
        image[inside], label[inside] = rng.integers(0, 256, 3), CLASSES.index(name)
    return image, label


def write_scenes(output: Path, count: int, seed: int = 0) -> Path:
    """Write scenes 0 to count-1 to a folder. Return the data-set file, ``output/dataset.yaml``."""
    images, annotations = output / "images", output / "annotations"
    for folder in (images, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        image, label = draw_scene(index, seed)
        Image.fromarray(image).save(images / f"scene_{index:03}.png")
        Image.fromarray(label).save(annotations / f"scene_{index:03}.png")
    spec = {"name": "drawn_scenes", "images": images.name, "labels": annotations.name, "classes": list(CLASSES)}
    dataset = output / "dataset.yaml"
    dataset.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return dataset


def _draw_texture(name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a background [H,W,3] uint8."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    if name == "sky":
        down = y[..., None] / HEIGHT
        colour, noise = (1 - down) * (90, 150, 230) + down * (210, 230, 250), 3
    elif name == "grass":
        colour, noise = np.broadcast_to((60, 140, 50), (HEIGHT, WIDTH, 3)), 20
    else:
        mortar = (y % 16 < 2) | ((x + 16 * (y // 16 % 2)) % 32 < 2)  # alternate rows are shifted by half a brick
        colour, noise = np.where(mortar[..., None], (200, 195, 185), (165, 80, 60)), 8
    return (colour + rng.normal(0, noise, (HEIGHT, WIDTH, 1))).clip(0, 255).astype(np.uint8)


def _draw_shape(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return the pixels [H,W] bool of a shape at a random place inside the scene, rotated by a random angle."""
    corners, inner = SHAPES[name]
    radius = rng.uniform(HEIGHT / 12, HEIGHT / 5)
    centre = rng.uniform((radius, radius), (WIDTH - radius, HEIGHT - radius))
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    reach = radius * np.where(np.arange(corners) % 2, inner, 1.0)
    outline = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [corners,2], x before y
    canvas = Image.new("1", (WIDTH, HEIGHT))
    ImageDraw.Draw(canvas).polygon([(float(x), float(y)) for x, y in outline], fill=1)
    return np.array(canvas)
