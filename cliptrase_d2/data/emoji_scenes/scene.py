"""Drawing of scenes: regions of stuff with things on them, and the label of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from cliptrase_d2.data.emoji_scenes.names import CLASSES, STUFF, THINGS
from cliptrase_d2.data.emoji_scenes.textures import UNITS, draw_texture, noise

GLYPH_SHEET = Path(__file__).parent / "glyphs.png"
GLYPH_SIDE = 128  # pixels; side of a glyph on the sheet
SHEET_COLUMNS = 10  # glyphs in a row of the sheet


@dataclass(frozen=True)
class Thing:
    """One thing in an image.

    Attributes:
        name: one of `THINGS`.
        centre: (x, y) in shares of the image's side.
        size: side of the glyph in shares of the image's side.
        angle: degrees, counter-clockwise.
        mirrored: whether left and right are swapped.
    """

    name: str
    centre: tuple[float, float]
    size: float
    angle: float
    mirrored: bool


@dataclass(frozen=True)
class Layout:
    """Complete description of an image, at any size.

    Attributes:
        stuff: one to three of `STUFF`, in the order of the regions.
        things: the last one is on top.
        zoom: magnification of the textures.
        seed: of the borders, the textures, the light and the grain.
    """

    stuff: tuple[str, ...]
    things: tuple[Thing, ...]
    zoom: float
    seed: int


@dataclass(frozen=True)
class Scene:
    """A drawn layout.

    Attributes:
        image: [S,S,3] uint8 RGB.
        label: [S,S] uint8, indices into `CLASSES`.
        layout: its description.
    """

    image: np.ndarray
    label: np.ndarray
    layout: Layout


def draw(layout: Layout, size: int) -> Scene:
    """Draw a layout.

    Args:
        layout: description of the image.
        size: side of the image in pixels. It changes only the detail.
    """
    rng = np.random.default_rng(layout.seed)
    image, label = _draw_stuff(layout, size, rng)
    for thing in layout.things:
        _paste(image, label, thing, rng)
    return Scene(_add_light_and_grain(image, layout.seed, rng), label, layout)


def read_glyph_sheet(path: Path = GLYPH_SHEET) -> np.ndarray:
    """Return the sheet of glyphs, [H,W,4] uint8 RGBA, in the order of `THINGS`."""
    with Image.open(path) as file:
        return np.asarray(file.convert("RGBA"))


def _draw_stuff(layout: Layout, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the image [S,S,3] float32 and the label [S,S] uint8 without things."""
    position = (np.arange(size, dtype=np.float32) + 0.5) * (UNITS / size)
    x, y = np.meshgrid(position, position)
    region = _draw_regions(x, y, len(layout.stuff), rng)
    image = np.zeros((size, size, 3), np.float32)
    label = np.zeros((size, size), np.uint8)
    for index, name in enumerate(layout.stuff):
        inside = region == index
        image[inside] = _draw_texture_at(name, x, y, layout.zoom, rng)[inside]
        label[inside] = STUFF.index(name)
    return image, label


