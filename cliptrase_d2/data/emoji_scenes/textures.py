"""Procedural textures of the stuff classes.

A texture is a function of the position, so any part can be drawn at any size and zoom. Positions are in units; an image
without zoom is `UNITS` wide. The grain of a texture is a few units, so a single patch is enough to recognise it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from cliptrase_d2.data.emoji_scenes.names import STUFF

RGB = tuple[int, int, int]
Texture = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]

UNITS = 112.0
_PERIOD = 256
# Padded by one row and column, so that the lattice repeats without a seam.
_LATTICE = np.pad(np.random.default_rng(0).random((_PERIOD, _PERIOD), dtype=np.float32), ((0, 1), (0, 1)), mode="wrap")


def draw_texture(name: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the colours of a texture at some positions.

    Args:
        name: one of `STUFF`.
        x: [H,W], in units, to the right.
        y: [H,W], in units, down.
        rng: varies textures of the same name. The number of values drawn does not depend on the size.
    Returns:
        [H,W,3] float32, RGB in 0 to 255.
    """
    return _TEXTURES[name](x, y, rng).astype(np.float32, copy=False)


def noise(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return smooth noise [H,W], 0 to 1, with a grain of one unit. It repeats every 256 units."""
    return cv2.remap(_LATTICE, np.mod(x, _PERIOD), np.mod(y, _PERIOD), cv2.INTER_LINEAR)


def _colour(rgb: RGB) -> np.ndarray:
    """Return a colour [3] in single precision. Python numbers would make every texture double."""
    return np.array(rgb, np.float32)


def _mix(weight: np.ndarray, low: RGB, high: RGB) -> np.ndarray:
    """Return colours [H,W,3] from ``low`` at weight 0 to ``high`` at weight 1."""
    start, end = _colour(low), _colour(high)
    return start + weight.clip(0, 1)[..., None] * (end - start)


def _grass(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    blades = 0.7 * noise(x / 1.2 + 0.3 * noise(x, y / 4), y / 5) + 0.3 * noise(x / 6, y / 6)
    return _mix(1.4 * blades - 0.2, (20, 85, 20), (125, 200, 60))


def _sand(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    ripples = 0.5 + 0.5 * np.sin((y + 6 * noise(x / 14, y / 14)) * 1.1)
    return _mix(0.55 * ripples + 0.45 * noise(x / 0.8, y / 0.8), (205, 165, 100), (245, 220, 165))


def _water(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    waves = np.sin(y * 0.9 + 2.5 * np.sin(x * 0.25) + 5 * noise(x / 12, y / 12))
    return _mix(0.4 + 0.35 * waves + 0.5 * (waves > 0.85), (0, 70, 130), (90, 200, 225))


def _sky(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    clouds = 0.65 * noise(x / 18, y / 9) + 0.35 * noise(x / 6, y / 5)
    return _mix(3.2 * (clouds - 0.5), (120, 185, 250), (250, 252, 255))


def _bricks(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    row = np.floor(y / 5)
    column = np.floor((x + 5 * (row % 2)) / 10)
    mortar = (y % 5 < 1.1) | ((x + 5 * (row % 2)) % 10 < 1.1)
    tint = noise(column * 7.3 + 0.5, row * 5.7 + 0.5) + 0.2 * noise(x, y)
    return np.where(mortar[..., None], _colour((205, 198, 188)), _mix(tint, (140, 50, 35), (195, 95, 65)))


def _snow(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    drifts = 0.6 * noise(x / 10, y / 6) + 0.4 * noise(x / 3, y / 3)
    return _mix(1.5 * drifts, (200, 212, 235), (253, 254, 255))


def _wood(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grain = np.sin(2.2 * (y + 9 * noise(x / 40, y / 10)))
    return _mix(0.5 + 0.35 * grain + 0.4 * (noise(x / 8, y / 0.9) - 0.5), (95, 55, 25), (185, 125, 70))


def _lava(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    cracks = np.abs(noise(x / 7, y / 7) - 0.5 + 0.3 * (noise(x / 2.5, y / 2.5) - 0.5))
    return _mix(1.15 - 9 * cracks, (38, 22, 24), (255, 150, 20))


def _gravel(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    stones = noise(x / 2.4, y / 2.4)
    return _mix(0.25 + 2.2 * np.abs(stones - 0.5) + 0.25 * noise(x / 5, y / 5), (55, 55, 58), (190, 188, 182))


def _leaves(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shade, hue = noise(x / 2.2, y / 2.2), noise(x / 4 + 91, y / 4 + 17)
    colour = _mix(2.5 * hue - 0.75, (150, 45, 15), (235, 165, 35))
    return colour * (0.35 + 0.85 * shade)[..., None]


def _tiles(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grout = (x % 8 < 1.1) | (y % 8 < 1.1)
    tint = noise(np.floor(x / 8) * 3.7, np.floor(y / 8) * 5.3)
    return np.where(grout[..., None], _colour((240, 240, 235)), _mix(tint, (35, 140, 140), (80, 190, 180)))


def _checkerboard(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    white = (np.floor(x / 5) + np.floor(y / 5)) % 2
    return _mix(white, (25, 25, 28), (238, 238, 235))


def _stripes(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    hue = rng.uniform(0, 1)
    colour = 127 + 110 * np.cos(2 * np.pi * (hue + np.array((0, 1 / 3, 2 / 3))))
    on = ((x + y) % 7 < 3.5)[..., None]
    return np.where(on, colour.astype(np.float32), _colour((245, 243, 238)))


def _polka_dots(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shifted = x + 3.5 * (np.floor(y / 7) % 2)
    inside = (shifted % 7 - 3.5) ** 2 + (y % 7 - 3.5) ** 2 < 2.1**2
    return np.where(inside[..., None], _colour((255, 250, 250)), _colour((225, 85, 150)))


def _night_sky(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    stars = np.clip(12 * noise(x / 1.5, y / 1.5) * noise(x / 2.1 + 40, y / 2.1) - 7.6, 0, 1)
    glow = noise(x / 20, y / 20)[..., None] * _colour((25, 10, 50))
    return _colour((12, 14, 48)) + glow + stars[..., None] * _colour((225, 225, 170))


_FUNCTIONS = (
    _grass, _sand, _water, _sky, _bricks, _snow, _wood, _lava, _gravel, _leaves, _tiles, _checkerboard, _stripes,
    _polka_dots, _night_sky,
)  # fmt: skip
_TEXTURES: dict[str, Texture] = dict(zip(STUFF, _FUNCTIONS, strict=True))
