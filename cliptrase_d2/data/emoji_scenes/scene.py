"""Pictures with their labels: regions of stuff with things on them, the same at every size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cliptrase_d2.data.emoji_scenes.names import CLASSES, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.textures import UNITS, Array, draw_texture, noise

GLYPH_SHEET = Path(__file__).parent / "glyphs.png"
_GLYPH = 128  # pixels a side, and glyphs stand ten to a row
_COLUMNS = 10


@dataclass(frozen=True)
class Thing:
    """One thing in a picture.

    Attributes:
        name: one of `THINGS`.
        centre: (x, y) in shares of the picture's side.
        size: side of the glyph's square in shares of the picture's side.
        angle: degrees, counter-clockwise.
        mirrored: left for right.
    """

    name: str
    centre: tuple[float, float]
    size: float
    angle: float
    mirrored: bool


@dataclass(frozen=True)
class Layout:
    """All that a picture shows; the rest is drawing.

    Attributes:
        stuff: one to three of `STUFF`, in the order of the regions.
        things: from the farthest to the nearest.
        zoom: magnification of the textures.
        seed: of everything else: the borders, the textures, the light and the noise.
    """

    stuff: tuple[str, ...]
    things: tuple[Thing, ...]
    zoom: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """A drawn layout: image [S,S,3] uint8 RGB, label [S,S] uint8 of indices into `CLASSES`."""

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    layout: Layout


def draw(layout: Layout, size: int) -> Scene:
    """Draw a layout.

    Args:
        layout: what to draw.
        size: side of the picture in pixels; only the detail depends on it.
    """
    rng = np.random.default_rng(layout.seed)
    place = (np.arange(size, dtype=np.float32) + 0.5) * (UNITS / size)
    x, y = np.meshgrid(place, place)
    region = _regions(x, y, len(layout.stuff), rng)
    image = np.zeros((size, size, 3), np.float32)
    label = np.zeros((size, size), np.uint8)
    for index, name in enumerate(layout.stuff):
        inside = region == index
        colours = _place_texture(name, x, y, layout.zoom, rng)
        image[inside], label[inside] = colours[inside], STUFF.index(name)
    for thing in layout.things:
        _paste(image, label, thing, rng)
    gain, shift = rng.uniform(0.92, 1.08, 3), rng.uniform(-12, 12)
    image = image * gain.astype(np.float32) + np.float32(shift)
    grain = np.random.default_rng(layout.seed + 1).standard_normal((size, size, 1), dtype=np.float32)
    image += rng.uniform(0, 6) * grain
    return Scene(image.clip(0, 255).astype(np.uint8), label, layout)


def _regions(x: Array, y: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """[H,W] in 0 to count-1: bands with wavy borders at any angle."""
    angle, offset, wave = rng.uniform(0, 2 * np.pi), rng.uniform(0, 256, 2), rng.uniform(5, 35)
    across = (x - UNITS / 2) * np.cos(angle) + (y - UNITS / 2) * np.sin(angle)
    across = across + wave * (noise(x / 30 + np.float32(offset[0]), y / 30 + np.float32(offset[1])) - 0.5)
    first, second = rng.uniform(-0.22, 0.22) * UNITS, rng.uniform(0.28, 0.36) * UNITS
    borders = {1: [], 2: [first], 3: [first - second / 2, first + second / 2]}[count]
    return np.searchsorted(np.array(borders, np.float32), across) if borders else np.zeros(x.shape, np.intp)


def _place_texture(name: str, x: Array, y: Array, zoom: float, rng: np.random.Generator) -> Array:
    """A texture turned a little, magnified, shifted anywhere."""
    angle, scale, shift = rng.uniform(-0.35, 0.35), rng.uniform(0.75, 1.35) * zoom, rng.uniform(0, 256, 2)
    cos, sin = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    return draw_texture(name, x * cos + y * sin + np.float32(shift[0]), y * cos - x * sin + np.float32(shift[1]), rng)


def _paste(image: Array, label: NDArray[np.uint8], thing: Thing, rng: np.random.Generator) -> None:
    """Put a thing on top of a picture and its label, in place; the edge is soft, the label's is at its half."""
    size = len(image)
    side = thing.size * size
    colours = _glyph(thing.name, side)
    scale, theta = side / len(colours), np.deg2rad(thing.angle)
    turn = scale * np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
    turn[:, 0] *= -1 if thing.mirrored else 1
    centre, reach = np.array(thing.centre) * size, side * np.sqrt(0.5) + 1
    left, top = np.floor(centre - reach).clip(0, size).astype(int)
    right, bottom = np.ceil(centre + reach).clip(0, size).astype(int)
    tint = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    if left >= right or top >= bottom:
        return
    middle = (len(colours) - 1) / 2
    shift = centre - 0.5 - (left, top) - turn @ (middle, middle)
    box = (int(right - left), int(bottom - top))
    drawn = cv2.warpAffine(colours, np.column_stack([turn, shift]), box, flags=cv2.INTER_LINEAR)
    alpha = drawn[..., 3:]
    part = image[top:bottom, left:right]
    part *= 1 - alpha
    part += drawn[..., :3] * tint
    label[top:bottom, left:right][alpha[..., 0] > 0.5] = CLASSES.index(thing.name)


def _glyph(name: str, side: float) -> Array:
    """A glyph, colours multiplied by alpha: the smallest stored size that is no smaller than ``side``."""
    pyramid = _glyphs()[THINGS.index(name)]
    fitting = [level for level in pyramid if len(level) >= side]
    return fitting[-1] if fitting else pyramid[0]


@cache
def _glyphs() -> Sequence[Sequence[Array]]:
    """Per thing its glyph at 128, 64, 32 and 16 pixels, [P,P,4] float32 with alpha in 0 to 1."""
    with Image.open(GLYPH_SHEET) as file:
        sheet = np.asarray(file.convert("RGBA"), np.float32)
    sheet = np.concatenate([sheet[..., :3] * (sheet[..., 3:] / 255), sheet[..., 3:] / 255], axis=-1)
    glyphs = []
    for index in range(len(THINGS)):
        top, left = _GLYPH * (index // _COLUMNS), _GLYPH * (index % _COLUMNS)
        glyph = sheet[top : top + _GLYPH, left : left + _GLYPH]
        sides = (_GLYPH, _GLYPH // 2, _GLYPH // 4, _GLYPH // 8)
        glyphs.append([cv2.resize(glyph, (side, side), interpolation=cv2.INTER_AREA) for side in sides])
    return glyphs