def _draw_regions(x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the region of each pixel, [H,W], 0 to count-1: bands with wavy borders at a random angle."""
    angle, offset, wave = rng.uniform(0, 2 * np.pi), rng.uniform(0, 256, 2), rng.uniform(5, 35)
    across = (x - UNITS / 2) * np.cos(angle) + (y - UNITS / 2) * np.sin(angle)
    across = across + wave * (noise(x / 30 + np.float32(offset[0]), y / 30 + np.float32(offset[1])) - 0.5)
    middle, width = rng.uniform(-0.22, 0.22) * UNITS, rng.uniform(0.28, 0.36) * UNITS
    borders: dict[int, list[float]] = {1: [], 2: [middle], 3: [middle - width / 2, middle + width / 2]}
    return np.searchsorted(np.array(borders[count], np.float32), across)


def _draw_texture_at(name: str, x: np.ndarray, y: np.ndarray, zoom: float, rng: np.random.Generator) -> np.ndarray:
    """Return a texture [H,W,3] with a random rotation, magnification and shift."""
    angle, scale, shift = rng.uniform(-0.35, 0.35), rng.uniform(0.75, 1.35) * zoom, rng.uniform(0, 256, 2)
    cos, sin = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    left, top = np.float32(shift[0]), np.float32(shift[1])
    return draw_texture(name, x * cos + y * sin + left, y * cos - x * sin + top, rng)


def _paste(image: np.ndarray, label: np.ndarray, thing: Thing, rng: np.random.Generator) -> None:
    """Draw a thing on an image and its label, in place. The edge is soft; the label ends where alpha is 0.5."""
    tint = rng.uniform(0.9, 1.1, 3).astype(np.float32)
    size = len(image)
    centre, reach = np.array(thing.centre) * size, thing.size * size * np.sqrt(0.5) + 1
    left, top = np.floor(centre - reach).clip(0, size).astype(int)
    right, bottom = np.ceil(centre + reach).clip(0, size).astype(int)
    if left >= right or top >= bottom:
        return
    glyph = _warp_glyph(thing, thing.size * size, centre - 0.5 - (left, top), (int(right - left), int(bottom - top)))
    alpha = glyph[..., 3:]
    window = np.s_[top:bottom, left:right]
    image[window] *= 1 - alpha
    image[window] += glyph[..., :3] * tint
    label[window][alpha[..., 0] > 0.5] = CLASSES.index(thing.name)


def _warp_glyph(thing: Thing, side: float, centre: np.ndarray, box: tuple[int, int]) -> np.ndarray:
    """Return the glyph of a thing, resized, rotated and mirrored.

    Args:
        side: of the glyph in pixels.
        centre: (x, y) in pixels of the box; 0 is the centre of the first pixel.
        box: (width, height).
    Returns:
        [height,width,4] float32 RGBA, colours multiplied by alpha.
    """
    glyph = _get_glyph(thing.name, side)
    scale, theta = side / len(glyph), np.deg2rad(thing.angle)
    turn = scale * np.array([[np.cos(theta), np.sin(theta)], [-np.sin(theta), np.cos(theta)]])
    turn[:, 0] *= -1 if thing.mirrored else 1
    middle = (len(glyph) - 1) / 2
    shift = centre - turn @ (middle, middle)
    return cv2.warpAffine(glyph, np.column_stack([turn, shift]), box, flags=cv2.INTER_LINEAR)


def _add_light_and_grain(image: np.ndarray, seed: int, rng: np.random.Generator) -> np.ndarray:
    """Return the image [S,S,3] uint8 with a random colour cast, brightness and grain."""
    gain, shift = rng.uniform(0.92, 1.08, 3), rng.uniform(-12, 12)
    # A generator of its own: the number of values drawn depends on the size.
    grain = np.random.default_rng(seed + 1).standard_normal((*image.shape[:2], 1), dtype=np.float32)
    image = image * gain.astype(np.float32) + np.float32(shift) + rng.uniform(0, 6) * grain
    return image.clip(0, 255).astype(np.uint8)


def _get_glyph(name: str, side: float) -> np.ndarray:
    """Return a glyph in the smallest stored size that is at least ``side``, or in the largest."""
    pyramid = _load_glyphs()[THINGS.index(name)]
    fitting = [level for level in pyramid if len(level) >= side]
    return fitting[-1] if fitting else pyramid[0]


@cache
def _load_glyphs() -> Sequence[Sequence[np.ndarray]]:
    """Return each glyph at 128, 64, 32 and 16 pixels: [P,P,4] float32, colours times alpha, alpha 0 to 1."""
    sheet = read_glyph_sheet().astype(np.float32)
    sheet = np.concatenate([sheet[..., :3] * (sheet[..., 3:] / 255), sheet[..., 3:] / 255], axis=-1)
    return [_build_pyramid(sheet, index) for index in range(len(THINGS))]


def _build_pyramid(sheet: np.ndarray, index: int) -> Sequence[np.ndarray]:
    """Return a glyph at every size, the largest first."""
    top, left = (GLYPH_SIDE * cell for cell in divmod(index, SHEET_COLUMNS))
    glyph = sheet[top : top + GLYPH_SIDE, left : left + GLYPH_SIDE]
    sides = (GLYPH_SIDE >> level for level in range(4))
    return [cv2.resize(glyph, (side, side), interpolation=cv2.INTER_AREA) for side in sides]
